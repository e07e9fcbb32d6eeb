#!/usr/bin/python3
"""What the CUDA door does on this machine's GPU, measured from an engine's process over the protocol. Prints one table.

    tests/gpu/figures.py [--quick] [--json FILE] [name ...]     names: registration bandwidth cycles slowdown

Every bandwidth is compared with one large copy to or from pinned memory, taken in turns with it. --quick: small sizes and few rounds, to
try the program itself.
"""
import argparse
import ctypes
import json
import os
import statistics
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
import lmcuda                                                                      # noqa: E402
import lmgpu                                                                       # noqa: E402
from lmclient import CHUNK, Daemon, Engine, eq, random_tokens                      # noqa: E402

GIB = float(1 << 30)
ROWS = []


def row(what, value, unit, goal=""):
    ROWS.append({"what": what, "value": value, "unit": unit, "goal": goal})
    print("%-64s %12s %-6s %s" % (what, ("%.3g" if value < 10 else "%.1f") % value, unit, goal), flush=True)


class Pinned:
    """Host memory that the device copies to at full speed."""

    def __init__(self, gpu, size):
        self.gpu, self.size, self.at = gpu.current(), size, ctypes.c_void_p()
        gpu.cu.cuMemAllocHost(ctypes.byref(self.at), size)
        ctypes.memset(self.at, 1, size)

    def close(self):
        self.gpu.current().cu.cuMemFreeHost(self.at)


def timed(fn):
    begin = time.perf_counter()
    fn()
    return time.perf_counter() - begin


# ---- registration -----------------------------------------------------------------------------------------------------------------

def registration(quick):
    with Daemon(*lmgpu.daemon_args(), l1="1") as d:
        layers, first, later = 4 if quick else 61, [], []
        for turn in range(2 if quick else 5):
            e = Engine(d.port, "D6", lmgpu.GpuKV(1, nl=layers, nb=80, nh=2, hs=64), model="reg%d" % turn, register=False)
            first.append(timed(e.register))
            other = Engine(d.port, "D6", lmgpu.GpuKV(6, nl=layers, nb=80, nh=2, hs=64), model="more%d" % turn, register=False)
            later.append(timed(other.register))
            other.close()
            e.close()
            d.wait(lambda: not d.contexts(), 5)
            time.sleep(0.2)
        row("registration of the first engine of a GPU, %d layers" % layers, 1e3 * statistics.median(first), "ms")
        row("registration of the next one", 1e3 * statistics.median(later), "ms")


# ---- bandwidth --------------------------------------------------------------------------------------------------------------------

# (what, format, tokens per block, heads, head size, layers): bfloat16; a page is what is contiguous on both sides.
SHAPES = [("4 KiB pages", 1, 16, 1, 128, 32), ("8 KiB pages", 1, 16, 2, 128, 32), ("16 KiB pages", 1, 16, 4, 128, 32),
          ("32 KiB pages", 1, 16, 8, 128, 32), ("64 KiB pages", 2, 32, 8, 128, 32), ("256 KiB pages", 2, 128, 8, 128, 32),
          ("HND, 32 KiB blocks", 7, 16, 8, 128, 32), ("MLA, 18 KiB pages", 3, 16, 1, 576, 61)]


def wait_event(kv, event):
    kv.reply(event, True)


