"""Registrations and transfers that would leave the shared memory: pickles, shapes, sizes, block ids, shrinking."""
import json
import os
import pickle
import sys
import threading
import time

sys.dont_write_bytecode = True
from lmclient import (CHUNK, KV, ROOT, SLOW, STUB, Client, Engine, NoReply, Shm, Tap, eq, random_instance,  # noqa: E402
                      random_tokens, register_payload)
from lmpickle import CPU_MODULE, DTYPES, ext1, module, shm_wrapper, wrapper            # noqa: E402

tap = Tap()
with open(os.path.join(ROOT, "tests/golden/messages.json")) as f:
    GOLD = json.load(f)


class Probe:
    """Registers something bad and shows that the instance is unknown afterwards, at once, and others are well."""

    def __init__(self, dialect="D2"):
        self.dialect = dialect
        self.good = Engine(tap.daemon.port, "D2", KV(1), model="good")
        self.tokens = random_tokens(CHUNK)
        self.data = self.good.fill(self.tokens)
        self.client = Client(tap.daemon.port, dialect)
        self.rounds = 0

    def refuse(self, what, wrappers, hints=None, engine="vllm", groups=None, answered=False, world=1, model="refused"):
        instance, c = random_instance(), self.client
        uid = c.send("REGISTER_KV_CACHE", *register_payload(self.dialect, instance, wrappers, model, world, engine,
                                                            hints or {}, groups if groups is not None else []))
        key = c.key(random_tokens(CHUNK), 0, CHUNK, "x", worker=0, model=model, world=max(1, min(world, 255)))
        ids = list(range(16))
        begin = time.monotonic()
        event, flag = c.call("STORE", key, instance, [ids] if self.dialect in ("D4", "D6") else ids, STUB)
        assert flag is False, what + ": STORE works, so it was registered"
        assert time.monotonic() - begin < 1.5 * SLOW, what
        try:
            got = c.recv(uid, 2 * SLOW if answered else 0.02)
            eq(got, None, what)
        except NoReply:
            assert not answered, what + ": REGISTER is not answered"
        assert instance not in tap.daemon.contexts(), what
        self.rounds += 1
        if self.rounds % 10 == 0:
            self.check()

    def check(self):
        eq(self.good.lookup(self.tokens, "g"), 1, "hits")
        self.good.take(self.tokens, self.data, "g")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.check()
        self.client.close()
        self.good.unregister()
        self.good.close()


def evil(fn, *args):
    class Evil:
        def __reduce__(self):
            return fn, args
    return pickle.dumps(Evil())


