"""Engines on GPUs that die, and GPUs that fail: what was held goes back, others go on, and the next registration works."""
import os
import sys
import threading
import time

sys.dont_write_bytecode = True
import lmcuda                                                                      # noqa: E402
import lmgpu                                                                       # noqa: E402
from lmclient import CHUNK, KV, SAN, SLOW, Client, Daemon, Died, Engine, Skip, Tap, eq, random_tokens  # noqa: E402
from lmgpu import GpuKV, hear, say                                                 # noqa: E402

tap = Tap(*lmgpu.daemon_args())
CYCLES = int(os.environ.get("LMCA_GPU_CYCLES", "25" if SAN else "60"))
OOM, INVALID, ILLEGAL_ADDRESS, LAUNCH_FAILED, ECC = 2, 1, 700, 719, 214


class Fault:
    """Commands to the test driver for as long as a block runs; skipped on a real one."""

    def __init__(self, *commands, after=("clear",)):
        self.commands, self.after = commands, after

    def __enter__(self):
        if lmcuda.REAL:
            raise Skip("only the test driver can do that")
        for command in self.commands:
            lmcuda.fake(command)
        return self

    def __exit__(self, *_):
        for command in self.after:
            lmcuda.fake(command)


def slow(gpu=0, bytes_per_s=1 << 27, latency_us=0, pid=None):
    return Fault("slow gpu=%d bytes_per_s=%d latency_us=%d%s" % (gpu, bytes_per_s, latency_us, " pid=%d" % pid if pid else ""),
                 after=("slow gpu=%d" % gpu,))


def nothing_held(d, seconds=3.0):
    """No lock, no reservation, no mapping, no context of an engine."""
    d.wait_l1("write_locked_count", 0, seconds)
    d.wait_l1("read_locked_count", 0, seconds)


def gpu_empty(d, seconds=3.0):
    """The daemon has nothing open on any GPU, and no context."""
    def held():
        report = lmgpu.report(d.pid)
        own = [(g["mapped"]["allocations"], g["engines"]) for g in lmgpu.gpus(d)]
        names = ("contexts", "imports", "allocations", "streams", "events", "event_imports", "host_registrations", "modules", "vmm_maps",
                 "reservations")
        return [x for x in own if x != (0, 0)] + ([(n, report[n]) for n in names if report[n]] if report else [])
    d.wait(lambda: not held(), seconds)
    eq(held(), [], "what is left on GPUs")


def trip(e, rid="t", chunks=2):
    tokens = random_tokens(chunks * CHUNK)
    data = e.fill(tokens, rid=rid)
    eq(e.lookup(tokens, rid), chunks, "hits")
    e.take(tokens, data, rid)
    e.end(rid)


# ---- engines that die -----------------------------------------------------------------------------------------------------------

@lmgpu.child
def holder(port, dialect, tokens):
    """Registers with its pid, stores, and holds a lookup's locks."""
    e = Engine(port, dialect, GpuKV(1), model="dead", instance=os.getpid())
    e.fill(tokens)
    while e.lookup(tokens, "held", tp=5) != 2:
        e.end("held")
    say("ready")
    hear()


@tap.test("SIGKILL of a GPU engine: context, locks and mappings are gone within a second, the objects stay")
def killed():
    d = tap.daemon
    for dialect in ("D2", "D4", "D6"):
        tokens = random_tokens(2 * CHUNK)
        them = lmgpu.Child(holder, d.port, dialect, tokens)
        them.line()
        assert them.pid in d.contexts(), d.contexts()
        d.wait_l1("read_locked_count", 2)
        them.kill()
        begin = time.monotonic()
        assert d.wait(lambda: them.pid not in d.contexts(), 2), "the context of a dead engine stays"
        nothing_held(d, 2)
        gpu_empty(d, 2)
        took = time.monotonic() - begin
        assert took < 1.3 * SLOW, "%.1f s" % took
        with Engine(d.port, dialect, GpuKV(1), model="dead") as e:
            eq(e.lookup(tokens, "heir"), 2, "hits")
            eq(e.retrieve(tokens, 0, 512, e.blocks(32), "heir"), True, "RETRIEVE")
            eq(d.l1()["read_locked_count"], 0, "locks of the dead")
            e.clear()


