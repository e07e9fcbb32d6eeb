#!/usr/bin/python3
"""kill_when.py FILE COMMAND...: starts a command, kills it with SIGKILL as soon as the text of FILE is another than before, and
prints what the file then says. Exit status 1 when the command ended first."""
import signal
import subprocess
import sys


def text(path):
    with open(path, "rb", 0) as f:
        return f.read()


path, command = sys.argv[1], sys.argv[2:]
before = text(path)
child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
while text(path) == before:
    if child.poll() is not None:
        sys.exit(1)
child.send_signal(signal.SIGKILL)
if child.wait() != -signal.SIGKILL:
    sys.exit(1)
print(text(path).decode().strip())