@tap.test("refused pickles of the vectors, and worse ones: nothing is executed, nothing registered")
def pickles():
    flag = os.path.join(tap.daemon.dir, "executed")
    bad = [(p["name"], bytes.fromhex(p["hex"])) for p in GOLD["refused_pickles"]]
    good = bytes.fromhex(GOLD["device_pickles"][-1]["protocol4"])
    bad += [("os.system", evil(os.system, "touch " + flag)), ("exec", evil(exec, "open(%r, 'w')" % flag)),
            ("open", evil(open, flag, "w")), ("empty", b""), ("stop only", b"."), ("none", b"\x80\x04N."),
            ("int", b"\x80\x04K\x05."), ("protocol 255", b"\x80\xff" + good[2:]), ("no stop", good[:-1]),
            ("inst", b"(S'touch " + flag.encode() + b"'\nios\nsystem\n."), ("build on int", b"\x80\x04K\x01}b."),
            ("deep tuples", b"\x80\x04" + b"N" + b"\x85" * 100000 + b"."), ("deep marks", b"\x80\x04" + b"(" * 100000 + b"N."),
            ("memo bomb", b"\x80\x04" + b"".join(b"Nr" + i.to_bytes(4, "little") for i in range(0, 1 << 22, 1 << 10)) + b"N."),
            ("memo far", b"\x80\x04Nr\xff\xff\xff\xff."), ("get far", b"\x80\x04j\xff\xff\xff\xff."),
            ("long4 huge", b"\x80\x04\x8b\xff\xff\xff\x7f."), ("long4 negative", b"\x80\x04\x8b\xff\xff\xff\xff."),
            ("long1 long", b"\x80\x04\x8a\xff" + b"\x01" * 255 + b"."), ("binbytes8 huge", b"\x80\x04\x8e" + b"\xff" * 8 + b"x."),
            ("unicode8 huge", b"\x80\x04\x8d\x00\x00\x00\x00\x00\x00\x00\x80x."), ("frame lies", b"\x80\x04\x95" + b"\xff" * 8 + b"N."),
            ("billion laughs", b"\x80\x04](" + b"K\x01" * 4 + b"e" + b"".join(b"(h\x00h\x00h\x00h\x00t\x94" for _ in range(2000)) + b"."),
            ("ext1", b"\x80\x04\x82\x01."), ("persid", b"\x80\x04NQ."), ("4 MiB of none", b"\x80\x04" + b"N" * (4 << 20) + b".")]
    for i in range(1, len(good), 7):
        bad.append(("cut at %d" % i, good[:i]))
    for p in GOLD["tensor_list_pickles"]:
        bad.append(("a tensor list", bytes.fromhex(p["hex"])))
    for i in range(0, len(good), 5):
        b = bytearray(good)
        b[i] ^= 0x41
        bad.append(("byte %d changed" % i, bytes(b)))        # the shm it names does not exist in any case
    for dialect in ("D2", "D6"):
        with Probe(dialect) as p:
            for what, body in bad:
                p.refuse(what, [ext1(body)])
    assert not os.path.exists(flag), "a pickle was executed"


@tap.test("ext items of other codes, plain values, nested lists, thousands of wrappers")
def items():
    import msgpack
    kv = KV(1)
    good = kv.wrappers()
    with Probe("D2") as p:
        for what, wrappers in (("code 2", [msgpack.ExtType(2, good[0].data)]), ("none", [None]), ("no tensors", []),
                               ("bytes", [good[0].data]), ("nested", [[good[0]]]), ("a map", {"a": good[0]}),
                               ("a string", "abc"), ("mixed", [good[0], 5]), ("5000 tensors", good[:1] * 5000),
                               ("empty ext", [ext1(b"")])):
            p.refuse(what, wrappers)
    kv.close()


@tap.test("CUDA wrappers of kinds A, B and C: answered at once, logged, the instance is unknown")
def cuda():
    d = tap.daemon
    for dialect in ("D1", "D2", "D3", "D4", "D6"):
        with Probe(dialect) as p:
            for w in GOLD["device_pickles"][:-1]:
                for proto in ("protocol4", "protocol5"):
                    size = len(d.log())
                    p.refuse(w["name"], [ext1(bytes.fromhex(w[proto]))] * 2, answered=True, model="cuda",
                             groups=[{"engine_group_id": 0, "layer_indices": [0, 1]}])
                    assert d.wait(lambda: "cuda" in d.log()[size:].lower(), 1) or "suppress" in d.log().lower(), \
                        "no log line says why: %r" % d.log()[size:]


@tap.test("golden REGISTER messages of CUDA engines are answered")
def golden():
    with Client(tap.daemon.port, "D3") as c:
        for m in GOLD["messages"]:
            if m["name"] == "REGISTER_KV_CACHE" and m["dialect"] == "D3":
                frames = [bytes.fromhex(f) for f in m["request"]["frames"]]
                c.send_frames(frames, m["name"])
                eq([f.hex() for f in c.recv_frames(frames[0], 2 * SLOW)], m["reply"]["frames"], "reply")


