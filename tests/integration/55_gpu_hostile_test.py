"""Registrations of GPU memory that lie: handles, sizes, shapes, strides, GPUs, counters. Refused at once, with a reason, and nothing stays."""
import importlib
import json
import os
import sys
import time

sys.dont_write_bytecode = True
import numpy                                                                       # noqa: E402

import lmcuda                                                                      # noqa: E402
import lmgpu                                                                       # noqa: E402
from lmclient import CHUNK, ROOT, Engine, Shm, Skip, Tap, eq, random_instance, random_tokens  # noqa: E402
from lmgpu import GpuKV                                                            # noqa: E402
from lmpickle import DTYPES, ext1, wrapper                                         # noqa: E402

tap = Tap(*lmgpu.daemon_args())
bad_memory = importlib.import_module("61_bad_memory_test")
bad_memory.tap = tap
Probe = bad_memory.Probe
GROUPS = [{"engine_group_id": 0, "layer_indices": [0]}]
DIMS, STRIDE = (2, 80, 16, 2, 8), (20480, 256, 16, 8, 1)
BYTES = 2 * 20480 * 2
BIG = 1 << 62


def exported(kind="A", **kw):
    """One tensor of DIMS, alone in an allocation of 2 MiB."""
    return GpuKV(1, nl=1, nb=80, kind=kind, place="own", **kw)


def change(kv, items=(), **fields):
    """Its wrapper with some fields, or items of torch's tuple {index: value}, changed."""
    name, base = kv.fields(0)
    if items:
        whole = list(base["handle"])
        for i, value in dict(items).items():
            whole[i] = value
        base["handle"] = tuple(whole)
    for key, value in fields.items():
        if value is KeyError:
            del base[key]
        else:
            base[key] = value
    return ext1(wrapper(lmgpu.OLD_MODULE if kv.kind in ("A", "B") else lmgpu.NEW_MODULE, name, base))


def untouched(kinds, cases):
    """All refused in both dialects; afterwards the daemon has nothing open, and a good registration of the same memory works."""
    for dialect in ("D2", "D6"):
        for kind in kinds:
            kv = exported(kind)
            with Probe(dialect) as p:
                for what, make in cases(kv):
                    p.refuse("%s %s" % (kind, what), [make()], groups=GROUPS, answered=True)
            eq(imports(), 0, "allocations that are still open")
            with Engine(tap.daemon.port, dialect, kv, model="well") as e:
                tokens = random_tokens(CHUNK)
                data = e.fill(tokens)
                eq(e.lookup(tokens, "w"), 1, "hits")
                e.take(tokens, data, "w")


def imports():
    """Allocations of engines that the daemon has open, by its own count and by the test driver's."""
    own = sum(g["mapped"]["allocations"] for g in lmgpu.gpus(tap.daemon))
    fake = lmgpu.report(tap.daemon.pid)
    if fake is not None:
        eq(fake["imports"], own, "imports as the driver counts them")
    return own


GEOMETRY = [dict(shape=(2, 81, 16, 2, 8), stride=(20736, 256, 16, 8, 1)), dict(storage_offset=1), dict(storage_offset=-1),
            dict(storage_offset=BIG), dict(storage_offset=(1 << 64) - 1), dict(shape=(2, 80, 16, 2, BIG)), dict(shape=(BIG,) * 5),
            dict(shape=(2, -80, 16, 2, 8)), dict(shape=(2, 0, 16, 2, 8)), dict(shape=()), dict(shape=(2,)), dict(stride=(20480, 256, 16, 8)),
            dict(stride=(20480, 257, 16, 8, 1)), dict(stride=(-20480, 256, 16, 8, 1)), dict(stride=(0, 0, 0, 0, 0)),
            dict(stride=(BIG, 256, 16, 8, 1)), dict(stride=(20480, 256, 16, 8, 2)), dict(dtype=DTYPES["float64"]), dict(dtype=None),
            dict(shape=(2, 80, 16, 2, 8) + (1,) * 5, stride=STRIDE + (1,) * 5), dict(shape=None), dict(shape="x"), dict(stride=5)]


@tap.test("shapes, strides and offsets that leave the storage", limit=120)
def geometry():
    untouched(("A", "B", "fabric"), lambda kv: [(repr(g)[:90], lambda g=g: change(kv, **g)) for g in GEOMETRY])


