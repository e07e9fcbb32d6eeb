"""Engines on GPUs beside each other and beside engines on CPU: cross-layout, events and their order, several GPUs, L2."""
import importlib
import os
import sys
import time

sys.dont_write_bytecode = True
import lmcuda                                                                      # noqa: E402
import lmgpu                                                                       # noqa: E402
from lmclient import ALL, CHUNK, KV, SLOW, Daemon, Engine, Skip, Tap, eq, random_tokens  # noqa: E402
from lmgpu import GpuKV                                                            # noqa: E402

tap = Tap(*lmgpu.daemon_args())


# ---- GPU and CPU --------------------------------------------------------------------------------------------------------------

def mixed(dialect, fmts):
    """Stored by each, retrieved by every other, on GPU or CPU, whatever the layout and block size."""
    engines = []
    for i, fmt in enumerate(fmts):
        bs = (16, 32, 64, 16, 128)[i % 5]
        shape = dict(nl=2, nb=64 * 16 // bs, bs=bs, **({"hs": 24} if fmt in (3, 5) else {}))
        kv = GpuKV(fmt, place=("shared", "own")[i % 2], **shape) if i % 3 != 1 else KV(fmt, **shape)
        engines.append(Engine(tap.daemon.port, dialect, kv, model="mixed%s%d" % (dialect, fmts[0])))
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
    tap.daemon.wait_l1("read_locked_count", 0)


for d in ("D4", "D6"):
    tap.add("%s: GPU and CPU engines of all K/V formats read each other's objects" % d, mixed, d, (0, 1, 2, 4, 6, 7, 8, 9, 10))
    tap.add("%s: GPU and CPU engines of the MLA formats" % d, mixed, d, (3, 5))
tap.add("D2: GPU and CPU engines of vLLM's formats", mixed, "D2", (1, 6, 2, 7, 10))


# ---- events ---------------------------------------------------------------------------------------------------------------------

def queue_words(kv, words):
    """Queues, on the engine's stream, that its cache gets these words (of every tensor); returns what must live until then."""
    other = GpuKV(kv.fmt, nl=kv.nl, nb=kv.nb, bs=kv.bs, nh=kv.geo[0][2], hs=kv.geo[0][3])
    for i, w in enumerate(words):
        other._put(i, w)
        (to, at, n), (source, begin, _) = kv._range(i), other._range(i)
        kv.gpu.current().cu.cuMemcpyDtoDAsync(to.ptr + at, source.ptr + begin, n, kv.stream.h)
    return other


def late_store(timeline):
    """The engine sends STORE while the kernels that write the KV are still queued behind something."""
    kv = GpuKV(1, nb=40, timeline=timeline)
    with Engine(tap.daemon.port, "D6", kv, model="late%d" % timeline) as e:
        tokens, blocks = random_tokens(2 * CHUNK), e.blocks(32)
        words = [w ^ 0x5a5a for w in kv.snapshot()]
        with lmcuda.Gate(kv.gpu) as gate:
            gate.hold(kv.stream)
            other = queue_words(kv, words)
            uid = e.send_store(tokens, 0, 512, blocks)
            time.sleep(0.2)
            eq(e.lookup(tokens, "early"), 0, "hits before the engine has written its pages")
            gate.open()
            eq(e.flag(uid), True, "STORE")
        kv.settle(e.client.port)
        data = kv.read(blocks)
        eq(kv.same(words), True, "the engine's own words")
        eq(e.lookup(tokens, "then"), 2, "hits")
        e.take(tokens, data, "then")
        other.close()


def late_retrieve(timeline):
    """No page is written before the engine's event, and when the reply's event is reached all are."""
    kv = GpuKV(6, nb=40, timeline=timeline)
    with Engine(tap.daemon.port, "D6", kv, model="lr%d" % timeline) as e:
        tokens, to = random_tokens(2 * CHUNK), e.blocks(32)
        data = e.fill(tokens)
        for turn in range(3):
            rid = "r%d" % turn
            eq(e.lookup(tokens, rid), 2, "hits")
            kv.write(to, data ^ 0xffff)
            before = kv.snapshot()
            with lmcuda.Gate(kv.gpu) as gate:
                gate.hold(kv.stream)
                uid = e.send_retrieve(tokens, 0, 512, to, rid)
                time.sleep(0.1)
                assert kv.same(before), "written before the engine's event"
                gate.open()
                eq(e.flag(uid), True, "RETRIEVE")
            kv.write(to, data, words=before)
            assert kv.same(before), "the reply's event does not cover the copies"
            e.end(rid)
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("an engine that waits for its GPU keeps nobody else waiting")
def one_waits():
    waits, goes = (Engine(tap.daemon.port, "D6", GpuKV(1, nb=40), model="waits%d" % i) for i in (0, 1))
    goes.kv.settle = lambda port: time.sleep(0.03)
    took = []
    with lmcuda.Gate(waits.kv.gpu) as gate:
        gate.hold(waits.kv.stream)
        uids = [waits.send_store(random_tokens(CHUNK), 0, CHUNK, waits.blocks(16)) for _ in range(50)]
        for i in range(20):
            begin = time.monotonic()
            tokens = random_tokens(2 * CHUNK)
            data = goes.fill(tokens)
            eq(tap.daemon.wait(lambda: goes.lookup(tokens, "g"), 5), 2, "hits")
            goes.take(tokens, data, "g")
            took.append(time.monotonic() - begin)
        assert sorted(took)[-2] < 1 * SLOW, "seconds: %r" % took
        gate.open()
        eq({waits.flag(u) for u in uids}, {True}, "flags")
    waits.close()
    goes.close()


@tap.test("SIGTERM, UNREGISTER and a second registration while an engine's event has not happened")
def held_back():
    with Daemon(*lmgpu.daemon_args()) as d:
        e = Engine(d.port, "D2", GpuKV(1, nb=40), model="held")
        with lmcuda.Gate(e.kv.gpu) as gate:
            gate.hold(e.kv.stream)
            for turn in ("unregister", "replace", "stop"):
                uids = [e.send_store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16)) for _ in range(5)]
                begin = time.monotonic()
                if turn == "unregister":
                    e.unregister()
                    e.register()
                elif turn == "replace":
                    e.register()
                else:
                    d.stop()
                assert time.monotonic() - begin < 4 * SLOW, "%s took %.1f s" % (turn, time.monotonic() - begin)
                if turn != "stop":
                    eq({e.client.recv(u, 5 * SLOW)[1] for u in uids}, {False}, "STOREs whose event never came, after " + turn)
                    d.wait_l1("write_locked_count", 0)
            gate.open()
        e.kv.leave = lambda engine: None
        e.close()