@lmgpu.child
def busy(port, what):
    """Fills the queue with one sort of request and says so; `held`: behind an event that will never come."""
    kv = GpuKV(1, nl=4, nb=1024, nh=8, hs=64)               # 2 MiB per chunk, in pages of 16 KiB
    e = Engine(port, "D2", kv, model="busy", instance=os.getpid())
    known = random_tokens(2 * CHUNK)
    e.fill(known)
    while e.lookup(known, "w") != 2:
        e.end("w")
    e.end("w")
    if what == "held":
        lmcuda.Gate(kv.gpu).hold(kv.stream)
    say("begin")
    hear()
    for i in range(40):
        if what != "store":
            e.client.send("LOOKUP", e.key(known, 0, 2 * CHUNK, "c%d" % i, None), 1)
            e.send_retrieve(known, 0, 2 * CHUNK, e.blocks(32), "c%d" % i)
        if what != "retrieve":
            tokens = random_tokens(2 * CHUNK)
            e.send_store(tokens, 0, 2 * CHUNK, e.blocks(32))
    e.client.ping()
    say("busy")
    hear()


class Others:
    """An engine on the same GPU that goes on and on, and how long each of its turns took."""

    def __init__(self, port):
        self.port, self.times, self.stop, self.error = port, [], False, None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            e = Engine(self.port, "D6", GpuKV(1, nb=64), model="others")
            e.kv.settle = lambda port: None
            while not self.stop:
                begin, tokens = time.monotonic(), random_tokens(CHUNK)
                eq(e.flag(e.send_store(tokens, 0, CHUNK, e.blocks(16))), True, "STORE")
                eq(e.flag(e.send_retrieve(tokens, 0, CHUNK, e.blocks(16), "none")), False, "RETRIEVE of what is not locked")
                self.times.append((begin, time.monotonic() - begin))
            e.close()
        except BaseException as err:
            self.error = err

    def p99(self, since, until):
        took = sorted(t for at, t in self.times if since <= at < until)
        return took[int(0.99 * (len(took) - 1))] if took else 0.0

    def close(self):
        self.stop = True
        self.thread.join()
        if self.error:
            raise self.error


def in_flight(what):
    """Slow copies are under way when the engine is killed."""
    d = tap.daemon
    for _ in range(1 if SAN else 2):
        them = lmgpu.Child(busy, d.port, what)
        them.line()
        others = Others(d.port)
        with slow(bytes_per_s=1 << 28, pid=d.pid):          # 2 MiB in 8 ms
            time.sleep(0.2)
            begin = time.monotonic()
            time.sleep(1.2)
            middle = time.monotonic()
            them.tell("go")
            eq(them.line()[0], "busy", "the child")
            time.sleep(0.15)
            before = time.monotonic()
            them.kill()
            assert d.wait(lambda: them.pid not in d.contexts(), 2), "the context of a dead engine stays"
            gone = time.monotonic() - before
            assert d.wait(lambda: sum(g["mapped"]["allocations"] for g in lmgpu.gpus(d)) <= 1, 4), "its memory stays mapped"
            unmapped = time.monotonic() - before
            time.sleep(max(0, before + 2.2 - time.monotonic()))
            end = time.monotonic()
        others.close()
        alone, after = others.p99(begin, middle), others.p99(before + 1, end)
        print("# %s: context gone after %.2f s, memory after %.2f s; p99 of others %.1f ms alone, %.1f ms afterwards" %
              (what, gone, unmapped, 1e3 * alone, 1e3 * after))
        assert gone < 1.3 * SLOW and unmapped < 1.5 * SLOW, "%.2f s, %.2f s" % (gone, unmapped)
        assert after < max(3 * alone, 0.1) * SLOW, "p99 of others: %.4f s alone, %.4f s afterwards" % (alone, after)
        d.wait(lambda: not d.contexts(), 3)
        nothing_held(d)
        gpu_empty(d)
        with Client(d.port, "D2") as c:
            c.call("CLEAR")


for w in ("store", "retrieve", "held"):
    tap.add("killed in the middle: %s" % {"store": "STOREs", "retrieve": "RETRIEVEs", "held": "both, behind an event that never comes"}[w],
            in_flight, w)


