"""Writes the seeds of pickle_fuzz.c, tests/fuzz/corpus/pickle/, from the golden vectors and from CPython's own pickles.

Usage, from the repository root: python3 tests/fuzz/make_pickle_corpus.py
The first byte of a seed picks the reader: 0 = wrapper, 1 = list of tensors.
"""

import json
import os
import pickle
import random
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, "tests/unit/transport/pickle")
import roundtrip  # noqa: E402

OUT = "tests/fuzz/corpus/pickle"


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


def main():
    os.makedirs(OUT, exist_ok=True)
    for source in (golden(), cpython()):
        for name, reader, data in source:
            with open(os.path.join(OUT, name), "wb") as f:
                f.write(bytes([reader]) + data)


if __name__ == "__main__":
    main()
