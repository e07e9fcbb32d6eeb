"""Writes the seeds of pickle_fuzz.c and gpuimport_fuzz.c, tests/fuzz/corpus/{pickle,gpuimport}/, from the golden vectors and from
CPython's own pickles.

Usage, from the repository root: python3 tests/fuzz/make_pickle_corpus.py
The first byte of a seed picks the reader: 0 = wrapper, 1 = list of tensors.
"""

import json
import os
import pickle
import random
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, "tests/unit/transport/pickle")
import roundtrip  # noqa: E402

OUT = "tests/fuzz/corpus"


def golden():
    with open("tests/golden/messages.json") as f:
        g = json.load(f)
    for i, v in enumerate(g["device_pickles"]):
        yield "wrapper-%d" % i, 0, bytes.fromhex(v["protocol4"])
    yield "wrapper-protocol5", 0, bytes.fromhex(g["device_pickles"][0]["protocol5"])
    for i, v in enumerate(g["refused_pickles"]):
        yield "refused-%d" % i, 0, bytes.fromhex(v["hex"])
    for i, v in enumerate(g["tensor_list_pickles"]):
        yield "list-%d" % i, 1, bytes.fromhex(v["hex"])
    yield "list-emitted", 1, bytes.fromhex(g["tensor_list_pickle_emitted"]["hex"])


def cpython():
    rng = random.Random(1)
    for i, (obj, _) in enumerate(roundtrip.wrappers(rng)):
        if i < 8:
            yield "cpython-wrapper-%d" % i, 0, pickle.dumps(obj, protocol=3 + i % 2)
    for i, (_, obj) in enumerate(roundtrip.cuda_wrappers(random.Random(2), 16)):
        yield "cuda-%d" % i, 0, pickle.dumps(obj, protocol=4)
    for i, name in enumerate(["bfloat16", "float8_e4m3fn", "int64"]):
        for protocol in (3, 4):
            t = roundtrip.random_tensor(rng, name)
            while len(t.storage.data) > 256:
                t = roundtrip.random_tensor(rng, name)
            yield "cpython-list-%s-%d" % (name, protocol), 1, pickle.dumps([t, t], protocol=protocol)


def small_cuda_wrappers():
    """What fits an allocation of 16 MiB: 4095 pages and one, which is what gpuimport_fuzz.c makes of the handle's last bytes."""
    handle = bytes(range(1, 61)) + struct.pack("<I", 4095)
    geometry = {"dtype": roundtrip.torch.float16, "shape": (16, 4), "stride": (4, 1), "storage_offset": 0, "device_uuid": "u"}
    a = {"handle": (0, b"\x02c" + handle, 128, 4096, b"/torch_1_2_3", 5, b"\x02" * 64, True)}
    b = {"_ipc_handle_reserved": handle, "_alloc_offset": 4096, "_nbytes": 128, "handle": None}
    c = {"_export_id": bytes(16), "_kind": "fabric", "_fabric_blob": handle, "_fd": None, "_alloc_size": 16 << 20}
    c.update(_alloc_offset=4096, _nbytes=128)
    for name, attributes in (("CudaIPCWrapper", a), ("RawCudaIPCWrapper", b), ("VmmCudaIPCWrapper", c)):
        obj = roundtrip.wrapper_class(roundtrip.CUDA, name)()
        obj.__dict__.update(attributes)
        obj.__dict__.update(geometry)
        yield name, 0, pickle.dumps(obj, protocol=4)


def fields():
    """Geometries as no pickle has them: kind, dtype, dimensions; shape; stride; offsets and sizes."""
    for i, (kind, shape, stride, rest) in enumerate([
        (1, [16, 4], [4, 1], [0, 4096, 128, 0, 5]),
        (2, [3, 3], [1 << 62, 1 << 62], [0, 0, 128, 0, 0]),
        (2, [2**64 - 1, 4], [4, 1], [2**63, 2**64 - 1, 2**64 - 1, 0, 0]),
        (3, [16, 4], [4, 1], [0, 4096, 128, 16 << 20, 0]),
    ]):
        first = 4095 | kind << 32 | 2 << 40 | 2 << 48 | 1 << 56
        yield "fields-%d" % i, 1, struct.pack("<22Q", first, *(shape + [0] * 6), *(stride + [0] * 6), *rest)


def write(folder, sources):
    os.makedirs(os.path.join(OUT, folder), exist_ok=True)
    for source in sources:
        for name, reader, data in source:
            with open(os.path.join(OUT, folder, name), "wb") as f:
                f.write(bytes([reader]) + data)


def main():
    write("pickle", (golden(), cpython()))
    write("gpuimport", (small_cuda_wrappers(), fields()))


if __name__ == "__main__":
    main()