@tap.test("sizes and places that are not those of the allocation")
def sizes():
    def torch(kv):
        handles = [{2: BYTES - 2}, {2: 0}, {2: -1}, {2: BIG}, {2: 1 << 40}, {3: 1 << 21}, {3: (1 << 21) - BYTES + 512}, {3: -512}, {3: BIG},
                   {3: 1 << 40}, {2: 1 << 22}, {2: None}, {3: None}, {2: "x"}, {3: 1.5}, {3: (1 << 64) - 512}]
        cases = [("handle%r" % h, lambda h=h: change(kv, items=h)) for h in handles]
        far = dict(shape=(2, 1 << 12, 16, 2, 8), stride=(1 << 20, 256, 16, 8, 1))     # 4 MiB, said to be there
        cases.append(("a storage larger than its allocation", lambda: change(kv, items={2: 1 << 22}, **far)))
        return cases

    def raw(kv):
        far = dict(_nbytes=1 << 22, shape=(2, 1 << 12, 16, 2, 8), stride=(1 << 20, 256, 16, 8, 1))
        cases = [dict(_nbytes=BYTES - 2), dict(_nbytes=0), dict(_nbytes=-1), dict(_nbytes=BIG), dict(_nbytes=1 << 40),
                 dict(_alloc_offset=1 << 21), dict(_alloc_offset=(1 << 21) - BYTES + 512), dict(_alloc_offset=-512), dict(_alloc_offset=BIG),
                 dict(_alloc_offset=(1 << 64) - 512), dict(_nbytes=None), dict(_nbytes=KeyError), far]
        return [(repr(c)[:90], lambda c=c: change(kv, **c)) for c in cases]
    untouched(("A",), torch)
    untouched(("B",), raw)
    untouched(("fabric",), lambda kv: raw(kv) + [(repr(c), lambda c=c: change(kv, **c)) for c in (
        dict(_alloc_size=BYTES // 2), dict(_alloc_size=0), dict(_alloc_size=-1), dict(_alloc_size=BIG), dict(_alloc_size=1 << 30))])


@tap.test("handles that are none, of another kind, of freed memory, of another GPU")
def handles():
    for dialect in ("D2", "D6"):
        kv, gone = exported(), exported()
        dead = gone.memories[0].handle()
        gone.close()
        good = kv.memories[0].handle()
        bodies = [bytes(64), os.urandom(64), b"\xff" * 64, b"", b"x" * 63, b"x" * 65, good[:63], good + b"x", b"\x02e" + good,
                  b"\x02x" + good, b"\x00c" + good, b"\xffc" + good, b"\x02c" + good[:-1], b"\x02c" + good + b"x", b"\x02", b"\x02e",
                  b"\x02e" + os.urandom(300), dead, b"\x02c" + dead, good[:60] + bytes(4), None, 5, "x" * 64, b"x" * 60000]
        with Probe(dialect) as p:
            for body in bodies:
                p.refuse("handle %r" % (body,), [change(kv, items={1: body})], groups=GROUPS, answered=True)
            for whole in (None, (), (0,), tuple(range(8)), [0, good, BYTES, 0, b"/torch_1_1_1", 0, bytes(64), False], "x"):
                p.refuse("tuple %r" % (whole,), [change(kv, handle=whole)], groups=GROUPS, answered=True)
            for kind, field in (("B", "_ipc_handle_reserved"), ("fabric", "_fabric_blob"), ("fabric", "_export_id")):
                other = exported(kind)
                for body in bodies[:8] + [None, 5, dead]:
                    if field == "_export_id" and type(body) is bytes and len(body) == 64:
                        continue
                    if field == "_export_id":
                        continue
                    p.refuse("%s=%r" % (field, body), [change(other, **{field: body})], groups=GROUPS, answered=True)
                other.close()
        eq(imports(), 0, "allocations that are still open")
        kv.close()


@tap.test("a handle under another GPU's UUID: refused, or mapped there by the driver with every byte right")
def other_gpu():
    if lmcuda.driver().count() < 2:
        raise Skip("two GPUs wanted")
    for dialect in ("D2", "D6"):
        with Engine(tap.daemon.port, dialect, exported(), model="other", register=False, groups=GROUPS) as e:
            e.register(wrappers=[change(e.kv, device_uuid=lmcuda.gpu(1).uuid)])
            e.kv.unknown = True
            tokens, blocks = random_tokens(CHUNK), e.blocks(16)
            data = e.kv.read(blocks)
            event, flag = e.client.recv(e.send_store(tokens, 0, CHUNK, blocks))
            if not flag:
                continue
            eq(tap.daemon.wait(lambda: e.lookup(tokens, "o"), 3), 1, "hits")
            to, want = e.blocks(16), e.kv.snapshot()
            event, flag = e.client.recv(e.send_retrieve(tokens, 0, CHUNK, to, "o"))
            lmgpu.wait_on(lmcuda.gpu(1), event)
            e.kv.write(to, data, words=want)
            assert not flag or e.kv.same(want), "wrong bytes"
        tap.daemon.wait_l1("read_locked_count", 0)
    eq(imports(), 0, "allocations that are still open")


@tap.test("GPUs that are not here; the UUID's prefix and letters may differ, the exporter's ordinal means nothing")
def uuids():
    kv = exported()
    uuid = kv.gpu.uuid
    for dialect in ("D2", "D6"):
        with Probe(dialect) as p:
            for bad in ("", "cpu", "GPU-", "0", uuid[:-1], uuid + "0", uuid[:-1] + "g", "00000000-0000-0000-0000-000000000000", "x" * 5000,
                        "MIG-" + uuid, uuid.replace("-", "_"), "ü" * 36, None, 5, b"x" * 16, "GPU-GPU-" + uuid):
                size = len(tap.daemon.log())
                p.refuse("device_uuid %r" % (bad,), [change(kv, device_uuid=bad)], groups=GROUPS, answered=True)
                assert tap.daemon.wait(lambda: "refused" in tap.daemon.log()[size:] or "suppressed" in tap.daemon.log(), 2), "no line in the log"
        for good in (uuid, uuid.upper(), "GPU-" + uuid):
            with Engine(tap.daemon.port, dialect, exported(), model="uuid", register=False, groups=GROUPS) as e:
                e.register(wrappers=[change(e.kv, items={0: 77}, device_uuid=good)])
                tokens = random_tokens(CHUNK)
                data = e.fill(tokens)
                eq(e.lookup(tokens, "u"), 1, "hits as %s" % good)
                e.take(tokens, data, "u")
    kv.close()


@tap.test("no GPU gets a context by registrations that are refused by what they say")
def no_context():
    from lmclient import Daemon
    with Daemon(*lmgpu.daemon_args()) as d:
        kv = exported()
        from lmclient import Client, register_payload
        with Client(d.port, "D2") as c:
            for fields in GEOMETRY + [dict(device_uuid="x")]:
                c.call("REGISTER_KV_CACHE", *register_payload("D2", random_instance(), [change(kv, **fields)], "m", 1, "vllm", {}, []))
        report = lmgpu.report(d.pid)
        if report is None:
            raise Skip("only the test driver tells")
        eq((report["contexts"], report["imports"]), (0, 0), "contexts and imports")
        kv.close()


@tap.test("torch's counters: only files of torch's kind are counted down, never another's memory")
def counters():
    victim = Shm(1 << 16)
    numpy.frombuffer(victim.map, numpy.int64)[:] = 7
    torch_like = "/dev/shm/torch_%d_1_1" % os.getpid()
    with open(torch_like, "wb") as f:
        f.write(numpy.full(8 + 16, 7, numpy.int64).tobytes())
    arena = [n for n in os.listdir("/dev/shm") if str(tap.daemon.pid) in n]
    names = [victim.name, victim.name[1:], "/../../etc/passwd", "..", "/", "", "/torch_", "/torch_/../" + victim.name[1:], "/torch_1_1_nothing",
             "torch_%d_1_1" % os.getpid(), "/x\x00y", "/" + "x" * 300] + ["/" + a for a in arena]
    for dialect in ("D2", "D6"):
        for name in names:
            for index in (0, 1, 15, 16, 17, 1 << 20, (1 << 60), (1 << 61) - 8):
                with Engine(tap.daemon.port, dialect, exported(), model="count", register=False, groups=GROUPS) as e:
                    e.register(wrappers=[change(e.kv, items={4: name.encode(), 5: index})])
                    if index == 1 << 20:
                        e.kv.unknown = True
                        e.store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16))
    eq(set(numpy.frombuffer(victim.map, numpy.int64).tolist()), {7}, "another's shared memory")
    with open(torch_like, "rb") as f:
        values = numpy.frombuffer(f.read(), numpy.int64)
    eq(values[:8].tolist(), [7] * 8, "torch's own head of the file")
    os.unlink(torch_like)
    victim.close()
    with Probe("D2") as p:
        p.check()


@tap.test("torch's counters go down when the engine leaves, also after one that was registered twice or replaced")
def let_go():
    kv = GpuKV(1, nl=4)
    with Engine(tap.daemon.port, "D2", kv, model="let") as e:
        eq(kv.held(), 4, "held while registered")
        e.register()
        tap.daemon.wait(lambda: kv.held() == 4, 3)
        eq(kv.held(), 4, "held after the second registration replaced the first")
        tokens = random_tokens(CHUNK)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "l"), 1, "hits")
        e.take(tokens, data, "l")
        e.unregister()
        tap.daemon.wait(lambda: kv.held() == 0, 3)
        eq(kv.held(), 0, "held after UNREGISTER")
        files = {file for file, _ in kv.counters}
        eq([int(f.head[0]) for f in files], [1] * len(files), "torch's own count of the file's users")


