#!/usr/bin/python3
"""The layer rule: a module includes only itself and modules to its left in MODULES; x_int.h stays inside its folder.

    tools/lint/layers.py MODULE ...      in layer order

Includes are written from the repository root. Tests may include the module they test and those to its left, its inner
headers included; tests of the top layers, generators and bench programs may include everything public.
"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
modules = sys.argv[1:]
errors = 0


def complain(path, line, text):
    global errors
    errors += 1
    print(f"{path}:{line}: {text}")


def module_of(path):
    """The module that a file belongs to, by its folder (the longest that fits), or None."""
    folder = str(pathlib.PurePath(path).parent)
    fitting = [m for m in modules if folder == m or folder.startswith(m + "/")]
    return max(fitting, key=len) if fitting else None


def includes(path):
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        found = INCLUDE.match(line)
        if found:
            yield number, found[1]


def check(path, module, inner_of, rank):
    """`module`: what the file is part of; `inner_of`: whose inner headers it may include; `rank`: highest layer it may use."""
    for line, target in includes(path):
        if "/" not in target:
            complain(path, line, f'"{target}" is not written from the repository root')
            continue
        if not pathlib.Path(target).exists() and not target.endswith(".inc"):
            complain(path, line, f'"{target}" does not exist')
            continue
        owner = module_of(target)
        if owner is None:
            continue
        if modules.index(owner) > rank:
            complain(path, line, f"{module} must not include {owner}, which is above it")
        if target.endswith("_int.h") and owner != inner_of:
            complain(path, line, f'"{target}" is private to {owner}')


def main():
    top = len(modules) - 1
    for folder in ("daemon", "numa", "transport", "tools"):
        for path in sorted(p for p in pathlib.Path(folder).rglob("*") if p.suffix in (".c", ".h", ".cu", ".def")):
            module = module_of(path)
            if module is None:
                complain(path, 1, "belongs to no module of MODULES")
            else:
                check(path, module, module, modules.index(module))
    for path in sorted(p for p in pathlib.Path("tests").rglob("*") if p.suffix in (".c", ".h")):
        parts = path.parts
        tested = module_of(pathlib.PurePath(*parts[2:])) if parts[1] == "unit" else None
        check(path, f"test of {tested}", tested, modules.index(tested) if tested else top)
    return 1 if errors else 0


sys.exit(main())
