"""The soak of 90 with engines on GPUs and engines on CPU on one model: random things, every byte checked."""
import importlib
import sys

sys.dont_write_bytecode = True
import lmgpu                                                                       # noqa: E402
from lmkv import KV                                                                # noqa: E402

lmgpu.need_gpu()
soak = importlib.import_module("90_soak_test")
GPU_FORMATS = {1: 0, 7: 0, 6: 1, 0: 0, 4: 1, 2: 1}      # format, which GPU; the rest are on CPU


class SoakKV(lmgpu.GpuKV):
    def settle(self, port):
        """What others do all the time never settles, and nothing here depends on it."""


def make(fmt, **kw):
    if fmt not in GPU_FORMATS:
        return KV(fmt, **kw)
    return SoakKV(fmt, ordinal=GPU_FORMATS[fmt] % lmgpu.count_gpus(), timeline=fmt in (0, 7), place=("shared", "own")[fmt % 2], **kw)


soak.KV = make
tap = soak.tap
tap.args = lmgpu.daemon_args() + tap.args
tap.tests = []
tap.add("three GPU engines and one on CPU, evictions all the time: a locked chunk is never lost, every byte right", soak.soak, 13, False,
        (0, 1, 2, 3))
tap.add("four GPU engines, with CLEARs in between: bytes right or a clean miss", soak.soak, 6, True, (4, 5, 6, 0))

if __name__ == "__main__":
    tap.main()