@tap.test("the event in torch's tuple is waited for, and a bad one is no way to hang")
def tuple_event():
    kv = exported()
    event = lmcuda.Event(kv.gpu).record(kv.stream)
    with Engine(tap.daemon.port, "D2", kv, model="te", register=False, groups=GROUPS) as e:
        e.register(wrappers=[change(kv, items={6: event.handle(), 7: True})])
        tokens = random_tokens(CHUNK)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "t"), 1, "hits")
        e.take(tokens, data, "t")
    event.close()
    with Probe("D2") as p:
        other = exported()
        for body in (bytes(64), os.urandom(64), b"", b"x" * 63, None, 5):
            begin = time.monotonic()
            p.refuse("event %r" % (body,), [change(other, items={6: body, 7: True})], groups=GROUPS, answered=True)
            assert time.monotonic() - begin < 5, "registration with event %r took %.1f s" % (body, time.monotonic() - begin)
        other.close()


@tap.test("descriptors: none sent, of something else, of another process")
def descriptors():
    kv = exported("fd")
    with open(os.path.join(ROOT, "Makefile"), "rb") as f, Probe("D6") as p:
        for fd in (None, -1, 0, 1, 2, f.fileno(), 1 << 30, 1 << 40, "x"):
            p.refuse("_fd %r" % (fd,), [change(kv, _fd=fd)], groups=GROUPS, answered=True)
    with Engine(tap.daemon.port, "D6", kv, model="fd", instance=os.getpid(), register=False, groups=GROUPS) as e:
        with open(os.path.join(ROOT, "Makefile"), "rb") as f:
            for fd in (-1, f.fileno(), 1 << 30):
                e.register(wrappers=[change(kv, _fd=fd)])
                assert e.instance not in tap.daemon.contexts(), "_fd %r" % fd
        e.register()
        tokens = random_tokens(CHUNK)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "fd"), 1, "hits")
        e.take(tokens, data, "fd")
    eq(imports(), 0, "allocations that are still open")


