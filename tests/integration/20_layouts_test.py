"""STORE, LOOKUP, RETRIEVE byte for byte: KV formats, cross-layout, ranks, MLA, hybrid groups, ranges, salts."""
import json
import os
import sys

sys.dont_write_bytecode = True
from lmclient import CHUNK, KV, ROOT, Client, Engine, Tap, eq, random_tokens       # noqa: E402
from lmpickle import DTYPES                                                        # noqa: E402

tap = Tap()


def round_trip(e, chunks=3, tail=77, rid="rt"):
    tokens = random_tokens(chunks * CHUNK + tail)
    data = e.fill(tokens, rid=rid)
    eq(e.lookup(tokens, rid), chunks, "hits")
    e.take(tokens, data, rid)
    eq(e.lookup(tokens[:2 * CHUNK], rid), 2, "hits of the head")
    e.take(tokens[:2 * CHUNK], data, rid)
    eq(e.lookup(tokens, rid), chunks, "hits")
    e.take(tokens, data, rid, start=CHUNK)                     # the engine has the first chunk itself
    e.free(tokens, 0, CHUNK, rid)
    e.end(rid)
    return tokens, data


def formats(dialect):
    for fmt in range(11):
        if fmt == 8 and dialect in ("D1", "D2"):
            continue                    # TRT-LLM came with the engine type of D3
        with Engine(tap.daemon.port, dialect, KV(fmt, nl=3, nb=64), model="f%d-%s" % (fmt, dialect)) as e:
            try:
                round_trip(e)
                e.unregister()
            except Exception as err:
                raise AssertionError("%s format %d: %s: %s" % (dialect, fmt, type(err).__name__, err)) from err
    tap.daemon.wait_l1("read_locked_count", 0)


for d in ("D1", "D2", "D3", "D3b", "D4", "D4v3", "D5a", "D5", "D6", "D7"):
    tap.add("%s: KV formats 0 to 10" % d, formats, d)


def shapes(name, **kw):
    mod = kw.pop("mod", None)
    protocol = kw.pop("protocol", 4)
    dialect = kw.pop("dialect", "D6")
    with Engine(tap.daemon.port, dialect, KV(**kw), model=name, register=False) as e:
        e.register(wrappers=e.kv.wrappers(protocol, *([mod] if mod else [])))
        round_trip(e)


SHAPES = [
    ("all tensors in one shm, NHD", dict(fmt=1, nl=4, one_shm=True)),
    ("all tensors in one shm, HND", dict(fmt=7, nl=4, one_shm=True)),
    ("all tensors in one shm, fused", dict(fmt=10, nl=4, one_shm=True)),
    ("permuted view of an HND tensor, format 6", dict(fmt=6, permuted=True)),
    ("permuted view of an HND tensor, format 7", dict(fmt=7, permuted=True)),
    ("padded blocks, format 2", dict(fmt=2, pad=64)),
    ("padded blocks, MLA", dict(fmt=3, pad=40, hs=72)),
    ("padded blocks, format 7", dict(fmt=7, pad=24)),
    ("pickle protocol 5", dict(fmt=1, protocol=5)),
    ("newer module name of the wrapper", dict(fmt=6, mod="lmcache.v1.platform.devices.cpu.shm")),
    ("one layer", dict(fmt=1, nl=1)),
    ("MLA, DeepSeek's 576", dict(fmt=3, nl=4, hs=576, bs=64, nb=20)),
    ("Llama-like heads, HND", dict(fmt=6, nl=2, nh=8, hs=128)),
    ("odd sizes: 3 heads of 5 bytes, NHD", dict(fmt=2, nh=3, hs=5, dtype="uint8")),
    ("odd sizes: 3 heads of 5 bytes, HND", dict(fmt=7, nh=3, hs=5, dtype="uint8")),
    ("odd sizes: 3 heads of 5, format 6, bfloat16", dict(fmt=6, nh=3, hs=5, dtype="bfloat16")),
    ("odd sizes: fused 5", dict(fmt=10, nh=3, hs=5, dtype="bfloat16")),
    ("one head of one byte", dict(fmt=1, nh=1, hs=1, dtype="uint8")),
    ("one head, HND", dict(fmt=6, nh=1, hs=64)),
    ("float32", dict(fmt=6, dtype="float32")), ("float8_e4m3fn", dict(fmt=1, dtype="float8_e4m3fn")),
    ("float64", dict(fmt=7, dtype="float64", hs=4)), ("int8", dict(fmt=10, dtype="int8")),
    ("block of 1 token", dict(fmt=2, bs=1, nb=1100)), ("block of 8", dict(fmt=6, bs=8, nb=160)),
    ("block of 64", dict(fmt=7, bs=64, nb=20)), ("block of a whole chunk", dict(fmt=1, bs=256, nb=9)),
    ("many layers", dict(fmt=2, nl=61, nb=56)),
]
for what, spec in SHAPES:
    tap.add(what, lambda what=what, spec=spec: shapes(what, **spec))