@tap.test("%d engines registered and killed: nothing is left in the daemon, on the GPU or in the machine" % CYCLES, limit=60 + CYCLES * 2)
def many():
    d = tap.daemon

    def turn(count):
        killer = lmgpu.Child(lmgpu.cycles, d.port, count)
        for _ in range(count):
            assert killer.line()[0], "an engine did not register"
        killer.kill()
        d.wait(lambda: not d.contexts(), 4)
        eq(d.contexts(), set(), "contexts of dead engines")
        nothing_held(d)
        gpu_empty(d)
    turn(5)
    fds, maps, threads = d.fds(), d.maps(), len(os.listdir("/proc/%d/task" % d.pid))
    machine = None if lmcuda.REAL else lmcuda.report()
    free = lmcuda.gpu(0).memory()[0]
    turn(CYCLES)
    ok = d.wait(lambda: d.fds() <= fds + 2 and d.maps() <= maps + 6, 4)
    assert ok, "fds %d, then %d; mappings %d, then %d" % (fds, d.fds(), maps, d.maps())
    assert len(os.listdir("/proc/%d/task" % d.pid)) <= threads + 1, "threads"
    assert lmcuda.gpu(0).memory()[0] >= free, "device memory: %d free, then %d" % (free, lmcuda.gpu(0).memory()[0])
    if machine:
        now = lmcuda.report()
        eq((now["memories"], now["ipc_events"]), (machine["memories"], machine["ipc_events"]), "memories and events in the machine")


@tap.test("register and unregister 60 times on one connection: nothing is left")
def again():
    d = tap.daemon
    e = Engine(d.port, "D6", GpuKV(7, nl=3, place="own"), model="again", register=False)
    for turn in range(60):
        e.register()
        if turn % 20 == 0:
            trip(e)
        e.unregister()
        if turn == 20:
            d.wait(lambda: not d.contexts(), 2)
            fds, maps = d.fds(), d.maps()
    gpu_empty(d)
    eq(e.kv.held(), 0, "storages that torch's counters say are held")
    ok = d.wait(lambda: d.fds() <= fds + 2 and d.maps() <= maps + 6, 4)
    assert ok, "fds %d, then %d; mappings %d, then %d" % (fds, d.fds(), maps, d.maps())
    e.close()


@tap.test("the daemon is killed and started again: the engine registers again and goes on")
def restart():
    with Daemon(*lmgpu.daemon_args()) as d, Engine(d.port, "D4", GpuKV(1), model="restart") as e:
        trip(e)
        d.kill()
        d.start()
        e.client.close()
        e.client = Client(d.port, "D4")
        e.kv.unknown = True
        eq(e.store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16)), False, "STORE of an instance that the new one does not know")
        e.kv.unknown = False
        e.register()
        trip(e)


# ---- calls that fail ----------------------------------------------------------------------------------------------------------------

# Functions the daemon may call when an engine registers or copies. What a failure leads to is the daemon's choice (another way, a refusal,
# a negative answer), but never a wrong byte, a hang, a leak or an end.
FUNCTIONS = """cuDevicePrimaryCtxRetain cuCtxGetStreamPriorityRange cuMemGetInfo cuMemAlloc cuMemAllocHost cuMemHostRegister cuMemHostGetDevicePointer
    cuMemGetAddressRange cuIpcGetMemHandle cuIpcOpenMemHandle cuIpcGetEventHandle cuIpcOpenEventHandle cuStreamCreateWithPriority
    cuStreamWaitEvent cuEventCreate cuEventRecord cuEventQuery cuMemcpyHtoDAsync cuMemcpyDtoHAsync cuMemcpyDtoDAsync cuMemcpy2DAsync
    cuMemcpyBatchAsync cuMemsetD8Async cuModuleLoadDataEx cuModuleGetFunction cuLaunchKernel cuStreamSynchronize cuEventSynchronize
    cuStreamWriteValue64 cuStreamWaitValue64 cuEventElapsedTime""".split()


def careful(d, e, known, data):
    """Registers, stores, retrieves, whatever fails: answers come, and what is said to be there is right. True if all of it worked."""
    e.kv.unknown = True
    e.register()
    tokens, worked = random_tokens(2 * CHUNK), True
    blocks = e.blocks(32)
    words = e.kv.read(blocks)

    def flag(uid):
        event, good = e.client.recv(uid)
        if good:
            e.kv.reply(event, good)
        return good
    worked &= flag(e.send_store(tokens, 0, 512, blocks))
    e.kv.settle(e.client.port)
    hits = e.lookup(tokens, "c")
    if hits:
        to, want = e.blocks(16 * hits), e.kv.snapshot()
        if flag(e.send_retrieve(tokens, 0, hits * CHUNK, to, "c")):
            e.kv.settle(e.client.port)
            e.kv.write(to, words[:, :, :hits * CHUNK], words=want)
            if d.l1()["read_locked_count"] == 0 and lmgpu.failed_copies(d) == e.failures:
                assert e.kv.same(want), "wrong bytes"
            else:
                worked = False
        else:
            worked = False
    e.end("c")
    e.unregister()
    e.failures = lmgpu.failed_copies(d)
    return worked and hits == 2


