#!/usr/bin/python3
"""Loads a server's second tier and writes, onto the drive itself, up to which prompt all is durable: a mark in the drive's write log.

    l2_load.py PORT HTTP_PORT JOURNAL DEVICE MARK_OFFSET PROMPTS
"""
import mmap
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "integration"))
from lml2 import SMALL, load                           # noqa: E402

port, http_port, journal, device, at, prompts = sys.argv[1:]
fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
block = mmap.mmap(-1, 4096)


def mark(number):
    block[:16] = b"lmcamark" + (number + 1).to_bytes(8, "little")
    os.pwrite(fd, block, int(at))


mark(-1)
load(int(port), int(http_port), 0, journal, on_ack=mark, flush_every=2, prompts_most=int(prompts), shares=SMALL)
print("done")