def one_bandwidth(d, gpu, shape, chunks, rounds):
    what, fmt, bs, nh, hs, nl = shape
    kv = lmgpu.GpuKV(fmt, nl=nl, nb=chunks * CHUNK // bs + 8, bs=bs, nh=nh, hs=hs, dtype="bfloat16", seed=1)
    size = (1 if fmt == 3 else 2) * nl * CHUNK * nh * hs * 2 * chunks
    pinned, memory = Pinned(gpu, size), lmcuda.Memory(gpu, size)
    ratios = {"STORE": [], "RETRIEVE": []}
    speeds = {"STORE": [], "RETRIEVE": []}
    with Engine(d.port, "D6", kv, model=what) as e:
        blocks = e.blocks(chunks * CHUNK // bs)
        for turn in range(rounds + 1):
            tokens = random_tokens(chunks * CHUNK)
            stored = timed(lambda: eq(e.flag(e.send_store(tokens, 0, len(tokens), blocks)), True, "STORE"))
            kv.settle(e.client.port)
            down = timed(lambda: (gpu.cu.cuMemcpyDtoHAsync(pinned.at, memory.ptr, size, gpu.stream.h), gpu.stream.wait()))
            eq(e.lookup(tokens, "b"), chunks, "hits")
            taken = timed(lambda: eq(e.flag(e.send_retrieve(tokens, 0, len(tokens), blocks, "b")), True, "RETRIEVE"))
            kv.settle(e.client.port)
            up = timed(lambda: (gpu.cu.cuMemcpyHtoDAsync(memory.ptr, pinned.at, size, gpu.stream.h), gpu.stream.wait()))
            e.end("b")
            e.clear()
            if turn:            # the first one warms up
                for name, ours, theirs in (("STORE", stored, down), ("RETRIEVE", taken, up)):
                    ratios[name].append(theirs / ours)
                    speeds[name].append(size / ours / GIB)
    for name in ratios:
        goal = "goal %.2f of one copy" % (0.95 if "64" in what or "256" in what else 0.85)
        row("%s %s (%.0f MiB)" % (name, what, size / (1 << 20)), statistics.median(speeds[name]), "GiB/s")
        row("%s %s, of one pinned copy" % (name, what), statistics.median(ratios[name]), "", goal)
    pinned.close()
    memory.close()


def registered(d):
    """Waits until the arena is registered with CUDA: what is not goes through staging memory of the host."""
    def done():
        said = d.status()["gpu"]["registered"]
        return said["bytes"] == said["of"]
    if not d.wait(done, 60):
        print("# not all of L1 is registered with CUDA: %r" % d.status()["gpu"]["registered"])


def bandwidth(quick):
    gpu = lmcuda.gpu(0)
    with Daemon(*lmgpu.daemon_args(), l1="0.5" if quick else "4") as d:
        with Engine(d.port, "D6", lmgpu.GpuKV(1, nb=40), model="first"):
            registered(d)
            for shape in SHAPES[:2] if quick else SHAPES:
                small = shape[:5] + (4,) if quick else shape
                each = (1 if small[1] == 3 else 2) * small[5] * CHUNK * small[3] * small[4] * 2
                one_bandwidth(d, gpu, small, max(1, ((8 if quick else 512) << 20) // each), 2 if quick else 9)


# ---- engines that die ---------------------------------------------------------------------------------------------------------------

def cycles(quick):
    count = 5 if quick else int(os.environ.get("LMCA_GPU_CYCLES", "1000"))
    gpu = lmcuda.gpu(0)
    with Daemon(*lmgpu.daemon_args()) as d:
        def turn(n):
            begin = time.perf_counter()
            killer = lmgpu.Child(lmgpu.cycles, d.port, n)
            for _ in range(n):
                assert killer.line()[0], "an engine did not register"
            eq(d.wait(lambda: not d.contexts(), 5), True, "contexts of dead engines are gone")
            killer.kill()
            time.sleep(0.5)
            return (time.perf_counter() - begin) / n
        turn(3)
        free, fds, maps = gpu.memory()[0], d.fds(), d.maps()
        each = turn(count)
        row("%d engines registered, stored and were killed: each" % count, 1e3 * each, "ms")
        row("device memory that did not come back", (free - gpu.memory()[0]) / float(1 << 20), "MiB", "goal 0")
        row("descriptors and mappings more than before", max(0, d.fds() - fds) + max(0, d.maps() - maps), "", "goal 0")


# ---- what the engine loses ------------------------------------------------------------------------------------------------------------

@lmgpu.child
def busy(port, chunks):
    """Stores and retrieves between two lines of its parent, as fast as it goes."""
    kv = lmgpu.GpuKV(1, nl=32, nb=chunks * 16 + 8, nh=8, hs=128, dtype="bfloat16")
    with Engine(port, "D6", kv, model="busy") as e:
        blocks = e.blocks(chunks * 16)
        lmgpu.say("ready")
        while True:
            end, moved = time.perf_counter() + lmgpu.hear()[0], 0
            begin = time.perf_counter()
            while time.perf_counter() < end:
                tokens = random_tokens(chunks * CHUNK)
                eq(e.flag(e.send_store(tokens, 0, len(tokens), blocks)), True, "STORE")
                kv.settle(port)
                hits = e.lookup(tokens, "b")
                if hits:
                    e.flag(e.send_retrieve(tokens, 0, hits * CHUNK, blocks[:hits * 16], "b"))
                e.end("b")
                moved += (chunks + hits) * (32 << 20)
            lmgpu.say(moved / (time.perf_counter() - begin))


class Product:
    """C = A * B on the device, by matmul.ptx."""

    def __init__(self, gpu, n):
        import numpy
        self.gpu, self.cu, self.n = gpu.current(), gpu.cu, n
        with open(os.path.join(HERE, "matmul.ptx"), "rb") as f:
            image = f.read()
        self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        self.cu.cuModuleLoadDataEx(ctypes.byref(self.module), image, 0, None, None)
        self.cu.cuModuleGetFunction(ctypes.byref(self.function), self.module, b"matmul")
        self.memory = [lmcuda.Memory(gpu, n * n * 4) for _ in range(3)]
        rng = numpy.random.default_rng(1)
        self.host = [rng.random((n, n), dtype=numpy.float32) for _ in range(2)]
        for m, a in zip(self.memory, self.host):
            m.upload(a)
        self.stream = lmcuda.Stream(gpu)
        self.values = [ctypes.c_uint64(m.ptr) for m in self.memory] + [ctypes.c_int(n)]
        self.args = (ctypes.c_void_p * 4)(*[ctypes.cast(ctypes.byref(v), ctypes.c_void_p).value for v in self.values])
        self.run(1)
        got = self.memory[2].download(numpy.empty((n, n), numpy.float32))
        want = self.host[0][:3] @ self.host[1]
        assert numpy.allclose(got[:3], want, rtol=1e-3), "the product is wrong"

    def run(self, count):
        """Seconds that `count` of them take on the device."""
        self.gpu.current()
        begin, end, ms = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float()
        self.cu.cuEventCreate(ctypes.byref(begin), 0)
        self.cu.cuEventCreate(ctypes.byref(end), 0)
        self.cu.cuEventRecord(begin, self.stream.h)
        for _ in range(count):
            self.cu.cuLaunchKernel(self.function, self.n // 128, self.n // 128, 1, 256, 1, 1, 0, self.stream.h, self.args, None)
        self.cu.cuEventRecord(end, self.stream.h)
        self.stream.wait(120)
        self.cu.cuEventElapsedTime(ctypes.byref(ms), begin, end)
        for event in (begin, end):
            self.cu.cuEventDestroy(event)
        return ms.value / 1e3


def slowdown(quick):
    gpu = lmcuda.gpu(0)
    try:
        product = Product(gpu, 1024 if quick else 8192)
    except lmcuda.CudaError as err:
        if lmcuda.REAL:
            raise
        print("# slowdown: the test driver runs no foreign kernels (%s)" % err)
        return
    count = max(1, int(1.0 / product.run(2) * 2))           # about a second of them
    with Daemon(*lmgpu.daemon_args(), l1="2") as d:
        engine = lmgpu.Child(busy, d.port, 8)
        engine.line()
        alone, beside, speeds = [], [], []
        for _ in range(3 if quick else 9):
            alone.append(product.run(count))
            engine.tell(1.6 * alone[-1] + 0.3)
            time.sleep(0.15)
            beside.append(product.run(count))
            speeds.append(engine.line()[0] / GIB)
        engine.kill()
    ratio = statistics.median(b / a for a, b in zip(alone, beside))
    row("matrix product of %d, alone" % product.n, 2e-12 * product.n ** 3 * count / statistics.median(alone), "TFLOPS")
    row("what the engine moved meanwhile", statistics.median(speeds), "GiB/s")
    row("the product takes longer by", 100 * (ratio - 1), "%", "goal 3")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("names", nargs="*")
    opts = parser.parse_args()
    parts = {f.__name__: f for f in (registration, bandwidth, cycles, slowdown)}
    gpu = lmcuda.gpu(0)
    print("# %s, %.0f GiB%s" % (gpu.name, gpu.memory()[1] / GIB, "" if lmcuda.REAL else ": the test driver, its figures say nothing"))
    for name in opts.names or parts:
        parts[name](opts.quick)
    if opts.json:
        with open(opts.json, "w") as f:
            json.dump({"gpu": gpu.name, "real": lmcuda.REAL, "rows": ROWS}, f, indent=1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        lmgpu.CHILDREN[sys.argv[2]](*json.loads(sys.argv[3]))
    else:
        main()