def failing(error, sticky, after):
    """One call of each function fails, at its first use or later; afterwards all works again."""
    d = tap.daemon
    kv = GpuKV(6, nl=2, nb=80)
    with Engine(d.port, "D6", kv, model="failing", register=False) as e:
        e.failures = lmgpu.failed_copies(d)
        for function in FUNCTIONS:
            with Fault("fail %s error=%d count=1 after=%d pid=%d%s" % (function, error, after, d.pid, " sticky=1" if sticky else "")):
                try:
                    careful(d, e, None, None)
                except Exception as err:
                    raise AssertionError("while %s failed: %s: %s" % (function, type(err).__name__, err)) from err
            nothing_held(d)
            try:
                assert d.wait(lambda: careful(d, e, None, None), 5), "does not work again"
            except Exception as err:
                raise AssertionError("after %s had failed: %s: %s" % (function, type(err).__name__, err)) from err
    nothing_held(d)
    gpu_empty(d)


for err_, sticky_, after_ in ((OOM, False, 0), (INVALID, False, 3), (ILLEGAL_ADDRESS, True, 0), (LAUNCH_FAILED, True, 2), (ECC, True, 5)):
    tap.add("one call of each function fails with error %d%s, %d calls let through" % (err_, ", which breaks the context" if sticky_ else "",
            after_), failing, err_, sticky_, after_, limit=120)


@tap.test("a refused open is told with its reason, and the same handle opens later")
def refused_open():
    d = tap.daemon
    with Engine(d.port, "D2", GpuKV(1), model="refused", register=False) as e:
        size = len(d.log())
        with Fault("fail cuIpcOpenMemHandle error=1 count=1000 pid=%d" % d.pid):
            e.register()
            assert e.instance not in d.contexts()
            assert "CUDA_ERROR_INVALID_VALUE" in d.log()[size:], d.log()[size:]
        e.register()
        trip(e)


@tap.test("the arena cannot be registered with CUDA: copies go through staging memory, every byte right")
def unpinned():
    with Fault("fail cuMemHostRegister error=2 count=100000"), Daemon(*lmgpu.daemon_args()) as d, \
            Engine(d.port, "D6", GpuKV(7, nl=3), model="unpinned") as e:
        for i in range(5):
            trip(e, "u%d" % i, chunks=3)


@tap.test("a context that breaks under copies: engines are told, register again, and others on other GPUs notice nothing")
def broken():
    d = tap.daemon
    with Engine(d.port, "D6", GpuKV(1, nb=200), model="broken") as e, Engine(d.port, "D2", KV(1), model="cpu") as cpu:
        known = random_tokens(4 * CHUNK)
        data = e.fill(known)
        with slow(pid=d.pid, bytes_per_s=1 << 24):
            uids = [e.send_store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16)) for _ in range(30)]
            time.sleep(0.05)
            with Fault("fail * error=%d count=1 sticky=1 pid=%d" % (ILLEGAL_ADDRESS, d.pid)):
                flags = [e.client.recv(u)[1] for u in uids]
                trip(cpu)
        nothing_held(d)
        e.kv.unknown = True
        last = e.client.recv(e.send_store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16)))[1]
        eq(last, False, "STORE after the context broke (of those before it: %d true)" % sum(flags))
        e.kv.unknown = False
        e.unregister()
        assert d.wait(lambda: (e.register(), e.instance in d.contexts())[1], 5), "cannot register again: " + d.log()[-1500:]
        eq(e.lookup(known, "k"), 4, "what was stored before")
        e.take(known, data, "k")
        trip(e)
        trip(cpu)


# ---- GPUs that hang or go -------------------------------------------------------------------------------------------------------------

def two():
    if lmcuda.driver().count() < 2:
        raise Skip("two GPUs wanted")