def spec(shm, **kw):
    """A wrapper of one [2, 80, 16, 2, 8] float16 tensor with some fields changed."""
    base = dict(shm_name=shm.name, nbytes=shm.size, dtype="float16", shape=(2, 80, 16, 2, 8),
                stride=(20480, 256, 16, 8, 1), storage_offset=0)
    base.update(kw)
    return shm_wrapper(**base)


@tap.test("shape, stride, offset and size that leave the shared memory are refused")
def geometry():
    shm = Shm(2 * 80 * 16 * 2 * 8 * 2)
    big = 1 << 62
    cases = [dict(shape=(2, 81, 16, 2, 8), stride=(20736, 256, 16, 8, 1)), dict(storage_offset=1), dict(storage_offset=-1),
             dict(storage_offset=big), dict(storage_offset=(1 << 64) - 1), dict(shape=(2, 80, 16, 2, big)), dict(shape=(big, big, big, big, big)),
             dict(shape=(2, -80, 16, 2, 8)), dict(shape=(2, 0, 16, 2, 8)), dict(shape=()), dict(shape=(2,)), dict(stride=(20480, 256, 16, 8)),
             dict(stride=(20480, 257, 16, 8, 1)), dict(stride=(-20480, 256, 16, 8, 1)), dict(stride=(0, 0, 0, 0, 0)),
             dict(stride=(big, 256, 16, 8, 1)), dict(stride=(20480, 256, 16, 8, 2)), dict(nbytes=shm.size * 2), dict(nbytes=0), dict(nbytes=-1),
             dict(nbytes=big), dict(nbytes=16), dict(shm_name="/lmcache_kv_none_0"), dict(shm_name=""), dict(shm_name="/"),
             dict(shm_name="../etc/passwd"), dict(shm_name="/../../etc/passwd"), dict(shm_name="a/b"), dict(shm_name="/" + "x" * 5000),
             dict(shm_name="/x\x00y"), dict(shm_name="."), dict(shm_name=".."), dict(dtype="float64"),
             dict(shape=(2, 80, 16, 2, 8, 1, 1, 1, 1, 1), stride=(20480, 256, 16, 8, 1, 1, 1, 1, 1, 1)), dict(shape=(1 << 31, 1 << 31, 4, 1, 1)),
             dict(shape=(2, 80, 16, 2, 8.0)), dict(shape=(2, 80, 16, 2, None)), dict(stride=(True, 256, 16, 8, 1)), dict(shape=(2, 80, "16", 2, 8))]
    for dialect in ("D2", "D6"):
        groups = [{"engine_group_id": 0, "layer_indices": [0]}]
        with Probe(dialect) as p:
            for kw in cases:
                p.refuse(repr(kw), [spec(shm, **kw)], groups=groups)
            for name in ("shm_name", "nbytes", "dtype", "shape", "stride"):
                fields = dict(shm_name=shm.name, nbytes=shm.size, handle=None, dtype=DTYPES["float16"], shape=(2, 80, 16, 2, 8),
                              stride=(20480, 256, 16, 8, 1), storage_offset=0, device_uuid="cpu")
                if name != "stride":
                    gone = {k: v for k, v in fields.items() if k != name}
                    p.refuse("without " + name, [ext1(wrapper(CPU_MODULE, "CpuShmTensorWrapper", gone))], groups=groups)
                for value in (None, 5, "x", (), {}, b"y", DTYPES["int8"], 1.5):
                    if type(value) is type(fields[name]) and name not in ("dtype",):
                        if name in ("shm_name", "nbytes") or value == ():
                            pass
                        else:
                            continue
                    if name == "stride" and value is None:
                        continue
                    if name == "dtype" and value is DTYPES["int8"]:
                        continue
                    p.refuse("%s=%r" % (name, value), [ext1(wrapper(CPU_MODULE, "CpuShmTensorWrapper", dict(fields, **{name: value})))],
                             groups=groups)
            p.refuse("the same but layers differ in blocks", [spec(shm), spec(shm, shape=(2, 40, 16, 2, 8), stride=(10240, 256, 16, 8, 1)),
                                                             spec(shm, shape=(7, 3))])
            p.refuse("model name with @", [spec(shm)], model="a@b")
            for world in (0, -1, 256, 1 << 40):
                p.refuse("world size %d" % world, [spec(shm)], world=world, groups=groups)
            if dialect == "D6":
                for g in ([{"engine_group_id": 0, "layer_indices": [5]}], [{"engine_group_id": 0, "layer_indices": [-1]}],
                          [{"engine_group_id": 0, "layer_indices": [0, 0]}], [{"engine_group_id": 0, "layer_indices": [1 << 40]}],
                          [{"engine_group_id": 0, "layer_indices": "x"}], [5], "x"):
                    p.refuse("groups %r" % (g,), [spec(shm)], groups=g)
    shm.close()


