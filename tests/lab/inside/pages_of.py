#!/usr/bin/python3
"""pages_of.py FILE PAGE_BYTES START:BYTES... [--move COUNT:NODE]: maps a file as a client does, touches its pages and prints as JSON
on which node each range's pages are: a list of {node: pages}. With --move, COUNT pages of the first range are moved to NODE first."""
import ctypes
import json
import mmap
import os
import sys

MOVE_PAGES, MOVE_ALL = 279, 4
libc = ctypes.CDLL(None, use_errno=True)


def move_pages(addresses, node):
    """The nodes the pages are on, after they were moved to `node` if it is not None."""
    count = len(addresses)
    pages = (ctypes.c_void_p * count)(*addresses)
    nodes = (ctypes.c_int * count)(*[node] * count) if node is not None else None
    status = (ctypes.c_int * count)()
    if libc.syscall(ctypes.c_long(MOVE_PAGES), ctypes.c_int(0), ctypes.c_ulong(count), pages, nodes, status,
                    ctypes.c_int(MOVE_ALL if nodes else 0)) < 0:
        raise OSError(ctypes.get_errno(), "move_pages")
    return list(status)


words = sys.argv[1:]
move = words[words.index("--move") + 1] if "--move" in words else None
ranges = [tuple(int(n) for n in w.split(":")) for w in words[2:] if ":" in w and w != move]
page = int(words[1])
fd = os.open(words[0], os.O_RDWR)
area = mmap.mmap(fd, os.fstat(fd).st_size)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
out = []
for i, (start, size) in enumerate(ranges):
    at = range(start, start + size, page)
    for offset in at:
        area[offset]
    addresses = [base + offset for offset in at]
    if move and i == 0:
        count, node = (int(n) for n in move.split(":"))
        step = len(addresses) // count
        got = move_pages(addresses[::step][:count], node)
        if got != [node] * count:
            sys.exit("not moved: %s" % got)
    found = {}
    for node in move_pages(addresses, None):
        found[node] = found.get(node, 0) + 1
    out.append(found)
print(json.dumps(out))
