#!/usr/bin/python3
"""The device code: the PTX that is checked in is what clang makes of kernels.cu; NVIDIA's own tools take it and the source.

What is not on this machine is skipped: no toolkit is needed to build.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[4]
TOOLKIT = pathlib.Path("/usr/local/cuda/bin")
results = 0


def tool(name):
    found = shutil.which(name)
    return found or (str(TOOLKIT / name) if (TOOLKIT / name).exists() else None)


def tell(passed, what, skip="", output=""):
    global results
    results += 1
    if output and not passed:
        print("\n".join("# " + line for line in output.splitlines()[-20:]))
    print(f"{'ok' if passed or skip else 'not ok'} {results} - {what}{' # SKIP ' + skip if skip else ''}", flush=True)


def run(*command):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def ptx_is_up_to_date():
    rc, out = run("tools/ptx.sh", "--check")
    tell(rc == 0, "the PTX is what clang makes of kernels.cu", out.strip() if rc == 77 else "", out + "\nrun: make ptx")


def assembler_takes_it(folder):
    ptxas = tool("ptxas")
    if not ptxas:
        return tell(True, "ptxas takes the PTX", "no CUDA toolkit here")
    text = (ROOT / "transport/cuda/kernels_ptx.inc").read_text()
    ptx = folder / "kernels.ptx"
    ptx.write_text("".join(line.strip()[1:-1].replace("\\n", "\n") for line in text.splitlines()))
    _, known = run(ptxas, "--help")
    for arch in ("sm_75", "sm_80", "sm_90", "sm_100"):
        if arch not in known:
            tell(True, f"ptxas takes the PTX for {arch}", "not known to this toolkit")
            continue
        rc, out = run(ptxas, "-v", f"-arch={arch}", str(ptx), "-o", str(folder / "kernels.cubin"))
        spills = any(" bytes spill" in line and "0 bytes spill stores, 0 bytes spill loads" not in line for line in out.splitlines())
        tell(rc == 0 and not spills, f"ptxas takes the PTX for {arch}, without spilling registers", output=out)
    return None


def nvcc_takes_the_source(folder):
    nvcc = tool("nvcc")
    if not nvcc:
        return tell(True, "nvcc takes kernels.cu", "no CUDA toolkit here")
    out = folder / "kernels.fatbin"
    rc, text = run(nvcc, "-fatbin", "-arch=sm_90", "-I.", "-o", str(out), "transport/cuda/kernels.cu")
    return tell(rc == 0 and out.stat().st_size > 1000, "nvcc takes kernels.cu", output=text)


def main():
    print(f"1..{count()}")
    with tempfile.TemporaryDirectory(prefix="lmca-ptx-") as folder:
        ptx_is_up_to_date()
        assembler_takes_it(pathlib.Path(folder))
        nvcc_takes_the_source(pathlib.Path(folder))


def count():
    return 2 + (4 if tool("ptxas") else 1)


if __name__ == "__main__":
    os.environ.pop("MAKEFLAGS", None)
    main()