@tap.test("hints that cannot be are refused or ignored, never followed out of the tensor")
def hints():
    kv = KV(8, nl=2, nb=40)
    with Client(tap.daemon.port, "D3") as c:
        for bad in (dict(num_kv_heads=0), dict(num_kv_heads=1 << 40), dict(tokens_per_block=0), dict(tokens_per_block=17),
                    dict(head_dim=1 << 62), dict(head_dim=-1), dict(num_kv_heads=3), dict(kv_layout=5), dict(kv_layout="XYZ"),
                    dict(tokens_per_block=1 << 33), dict(tokens_per_block="x")):
            instance = random_instance()
            c.send("REGISTER_KV_CACHE", instance, kv.wrappers(), "hints", 1, "trtllm", dict(kv.hints(), **bad))
            for blocks in (list(range(16)), [39] * 16, [40] * 16):
                key = c.key(random_tokens(CHUNK), 0, CHUNK, "h", worker=0, model="hints")
                event, flag = c.call("STORE", key, instance, blocks, STUB)
                assert not flag or (blocks[0] < 40 and "kv_layout" in bad), "%r: STORE from block %d" % (bad, blocks[0])
            c.call("UNREGISTER_KV_CACHE", instance)
    kv.close()


@tap.test("block ids out of range, wrong counts, wrong ranges: false, nothing stored, nothing written")
def blocks():
    for dialect in ("D2", "D6"):
        with Engine(tap.daemon.port, dialect, KV(1, nb=40), model="bl" + dialect) as e:
            known = random_tokens(2 * CHUNK)
            data = e.fill(known)
            ok = list(range(32))
            e.client.call("NOOP")
            cases = []
            for bad in (40, 41, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -(1 << 31)):
                for at in (0, 15, 31):
                    cases.append((ok[:at] + [bad] + ok[at + 1:], 0, 512))
            cases += [(ok[:31], 0, 512), (ok[:1], 0, 512), ([], 0, 512), (ok, 0, 768), (ok[:16], 256, 768), (ok, 1, 513), (ok, 0, 511),
                      (ok, 128, 640), (ok, 512, 0), (ok, 0, 1 << 62), (ok, (1 << 64) - 256, 256), (ok, -256, 256), (ok, 256, (1 << 63) + 256),
                      (ok, 0, -512)]
            for ids, start, end in cases:
                fresh = random_tokens(2 * CHUNK)
                eq(e.store(fresh, start, end, ids), False, "STORE %r %d..%d" % (ids[-3:], start, end))
                eq(e.lookup(fresh, "n"), 0, "hits after a refused STORE")
                eq(e.lookup(known, "r"), 2, "hits")
                want = e.kv.snapshot()
                eq(e.retrieve(known, start, end, ids, "r"), False, "RETRIEVE %r %d..%d" % (ids[-3:], start, end))
                assert e.kv.same(want), "a refused RETRIEVE wrote"
                e.end("r")
            for skip in (513, 1 << 40, (1 << 64) - 1):
                e.lookup(known, "s")
                want = e.kv.snapshot()
                e.retrieve(known, 0, 512, ok, "s", skip)
                assert e.kv.same(want), "skip %d wrote" % skip
                e.end("s")
            for rank in (1, 200, 1 << 31, -1):
                eq(e.store(random_tokens(CHUNK), 0, CHUNK, ok[:16], rank=rank), False, "worker_id %d of 1" % rank)
            eq(e.lookup(known, "end"), 2, "hits")
            e.take(known, data, "end")
        with Engine(tap.daemon.port, dialect, KV(1, nb=40), model="bw" + dialect, world=2) as e:
            tokens = random_tokens(CHUNK)
            eq(e.store(tokens, 0, CHUNK, ok[:16], rank=None), False, "STORE for all of two shards")
            for rank in (0, 1):
                eq(e.store(tokens, 0, CHUNK, ok[:16], rank=rank), True, "STORE")
            eq(e.lookup(tokens, "all", tp=2), 1, "hits")
            eq(e.retrieve(tokens, 0, CHUNK, ok[:16], "all", rank=None), False, "RETRIEVE for all of two shards")
            e.end("all")
    tap.daemon.wait_l1("read_locked_count", 0)
    tap.daemon.wait_l1("write_locked_count", 0)


