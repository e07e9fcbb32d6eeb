"""Paged KV caches in GPU memory: lmkv.KV over CUDA, exported as engines export it (section 8 of the protocol description)."""
import atexit
import collections
import glob
import importlib
import itertools
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
import zlib

import numpy

import lmclient
import lmcuda
import lmdaemon
from lmkv import KV
from lmpickle import DTYPES, WORDS, ext1, wrapper
from lmwire import SLOW, BadReply, NoReply

OLD_MODULE, NEW_MODULE = "lmcache.v1.multiprocess.custom_types", "lmcache.v1.platform.cuda.ipc_wrapper"
KEPT_EVENTS = 2048      # longer than any test pipelines requests
LEAD = 3 * 512          # torch's allocator hands out multiples of 512 bytes


def daemon_args(*more, library=lmcuda.LIBRARY):
    """Flags of a daemon that finds the driver which this process uses."""
    return ("--cuda-library", library) + more


def count_gpus():
    return lmcuda.driver().count()


class Counters:
    """torch's file of reference counters: int64s in shared memory, one per storage handed out, 1 until the importer lets go. They follow
    64 bytes that are torch's own: how many processes have the file mapped."""
    SLOTS, HEAD = 10000, 64
    _mine = {}

    def __init__(self):
        self.name = "/torch_%d_%d_0" % (os.getpid(), random.SystemRandom().randrange(1 << 31))
        self.fd = os.open("/dev/shm" + self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(self.fd, self.HEAD + self.SLOTS * 8)
        self.map = mmap.mmap(self.fd, self.HEAD + self.SLOTS * 8)
        self.head = numpy.frombuffer(self.map, numpy.int32, self.HEAD // 4)
        self.head[0] = 1
        self.values = numpy.frombuffer(self.map, numpy.int64, offset=self.HEAD)
        self.next = 0
        atexit.register(self.unlink, os.getpid())

    @classmethod
    def of_this_process(cls):
        mine = cls._mine.get(os.getpid())
        if mine is None or mine.next == cls.SLOTS:
            mine = cls._mine[os.getpid()] = cls()
        return mine

    def take(self):
        index, self.next = self.next, self.next + 1
        self.values[index] = 1
        return index

    def unlink(self, pid):
        if pid == os.getpid() and os.path.exists("/dev/shm" + self.name):
            os.unlink("/dev/shm" + self.name)


_slots = itertools.count()


class GpuKV(KV):
    """`kind`: A (torch's handle with prefix, `version` of it; 0: the bare 64 bytes), B (raw), fd, fabric. `place`: shared (all tensors in
    one allocation, as torch's allocator has them) or own. `timeline`: events as counters, of the isolated form."""
    kind, version, place, timeline, ordinal = "A", 2, "shared", False, 0

    def __init__(self, *args, **kw):
        for name in ("kind", "version", "place", "timeline", "ordinal"):
            setattr(self, name, kw.pop(name, getattr(self, name)))
        self.gpu = lmcuda.gpu(self.ordinal)
        self.stream = lmcuda.Stream(self.gpu)
        self.sent, self.counters, self.slot = collections.deque(), [], next(_slots) % lmcuda.Timeline.SLOTS
        self.registered_at, self.unknown = None, False
        super().__init__(*args, **kw)

    # ---- memory -------------------------------------------------------------------------------------------------------------
    def _memory(self, size):
        if self.kind in ("fd", "fabric"):
            return lmcuda.VirtualMemory(self.gpu, size, lmcuda.POSIX_FD if self.kind == "fd" else lmcuda.FABRIC)
        return lmcuda.Memory(self.gpu, size)

    def _allocate(self, seed):
        """Storages: (allocation, bytes from its start, bytes); tensor i lies base[i] elements into storage[i]."""
        self.extents = [dims[0] * st[0] for dims, st in zip(self.shapes, self.strides)]
        sizes = [n * self.item for n in self.extents]
        self.storages, self.base = [], [0] * len(sizes)
        if self.one_shm:
            self.base = [24 + n for n in itertools.accumulate([0] + self.extents[:-1])]
            sizes = [(24 + sum(self.extents)) * self.item]
        ends = list(itertools.accumulate((n + 511) // 512 * 512 for n in sizes))
        if self.place == "shared":
            self.memories = [self._memory(LEAD + ends[-1])]
            self.storages = [(self.memories[0], LEAD + at, n) for at, n in zip([0] + ends[:-1], sizes)]
        else:
            self.memories = [self._memory(n) for n in sizes]
            self.storages = [(m, 0, n) for m, n in zip(self.memories, sizes)]
        if self.one_shm:
            self.storages *= len(self.shapes)
        rng = numpy.random.default_rng(seed)
        for memory in self.memories:
            memory.upload(rng.bytes(memory.size))
        for i, words in enumerate(self._fetch()[1]):
            words[:] = self._random(rng, words.size)
            self._put(i, words)
        self.outside = self._outside(self._fetch())

    def _range(self, i):
        """(allocation, first byte, bytes) of tensor i."""
        memory, at, _ = self.storages[i]
        return memory, at + self.base[i] * self.item, self.extents[i] * self.item

    def _fetch(self):
        """(bytes of each allocation, words of each tensor in them)."""
        raw = [memory.download(numpy.empty(memory.size, numpy.uint8)) for memory in self.memories]
        words = []
        for i in range(len(self.shapes)):
            memory, at, n = self._range(i)
            words.append(raw[self.memories.index(memory)][at:at + n].view(WORDS[self.item]))
        return raw, words

    def _outside(self, fetched):
        """A checksum of what lies in the allocations but in no tensor."""
        raw, words = fetched
        for w in words:
            w[:] = 0
        return [zlib.crc32(r) for r in raw]

    def _put(self, i, words):
        memory, at, _ = self._range(i)
        memory.upload(words, at)

    def _load(self):
        return self._fetch()[1]

    def _save(self, words):
        for i, w in enumerate(words):
            self._put(i, w)

    def same(self, snapshot):
        raw, words = self._fetch()
        good = all(numpy.array_equal(a, b) for a, b in zip(words, snapshot))
        return good and self._outside((raw, words)) == self.outside

    def close(self):
        for memory in self.memories:
            memory.close()
        while self.sent:
            self.sent.popleft().close()
        self.stream.close()

    # ---- what goes into REGISTER ----------------------------------------------------------------------------------------------
    def fields(self, i, counter=True):
        """Attributes of tensor i's wrapper: (class, fields)."""
        memory, at, n = self.storages[i]
        dims, stride = self.view(i)
        common = {"dtype": DTYPES[self.dtype], "shape": dims, "stride": stride, "storage_offset": self.base[i],
                  "device_uuid": self.gpu.uuid}
        if self.kind == "A":
            file = Counters.of_this_process()
            index = file.take()
            self.counters.append((file, index))
            prefix = bytes([self.version]) + b"c" if self.version else b""
            handle = (self.ordinal, prefix + memory.handle(), n, at, file.name.encode(), index, bytes(64), False)
            return "CudaIPCWrapper", {"handle": handle, **common}
        if self.kind == "B":
            return "RawCudaIPCWrapper", {"_ipc_handle_reserved": memory.handle(), "_alloc_offset": at, "_nbytes": n, "handle": None,
                                         **common, "_opens": 0}
        name = os.urandom(16)
        return "VmmCudaIPCWrapper", {"_export_id": name, "_kind": "posix_fd" if self.kind == "fd" else "fabric",
                                     "_fabric_blob": memory.fabric, "_fd": memory.fd, "_alloc_size": memory.size, "_alloc_offset": at,
                                     "_nbytes": n, "handle": name, **common, "_opens": 0}

    def wrappers(self, protocol=4, mod=None):
        mod = mod or (NEW_MODULE if self.version == 3 or self.kind in ("fd", "fabric") else OLD_MODULE)
        out = []
        for i in range(len(self.shapes)):
            name, fields = self.fields(i)
            out.append(ext1(wrapper(mod, name, fields, protocol)))
        return out

    def held(self):
        """How many of the storages handed out the importer has not let go, by torch's counters."""
        return sum(int(file.values[index]) for file, index in self.counters)

    # ---- events -----------------------------------------------------------------------------------------------------------------
    def event(self):
        if self.timeline:
            if None not in self.gpu.timelines:
                self.gpu.timelines[None] = lmcuda.Timeline(self.gpu)
            return self.gpu.timelines[None].record(self.stream, self.slot)
        event = lmcuda.Event(self.gpu).record(self.stream)
        self.sent.append(event)
        if len(self.sent) > KEPT_EVENTS:
            self.sent.popleft().close()
        return event.handle()

    def reply(self, event, flag):
        """What torch does with every reply, also a negative one: opens its event and waits for it."""
        want = lmcuda.TIMELINE_BYTES if self.timeline else lmcuda.EVENT_BYTES
        if self.unknown and not flag and event == b"":
            return
        if len(event) != want:
            raise BadReply("an event of %d bytes, not %d: %r" % (len(event), want, event[:90]))
        if self.timeline:
            lmcuda.timeline_wait(self.gpu, self.stream, event)
            self.stream.wait(20 * SLOW)
            return
        wait_on(self.gpu, event)

    def settle(self, port):
        """Objects are readable, and locks are back, a moment after the event: when the server has seen it."""
        for daemon in lmdaemon._live:
            if daemon.port == port:
                daemon.wait(lambda: copies_waiting(daemon, self.gpu.uuid) == 0, 5)

    def leave(self, engine):
        """Memory is freed after the importer has let go of it."""
        try:
            engine.client.call("UNREGISTER_KV_CACHE", engine.instance, timeout=2 * SLOW)
        except NoReply:
            time.sleep(0.01)


def wait_on(gpu, event):
    """The stream of that GPU waits for a server's event, and we for it."""
    got = lmcuda.Event(gpu, event)
    gpu.stream.wait_event(got)
    gpu.stream.wait(20 * SLOW)
    got.close()


def copies_waiting(daemon, uuid):
    """Copies on a GPU that are not finished."""
    return sum(g["copies"]["waiting"] + g["copies"]["in_flight"] for g in gpus(daemon) if g["uuid"] == uuid)


def gpus(daemon):
    """What /status says of the GPUs."""
    return (daemon.status().get("gpu") or {}).get("gpus", [])


def failed_copies(daemon):
    return sum(g["copies"]["failed"] for g in gpus(daemon))


def report(pid):
    """What the test driver says that a process has; None on a real one, {} when that process does not use it."""
    if lmcuda.REAL:
        return None
    return next((p for p in lmcuda.report()["processes"] if p["pid"] == pid), collections.Counter())


# ---- running what there is for CPU engines with GPU engines -------------------------------------------------------------------

class KeptTap(lmclient.Tap):
    """An engine stays registered all the time: else each test's would be the first one of its GPU, which takes a context and a
    calibration."""
    kept = keeper = None

    @property
    def daemon(self):
        daemon = super().daemon
        if self.kept is not daemon:
            self.kept = daemon
            self.keeper = lmclient.Engine(daemon.port, "D2", GpuKV(1, nb=40), model="keeper")
        return daemon


def through(name, kv=GpuKV, without=(), only=None, args=()):
    """The tests of another file, whose engines keep their KV on a GPU. `without`: those that are about CPU engines."""
    need_gpu()
    mod = importlib.import_module(name)
    names = [t[0] for t in mod.tap.tests]
    unknown = [w for w in without if w not in names]
    assert not unknown, "%s has no test %r" % (name, unknown)
    mod.KV = kv
    tests, mod.tap = mod.tap.tests, KeptTap(*daemon_args(*args), *mod.tap.args, **mod.tap.kw)
    if hasattr(mod, "Daemon"):
        mod.Daemon = lambda *a, **k: lmdaemon.Daemon(*daemon_args(*args), *a, **k)
    mod.tap.tests = [t for t in tests if t[0] not in without and (only is None or t[0] in only)]
    return mod.tap


def need_gpu(count=1):
    """Ends the file as skipped where there is no driver or GPU. Asks in a process of its own: ours may still fork."""
    code = "import lmcuda\ntry: print(lmcuda.driver().count())\nexcept lmcuda.NoGpu as err: print('-', err)"
    out = subprocess.run([sys.executable, "-B", "-c", code], cwd=os.path.dirname(os.path.abspath(__file__)), capture_output=True,
                         text=True)
    found, _, why = (out.stdout or out.stderr).strip().partition(" ")
    if not found.isdigit() or int(found) < count:
        print("# skip: " + (why or "%s GPUs, %d wanted" % (found, count)))
        sys.exit(77)


CHILDREN = {}           # what a test file may be started as a second time


def child(fn):
    CHILDREN[fn.__name__] = fn
    return fn


class Child:
    """Another engine process: CHILDREN[name](*args) of this test file, until it says a line by ready()."""

    def __init__(self, fn, *args):
        self.process = subprocess.Popen([sys.executable, "-B", os.path.abspath(sys.argv[0]), "--child", fn.__name__, json.dumps(args)],
                                        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        atexit.register(self.kill)
        self.pid = self.process.pid

    def line(self):
        """What it says next."""
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            raise AssertionError("the child process ended: %s" % self.process.wait())
        return json.loads(line)

    def tell(self, *what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def kill(self, sig=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        self.process.wait()
        atexit.unregister(self.kill)
        for name in glob.glob("/dev/shm/torch_%d_*" % self.pid):
            os.unlink(name)


@child
def cycles(port, count, store=True):
    """Registers engines that are killed, one after the other; this process does not use CUDA itself, so that it may fork."""
    for _ in range(count):
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                e = lmclient.Engine(port, "D4", GpuKV(1, nb=40), model="cycle", instance=os.getpid())
                tokens = lmclient.random_tokens(lmclient.CHUNK)
                if store:
                    e.fill(tokens)
                    e.lookup(tokens, "held")
                os.write(w, b"x")
                time.sleep(600)
            finally:
                os._exit(1)
        os.close(w)
        ready = os.read(r, 1)
        os.close(r)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for name in glob.glob("/dev/shm/torch_%d_*" % pid):
            os.unlink(name)
        say(pid if ready else 0)


def say(*what):
    """A child tells its parent."""
    print(json.dumps(what), flush=True)


def hear():
    """A child waits for its parent; ends with it."""
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    return json.loads(line)


def main(tap):
    if sys.argv[1:2] == ["--child"]:
        CHILDREN[sys.argv[2]](*json.loads(sys.argv[3]))
        sys.exit(0)
    need_gpu()
    tap.main()
