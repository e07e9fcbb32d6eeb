"""CPython's side of roundtrip_test.c.

  roundtrip.py load FILE    unpickles a list of tensors and prints it as JSON
  roundtrip.py make DIR     writes pickles made by CPython, DIR/<n>.pickle, and what they mean, DIR/index.json
  roundtrip.py cuda DIR     writes wrappers of GPU memory as LMCache's classes have them, DIR/<n>.cuda and DIR/cuda.json
"""

import json
import os
import pickle
import random
import sys
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import faketorch  # noqa: E402
from faketorch import SIZES, make_tensor, torch  # noqa: E402


def describe(t):
    return {
        "dtype": t.dtype.name,
        "shape": list(t.shape),
        "stride": list(t.stride),
        "offset": t.offset,
        "storage": t.storage.data.hex(),
        "elements": t.elements().hex(),
    }


def contiguous(shape):
    stride, step = [], 1
    for d in reversed(shape):
        stride.insert(0, step)
        step *= max(d, 1)
    return tuple(stride)


def random_tensor(rng, name):
    shape = tuple(rng.randint(1, 4) for _ in range(rng.randint(0, 6)))
    stride, offset = contiguous(shape), 0
    if rng.random() < 0.5:  # a transposed view with a gap
        order = list(range(len(shape)))
        rng.shuffle(order)
        shape, stride = tuple(shape[i] for i in order), tuple(2 * stride[i] for i in order)
        offset = rng.randint(0, 9)
    need = offset + 1 + sum((d - 1) * s for d, s in zip(shape, stride))
    data = rng.randbytes((need + rng.randint(0, 3)) * SIZES[name][0])
    return make_tensor(name, data, offset, shape, stride, str(rng.randint(1, 10**12)))


def lists(rng):
    for name in SIZES:
        yield [random_tensor(rng, name)]
    yield []
    yield [random_tensor(rng, rng.choice(list(SIZES))) for _ in range(40)]
    same = random_tensor(rng, "float16")
    yield [same, same, random_tensor(rng, "int8"), same]  # one object three times: memo references
    yield [random_tensor(rng, "uint8") for _ in range(2345)]  # several batches of APPENDS, wide memo indices
    big = make_tensor("bfloat16", rng.randbytes(200000), 0, (100, 1000), (1000, 1))
    yield [big, big]  # outside of frames


CUSTOM = "lmcache.v1.multiprocess.custom_types"
CUDA = "lmcache.v1.platform.cuda.ipc_wrapper"
CPU = "lmcache.v1.platform.cpu.shm"


def wrapper_class(module, name):
    parts = module.split(".")
    for i in range(1, len(parts) + 1):  # importing a.b.c by name also imports a
        m = sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    if not hasattr(m, name):
        setattr(m, name, type(name, (), {"__module__": module}))
    return getattr(m, name)


def random_geometry(rng, fields):
    dtype = rng.choice(list(SIZES))
    shape = (1 << 60,)
    while contiguous((1,) + shape)[0] > 1 << 58:
        shape = tuple(rng.choice([1, 2, 3, 300, 70000]) for _ in range(rng.randint(1, 5)))
    stride = contiguous(shape)
    fields["dtype"] = getattr(torch, dtype)
    fields["shape"] = rng.choice([tuple, list, torch.Size])(shape)
    if rng.random() < 0.8:
        fields["stride"] = rng.choice([tuple, list])(stride)
    fields["storage_offset"] = rng.choice([0, 1, 255, 65536, 1 << 33])
    extent = 1 + sum((d - 1) * s for d, s in zip(shape, stride))
    need = (extent + fields["storage_offset"]) * SIZES[dtype][0]
    meaning = {"dtype": dtype, "shape": list(shape), "stride": list(stride), "offset": fields["storage_offset"]}
    return need, meaning


def wrappers(rng):
    for i in range(400):
        f = {"device_uuid": "cpu" if i % 4 == 3 else "uuid-%d" % i, "_opens": 0, "_note": {"a": [1, (2, None)], "b": -1}}
        need, meaning = random_geometry(rng, f)
        if i % 4 == 0:
            module, name = rng.choice([CUSTOM, CUDA]), "CudaIPCWrapper"
            f["handle"] = (3, b"\x02c" + bytes(range(64)), need, 1 << 21, b"/torch_1", i, bytes(64), i % 8 == 0)
        elif i % 4 == 1:
            module, name = rng.choice([CUSTOM, CUDA]), "RawCudaIPCWrapper"
            f.update(_ipc_handle_reserved=bytes(range(64)), _nbytes=need, handle=None)
        elif i % 4 == 2:
            module, name = CUDA, "VmmCudaIPCWrapper"
            f.update(_export_id=bytes(range(16)), _kind="fabric", _fabric_blob=bytes(range(64)), _fd=None)
            f.update(_alloc_size=need + 77, _alloc_offset=70, _nbytes=need)
            f["handle"] = f["_export_id"]
        else:
            module, name = CPU, "CpuShmTensorWrapper"
            f.update(shm_name="/lmcache_kv_1_%d" % i, nbytes=need, handle=None)
        obj = wrapper_class(module, name)()
        keys = list(f)
        rng.shuffle(keys)
        for k in keys:
            setattr(obj, k, f[k])
        meaning.update(kind=i % 4 + 1, bytes=need, uuid=f["device_uuid"], shm=f.get("shm_name", ""))
        yield obj, meaning