@tap.test("salts and model names with forbidden characters: no hit, no store")
def names():
    with Engine(tap.daemon.port, "D6", KV(1), model="names") as e:
        tokens = random_tokens(CHUNK)
        for salt in ("a@b", "a/b", "a\\b", "a\x00b", "x" * 129, "@", "ü" * 129):
            eq(e.store(tokens, 0, CHUNK, e.blocks(16), salt=salt), False, "STORE with salt %r" % salt)
            try:
                e.client.call("LOOKUP", e.key(tokens, 0, CHUNK, "s", None, salt=salt), 1, timeout=0.3 * SLOW)
            except NoReply:
                pass
            eq(e.query("s"), 0, "hits")
        for model in ("a@b", "", "m" * 70000):
            eq(e.store(tokens, 0, CHUNK, e.blocks(16), model=model), False, "STORE with model %r" % model[:20])
        eq(e.store(tokens, 0, CHUNK, e.blocks(16), model="another"), False, "STORE with another model than registered")
        for world in (0, 2, 256, 1 << 40):
            eq(e.store(tokens, 0, CHUNK, e.blocks(16), world=world), False, "STORE with world size %d" % world)


@tap.test("lock counts that overflow: tp_size of any size is bounded")
def tp():
    with Engine(tap.daemon.port, "D2", KV(1), model="tp") as e:
        tokens = random_tokens(CHUNK)
        data = e.fill(tokens)
        for size in (129, 65537, 1 << 31, (1 << 63) - 1, (1 << 64) - 1, -5, -(1 << 62)):
            try:
                e.client.call("LOOKUP", e.key(tokens, 0, CHUNK, "t", None), size, timeout=1 * SLOW)
                hits = e.query("t")
                assert hits in (0, 1), hits
            except NoReply:
                pass
            e.end("t")
            tap.daemon.wait_l1("read_locked_count", 0)
        eq(e.lookup(tokens, "u"), 1, "hits")
        e.take(tokens, data, "u")