for form in (False, True):
    tap.add("STORE waits for the engine's %s" % ("timeline" if form else "event"), late_store, form)
    tap.add("RETRIEVE waits for the engine's %s, and the reply's covers the copies" % ("timeline" if form else "event"), late_retrieve, form)


@tap.test("one event recorded again and again, as engines do that keep few: each request waits for the record before it")
def reused():
    kv = GpuKV(2, nb=40)
    with Engine(tap.daemon.port, "D4", kv, model="reused") as e:
        event, stream = lmcuda.Event(kv.gpu), kv.stream
        for turn in range(4):
            tokens, blocks = random_tokens(CHUNK), e.blocks(16)
            words = [w ^ (turn + 1) for w in kv.snapshot()]
            with lmcuda.Gate(kv.gpu) as gate:
                gate.hold(stream)
                other = queue_words(kv, words)
                event.record(stream)
                uid = e.send_store(tokens, 0, CHUNK, blocks, event=event.handle())
                time.sleep(0.05)
                gate.open()
                eq(e.flag(uid), True, "STORE")
            kv.settle(e.client.port)
            eq(e.lookup(tokens, "t%d" % turn), 1, "hits")
            e.take(tokens, kv.read(blocks), "t%d" % turn)
            other.close()
        event.close()


@tap.test("a RETRIEVE and then a STORE of the same pages, ordered by the engine's stream only")
def chained():
    with Engine(tap.daemon.port, "D2", GpuKV(6, nb=64), model="chain") as e:
        first = random_tokens(CHUNK)
        data = e.fill(first)
        for i in range(20):
            eq(e.lookup(first, "o%d" % i), 1, "hits")
            into, other = e.blocks(16), random_tokens(CHUNK)
            e.kv.write(into, data * 0)
            event, flag = e.client.recv(e.send_retrieve(first, 0, CHUNK, into, "o%d" % i))
            eq(flag, True, "RETRIEVE")
            mine = lmcuda.Event(e.kv.gpu, event)
            e.kv.stream.wait_event(mine)                        # not waited for by the CPU
            eq(e.store(other, 0, CHUNK, into), True, "STORE")
            eq(e.lookup(other, "c%d" % i), 1, "hits")
            e.take(other, data, "c%d" % i)
            mine.close()