def cuda_attributes(rng, i, module):
    """Class name and attributes in the order in which the constructors of LMCache set them."""
    g = {}
    need, _ = random_geometry(rng, g)
    shape = tuple(g["shape"])
    common = {"dtype": g["dtype"], "shape": shape, "stride": tuple(contiguous(shape)), "storage_offset": g["storage_offset"]}
    uuid = "3b1f3c52-0000-4000-8000-%012d" % i
    if i % 4 == 0:
        prefix = [b"", b"\x01c", b"\x02c", b"\x03c"][i // 4 % 4]
        counter = b"/torch_%d_%d_%d" % (rng.randint(1, 1 << 22), rng.getrandbits(32), i)
        handle = (rng.randint(0, 7), prefix + rng.randbytes(64), need, rng.choice([0, 512, 1 << 31]), counter)
        handle += (rng.randint(0, 9999), rng.randbytes(64), i % 8 == 0)
        return "CudaIPCWrapper", {"handle": handle, **common, "device_uuid": uuid}
    if i % 4 == 1:
        f = {"_ipc_handle_reserved": rng.randbytes(64), "_alloc_offset": rng.choice([0, 512, 1 << 33]), "_nbytes": need}
        return "RawCudaIPCWrapper", {**f, "handle": None, **common, "_opens": 0, "device_uuid": uuid}
    export, fabric = rng.randbytes(16), i % 4 == 2
    f = {"_export_id": export, "_kind": "fabric" if fabric else "posix_fd"}
    f["_fabric_blob"] = rng.randbytes(64) if fabric else None
    f["_fd"] = None if fabric or i % 8 == 3 else rng.choice([0, 7, 300, 70000])
    f.update(_alloc_size=need + (2 << 20), _alloc_offset=2 << 20, _nbytes=need, handle=export)
    return "VmmCudaIPCWrapper", {**f, **common, "device_uuid": uuid, "_opens": 0}


def cuda_wrappers(rng, count):
    for i in range(count):
        module = CUDA if i % 4 > 1 else rng.choice([CUSTOM, CUDA])
        name, attributes = cuda_attributes(rng, i, module)
        obj = wrapper_class(module, name)()
        for key, value in attributes.items():
            setattr(obj, key, value)
        yield module, obj


def cuda(folder):
    index = []
    for i, (module, obj) in enumerate(cuda_wrappers(random.Random(9), 400)):
        index.append({"file": "%d.cuda" % i, "module": module})
        with open(os.path.join(folder, index[-1]["file"]), "wb") as f:
            f.write(pickle.dumps(obj, protocol=4))
    with open(os.path.join(folder, "cuda.json"), "w") as f:
        json.dump(index, f)


def make(folder):
    # Protocol 2 has no bytes objects and writes them as calls of _codecs.encode, which nobody sends and we refuse.
    rng, index = random.Random(8), []

    def write(data, entry):
        entry["file"] = "%d.pickle" % len(index)
        with open(os.path.join(folder, entry["file"]), "wb") as f:
            f.write(data)
        index.append(entry)

    for n, (obj, meaning) in enumerate(wrappers(rng)):
        write(pickle.dumps(obj, protocol=3 + n % 3), {"wrapper": meaning})
    for tensors in lists(rng):
        for protocol in range(3, 6):
            write(pickle.dumps(tensors, protocol=protocol), {"tensors": [describe(t) for t in tensors]})
    with open(os.path.join(folder, "index.json"), "w") as f:
        json.dump(index, f)


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "load":
        with open(sys.argv[2], "rb") as f:
            json.dump([describe(t) for t in pickle.load(f)], sys.stdout)
    elif len(sys.argv) == 3 and sys.argv[1] == "make":
        make(sys.argv[2])
    elif len(sys.argv) == 3 and sys.argv[1] == "cuda":
        cuda(sys.argv[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
