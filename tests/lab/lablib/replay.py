"""Disks as they were when the power went: applies a write log (--nvme log=FILE) to an image, up to some entry, and loses any of
the writes after the last flush. The log has the format of the kernel's dm-log-writes."""
import collections
import random
import struct

from .kernel import LabError

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
NAMES = {FLUSH: "FLUSH", FUA: "FUA", DISCARD: "DISCARD", MARK: "MARK"}

Entry = collections.namedtuple("Entry", "index sector count flags at unit")  # `at`: of the data in the log; `unit`: sector bytes


def entries(path):
    with open(path, "rb") as f:
        head = f.read(28)
        if len(head) < 28:
            raise LabError("not a write log: " + path)
        magic, _, total, unit = struct.unpack("<QQQI", head)
        if magic != MAGIC or not unit:
            raise LabError("not a write log: " + path)
        out, at = [], unit
        for index in range(total):
            f.seek(at)
            sector, count, flags, _ = struct.unpack("<QQQQ", f.read(32))
            at += unit
            out.append(Entry(index, sector, count, flags, at, unit))
            if not flags & DISCARD:
                at += count * unit
        return out


def describe(path):
    found = entries(path)
    for e in found:
        words = "|".join(name for bit, name in NAMES.items() if e.flags & bit)
        print(e.index, "sector", e.sector, "count", e.count, words or "-")
    print("entries", len(found), "flushes", [e.index for e in found if e.flags & FLUSH])


def replay(log, image, upto=None, drop=0.0, tear=0.0, seed=1):
    """(applied, dropped). `drop`: the chance that a write after the last flush is lost; `tear`: that it is cut at a sector."""
    found = entries(log)[:upto]
    last = max((e.index for e in found if e.flags & FLUSH), default=-1)
    chance = random.Random(seed)
    applied = dropped = 0
    with open(log, "rb") as source, open(image, "r+b") as disk:
        for e in found:
            if not e.count:
                continue
            volatile = e.index > last and not e.flags & FUA     # sits in the drive's write cache
            if volatile and chance.random() < drop:
                dropped += 1
                continue
            source.seek(e.at)
            data = b"\0" * (e.count * e.unit) if e.flags & DISCARD else source.read(e.count * e.unit)
            if volatile and e.count > 1 and chance.random() < tear:
                data = data[:chance.randrange(1, e.count) * e.unit]
            disk.seek(e.sector * e.unit)
            disk.write(data)
            applied += 1
    return applied, dropped
