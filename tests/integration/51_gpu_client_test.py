"""The tests' own CUDA client, between two processes and without a server: what the other GPU tests build on."""
import os
import sys
import time

sys.dont_write_bytecode = True
import numpy                                                                       # noqa: E402

import lmcuda                                                                      # noqa: E402
import lmgpu                                                                       # noqa: E402
from lmclient import Tap, eq                                                       # noqa: E402
from lmgpu import GpuKV, hear, say                                                 # noqa: E402

tap = Tap()


@lmgpu.child
def exporter(kind):
    """Exports memory; then does what it is told."""
    gpu = lmcuda.gpu(0)
    memory = lmcuda.Memory(gpu, 1 << 20)
    memory.upload(numpy.arange(1 << 18, dtype=numpy.uint32))
    line, stream, gate = lmcuda.Timeline(gpu), lmcuda.Stream(gpu), lmcuda.Gate(gpu)
    say(memory.handle().hex(), gpu.uuid, memory.size)
    events = []
    while True:
        what, *args = hear()
        if what == "event":                 # work is queued, the event after it
            gate.hold(stream)
            other = lmcuda.Memory(gpu, 1 << 20)
            other.upload(numpy.full(1 << 18, args[0], numpy.uint32))
            gpu.cu.cuMemcpyDtoDAsync(memory.ptr, other.ptr, 1 << 20, stream.h)
            if kind == "timeline":
                say(line.record(stream, 5).hex())
            else:
                events.append(lmcuda.Event(gpu).record(stream))
                say(events[-1].handle().hex())
        elif what == "open":
            gate.open()
            gate = lmcuda.Gate(gpu)
            say("open")
        elif what == "read":
            say(int(memory.download(numpy.empty(1 << 18, numpy.uint32))[args[0]]))


def across(kind):
    them = lmgpu.Child(exporter, kind)
    handle, uuid, size = them.line()
    gpu = lmcuda.gpu(0)
    eq(gpu.uuid, uuid, "the same GPU")
    theirs = lmcuda.Imported(gpu, bytes.fromhex(handle))
    host, stream = numpy.empty(1 << 18, numpy.uint32), lmcuda.Stream(gpu)

    def read():
        gpu.cu.cuMemcpyDtoHAsync(host.ctypes.data, theirs.ptr, host.nbytes, gpu.stream.h)
        gpu.stream.wait()
        return host
    assert (read() == numpy.arange(1 << 18)).all(), "their memory"
    for value in (7, 8, 9):
        before = int(read()[0])
        them.tell("event", value)
        event = bytes.fromhex(them.line()[0])
        eq(len(event), lmcuda.TIMELINE_BYTES if kind == "timeline" else lmcuda.EVENT_BYTES, "bytes of an event")
        if kind == "timeline":
            lmcuda.timeline_wait(gpu, stream, event)
        else:
            mine = lmcuda.Event(gpu, event)
            stream.wait_event(mine)
        time.sleep(0.05)
        eq((stream.idle(), int(read()[-1])), (False, before if value > 7 else (1 << 18) - 1), "before the gate is open")
        them.tell("open")
        stream.wait(5)
        eq(set(read().tolist()), {value}, "after the event")
        them.line()
        if kind != "timeline":
            eq(mine.happened(), True, "the event")
            mine.close()
    gpu.cu.cuMemcpyHtoDAsync(theirs.ptr, numpy.full(8, 5, numpy.uint32).ctypes.data, 32, gpu.stream.h)
    gpu.stream.wait()
    them.tell("read", 3)
    eq(them.line()[0], 5, "what we wrote")
    theirs.close()
    them.kill()


for k in ("event", "timeline"):
    tap.add("two processes: memory by its handle, order by %s" % k, across, k)


def formula(fmt):
    """Reading, writing and comparing blocks in GPU memory agrees with the same cache in shared memory."""
    from lmkv import KV
    for kw in (dict(), dict(one_shm=True), dict(place="own", dtype="float64"), dict(kind="fabric"), dict(kind="fd", dtype="uint8")):
        there = GpuKV(fmt, nl=3, nb=40, **kw)
        here = KV(fmt, nl=3, nb=40, one_shm=kw.get("one_shm", False), dtype=kw.get("dtype", "float16"))
        for words, mine in zip(there.snapshot(), here.words):
            mine[:] = words
        blocks = [3, 17, 39, 0]
        data = there.read(blocks)
        assert (data == here.read(blocks)).all(), "read"
        snapshot = there.snapshot()
        there.write([5, 6, 7, 8], data)
        here.write([5, 6, 7, 8], data)
        assert here.same(there.snapshot()) and not there.same(snapshot), "write"
        there.write([5, 6, 7, 8], data, words=snapshot)
        assert there.same(snapshot), "same"
        memory, at, n = there.storages[-1]
        if n + at < memory.size:
            memory.upload(b"\x00" if memory.download(numpy.empty(memory.size, numpy.uint8))[-1] else b"\x01", memory.size - 1)
            assert not there.same(snapshot), "a byte outside of all tensors was changed unseen"
        there.close()
        here.close()


for f in (0, 1, 4, 6, 8, 10):
    tap.add("paged KV in GPU memory against the same in shared memory, format %d" % f, formula, f)


@tap.test("a process cannot open its own handle, nor anybody a freed one")
def own():
    gpu = lmcuda.gpu(0)
    memory = lmcuda.Memory(gpu, 1 << 20)
    handle = memory.handle()
    for what in ("own", "freed"):
        try:
            lmcuda.Imported(gpu, handle)
        except lmcuda.CudaError:
            pass
        else:
            raise AssertionError("opened its %s handle" % what)
        memory.close()


@tap.test("the process that exports dies while its memory is open: nothing is lost here, nothing stays in the machine")
def death():
    them = lmgpu.Child(exporter, "event")
    handle, _, size = them.line()
    gpu = lmcuda.gpu(0)
    before = lmgpu.report(os.getpid())
    theirs = lmcuda.Imported(gpu, bytes.fromhex(handle))
    them.tell("event", 3)
    event = lmcuda.Event(gpu, bytes.fromhex(them.line()[0]))
    them.kill()
    host = numpy.empty(16, numpy.uint32)
    gpu.cu.cuMemcpyDtoHAsync(host.ctypes.data, theirs.ptr, 64, gpu.stream.h)
    gpu.stream.wait()
    eq(host.tolist(), list(range(16)), "their memory")
    event.close()
    theirs.close()
    mine = lmgpu.report(os.getpid())
    if mine is not None:
        for what in ("imports", "event_imports", "imported_bytes"):
            eq(mine[what], before[what], what)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--child"]:
        tap.main = lambda main=tap.main: main(daemon=False)
    lmgpu.main(tap)
