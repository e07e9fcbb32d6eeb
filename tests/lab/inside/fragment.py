#!/usr/bin/python3
"""fragment.py NODE COMMAND...: runs a command while half of a node's memory is free, but hardly any 2 MiB of it in one piece.

The buffers of pipes cannot be moved, so the kernel cannot compact them away: pages are written to two sets of pipes in turn until the
node is nearly full, and then one set is closed. Needs a task that prefers the node (numactl -p NODE)."""
import fcntl
import os
import subprocess
import sys

PIPE_BYTES, PAGE, LEAVE_KB = 1 << 20, 4096, 40 << 10
F_SETPIPE_SZ = 1031


def free_kb(node):
    with open("/sys/devices/system/node/node%s/meminfo" % node, encoding="ascii") as f:
        return next(int(line.split()[3]) for line in f if "MemFree:" in line)


def new_pipe():
    ends = os.pipe()
    fcntl.fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES)
    return ends


node, command = sys.argv[1], sys.argv[2:]
kept, dropped, page = [], [], b"x" * PAGE
while free_kb(node) > LEAVE_KB:
    kept.append(new_pipe())
    dropped.append(new_pipe())
    for _ in range(PIPE_BYTES // PAGE):
        os.write(kept[-1][1], page)
        os.write(dropped[-1][1], page)
for ends in dropped:
    os.close(ends[0])
    os.close(ends[1])
print("node %s: %d MiB free in pieces" % (node, free_kb(node) >> 10), file=sys.stderr, flush=True)
sys.exit(subprocess.call(["numactl", "-l"] + command))