@tap.test("two blocks: shape [2, 2, ...] is read as format 1")
def ambiguous():
    with Engine(tap.daemon.port, "D2", KV(1, nb=2, bs=256), model="amb") as e:
        tokens = random_tokens(2 * CHUNK)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "a"), 2, "hits")
        e.take(tokens, data, "a")


def cross(fmts, dialect, **kw):
    """Stored by each, retrieved by every other: one model, one object layout."""
    engines = [Engine(tap.daemon.port, dialect, KV(f, nl=2, nb=64 * 16 // bs, bs=bs, **kw), model="x%s%s" % (dialect, fmts[0]))
               for f, bs in zip(fmts, (16, 32, 16, 64, 16, 32, 16, 16, 128))]
    for src in engines:
        tokens = random_tokens(2 * CHUNK + 9)
        data = src.fill(tokens)
        for dst in engines:
            rid = "x%d-%d" % (src.kv.fmt, dst.kv.fmt)
            eq(dst.lookup(tokens, rid), 2, rid)
            try:
                dst.take(tokens, data, rid)
            except AssertionError as err:
                raise AssertionError("stored as %d, read as %d: %s" % (src.kv.fmt, dst.kv.fmt, err)) from err
    for e in engines:
        e.close()


for d in ("D4", "D6"):
    tap.add("%s: cross-layout, all pairs of the nine K/V formats" % d, cross, (0, 1, 2, 4, 6, 7, 8, 9, 10), d)
    tap.add("%s: cross-layout, MLA formats" % d, cross, (3, 5), d)
tap.add("D2: cross-layout, vLLM formats", cross, (0, 1, 2, 6, 7, 10), "D2")


@tap.test("cross-dialect: stored by D2, retrieved by D6 and back")
def cross_dialect():
    a = Engine(tap.daemon.port, "D2", KV(1), model="xd")
    b = Engine(tap.daemon.port, "D6", KV(7), model="xd")
    c = Engine(tap.daemon.port, "D1", KV(6), model="xd")
    for src in (a, b, c):
        tokens = random_tokens(2 * CHUNK)
        data = src.fill(tokens)
        for dst in (a, b, c):
            eq(dst.lookup(tokens, "q"), 2, "hits")
            dst.take(tokens, data, "q")
    for e in (a, b, c):
        e.close()


def retrieves(e, tokens, rid, count=20, others=0):
    """How many RETRIEVEs it takes until only `others` objects are locked."""
    end = len(tokens) // CHUNK * CHUNK
    for n in range(count):
        if tap.daemon.l1()["read_locked_count"] <= others:
            return n
        eq(e.retrieve(tokens, 0, end, e.blocks(end // e.kv.bs), rid), True, "RETRIEVE %d" % n)
    return count


@tap.test("MLA: tp_size above world_size takes 1 + extra locks, FREE gives them all back")
def mla():
    for dialect in ("D1", "D2", "D4", "D5"):
        workers = [Engine(tap.daemon.port, dialect, KV(3, hs=64), model="mla" + dialect) for _ in range(4)]
        tokens = random_tokens(2 * CHUNK)
        data = workers[0].fill(tokens)
        eq(workers[0].lookup(tokens, "r", tp=4), 2, "hits")
        for w in workers:
            w.take(tokens, data, "r")
        eq(retrieves(workers[0], tokens, "r"), 0, "locks left after four")
        workers[0].lookup(tokens, "r2", tp=4)
        workers[0].free(tokens, 0, 512, "r2", tp=4)
        eq(retrieves(workers[0], tokens, "r2"), 0, "after FREE")
        workers[0].lookup(tokens, "r3", tp=4)
        workers[0].take(tokens, data, "r3")
        workers[0].free(tokens, 0, 512, "r3", tp=1)         # gives one back of three
        eq(retrieves(workers[0], tokens, "r3"), 2, "left")
        for w in workers:
            w.close()
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("lock arithmetic: tp_size and world_size")
def arithmetic():
    for world, tp, locks in ((1, 1, 1), (1, 0, 1), (1, 2, 2), (1, 8, 8), (2, 2, 1), (2, 1, 1), (2, 8, 8), (4, 4, 1),
                             (4, 2, 1)):
        e = Engine(tap.daemon.port, "D2", KV(1, nb=40), model="arith", world=world)
        tokens = random_tokens(CHUNK)
        for rank in range(world):
            e.rank = rank
            e.fill(tokens)
        eq(e.lookup(tokens, "r", tp=tp), 1, "hits")
        for rank in range(world):
            e.rank = rank
            eq(retrieves(e, tokens, "r", others=world - 1 - rank), locks, "world %d tp %d rank %d" % (world, tp, rank))
        e.close()
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("num_kv_readers in the key replaces tp_size")
def readers():
    with Engine(tap.daemon.port, "D6", KV(3), model="readers") as e:
        tokens = random_tokens(CHUNK)
        e.fill(tokens)
        for n, tp in ((1, 8), (3, 1), (5, 2)):
            eq(e.lookup(tokens, "r", tp=tp, readers=n), 1, "hits")
            eq(retrieves(e, tokens, "r"), n, "num_kv_readers %d" % n)
            e.lookup(tokens, "r", tp=tp, readers=n)
            e.free(tokens, 0, CHUNK, "r", tp=tp, readers=n)
            eq(retrieves(e, tokens, "r"), 0, "after FREE of %d" % n)
    tap.daemon.wait_l1("read_locked_count", 0)


def ranks(dialect, world):
    workers = [Engine(tap.daemon.port, dialect, KV(1), model="w%d%s" % (world, dialect), world=world, rank=r)
               for r in range(world)]
    tokens = random_tokens(3 * CHUNK)
    datas = []
    for w in workers:
        eq(workers[0].lookup(tokens, "early"), 0, "hits before the last rank has stored")
        datas.append(w.fill(tokens))
    eq(workers[0].lookup(tokens, "all", tp=world), 3, "hits")
    for w, data in zip(workers, datas):
        w.take(tokens, data, "all")
    eq(workers[0].lookup(tokens, "one", tp=world), 3, "hits")
    workers[0].free(tokens, 0, 512, "one", tp=world)            # two chunks on all ranks
    eq(tap.daemon.l1()["read_locked_count"], world, "locked: one chunk on all ranks")
    for w, data in zip(workers, datas):
        w.take(tokens, data, "one", start=512)
    # A fourth chunk on some ranks only is no hit, and leaves no lock behind.
    more = tokens + random_tokens(CHUNK)
    for w in workers[:-1]:
        eq(w.store(more, 768, 1024, w.blocks(16)), True, "STORE")
    eq(workers[0].lookup(more, "part", tp=world), 3, "hits")
    workers[0].free(more, 0, 768, "part", tp=world)
    tap.daemon.wait_l1("read_locked_count", 0)
    for w in workers:
        w.close()


for d, n in (("D1", 2), ("D2", 2), ("D3", 4), ("D4", 4), ("D6", 2)):
    tap.add("%s: world_size %d, one shard per rank" % (d, n), ranks, d, n)


def hybrid(dialect):
    """Two engine groups with block ids of their own, interleaved layers; the second has larger blocks."""
    for geo in ([(16, 2, 8), (16, 2, 8), (16, 2, 8), (16, 2, 8)], [(16, 2, 8), (32, 1, 24), (16, 2, 8), (32, 1, 24)]):
        kv = KV(6, nb=64, layers=geo)
        layers = [[0, 2], [1, 3]]
        groups = [{"engine_group_id": g, "layer_indices": l, "tokens_per_block": geo[g][0], "sw_size_tokens": -1}
                  for g, l in enumerate(layers)]
        if dialect == "D4":
            groups = [{k: g[k] for k in ("engine_group_id", "layer_indices")} for g in groups]
        with Engine(tap.daemon.port, dialect, kv, model="hy%s%d" % (dialect, geo[1][0]), groups=groups) as e:
            tokens = random_tokens(3 * CHUNK)
            counts = [3 * CHUNK // geo[g][0] for g in (0, 1)]
            ids = [e.blocks(n) for n in counts]
            data = [kv.read(b, l) for b, l in zip(ids, layers)]
            eq(e.store(tokens, 0, 768, None, ids=ids), True, "STORE")
            for start, skip in ((0, 0), (256, 0), (0, 64), (256, 288)):
                eq(e.lookup(tokens, "h"), 3, "hits")
                to = [e.blocks((768 - start) // geo[g][0]) for g in (0, 1)]
                want = kv.snapshot()
                for g in (0, 1):
                    first = skip // geo[g][0]
                    kv.write(to[g][first:], data[g][:, :, start + first * geo[g][0]:], layers[g], words=want)
                eq(e.retrieve(tokens, start, 768, None, "h", skip, ids=to), True, "RETRIEVE")
                assert kv.same(want), "start %d skip %d" % (start, skip)
                e.free(tokens, 0, start, "h")
            eq(e.store(random_tokens(256), 0, 256, None, ids=[ids[0][:16]]), False, "one group's block ids missing")
    tap.daemon.wait_l1("read_locked_count", 0)


for d in ("D4", "D5", "D6"):
    tap.add("%s: hybrid model, two engine groups with their own block ids" % d, hybrid, d)


@tap.test("layers of two shapes in one engine: two layer groups in one object")
def mixed():
    for dialect in ("D2", "D6"):
        kv = KV(1, nb=64, layers=[(16, 2, 8), (16, 4, 8), (16, 2, 8), (16, 1, 40)])
        with Engine(tap.daemon.port, dialect, kv, model="mix" + dialect) as e:
            tokens = random_tokens(2 * CHUNK)
            blocks, to = e.blocks(32), e.blocks(32)
            data = [kv.read(blocks, [l]) for l in range(4)]
            eq(e.store(tokens, 0, 512, blocks), True, "STORE")
            eq(e.lookup(tokens, "m"), 2, "hits")
            want = kv.snapshot()
            for l in range(4):
                kv.write(to, data[l], [l], words=want)
            eq(e.retrieve(tokens, 0, 512, to, "m"), True, "RETRIEVE")
            assert kv.same(want), dialect


def skips(fmt):
    with Engine(tap.daemon.port, "D6" if fmt in (4, 5, 8, 9) else "D2", KV(fmt, nb=64), model="skip%d" % fmt) as e:
        tokens = random_tokens(3 * CHUNK)
        data = e.fill(tokens)
        for start, skip in ((0, 16), (0, 240), (0, 256), (0, 272), (0, 752), (256, 32), (256, 300), (0, 70), (0, 768)):
            eq(e.lookup(tokens, "s"), 3, "hits")
            e.take(tokens, data, "s", start=start, skip=skip)
            e.free(tokens, 0, start, "s")
    tap.daemon.wait_l1("read_locked_count", 0)


for f in (0, 1, 3, 6, 8, 9, 10):
    tap.add("skip_first_n_tokens leaves the skipped blocks alone, format %d" % f, skips, f)


@tap.test("prefix hits: a prompt that leaves the stored one hits up to there")
def prefix():
    with Engine(tap.daemon.port, "D2", KV(1, nb=100), model="prefix") as e:
        tokens = random_tokens(5 * CHUNK)
        data = e.fill(tokens)
        for same in (0, 1, 255, 256, 300, 767, 768, 1279):
            other = tokens[:same] + [t ^ 1 for t in tokens[same:]]
            hits = same // CHUNK
            eq(e.lookup(other, "p"), hits, "%d tokens shared" % same)
            if hits:
                e.take(other, data, "p", end=hits * CHUNK)
        for n in (0, 1, 255, 256, 257, 1000):
            eq(e.lookup(tokens[:n], "q"), n // CHUNK, "%d tokens" % n)
            e.end("q")
        # A hole: chunks 0 and 2 of a prompt are there, 1 is not.
        holed = random_tokens(3 * CHUNK)
        for start in (0, 512):
            eq(e.store(holed, start, start + 256, e.blocks(16)), True, "STORE")
        eq(e.lookup(holed, "hole"), 1, "hits up to the hole")
        eq(e.retrieve(holed, 0, 768, e.blocks(48), "hole"), False, "RETRIEVE over the hole")
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("RETRIEVE is all or nothing, and a failed one gives its locks back")
def all_or_nothing():
    with Engine(tap.daemon.port, "D4", KV(2, nb=100), model="aon") as e:
        tokens = random_tokens(4 * CHUNK)
        e.store(tokens, 0, 512, e.blocks(32))
        eq(e.lookup(tokens, "r"), 2, "hits")
        want = e.kv.snapshot()
        eq(e.retrieve(tokens, 0, 1024, e.blocks(64), "r"), False, "two of four chunks")
        assert e.kv.same(want), "a failed RETRIEVE wrote"
        tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("FREE_LOOKUP_LOCKS selects chunks as in the vectors (unaligned ends and starts)")
def selection():
    with open(os.path.join(ROOT, "tests/golden/token-hash.json")) as f:
        cases = json.load(f)["range_selection"]["cases"]
    with Engine(tap.daemon.port, "D2", KV(1, nb=80), model="sel") as e:
        for case in cases:
            tokens = random_tokens(case["num_tokens"])
            chunks = len(tokens) // CHUNK
            if chunks:
                e.fill(tokens)
            eq(e.lookup(tokens, "f"), chunks, "hits")
            e.free(tokens, case["start"], case["end"], "f")
            kept = [i for i in range(chunks) if i * CHUNK not in case["chunk_starts"]]
            eq(tap.daemon.l1()["read_locked_count"], len(kept), "%s: locked" % case)
            for n, i in enumerate(kept):
                e.retrieve(tokens, i * CHUNK, (i + 1) * CHUNK, e.blocks(16), "f")
                eq(tap.daemon.l1()["read_locked_count"], len(kept) - n - 1, "%s: locked after chunk %d" % (case, i))
        tokens = random_tokens(4 * CHUNK)
        e.fill(tokens)
        e.lookup(tokens, "g")
        e.free(tokens, 0, 1 << 60, "g")                         # an end far beyond the tokens
        tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("salts, models and world sizes are kept apart; tokens of all widths count")
def isolation():
    with Client(tap.daemon.port, "D6") as client:
        tokens = random_tokens(2 * CHUNK)
        engines = [Engine(0, client=client, kv=KV(1), model=m, salt=s, world=w) for m, s, w in
                   (("iso", "", 1), ("iso", "tenant-a", 1), ("iso", "tenant-b", 1), ("iso2", "", 1), ("iso", "x" * 128, 1),
                    ("iso", "", 3), ("i/so", "salt with spaces, ümlaut", 1))]
        datas = []
        for e in engines:
            eq(e.lookup(tokens, "before"), 0, "hits of " + e.model + e.salt)
            for rank in range(e.world):
                e.rank = rank
                data = e.fill(tokens, rid="st")
            datas.append(data)
        for e, data in zip(engines, datas):
            eq(e.lookup(tokens, "after"), 2, "hits")
            e.rank = e.world - 1
            e.take(tokens, data, "after")
            e.end("after")
        e, base = engines[0], [0, 127, 128, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1] * 26
        data = e.fill(base[:256])
        eq(e.lookup(base, "wide"), 1, "hits")
        e.take(base[:256], data, "wide")
        eq(e.lookup([t ^ 1 for t in base], "wide"), 0, "hits")
        for e in engines:
            e.close()


@tap.test("a prompt grows by chunks within its session; another prompt under the same id is not mistaken for it")
def growth():
    for dialect in ("D2", "D6"):
        with Engine(tap.daemon.port, dialect, KV(7, nb=200), model="grow" + dialect) as e:
            tokens = random_tokens(9 * CHUNK)
            datas = []
            for i in range(8):
                blocks = e.blocks(16)
                datas.append(e.kv.read(blocks))
                eq(e.store(tokens[:(i + 1) * CHUNK + i * 20], i * CHUNK, (i + 1) * CHUNK, blocks, "grow"), True, "STORE")
                eq(e.lookup(tokens[:(i + 1) * CHUNK + 60], "grow"), i + 1, "hits")
                e.free(tokens, 0, (i + 1) * CHUNK, "grow")
            other = tokens[:CHUNK] + random_tokens(CHUNK)
            eq(e.lookup(other, "grow"), 1, "hits of another prompt under the same id")
            e.free(other, 0, CHUNK, "grow")
            blocks = e.blocks(32)
            shifted = [t ^ 5 for t in tokens]
            eq(e.store(shifted, 0, 512, blocks, "grow"), True, "STORE")
            eq(e.lookup(shifted, "fresh"), 2, "hits")
            e.free(shifted, 0, 512, "fresh")
            eq(e.lookup(tokens, "grow"), 8, "hits of the first prompt")
            for i in (0, 3, 7):
                to, want = e.blocks(16), e.kv.snapshot()
                e.kv.write(to, datas[i], words=want)
                eq(e.retrieve(tokens, i * CHUNK, (i + 1) * CHUNK, to, "grow"), True, "RETRIEVE")
                assert e.kv.same(want), i
            e.end("grow")
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("storing what is there changes nothing; new chunks beside old ones are taken")
def twice():
    with Engine(tap.daemon.port, "D2", KV(1, nb=120), model="twice") as e:
        tokens = random_tokens(4 * CHUNK)
        data = e.kv.read(blocks := e.blocks(64))
        eq(e.store(tokens, 256, 512, blocks[16:32]), True, "STORE")
        other = data.copy()
        other[:, :, 256:512] ^= 0x5555                            # other words under the same key: skipped
        to = e.blocks(64)
        e.kv.write(to, other)
        eq(e.store(tokens, 0, 1024, to), True, "STORE")
        eq(e.lookup(tokens, "t"), 4, "hits")
        e.take(tokens, data, "t")


@tap.test("the engine's order of attributes and keys does not matter")
def any_order():
    with Engine(tap.daemon.port, "D2", KV(1), model="anyorder", register=False) as e:
        from lmpickle import ext1, wrapper, CPU_MODULE
        items = []
        for i, shm in enumerate(e.kv.shms):
            fields = {"device_uuid": "cpu", "stride": e.kv.strides[i], "new_attribute": [1, {"a": None}], "storage_offset": 0,
                      "shape": e.kv.shapes[i], "dtype": DTYPES["float16"], "nbytes": shm.size, "handle": None,
                      "shm_name": shm.name}
            items.append(ext1(wrapper(CPU_MODULE, "CpuShmTensorWrapper", fields)))
        e.register(wrappers=items)
        tokens = random_tokens(CHUNK)
        data = e.kv.read(blocks := e.blocks(16))
        key = dict(reversed(list(e.key(tokens, 0, CHUNK, "o", 0).items())), unknown_field={"x": [1, 2, b"y"]})
        eq(e.client.call("STORE", key, e.instance, blocks, b"stub_ipc_handle")[1], True, "STORE")
        eq(e.lookup(tokens, "o"), 1, "hits")
        e.take(tokens, data, "o")


if __name__ == "__main__":
    tap.main()