@tap.test("200 requests under way at once, each with an event of its own in both directions")
def pipelined():
    with Engine(tap.daemon.port, "D5", GpuKV(1, nb=200), model="pipe") as e:
        prompts = [random_tokens(CHUNK) for _ in range(100)]
        places = [e.blocks(16) for _ in prompts]
        uids = [e.send_store(t, 0, CHUNK, b) for t, b in zip(prompts, places)]
        eq({e.flag(u) for u in reversed(uids)}, {True}, "flags")
        e.kv.settle(e.client.port)
        datas = [e.kv.read(b) for b in places]
        want, to = e.kv.snapshot(), e.blocks(16)
        for i, t in enumerate(prompts):
            eq(e.lookup(t, "p%d" % i), 1, "hits")
        uids = [e.send_retrieve(t, 0, CHUNK, to, "p%d" % i) for i, t in enumerate(prompts)]
        eq({e.flag(u) for u in uids}, {True}, "flags")
        e.kv.write(to, datas[-1], words=want)                   # in order: the last one wins
        assert e.kv.same(want), "not in order, or wrong bytes"
    tap.daemon.wait_l1("read_locked_count", 0)


def negative(dialect):
    """torch opens the event of every reply, so a refusal carries one that has happened."""
    for timeline in (False, True):
        with Engine(tap.daemon.port, dialect, GpuKV(1, nb=40, timeline=timeline), model="neg" + dialect) as e:
            tokens = random_tokens(2 * CHUNK)
            known = random_tokens(CHUNK)
            e.fill(known)
            for _ in range(20):
                eq(e.retrieve(tokens, 0, 512, e.blocks(32), "none"), False, "RETRIEVE of nothing")
            # The last two cannot be read at all, so whose they are is not known; no engine sends such.
            cases = ((0, 256, list(range(15))), (0, 256, []), (0, 300, list(range(16))), (0, 256, [40] * 16), (256, 0, []),
                     (0, 256, [1 << 40] * 16))
            for start, end, ids in cases:
                e.kv.unknown = start > end or 1 << 40 in ids
                before = e.kv.snapshot()
                eq(e.store(tokens, start, end, ids), False, "STORE %d..%d %r" % (start, end, ids[:1]))
                eq(e.lookup(known, "k"), 1, "hits")
                eq(e.retrieve(known, start, end, ids, "k"), False, "RETRIEVE %d..%d %r" % (start, end, ids[:1]))
                e.end("k")
                assert e.kv.same(before), "a refused RETRIEVE wrote"
            e.kv.unknown = False
            eq(e.store(tokens, 0, 256, e.blocks(16), model="another"), False, "STORE of another model")


for d in ALL:
    tap.add("%s: refusals carry an event that can be opened" % d, negative, d)