@tap.test("a stuck GPU: engines on the other and on CPU go on, PING is quick, and it all ends when the GPU moves again")
def stuck():
    two()
    d = tap.daemon
    with Engine(d.port, "D6", GpuKV(1, nb=200), model="stuck") as e, Engine(d.port, "D6", GpuKV(1, ordinal=1), model="free") as free, \
            Engine(d.port, "D2", KV(1), model="cpu") as cpu:
        trip(e)
        with Fault("stick gpu=0 pid=%d" % d.pid, after=("release gpu=0",)):
            uids = [e.send_store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16)) for _ in range(40)]
            took = []
            for i in range(30):
                begin = time.monotonic()
                free.client.ping()
                took.append(time.monotonic() - begin)
                trip(free, "f%d" % i)
                trip(cpu, "c%d" % i)
            assert sorted(took)[-2] < 0.05 * SLOW, "PING took %r" % sorted(took)[-3:]
        eq({e.flag(u) for u in uids}, {True}, "flags")
        trip(e)
    nothing_held(d)


@tap.test("an engine unregisters, and another is killed, while their GPU is stuck: others go on, and all ends when it moves again")
def stuck_unregister():
    """UNREGISTER says that the memory may be freed, so its answer waits for the copies."""
    d = tap.daemon
    e = Engine(d.port, "D6", GpuKV(1, nb=200), model="stuck2")
    trip(e)
    them = lmgpu.Child(holder, d.port, "D6", random_tokens(2 * CHUNK))
    them.line()
    with Fault("stick gpu=0 pid=%d" % d.pid, after=("release gpu=0",)):
        for _ in range(10):
            e.send_store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16))
        time.sleep(0.1)
        uid = e.client.send("UNREGISTER_KV_CACHE", e.instance)
        them.kill()
        assert d.wait(lambda: them.pid not in d.contexts(), 2), d.contexts()
        with Engine(d.port, "D2", KV(1), model="cpu") as cpu:
            trip(cpu)
    eq(e.client.recv(uid), None, "UNREGISTER")
    nothing_held(d)
    gpu_empty(d)
    e.close()


@tap.test("SIGTERM while a GPU is stuck: the daemon ends in bounded time, and says why not in order")
def stuck_stop():
    with Daemon(*lmgpu.daemon_args()) as d:
        e = Engine(d.port, "D6", GpuKV(1, nb=200), model="stuck3")
        trip(e)
        with Fault("stick gpu=0 pid=%d" % d.pid, after=("release gpu=0",)):
            for _ in range(10):
                e.send_store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16))
            time.sleep(0.1)
            begin = time.monotonic()
            try:
                d.stop()
            except Died as err:
                assert "exit status 1 " in str(err) and "a GPU does not answer" in str(err), err
            assert time.monotonic() - begin < 15 * SLOW, "%.1f s" % (time.monotonic() - begin)
        e.kv.leave = lambda engine: None
        e.close()


@lmgpu.child
def loser(port):
    """An engine whose GPU is taken away: it can do nothing there itself, also not free its memory."""
    e = Engine(port, "D6", GpuKV(1, ordinal=1, nb=200), model="lost", instance=os.getpid())
    trip(e)
    events = [e.kv.event() for _ in range(4)]
    e.kv.stream.wait()
    say("ready")
    hear()
    flags = []
    for event in events:
        flags.append(e.client.recv(e.send_store(random_tokens(CHUNK), 0, CHUNK, list(range(16)), event=event))[1])
    say(flags)
    hear()


@tap.test("a GPU that falls off the bus: its engines are told, others go on, and nothing of it stays")
def lost():
    two()
    with Daemon(*lmgpu.daemon_args()) as d, Engine(d.port, "D6", GpuKV(1, ordinal=0), model="stays") as stays:
        them = lmgpu.Child(loser, d.port)
        them.line()
        with Fault("lose gpu=1", after=("restore gpu=1",)):
            them.tell("go")
            flags = them.line()[0]
            eq(flags[1:], [False] * 3, "STOREs on a GPU that is gone (the first: %r)" % flags[0])
            for i in range(5):
                trip(stays, "s%d" % i)
            nothing_held(d)
            them.kill()
            assert d.wait(lambda: them.pid not in d.contexts(), 2), "the context of a dead engine stays"
        trip(stays)
        eq(d.wait(lambda: [g["mapped"]["allocations"] for g in lmgpu.gpus(d)] == [1, 0], 3), True, "mappings")


if __name__ == "__main__":
    lmgpu.main(tap)
