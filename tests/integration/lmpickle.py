"""Pickles as LMCache clients make them, built by the real pickle module from stand-in classes."""
import collections
import io
import pickle
import struct
import sys
import types

import msgpack
import numpy

ITEM = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "uint8": 1, "int8": 1, "int16": 2, "int32": 4,
        "int64": 8, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1}
STORAGE = {"bfloat16": "BFloat16Storage", "float16": "HalfStorage", "float32": "FloatStorage",
           "float64": "DoubleStorage", "uint8": "ByteStorage", "int8": "CharStorage", "int16": "ShortStorage",
           "int32": "IntStorage", "int64": "LongStorage", "bool": "BoolStorage"}
CPU_MODULE = "lmcache.v1.platform.cpu.shm"
WORDS = {1: numpy.uint8, 2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}


def module(name):
    """A fake module of that dotted name, with its parents."""
    for i in range(1, name.count(".") + 2):
        part = ".".join(name.split(".")[:i])
        if part not in sys.modules:
            sys.modules[part] = types.ModuleType(part)
            if "." in part:
                parent, _, leaf = part.rpartition(".")
                setattr(sys.modules[parent], leaf, sys.modules[part])
    return sys.modules[name]


class Dtype:
    """torch.dtype pickles as a global of module torch."""
    __module__ = "torch"

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


def stand_in(mod, name):
    cls = type(name, (), {"__module__": mod})
    setattr(module(mod), name, cls)
    return cls


def wrapper(mod, name, fields, protocol=4):
    """pickle.dumps of an instance of mod.name whose __dict__ is `fields`, in that order."""
    obj = stand_in(mod, name)()
    obj.__dict__.update(fields)
    return pickle.dumps(obj, protocol)


def ext1(body):
    return msgpack.ExtType(1, body)


def shm_wrapper(shm_name, nbytes, dtype, shape, stride, storage_offset=0, protocol=4, mod=CPU_MODULE):
    torch_dtype = dtype if isinstance(dtype, Dtype) else DTYPES[dtype]
    return ext1(wrapper(mod, "CpuShmTensorWrapper", {
        "shm_name": shm_name, "nbytes": nbytes, "handle": None, "dtype": torch_dtype, "shape": tuple(shape),
        "stride": tuple(stride), "storage_offset": storage_offset, "device_uuid": "cpu"}, protocol))


# ---- tensor lists (section 8.6) ------------------------------------------------------------------------------------

class _Persistent:
    def __init__(self, pid):
        self.pid = pid


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Persistent) else None


def _legacy_save(array, dtype, key="941964016"):
    """The legacy torch.save stream of one storage."""
    out = io.BytesIO()
    for value in (0x1950a86a20f9469cfc6c, 1001,
                  {"protocol_version": 1001, "little_endian": True,
                   "type_sizes": {"short": 2, "int": 4, "long": 4}}):
        pickle.dump(value, out, 2)
    storage = getattr(module("torch"), STORAGE[dtype])
    _Pickler(out, 2).dump(_Persistent(("storage", storage, key, "cpu", array.size, None)))
    pickle.dump([key], out, 2)
    out.write(struct.pack("<q", array.size))
    out.write(array.tobytes())
    return out.getvalue()


class _Tensor:
    def __init__(self, array, dtype):
        self.array, self.dtype = array, dtype

    def __reduce_ex__(self, protocol):
        strides = tuple(s // self.array.itemsize for s in self.array.strides)
        torch = module("torch._utils")
        return (torch._rebuild_tensor_v2,
                (_Storage(self.array, self.dtype), 0, self.array.shape, strides, False, collections.OrderedDict()))


class _Storage:
    def __init__(self, array, dtype):
        self.array, self.dtype = array, dtype

    def __reduce_ex__(self, protocol):
        return module("torch.storage")._load_from_bytes, (_legacy_save(self.array, self.dtype),)


class Loaded:
    """A tensor read back from a list: dtype name and a numpy array of words of the item size."""

    def __init__(self, dtype, array):
        self.dtype, self.array = dtype, array


def _load_from_bytes(data):
    src = io.BytesIO(data)
    assert pickle.load(src) == 0x1950a86a20f9469cfc6c and pickle.load(src) == 1001
    assert pickle.load(src)["little_endian"] is True

    class Reader(pickle.Unpickler):
        def persistent_load(self, pid):
            return pid
    kind, cls, key, where, count, view = Reader(src).load()
    assert (kind, where, view) == ("storage", "cpu", None), (kind, where, view)
    assert pickle.load(src) == [key]
    dtype = {v: k for k, v in STORAGE.items()}[cls.__name__]
    (n,) = struct.unpack("<q", src.read(8))
    assert n == count
    words = numpy.frombuffer(src.read(n * ITEM[dtype]), WORDS[ITEM[dtype]])
    assert words.size == n and not src.read(1)
    return dtype, words


def _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks):
    assert requires_grad is False and hooks == collections.OrderedDict()
    dtype, words = storage
    item = words.itemsize
    view = numpy.lib.stride_tricks.as_strided(words[offset:], size, [s * item for s in stride])
    return Loaded(dtype, numpy.array(view))


def _install():
    torch = module("torch")
    dtypes = {}
    for name in ITEM:
        dtypes[name] = Dtype(name)
        setattr(torch, name, dtypes[name])
    for name in STORAGE.values():
        stand_in("torch", name)
    for mod, fn in (("torch._utils", _rebuild_tensor_v2), ("torch.storage", _load_from_bytes)):
        fn.__module__ = mod
        fn.__qualname__ = fn.__name__
        setattr(module(mod), fn.__name__, fn)
    return dtypes


DTYPES = _install()


def tensor_list(arrays, dtype, protocol=4):
    """pickle.dumps(list of CPU tensors); `arrays` are contiguous numpy words of the item size."""
    return pickle.dumps([_Tensor(numpy.ascontiguousarray(a), dtype) for a in arrays], protocol)


def load_tensor_list(data):
    tensors = pickle.loads(data)
    assert isinstance(tensors, list) and all(isinstance(t, Loaded) for t in tensors)
    return tensors
