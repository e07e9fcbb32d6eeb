#!/usr/bin/python3
"""Our declarations of the driver (cuda_api.h, symbols.def) against NVIDIA's cuda.h, where one is installed.

Values, sizes and offsets: one program is written from what our header declares, and compiled with either header; both must print the
same. Functions: each row of symbols.def must have the type that cudaTypedefs.h gives the function at that version.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[4]
API = ROOT / "transport/cuda/cuda_api.h"
SYMBOLS = ROOT / "transport/cuda/symbols.def"
CC = os.environ.get("CC", "cc")
# What cuda.h calls enumerations is a plain integer of the same size with us.
AS_NVIDIA = {
    "int option)": "CUmemAllocationGranularity_flags option)",
    "int *options": "CUjit_option *options",
}
# Names of newer headers for the structure that we mean.
OTHER_NAMES = {"CUDA_MEMCPY2D": "CUDA_MEMCPY2D_v2"}


def include_folder():
    places = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda", "/usr", "/opt/cuda"]
    for place in places:
        if place and pathlib.Path(place, "include/cuda.h").exists() and pathlib.Path(place, "include/cudaTypedefs.h").exists():
            return pathlib.Path(place, "include")
    return None


def without_comments(text):
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)


def declared():
    """Names of values; {structure: its members, nested ones with a dot}."""
    text = without_comments(API.read_text())
    values = [n for body in re.findall(r"enum\s*\{(.*?)\}", text, re.S) for n in re.findall(r"\b(CU\w+)\s*=", body)]
    structs = {}
    for body, name in re.findall(r"typedef struct \{((?:[^{}]|\{[^{}]*\})*)\}\s*(\w+);", text):
        members = []
        inner = re.search(r"struct \{([^{}]*)\}\s*(\w+);", body)
        outer = body.replace(inner[0], "") if inner else body
        members += members_of(outer)
        if inner:
            members += [inner[2]] + [f"{inner[2]}.{m}" for m in members_of(inner[1])]
        structs[name] = members
    plain = re.findall(r"typedef [\w ]+?[ *](CU\w+);", text) + re.findall(r"\}\s*(CU\w+);", text)
    return values, structs, sorted(set(plain))


def members_of(body):
    found = []
    for line in re.findall(r"([^;]+);", body):
        for part in line.split(","):
            name = re.search(r"(\w+)\s*(\[\d+\])?\s*$", part.strip())
            found.append(name[1])
    return found


def facts_program(header, values, structs, types, rename):
    lines = [f"#include <{header}>", "#include <stddef.h>", "#include <stdio.h>", "int main(void) {"]
    lines += [f'printf("{v} %lld\\n", (long long){v});' for v in values]
    lines += [f'printf("sizeof {t} %zu %zu\\n", sizeof({rename(t)}), _Alignof({rename(t)}));' for t in types]
    for name, members in structs.items():
        s = rename(name)
        for m in members:
            lines.append(f'printf("{name}.{m} %zu %zu\\n", offsetof({s}, {m}), sizeof((({s} *)0)->{m}));')
    return "\n".join(lines + ["return 0; }", ""])


def compiled(folder, name, text, flags, run=True):
    """Output of the program, or of the compiler that refused it: (ok, text)."""
    src = pathlib.Path(folder, name + ".c")
    src.write_text(text)
    exe = pathlib.Path(folder, name)
    done = subprocess.run([CC, "-std=gnu17", *flags, str(src), *(["-o", str(exe)] if run else ["-fsyntax-only"])],
                          capture_output=True, text=True)
    if done.returncode or not run:
        return done.returncode == 0, done.stderr
    return True, subprocess.run([str(exe)], capture_output=True, text=True).stdout


def rows():
    return re.findall(r"^CU\((\w+), (\d+), (?:NEEDED|MAY), (\(.*\))\)$", without_comments(SYMBOLS.read_text()), re.M)


def signature_program(name, version, args):
    for ours, theirs in AS_NVIDIA.items():
        args = args.replace(ours, theirs)
    args = re.sub(r"\bCUDA_MEMCPY2D\b", "CUDA_MEMCPY2D_v2", args)
    return (f"#include <stdint.h>\n#include <cuda.h>\n#include <cudaTypedefs.h>\n"
            f"_Static_assert(__builtin_types_compatible_p(__typeof__(CUresult (*) {args}), PFN_{name}_v{version}), \"{name}\");\n")


def report(n, ok, what, detail=""):
    for line in detail.strip().splitlines()[:20] if not ok else []:
        print(f"# {line}")
    print(f"{'ok' if ok else 'not ok'} {n} - {what}")
    return ok


def main():
    include = include_folder()
    if not include:
        print("# no cuda.h here: our declarations of the driver are not compared")
        return 77
    values, structs, types = declared()
    with tempfile.TemporaryDirectory() as folder:
        ours = compiled(folder, "ours", facts_program("transport/cuda/cuda_api.h", values, structs, types, lambda t: t),
                        ["-I", str(ROOT)])
        theirs = compiled(folder, "theirs", facts_program("cuda.h", values, structs, types, lambda t: OTHER_NAMES.get(t, t)),
                          ["-I", str(include)])
        differ = [f"ours: {a}   cuda.h: {b}" for a, b in zip(ours[1].splitlines(), theirs[1].splitlines()) if a != b]
        good = report(1, len(values) > 60 and len(structs) > 8 and len(types) > 15,
                      f"{len(values)} values, {len(structs)} structures, {len(types)} types are declared")
        good &= report(2, ours[0] and theirs[0] and not differ and len(ours[1]) == len(theirs[1]),
                       "values, sizes and offsets are those of cuda.h",
                       "\n".join(differ) if ours[0] and theirs[0] else ours[1] if not ours[0] else theirs[1])
        wrong = []
        for row in rows():
            ok, text = compiled(folder, "signature", signature_program(*row), ["-I", str(include)], run=False)
            if not ok:
                wrong.append(f"{row[0]} {row[1]}: {text.strip().splitlines()[0] if text.strip() else 'refused'}")
        good &= report(3, not wrong and len(rows()) > 60, f"{len(rows())} functions have their types, at their versions",
                       "\n".join(wrong))
        # The comparison itself must be able to fail.
        ok, _ = compiled(folder, "signature", signature_program("cuMemAlloc", "3020", "(CUdeviceptr *p, unsigned bytes)"),
                         ["-I", str(include)], run=False)
        good &= report(4, not ok, "a wrong type is noticed")
    print("1..4")
    return 0 if good else 1


sys.exit(main())
