"""A stand-in for the parts of torch that CPython's pickle meets in LMCache messages: dtypes, Size, storages that pickle as
legacy streams, and tensors over them. Sources of the format: torch/serialization.py, torch/_tensor.py, torch/_utils.py."""

import collections
import io
import pickle
import struct
import sys
import types

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
SIZES = {
    "bfloat16": (2, "BFloat16Storage"),
    "float16": (2, "HalfStorage"),
    "float32": (4, "FloatStorage"),
    "float64": (8, "DoubleStorage"),
    "uint8": (1, "ByteStorage"),
    "int8": (1, "CharStorage"),
    "int16": (2, "ShortStorage"),
    "int32": (4, "IntStorage"),
    "int64": (8, "LongStorage"),
    "bool": (1, "BoolStorage"),
    "float8_e4m3fn": (1, None),
    "float8_e5m2": (1, None),
    "float8_e4m3fnuz": (1, None),
    "float8_e5m2fnuz": (1, None),
}


class DType:
    __module__ = "torch"

    def __init__(self, name):
        self.name = name
        self.size, self.storage = SIZES[name]

    def __reduce__(self):
        return self.name


class Size(tuple):
    __module__ = "torch"

    def __reduce__(self):
        return (Size, (tuple(self),))


class StorageType:
    """torch.HalfStorage and so on; `module` and `name` are how pickle finds it."""

    def __init__(self, module, name, size):
        self.__module__, self.__name__, self.__qualname__, self.size = module, name, name, size

    def __reduce__(self):
        return self.__name__


class Storage:
    def __init__(self, kind, data, key="94196416"):
        self.kind, self.data, self.key = kind, data, key

    def __reduce__(self):
        return (torch_storage._load_from_bytes, (self.stream(),))

    def stream(self):
        out = io.BytesIO()
        count = len(self.data) // self.kind.size
        info = {
            "protocol_version": PROTOCOL,
            "little_endian": True,
            "type_sizes": {"short": 2, "int": 4, "long": 4},
        }
        for value in (MAGIC, PROTOCOL, info):
            pickle.dump(value, out, protocol=2)
        pickler = pickle.Pickler(out, protocol=2)
        marker = object()
        pickler.persistent_id = lambda o: (
            ("storage", self.kind, self.key, "cpu", count, None) if o is marker else None
        )
        pickler.dump(marker)
        pickle.dump([self.key], out, protocol=2)
        out.write(struct.pack("<q", count))
        out.write(self.data)
        return out.getvalue()


class Tensor:
    def __init__(self, storage, offset, shape, stride, dtype):
        self.storage, self.offset, self.shape, self.stride, self.dtype = storage, offset, shape, stride, dtype

    def __reduce_ex__(self, protocol):
        args = (self.storage, self.offset, tuple(self.shape), self.stride, False, collections.OrderedDict())
        if self.dtype.storage is None:
            return (torch_utils._rebuild_tensor_v3, args + (self.dtype,))
        return (torch_utils._rebuild_tensor_v2, args)

    def elements(self):
        """The bytes of all elements in order."""
        out, size = bytearray(), self.dtype.size

        def walk(dim, at):
            if dim == len(self.shape):
                if not 0 <= at * size <= len(self.storage.data) - size:
                    raise ValueError("element outside the storage")
                out.extend(self.storage.data[at * size : at * size + size])
                return
            for i in range(self.shape[dim]):
                walk(dim + 1, at + i * self.stride[dim])

        walk(0, self.offset)
        return bytes(out)


def _load_from_bytes(data):
    f = io.BytesIO(data)
    if pickle.load(f) != MAGIC or pickle.load(f) != PROTOCOL:
        raise ValueError("not a legacy torch stream")
    info = pickle.load(f)
    if info["protocol_version"] != PROTOCOL or info["little_endian"] is not True:
        raise ValueError("unexpected system info")
    unpickler = pickle.Unpickler(f)
    unpickler.persistent_load = lambda saved: saved
    tag, kind, key, location, count, view = unpickler.load()
    if (tag, location, view) != ("storage", "cpu", None) or pickle.load(f) != [key]:
        raise ValueError("unexpected storage")
    if struct.unpack("<q", f.read(8)) != (count,):
        raise ValueError("element counts differ")
    body = f.read()
    if len(body) != count * kind.size:
        raise ValueError("storage of %d bytes for %d elements" % (len(body), count))
    return Storage(kind, body, key)


def _check(storage, stride, requires_grad, hooks):
    if not isinstance(storage, Storage) or requires_grad is not False or not isinstance(stride, tuple):
        raise ValueError("unexpected tensor arguments")
    if type(hooks) is not collections.OrderedDict or hooks:
        raise ValueError("unexpected backward hooks")


def _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata=None):
    _check(storage, stride, requires_grad, hooks)
    names = [n for n, (_, s) in SIZES.items() if s == storage.kind.__name__]
    return Tensor(storage, offset, size, stride, getattr(torch, names[0]))


def _rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None):
    _check(storage, stride, requires_grad, hooks)
    return Tensor(storage, offset, size, stride, dtype)


def _module(name, **members):
    m = types.ModuleType(name)
    for key, value in members.items():
        if isinstance(value, types.FunctionType):
            value.__module__ = name
        setattr(m, key, value)
    sys.modules[name] = m
    return m


torch = _module("torch", Size=Size)
torch_utils = _module("torch._utils", _rebuild_tensor_v2=_rebuild_tensor_v2, _rebuild_tensor_v3=_rebuild_tensor_v3)
torch_storage = _module("torch.storage", _load_from_bytes=_load_from_bytes)
torch_storage.UntypedStorage = StorageType("torch.storage", "UntypedStorage", 1)
for _name, (_size, _storage) in SIZES.items():
    setattr(torch, _name, DType(_name))
    if _storage:
        setattr(torch, _storage, StorageType("torch", _storage, _size))


def make_tensor(name, data, offset, shape, stride, key="94196416"):
    dtype = getattr(torch, name)
    kind = getattr(torch, dtype.storage) if dtype.storage else torch_storage.UntypedStorage
    return Tensor(Storage(kind, data, key), offset, shape, stride, dtype)