@tap.test("shared memory cut after registration: STORE and RETRIEVE answer false, others go on")
def shrunk():
    for size in ("nothing", "half"):
        for dialect, fmt in (("D2", 1), ("D2", 6), ("D6", 7)):
            e = Engine(tap.daemon.port, dialect, KV(fmt, nl=2, nb=400, nh=4, hs=32), model="shrunk")
            with Engine(tap.daemon.port, dialect, KV(fmt, nl=2, nb=400, nh=4, hs=32), model="shrunk") as good:
                tokens = random_tokens(2 * CHUNK)
                data = good.fill(tokens)
                for shm in e.kv.shms:
                    shm.truncate(0 if size == "nothing" else shm.size // 2 // 4096 * 4096)
                high = list(range(360, 392))                     # in the part that is gone, for all layouts
                fresh = random_tokens(2 * CHUNK)
                eq(e.flag(e.send_store(fresh, 0, 512, high)), False, "STORE from memory that is gone")
                eq(good.lookup(fresh, "f"), 0, "hits of what could not be copied")
                eq(e.lookup(tokens, "r"), 2, "hits")
                eq(e.flag(e.send_retrieve(tokens, 0, 512, high, "r")), False, "RETRIEVE into memory that is gone")
                eq(good.lookup(tokens, "g"), 2, "hits")
                good.take(tokens, data, "g")
                good.end("r")
                data = good.fill(fresh)
                eq(good.lookup(fresh, "f"), 2, "hits")
                good.take(fresh, data, "f")
            e.unregister()
            e.close()
    tap.daemon.wait_l1("write_locked_count", 0)
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("shared memory cut while transfers run: every one is answered, the daemon lives")
def cut():
    for fmt in (1, 6):
        for _ in range(3):
            e = Engine(tap.daemon.port, "D2", KV(fmt, nl=8, nb=1024, nh=8, hs=64), model="cut")
            prompts = [random_tokens(4 * CHUNK) for _ in range(30)]
            known = random_tokens(4 * CHUNK)
            e.fill(known)
            uids = []
            for i, tokens in enumerate(prompts):
                uids.append(e.send_store(tokens, 0, 1024, e.blocks(64)))
                e.client.send("LOOKUP", e.key(known, 0, 1024, "c%d" % i, None), 1)
                uids.append(e.send_retrieve(known, 0, 1024, e.blocks(64), "c%d" % i))
            cutter = threading.Timer(0.02, lambda: [s.truncate(0) for s in e.kv.shms])
            cutter.start()
            flags = [e.client.recv(u)[1] for u in uids]
            cutter.join()
            eq(e.flag(e.send_store(random_tokens(CHUNK), 0, CHUNK, list(range(16)))), False, "STORE afterwards")
            assert len(flags) == 60
            for i in range(30):
                e.end("c%d" % i)
            e.unregister()
            e.close()
    tap.daemon.wait_l1("read_locked_count", 0)
    tap.daemon.wait_l1("write_locked_count", 0)
    with Client(tap.daemon.port, "D2") as c:
        eq(c.ping(), True, "PING")
        c.call("CLEAR")


@tap.test("shared memory unlinked or replaced after registration: the mapping stays good")
def unlinked():
    with Engine(tap.daemon.port, "D2", KV(1), model="unl") as e:
        for shm in e.kv.shms:
            os.unlink("/dev/shm" + shm.name)
            fd = os.open("/dev/shm" + shm.name, os.O_CREAT | os.O_RDWR, 0o600)
            os.close(fd)
        tokens = random_tokens(2 * CHUNK)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "u"), 2, "hits")
        e.take(tokens, data, "u")


@tap.test("refused registrations leak no descriptor and no mapping")
def leaks():
    d = tap.daemon
    shm = Shm(2 * 80 * 16 * 2 * 8 * 2)

    def rounds(n):
        with Probe("D2") as p:
            for _ in range(n):
                p.refuse("second tensor bad", [spec(shm), spec(shm, storage_offset=1)])
                p.refuse("third missing", [spec(shm), spec(shm), spec(shm, shm_name="/nothing")])
                p.refuse("cuda", [ext1(bytes.fromhex(GOLD["device_pickles"][0]["protocol4"]))])
    rounds(5)
    time.sleep(0.3)
    fds, maps = d.fds(), d.maps()
    rounds(60)
    ok = d.wait(lambda: d.fds() <= fds + 2 and d.maps() <= maps + 3, 4)
    assert ok, "fds %d, then %d; mappings %d, then %d" % (fds, d.fds(), maps, d.maps())
    shm.close()


if __name__ == "__main__":
    assert module("torch") is not None
    tap.main()
