"""tests/gpu/run, which `make gpu` starts: it works on the test driver, and says in one line that there is no GPU."""
import os
import subprocess
import sys

sys.dont_write_bytecode = True
import lmcuda                                                                      # noqa: E402
import lmgpu                                                                       # noqa: E402
from lmclient import ROOT, Skip, Tap, eq                                           # noqa: E402

tap = Tap()
RUN = os.path.join(ROOT, "tests/gpu/run")


@tap.test("without a GPU: one line, and that is no failure")
def none():
    out = subprocess.run([RUN, "--library", "/nowhere/libcuda.so.1"], capture_output=True, text=True, timeout=60)
    eq((out.returncode, out.stdout.count("\n"), out.stderr), (0, 1, ""), out.stdout)
    assert "there is no GPU here" in out.stdout, out.stdout


@tap.test("the figures are taken, each with its unit", limit=120)
def figures():
    if lmcuda.REAL:
        raise Skip("make gpu takes them")
    out = subprocess.run([RUN, "--library", lmcuda.LIBRARY, "--suites", "--quick"], capture_output=True, text=True, timeout=600)
    eq(out.returncode, 0, out.stdout + out.stderr)
    for what in ("registration of the first engine", "STORE 4 KiB pages, of one pinned copy", "RETRIEVE 8 KiB pages", "5 engines registered",
                 "device memory that did not come back", "its figures say nothing"):
        assert what in out.stdout, "no %r in: %s" % (what, out.stdout)


if __name__ == "__main__":
    if sys.argv[1:2] != ["--child"]:
        tap.main = lambda main=tap.main: main(daemon=False)
    lmgpu.main(tap)
