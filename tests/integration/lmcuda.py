"""The CUDA driver API as an engine's process uses it, by ctypes: memory, handles, streams, events, timelines.

Real libcuda.so.1 or the test driver, found the way the daemon finds its own: by name. LMCA_CUDA_LIBRARY picks another file. Nothing
here touches a GPU before the first Gpu is made, and a process that forks after that must not use CUDA in the child.
"""
import atexit
import ctypes
import json
import os
import shutil
import struct
import tempfile
import time
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_ulonglong, c_void_p

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FAKE = os.path.join(ROOT, os.environ.get("BUILD", "build"), "tests", "fake", "libcuda.so.1")
LIBRARY = os.environ.get("LMCA_CUDA_LIBRARY") or FAKE
REAL = not LIBRARY.endswith("tests/fake/libcuda.so.1")
# The test driver has the sanitizer of its build; one without is beside it, for programs that have none.
OURS = LIBRARY if REAL else os.path.join(os.path.dirname(LIBRARY), "plain", "libcuda.so.1")

if not REAL and "LMCA_FAKE_CUDA_DIR" not in os.environ:
    # A machine of our own: the processes we start see the same GPUs, other tests do not.
    os.environ["LMCA_FAKE_CUDA_DIR"] = tempfile.mkdtemp(prefix="lmca-gpu-", dir="/dev/shm")
    atexit.register(lambda owner, path: os.getpid() == owner and shutil.rmtree(path, ignore_errors=True), os.getpid(),
                    os.environ["LMCA_FAKE_CUDA_DIR"])

SUCCESS, NOT_READY = 0, 600
EVENT_BYTES, TIMELINE_BYTES, HANDLE_BYTES = 64, 81, 64
GRAIN = 2 << 20         # smaller allocations of the real driver share a block, and its handle would name all of it
LAZY_PEER = 1
INTERPROCESS = 2 | 4    # no timing, interprocess


class Handle(ctypes.Structure):
    """CUipcMemHandle and CUipcEventHandle, which are passed by value."""
    _fields_ = [("bytes", c_ubyte * 64)]

    @classmethod
    def of(cls, data):
        return cls.from_buffer_copy(data)


class Location(ctypes.Structure):
    _fields_ = [("type", c_int), ("id", c_int)]


class AllocFlags(ctypes.Structure):
    _fields_ = [("compression", c_ubyte), ("gdr", c_ubyte), ("usage", ctypes.c_ushort), ("reserved", c_ubyte * 4)]


class Prop(ctypes.Structure):
    """CUmemAllocationProp"""
    _fields_ = [("type", c_int), ("handles", c_int), ("location", Location), ("win32", c_void_p), ("flags", AllocFlags)]


class Access(ctypes.Structure):
    """CUmemAccessDesc"""
    _fields_ = [("location", Location), ("flags", c_int)]


POSIX_FD, FABRIC = 1, 8
_P64 = POINTER(c_uint64)