@tap.test("golden wrappers of GPUs that are elsewhere: refused, answered, with a line that names the GPU")
def golden():
    with open(os.path.join(ROOT, "tests/golden/messages.json")) as f:
        gold = json.load(f)["device_pickles"][:-1]
    for dialect in ("D2", "D4", "D6"):
        with Probe(dialect) as p:
            for w in gold:
                size = len(tap.daemon.log())
                p.refuse(w["name"], [ext1(bytes.fromhex(w["protocol4"]))] * 2, answered=True, model="elsewhere",
                         groups=[{"engine_group_id": 0, "layer_indices": [0, 1]}])
                text = tap.daemon.log()
                assert w["fields"]["device_uuid"] in text[size:] or "suppressed" in text, "no log line says why: %r" % text[size:]


@tap.test("refused registrations leak nothing: descriptors, mappings, imports")
def leaks():
    d, kv, many = tap.daemon, exported(), GpuKV(1, nl=3, place="own")

    def rounds(n):
        with Probe("D2") as p:
            for _ in range(n):
                good = many.wrappers()
                p.refuse("second tensor bad", [good[0], change(kv, storage_offset=1)])
                p.refuse("third is nothing", good[:2] + [change(kv, items={1: os.urandom(64)})])
                p.refuse("too large", good[:2] + [change(kv, items={2: 1 << 22}, shape=(2, 1 << 12, 16, 2, 8), stride=(1 << 20, 256, 16, 8, 1))])
                p.refuse("layers that do not fit together", good[:2] + [change(kv, shape=(7, 3), stride=(3, 1))])
    rounds(5)
    time.sleep(0.3)
    fds, maps = d.fds(), d.maps()
    rounds(50)
    ok = d.wait(lambda: d.fds() <= fds + 2 and d.maps() <= maps + 3, 4)
    assert ok, "fds %d, then %d; mappings %d, then %d" % (fds, d.fds(), maps, d.maps())
    eq(d.wait(lambda: imports() == 0, 3), True, "nothing is open")
    kv.close()
    many.close()


if __name__ == "__main__":
    lmgpu.main(tap)