def bad_events(dialect):
    """What is no event is refused, and the pages stay unread and unwritten."""
    with Engine(tap.daemon.port, dialect, GpuKV(1, nb=40), model="be" + dialect) as e:
        known = random_tokens(CHUNK)
        data = e.fill(known)
        memory = lmcuda.Memory(e.kv.gpu, 4096)
        line = lmcuda.Timeline.FORM
        good = memory.handle()
        bad = [bytes(64), os.urandom(64), b"\xff" * 64, b"x", b"x" * 63, b"x" * 65, bytes(81), os.urandom(81), b"x" * 5000, good,
               line.pack(2, good, 0, 1), line.pack(1, good, memory.size, 1), line.pack(1, good, (1 << 64) - 8, 1),
               line.pack(1, good, 4, 1), line.pack(1, os.urandom(64), 0, 1), line.pack(1, good, 1 << 40, 1)]
        for event in bad:
            tokens = random_tokens(CHUNK)
            flag = e.client.recv(e.send_store(tokens, 0, CHUNK, e.blocks(16), event=event))[1]
            eq(flag, False, "STORE with event %r" % event[:100])
            eq(e.lookup(tokens, "n"), 0, "hits after a STORE with event %r" % event[:100])
            eq(e.lookup(known, "k"), 1, "hits")
            before = e.kv.snapshot()
            flag = e.client.recv(e.send_retrieve(known, 0, CHUNK, e.blocks(16), "k", event=event))[1]
            eq(flag, False, "RETRIEVE with event %r" % event[:100])
            e.kv.settle(e.client.port)
            assert e.kv.same(before), "written in spite of event %r" % event[:100]
            e.end("k")
            tap.daemon.wait_l1("read_locked_count", 0)
            tap.daemon.wait_l1("write_locked_count", 0)
        eq(e.lookup(known, "k"), 1, "hits")
        e.take(known, data, "k")
        memory.close()


for d in ("D2", "D6"):
    tap.add("%s: what is no event is refused" % d, bad_events, d)


# ---- several GPUs ---------------------------------------------------------------------------------------------------------------

def need(count):
    if lmcuda.driver().count() < count:
        raise Skip("%d GPUs wanted, %d are here" % (count, lmcuda.driver().count()))


@tap.test("engines on two GPUs: stored on one, retrieved on the other; ranks on both")
def two_gpus():
    need(2)
    a, b = (Engine(tap.daemon.port, "D2", GpuKV(1 + 5 * i, ordinal=i), model="two") for i in (0, 1))
    for src, dst in ((a, b), (b, a)):
        tokens = random_tokens(2 * CHUNK)
        data = src.fill(tokens)
        eq(dst.lookup(tokens, "two"), 2, "hits")
        dst.take(tokens, data, "two")
    a.close()
    b.close()
    workers = [Engine(tap.daemon.port, "D6", GpuKV(2, ordinal=r % 2), model="tp", world=4, rank=r) for r in range(4)]
    tokens = random_tokens(3 * CHUNK)
    datas = [w.fill(tokens) for w in workers]
    eq(workers[0].lookup(tokens, "all", tp=4), 3, "hits")
    for w, data in zip(workers, datas):
        w.take(tokens, data, "all")
        w.close()
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("tensors of two GPUs in one registration are refused, and nothing stays mapped")
def torn():
    need(2)
    one, two = GpuKV(1, ordinal=0), GpuKV(1, ordinal=1)
    with Engine(tap.daemon.port, "D2", one, model="torn", register=False) as e:
        e.register(wrappers=one.wrappers()[:1] + two.wrappers()[1:])
        assert e.instance not in tap.daemon.contexts()
        one.unknown = True
        eq(e.store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16)), False, "STORE")
        eq(one.held() + two.held(), len(one.counters) + len(two.counters) - 2, "storages torch's counters say are held")
    two.close()


