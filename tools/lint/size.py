#!/usr/bin/python3
"""Functions of at most 70 lines, files of at most 600, no notes to come back later, no calls that cannot be used safely.

    tools/lint/size.py FILE ...

A function body runs from a "{" to a "}" that stand alone in the first column, as our clang-format writes them.
"""
import re
import sys

MAX_FUNCTION, MAX_FILE = 70, 600
NOTE = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
BANNED = re.compile(r"(?<![\w.>])(atoi|atol|atof|gets|strcpy|strcat|sprintf|vsprintf|strtok)\(")
NAME = re.compile(r"(\w+)\(")
errors = 0


def complain(path, line, text):
    global errors
    errors += 1
    print(f"{path}:{line}: {text}")


for path in sys.argv[1:]:
    lines = open(path, errors="replace").read().splitlines()
    if len(lines) > MAX_FILE:
        complain(path, MAX_FILE, f"{len(lines)} lines in one file (at most {MAX_FILE})")
    begin = None
    for number, line in enumerate(lines, 1):
        if NOTE.search(line):
            complain(path, number, "a note to come back later; open an issue or do it")
        if BANNED.search(line) and not path.startswith("tests/"):
            complain(path, number, f"{BANNED.search(line)[1]} cannot tell errors or does not know how much room there is")
        if line == "{":
            begin = number
        elif line == "}" and begin:
            if number - begin - 1 > MAX_FUNCTION:
                head = " ".join(lines[max(0, begin - 4) : begin - 1])
                names = NAME.findall(head)
                complain(path, begin, f"{names[-1] if names else 'function'} has {number - begin - 1} lines (at most {MAX_FUNCTION})")
            begin = None
sys.exit(1 if errors else 0)
