"""STORE and RETRIEVE byte for byte through a GPU: the tests of 20_layouts, then the matrix of formats, element types, block sizes,
groups, kinds of handles and dialects."""
import itertools
import sys

sys.dont_write_bytecode = True
import lmgpu                                                                       # noqa: E402
from lmclient import CHUNK, Engine, eq, random_tokens                              # noqa: E402

tap = lmgpu.through("20_layouts_test", without=("newer module name of the wrapper",
                                                "the engine's order of attributes and keys does not matter"))
KV = lmgpu.GpuKV
DTYPES = ("bfloat16", "float8_e4m3fn", "float32", "int8", "float64", "uint8", "float16")
BLOCKS = (16, 32, 64, 128, 256, 8)
DIALECTS = ("D1", "D2", "D3", "D3b", "D4", "D4v3", "D5a", "D5", "D6", "D7")
# (kind, version of torch's prefix, where tensors lie, form of the events)
EXPORTS = (("A", 2, "shared", False), ("A", 0, "own", False), ("B", 0, "shared", False), ("A", 3, "shared", True),
           ("A", 1, "own", False), ("B", 0, "own", True))


def trip(e, rid, chunks=3):
    """Whole, from the second chunk on, and with the first block and a chunk and a block skipped."""
    tokens = random_tokens(chunks * CHUNK + 13)
    data = e.fill(tokens, rid=rid)
    for start, skip in ((0, 0), (CHUNK, 0), (0, e.kv.bs), (0, CHUNK + e.kv.bs)):
        if skip > chunks * CHUNK - CHUNK:
            continue
        eq(e.lookup(tokens, rid), chunks, "hits")
        e.take(tokens, data, rid, start=start, skip=skip)
        e.free(tokens, 0, start, rid)
    e.end(rid)


def matrix(fmt):
    """Every element type with every block size; dialects, exports and groups go round so that each meets each."""
    rounds = itertools.count(fmt)
    for dtype, bs in itertools.product(DTYPES, BLOCKS):
        n = next(rounds)
        kind, version, place, timeline = EXPORTS[n % len(EXPORTS)]
        dialect = [d for d in DIALECTS if fmt != 8 or d not in ("D1", "D2")][n % (8 if fmt == 8 else 10)]
        heads, size = ((1, 24), (2, 8), (3, 5), (4, 16))[n % 4]
        kv = KV(fmt, nl=1 + n % 3, nb=1024 // bs + 3, bs=bs, nh=heads, hs=size, dtype=dtype, kind=kind, version=version, place=place,
                timeline=timeline, one_shm=n % 5 == 0, pad=8 * 5 if fmt in (2, 3, 7, 10) and n % 3 == 0 else 0,
                permuted=fmt in (6, 7) and n % 2 == 1)
        what = "%s %s blocks of %d, %d heads of %d, %s, %s%d %s%s" % (
            dialect, dtype, bs, heads, size, "one storage" if kv.one_shm else place, kind, version, "timeline" if timeline else "event",
            ", padded" if kv.pad else "")
        with Engine(tap.daemon.port, dialect, kv, model="mx%d" % n) as e:
            try:
                trip(e, "m")
                e.unregister()
                eq(kv.held(), 0, "storages that torch's counters say are held")
            except Exception as err:
                raise AssertionError("format %d, %s: %s: %s" % (fmt, what, type(err).__name__, err)) from err
    tap.daemon.wait_l1("read_locked_count", 0)


for f in range(11):
    tap.add("format %d: element types x block sizes, all dialects and kinds of handles among them" % f, matrix, f, limit=120)


def exports(dialect):
    """Every kind of handle, with both forms of events."""
    for kind, version in (("A", 0), ("A", 1), ("A", 2), ("A", 3), ("B", 0), ("fabric", 0)):
        for place, timeline in itertools.product(("shared", "own"), (False, True)):
            kv = KV(6, nl=3, nb=64, kind=kind, version=version, place=place, timeline=timeline)
            with Engine(tap.daemon.port, dialect, kv, model="ex") as e:
                try:
                    trip(e, "%s%d%s%d" % (kind, version, place, timeline))
                except Exception as err:
                    raise AssertionError("%s%d %s %s: %s: %s" % (kind, version, place, timeline, type(err).__name__, err)) from err
    tap.daemon.wait_l1("read_locked_count", 0)


for d in ("D2", "D4", "D6"):
    tap.add("%s: kinds of handles, places, forms of events" % d, exports, d)


def groups(dialect, fmt):
    """Two engine groups, whose layers differ in shape; the second one's window starts with null blocks."""
    geo = [(16, 2, 8), (32, 1, 24), (16, 2, 8), (32, 1, 24)]
    kv = KV(fmt, nb=64, layers=geo)
    layers = [[0, 2], [1, 3]]
    infos = [{"engine_group_id": g, "layer_indices": l, "tokens_per_block": geo[g][0], "sw_size_tokens": (-1, CHUNK)[g]}
             for g, l in enumerate(layers)]
    with Engine(tap.daemon.port, dialect, kv, model="gr%s%d" % (dialect, fmt), groups=infos) as e:
        tokens = random_tokens(3 * CHUNK)
        ids = [e.blocks(3 * CHUNK // geo[g][0], avoid=(0,)) for g in (0, 1)]
        data = [kv.read(b, l) for b, l in zip(ids, layers)]
        eq(e.store(tokens, 0, 768, None, ids=ids), True, "STORE")
        for start, skip, null in ((0, 0, 0), (256, 0, 0), (0, 288, 0), (0, 0, 16), (256, 32, 3)):
            eq(e.lookup(tokens, "g"), 3, "hits")
            to = [e.blocks((768 - start) // geo[g][0], avoid=(0,)) for g in (0, 1)]
            to[1][:null] = [0] * null
            want = kv.snapshot()
            for g in (0, 1):
                first = max(skip // geo[g][0], null if g else 0)
                kv.write(to[g][first:], data[g][:, :, start + first * geo[g][0]:], layers[g], words=want)
            eq(e.retrieve(tokens, start, 768, None, "g", skip, ids=to), True, "RETRIEVE")
            assert kv.same(want), "start %d skip %d, %d null blocks" % (start, skip, null)
            e.free(tokens, 0, start, "g")
    tap.daemon.wait_l1("read_locked_count", 0)


for d, f in (("D4v3", 1), ("D5", 2), ("D6", 6), ("D7", 7), ("D6", 10)):
    tap.add("%s: groups with block sizes of their own and null blocks, format %d" % (d, f), groups, d, f)

if __name__ == "__main__":
    tap.main()