@tap.test("GPUs are found by UUID: a server that counts them otherwise, or does not see one")
def uuids():
    need(2)
    with Daemon(*lmgpu.daemon_args(), env={"CUDA_VISIBLE_DEVICES": "1,0"}) as d:
        for i in (0, 1):
            with Engine(d.port, "D2", GpuKV(1, ordinal=i), model="order") as e:
                tokens = random_tokens(CHUNK)
                data = e.fill(tokens)
                eq(e.lookup(tokens, "o"), 1, "hits")
                e.take(tokens, data, "o")
    with Daemon(*lmgpu.daemon_args(), env={"CUDA_VISIBLE_DEVICES": "1"}) as d:
        hidden, seen = GpuKV(1, ordinal=0), GpuKV(1, ordinal=1)
        with Engine(d.port, "D4", hidden, model="hidden") as e, Engine(d.port, "D4", seen, model="seen") as good:
            hidden.unknown = True
            eq(e.store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16)), False, "STORE from a GPU the server does not see")
            assert hidden.gpu.uuid in d.log(), "the log does not name the GPU: " + d.log()[-600:]
            tokens = random_tokens(CHUNK)
            data = good.fill(tokens)
            eq(good.lookup(tokens, "o"), 1, "hits")
            good.take(tokens, data, "o")


# ---- L2 -------------------------------------------------------------------------------------------------------------------------

def below(kind):
    """Stored from a GPU, gone from L1, and back through prefetch: into a GPU, and into a CPU engine."""
    l2_test = importlib.import_module("42_l2_test")
    with l2_test.L2(kind, extra=lmgpu.daemon_args()) as l2, Engine(l2.d.port, "D4", GpuKV(6, nb=160), model="l2") as e, \
            Engine(l2.d.port, "D6", KV(1, nb=160), model="l2") as cpu:
        tokens = random_tokens(6 * CHUNK)
        data = e.fill(tokens)
        for rid, engine in (("gpu", e), ("cpu", cpu)):
            l2.forget()
            eq(engine.lookup(tokens, rid), 6, "chunks from below")
            engine.take(tokens, data, rid)
            engine.end(rid)
        other = random_tokens(4 * CHUNK)
        data = cpu.fill(other)
        l2.forget()
        eq(e.lookup(other, "back"), 4, "chunks from below")
        e.take(other, data, "back")
        e.end("back")
        l2.quiet()


for k in ("mock", "fs", "raw_block"):
    tap.add("stored from a GPU, gone from L1, and back from %s with every byte" % k, below, k)


# ---- without ----------------------------------------------------------------------------------------------------------------------

def no_driver(library, env, words):
    """Everything else works, a registration of GPU memory is refused at once, and the log says why."""
    with Daemon(*lmgpu.daemon_args(library=library), env=env) as d:
        eq(sum("CUDA" in line or "GPU" in line for line in d.log().splitlines()) >= 1, True, "a line at the start: " + d.log())
        kv = GpuKV(1)
        kv.unknown = True
        for dialect in ("D2", "D6"):
            begin = time.monotonic()
            with Engine(d.port, dialect, kv, model="none") as e:
                assert e.instance not in d.contexts()
                eq(e.store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16)), False, "STORE")
                assert time.monotonic() - begin < 2 * SLOW
                e.kv = KV(1)
            assert any(w in d.log() for w in words), "the log does not say why: " + d.log()[-800:]
        with Engine(d.port, "D2", KV(1), model="cpu") as e:
            tokens = random_tokens(CHUNK)
            data = e.fill(tokens)
            eq(e.lookup(tokens, "c"), 1, "hits")
            e.take(tokens, data, "c")
        kv.close()


tap.add("a server without a driver refuses GPU memory and serves the rest", no_driver, "/nowhere/libcuda.so.1", {},
        ("no NVIDIA driver", "no CUDA", "libcuda"))
tap.add("a file that is no driver is not taken for one", no_driver, "libm.so.6", {}, ("libm.so.6",))

if __name__ == "__main__":
    lmgpu.main(tap)