# name: (version of its ABI, argument types)
_CALLS = {
    "cuInit": (2000, c_uint), "cuDriverGetVersion": (2020, POINTER(c_int)),
    "cuGetErrorName": (6000, c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (2000, POINTER(c_int)), "cuDeviceGet": (2000, POINTER(c_int), c_int),
    "cuDeviceGetName": (2000, c_char_p, c_int, c_int), "cuDeviceGetUuid": (11040, c_char * 16, c_int),
    "cuDeviceGetAttribute": (2000, POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (7000, POINTER(c_void_p), c_int), "cuDevicePrimaryCtxRelease": (11000, c_int),
    "cuCtxSetCurrent": (4000, c_void_p),
    "cuMemGetInfo": (3020, POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc": (3020, _P64, c_size_t), "cuMemFree": (3020, c_uint64),
    "cuMemAllocHost": (3020, POINTER(c_void_p), c_size_t), "cuMemFreeHost": (2000, c_void_p),
    "cuMemHostRegister": (6050, c_void_p, c_size_t, c_uint), "cuMemHostUnregister": (4000, c_void_p),
    "cuMemGetAddressRange": (3020, _P64, POINTER(c_size_t), c_uint64),
    "cuIpcGetMemHandle": (4010, POINTER(Handle), c_uint64), "cuIpcOpenMemHandle": (11000, _P64, Handle, c_uint),
    "cuIpcCloseMemHandle": (4010, c_uint64),
    "cuIpcGetEventHandle": (4010, POINTER(Handle), c_void_p), "cuIpcOpenEventHandle": (4010, POINTER(c_void_p), Handle),
    "cuStreamCreateWithPriority": (5050, POINTER(c_void_p), c_uint, c_int), "cuStreamDestroy": (4000, c_void_p),
    "cuStreamSynchronize": (2000, c_void_p), "cuStreamQuery": (2000, c_void_p),
    "cuStreamWaitEvent": (3020, c_void_p, c_void_p, c_uint),
    "cuStreamWaitValue64": (11070, c_void_p, c_uint64, c_uint64, c_uint),
    "cuStreamWriteValue64": (11070, c_void_p, c_uint64, c_uint64, c_uint),
    "cuEventCreate": (2000, POINTER(c_void_p), c_uint), "cuEventDestroy": (4000, c_void_p),
    "cuEventRecord": (2000, c_void_p, c_void_p), "cuEventQuery": (2000, c_void_p),
    "cuEventSynchronize": (2000, c_void_p), "cuEventElapsedTime": (2000, POINTER(ctypes.c_float), c_void_p, c_void_p),
    "cuMemcpyHtoDAsync": (3020, c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync": (3020, c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync": (3020, c_uint64, c_uint64, c_size_t, c_void_p),
    "cuMemsetD8Async": (3020, c_uint64, c_ubyte, c_size_t, c_void_p),
    "cuModuleLoadDataEx": (2010, POINTER(c_void_p), c_char_p, c_uint, c_void_p, c_void_p),
    "cuModuleGetFunction": (2000, POINTER(c_void_p), c_void_p, c_char_p), "cuModuleUnload": (2000, c_void_p),
    "cuLaunchKernel": (4000, c_void_p, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_void_p, c_void_p, c_void_p),
    "cuMemGetAllocationGranularity": (10020, POINTER(c_size_t), POINTER(Prop), c_int),
    "cuMemCreate": (10020, _P64, c_size_t, POINTER(Prop), c_ulonglong),
    "cuMemExportToShareableHandle": (10020, c_void_p, c_uint64, c_int, c_ulonglong),
    "cuMemAddressReserve": (10020, _P64, c_size_t, c_size_t, c_uint64, c_ulonglong),
    "cuMemAddressFree": (10020, c_uint64, c_size_t),
    "cuMemMap": (10020, c_uint64, c_size_t, c_size_t, c_uint64, c_ulonglong), "cuMemUnmap": (10020, c_uint64, c_size_t),
    "cuMemSetAccess": (10020, c_uint64, c_size_t, POINTER(Access), c_size_t), "cuMemRelease": (10020, c_uint64),
}


class CudaError(Exception):
    def __init__(self, call, code, name):
        super().__init__("%s: %s (%d)" % (call, name, code))
        self.code = code


class NoGpu(Exception):
    """There is no driver, or it sees no GPU; the text says which."""


class Driver:
    """The table of functions. Every call raises CudaError unless the driver said success."""

    def __init__(self, library=OURS):
        try:
            self.lib = ctypes.CDLL(library)
        except OSError as err:
            raise NoGpu("no CUDA driver: %s" % err) from err
        try:
            self.get = self.lib.cuGetProcAddress_v2
        except AttributeError:
            raise NoGpu("%s has no cuGetProcAddress_v2: its CUDA is older than 12" % library) from None
        self.get.argtypes = (c_char_p, POINTER(c_void_p), c_int, c_uint64, c_void_p)
        self.functions = {}
        code = self.raw("cuInit", 0)
        if code:
            raise NoGpu("cuInit: %s" % self.error(code))

    def function(self, name):
        if name not in self.functions:
            version, *args = _CALLS[name]
            at = c_void_p()
            if self.get(name.encode(), byref(at), version, 0, None) or not at.value:
                raise CudaError(name, 500, "this driver has no such function of CUDA %d" % version)
            self.functions[name] = ctypes.CFUNCTYPE(c_int, *args)(at.value)
        return self.functions[name]

    def raw(self, name, *args):
        """The result code."""
        return self.function(name)(*args)

    def error(self, code):
        name = c_char_p()
        self.raw("cuGetErrorName", code, byref(name))
        return (name.value or b"error %d" % code).decode()

    def __getattr__(self, name):
        if name not in _CALLS:
            raise AttributeError(name)

        def call(*args):
            code = self.raw(name, *args)
            if code:
                raise CudaError(name, code, self.error(code))
        self.__dict__[name] = call
        return call

    def count(self):
        n = c_int()
        self.cuDeviceGetCount(byref(n))
        return n.value


_state = {}


def driver():
    """The driver of this process; NoGpu where there is none."""
    if _state.get("pid") not in (None, os.getpid()):
        raise RuntimeError("this process was forked after its parent had used CUDA")
    if "driver" not in _state:
        _state.update(driver=Driver(), pid=os.getpid(), gpus={})
    return _state["driver"]


def fake(commands):
    """Tells the test driver's machine something (tests/fake/libcuda/fault.c)."""
    rc = driver().lib.fake_cuda_control(commands.encode())
    if rc:
        raise ValueError("%r: error %d" % (commands, rc))


def report():
    """What the test driver's machine has, and what each process."""
    buf = ctypes.create_string_buffer(1 << 18)
    if driver().lib.fake_cuda_report(buf, c_size_t(len(buf))) < 0:
        raise ValueError("the report is too long")
    return json.loads(buf.value)


def gpu(ordinal=0):
    driver()
    if ordinal not in _state["gpus"]:
        _state["gpus"][ordinal] = Gpu(ordinal)
    return _state["gpus"][ordinal].current()


class Gpu:
    """A device with its primary context; use gpu()."""

    def __init__(self, ordinal):
        self.cu, self.ordinal = driver(), ordinal
        if ordinal >= self.cu.count():
            raise NoGpu("there is no GPU %d" % ordinal)
        device, ctx, uuid, name = c_int(), c_void_p(), (c_char * 16)(), ctypes.create_string_buffer(96)
        self.cu.cuDeviceGet(byref(device), ordinal)
        self.cu.cuDeviceGetUuid(uuid, device)
        self.cu.cuDeviceGetName(name, 96, device)
        self.cu.cuDevicePrimaryCtxRetain(byref(ctx), device)
        self.device, self.ctx, self.name = device, ctx, name.value.decode()
        h = bytes(uuid).hex()
        self.uuid = "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))
        self.timelines, self.streams = {}, {}
        self.current()
        self.stream = Stream(self)      # for this file's own copies

    def current(self):
        """The context belongs to the thread: called before each use."""
        self.cu.cuCtxSetCurrent(self.ctx)
        return self

    def attribute(self, which):
        value = c_int()
        self.cu.cuDeviceGetAttribute(byref(value), which, self.device)
        return value.value

    def memory(self):
        """(free, total) bytes."""
        free, total = c_size_t(), c_size_t()
        self.current().cu.cuMemGetInfo(byref(free), byref(total))
        return free.value, total.value

    def release(self):
        self.cu.cuDevicePrimaryCtxRelease(self.device)


class Stream:
    def __init__(self, gpu):
        self.gpu, self.cu, self.h = gpu, gpu.cu, c_void_p()
        self.cu.cuStreamCreateWithPriority(byref(self.h), 1, 0)

    def wait(self, seconds=60):
        """Until all that is queued has happened. Asks again and again: a call that blocks could not be interrupted."""
        self.gpu.current()
        end, pause = time.monotonic() + seconds, 0.0
        while not self.idle():
            if time.monotonic() > end:
                raise TimeoutError("a stream has been busy for %d s" % seconds)
            time.sleep(pause)
            pause = min(pause + 2e-5, 1e-3)

    def idle(self):
        code = self.cu.raw("cuStreamQuery", self.h)
        if code not in (SUCCESS, NOT_READY):
            raise CudaError("cuStreamQuery", code, self.cu.error(code))
        return code == SUCCESS

    def wait_event(self, event):
        self.gpu.current()
        self.cu.cuStreamWaitEvent(self.h, event.h, 0)

    def close(self):
        self.gpu.current()
        self.cu.cuStreamDestroy(self.h)


class Memory:
    """Device memory by cuMemAlloc, a multiple of 2 MiB, that other processes can open by handle()."""
    fd = fabric = None

    def __init__(self, gpu, size):
        self.gpu, self.cu = gpu.current(), gpu.cu
        self.size = (max(size, 1) + GRAIN - 1) // GRAIN * GRAIN
        self.ptr = 0
        self._make()

    def _make(self):
        at = c_uint64()
        self.cu.cuMemAlloc(byref(at), self.size)
        self.ptr = at.value

    def handle(self):
        h = Handle()
        self.gpu.current()
        self.cu.cuIpcGetMemHandle(byref(h), self.ptr)
        return bytes(h.bytes)

    def upload(self, data, at=0):
        """`data`: bytes or a contiguous numpy array."""
        n = len(data) if isinstance(data, bytes) else data.nbytes
        assert at + n <= self.size, (at, n, self.size)
        src = data if isinstance(data, bytes) else data.ctypes.data
        self.gpu.current()
        self.cu.cuMemcpyHtoDAsync(self.ptr + at, src, n, self.gpu.stream.h)
        self.gpu.stream.wait()

    def download(self, array, at=0):
        """Fills a contiguous numpy array."""
        assert at + array.nbytes <= self.size
        self.gpu.current()
        self.cu.cuMemcpyDtoHAsync(array.ctypes.data, self.ptr + at, array.nbytes, self.gpu.stream.h)
        self.gpu.stream.wait()
        return array

    def close(self):
        if self.ptr:
            self.gpu.current()
            self.cu.cuMemFree(self.ptr)
            self.ptr = 0


class VirtualMemory(Memory):
    """Memory of cuMemCreate, exported as a POSIX file descriptor or a fabric blob; it has no legacy handle."""

    def __init__(self, gpu, size, how):
        self.how = how
        super().__init__(gpu, size)

    def _make(self):
        prop = Prop(1, self.how, Location(1, self.gpu.device.value))
        grain, at = c_size_t(), c_uint64()
        self.cu.cuMemGetAllocationGranularity(byref(grain), byref(prop), 0)
        self.size = (self.size + grain.value - 1) // grain.value * grain.value
        self.alloc = c_uint64()
        self.cu.cuMemCreate(byref(self.alloc), self.size, byref(prop), 0)
        self.cu.cuMemAddressReserve(byref(at), self.size, 0, 0, 0)
        self.cu.cuMemMap(at.value, self.size, 0, self.alloc, 0)
        access = Access(Location(1, self.gpu.device.value), 3)
        self.cu.cuMemSetAccess(at.value, self.size, byref(access), 1)
        self.ptr = at.value
        if self.how == POSIX_FD:
            fd = c_int(-1)
            self.cu.cuMemExportToShareableHandle(ctypes.cast(byref(fd), c_void_p), self.alloc, self.how, 0)
            self.fd = fd.value
        else:
            blob = (c_ubyte * 64)()
            self.cu.cuMemExportToShareableHandle(ctypes.cast(blob, c_void_p), self.alloc, self.how, 0)
            self.fabric = bytes(blob)

    def close(self):
        if self.ptr:
            self.gpu.current()
            self.cu.cuMemUnmap(self.ptr, self.size)
            self.cu.cuMemAddressFree(self.ptr, self.size)
            self.cu.cuMemRelease(self.alloc)
            if self.fd is not None:
                os.close(self.fd)
            self.ptr = 0


class Imported:
    """Memory of another process, opened by its handle: once per handle and process, as CUDA wants it."""

    def __init__(self, gpu, handle):
        self.gpu, self.cu, at = gpu.current(), gpu.cu, c_uint64()
        self.cu.cuIpcOpenMemHandle(byref(at), Handle.of(handle), LAZY_PEER)
        self.ptr = at.value

    def close(self):
        self.gpu.current()
        self.cu.cuIpcCloseMemHandle(self.ptr)


class Event:
    """An interprocess event: our own, or with `handle` another process's (torch's Event.from_ipc_handle)."""

    def __init__(self, gpu, handle=None):
        self.gpu, self.cu, self.h = gpu.current(), gpu.cu, c_void_p()
        if handle is None:
            self.cu.cuEventCreate(byref(self.h), INTERPROCESS)
        else:
            self.cu.cuIpcOpenEventHandle(byref(self.h), Handle.of(handle))

    def record(self, stream):
        self.gpu.current()
        self.cu.cuEventRecord(self.h, stream.h)
        return self

    def handle(self):
        h = Handle()
        self.cu.cuIpcGetEventHandle(byref(h), self.h)
        return bytes(h.bytes)

    def happened(self):
        self.gpu.current()
        code = self.cu.raw("cuEventQuery", self.h)
        if code not in (SUCCESS, NOT_READY):
            raise CudaError("cuEventQuery", code, self.cu.error(code))
        return code == SUCCESS

    def close(self):
        if self.h:
            self.gpu.current()
            self.cu.cuEventDestroy(self.h)
            self.h = c_void_p()


class Timeline:
    """The isolated form of events: counters of 8 bytes in exported memory, written and awaited by streams."""
    SLOTS = 4096
    FORM = struct.Struct(">B64sQQ")

    def __init__(self, gpu):
        self.gpu, self.cu = gpu, gpu.cu
        self.memory = Memory(gpu, self.SLOTS * 8)
        self.cu.cuMemsetD8Async(self.memory.ptr, 0, self.SLOTS * 8, gpu.stream.h)
        gpu.stream.wait()
        self.exported = self.memory.handle()
        self.sequence = 0

    def record(self, stream, slot=0):
        """81 bytes."""
        self.sequence += 1
        self.gpu.current()
        self.cu.cuStreamWriteValue64(stream.h, self.memory.ptr + 8 * slot, self.sequence, 0)
        return self.FORM.pack(1, self.exported, 8 * slot, self.sequence)

    def close(self):
        self.memory.close()


def timeline_wait(gpu, stream, handle):
    """The stream waits for another process's timeline handle. Mappings are kept, as a client does."""
    version, memory, offset, sequence = Timeline.FORM.unpack(handle)
    if version != 1 or offset % 8 or offset >= 1 << 40:
        raise ValueError("timeline handle of version %d, offset %d" % (version, offset))
    if memory not in gpu.timelines:
        gpu.timelines[memory] = Imported(gpu, memory)
    gpu.current()
    gpu.cu.cuStreamWaitValue64(stream.h, gpu.timelines[memory].ptr + offset, sequence, 0)


class Gate:
    """Holds a stream until open() is called or the block ends: work that an engine has queued but that has not happened yet."""

    def __init__(self, gpu):
        self.gpu, self.cu, self.memory, self.other = gpu, gpu.cu, Memory(gpu, 8), Stream(gpu)
        self.cu.cuMemsetD8Async(self.memory.ptr, 0, 8, self.other.h)
        self.other.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open()
        self.held.wait()
        self.close()

    def hold(self, stream):
        self.held = stream
        self.gpu.current()
        self.cu.cuStreamWaitValue64(stream.h, self.memory.ptr, 1, 0)

    def open(self):
        self.gpu.current()
        self.cu.cuStreamWriteValue64(self.other.h, self.memory.ptr, 1, 0)
        self.other.wait()

    def close(self):
        self.other.close()
        self.memory.close()
