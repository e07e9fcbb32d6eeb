"""Writes the seeds of the fuzz targets of the segment store, by docs/l2-format.md: tests/fuzz/corpus/{segblock,segsummary,segstore}/.

Usage, from the repository root: python3 tests/fuzz/make_seg_corpus.py
"""

import os
import struct

UUID = b"\x5a" * 16
OUT = "tests/fuzz/corpus"


def write(target, name, data):
    folder = os.path.join(OUT, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def head(magic, word):
    return magic + struct.pack("<II", 1, word) + UUID


def name(model, salt):
    return struct.pack("<II", 5, 0) + b"L" * 16 + struct.pack("<HH", len(model), len(salt)) + model + salt


def entry(kind, which, at, size, sequence):
    return (struct.pack("<II", kind, which) + b"h" * 32 + struct.pack("<QQQI", at, size, sequence, 77)).ljust(96, b"\0")


def blocks():
    mib = 1 << 20
    segments = (1024 - 4) // 16
    yield "super", 0, head(b"LMCASUPR", 2) + struct.pack("<QQQIIQ", 3, 1024 * mib, 16 * mib, segments, segments // 2, 1790000000)
    yield "segment", 1, head(b"LMCASEGM", 5) + struct.pack("<QQ", 9, 3)
    yield "seal", 2, head(b"LMCASEAL", 5) + struct.pack("<QQIII", 9, 15 * mib, 8192, 60, 0xdeadbeef)
    place = 2 * mib + 5 * 16 * mib + 5 * 4096
    record = struct.pack("<QQQ", 9, place, 12) + b"h" * 32
    for size in (1, 5000, mib, 3 * mib + 17):
        sums = (size + mib - 1) // mib
        body = head(b"LMCARECD", 1) + struct.pack("<II", 5, sums) + record + struct.pack("<QII", size, 1, 2) + b"L" * 16
        body += struct.pack("<HHI", 5, 6, 0) + b"\x11\x22\x33\x44" * sums
        yield "object-%d" % size, 3, body.ljust(2184, b"\0") + b"llama".ljust(1024, b"\0") + b"tenant"
    for keys in (1, 64):
        yield "removal-%d" % keys, 3, head(b"LMCARECD", 2) + struct.pack("<II", 5, keys) + record[:24] + b"n" * 48 * keys


def summaries():
    for count, names in ((0, []), (3, [(b"llama", b"")]), (40, [(b"llama", b""), (b"qwen", b"tenant"), (b"", b"")])):
        s = (head(b"LMCASUMM", 3) + struct.pack("<QII", 9, count, len(names))).ljust(96, b"\0")
        for i in range(count):
            removal = i % 5 == 4
            s += entry(2 if removal else 1, 0 if removal else i % len(names), 8192 * (i + 1), 0 if removal else 100 + i, i + 1)
        yield "summary-%d" % count, bytes([3]) + struct.pack("<I", count) + s + b"".join(name(*n) for n in names)


def edits():
    def e(kind, at, other=0, value=0):
        return bytes([kind]) + at.to_bytes(3, "little") + other.to_bytes(3, "little") + bytes([value])

    segment, first = 65536, 4 * 4096
    yield "sound", b""
    yield "super-gone", e(3, 0) + e(3, 4096) + e(3, 8192)
    yield "epoch", e(1, 32, value=9) + e(1, 4096 + 32, value=9)
    yield "header-gone", e(3, first + segment)
    yield "seal-gone", e(3, first + segment + 4096)
    yield "records", b"".join(e(0, first + i * segment + 8192 + 100, value=1) for i in range(7))
    yield "payloads", b"".join(e(0, first + i * segment + 3 * 4096 + 1, value=1) for i in range(7))
    yield "copied", e(2, first + 2 * segment, first + segment) + e(2, first + 8 * segment, first + segment)
    yield "summaries", b"".join(e(0, first + i * segment + segment - 4096 + 96 + 41, value=0xff) + e(4, 0, value=i) for i in range(6))
    yield "sequence", e(1, first + 4 * segment + 8192 + 62, value=0x3f)
    yield "generation", e(1, first + 4 * segment + 38, value=0x3f)
    yield "length", e(1, first + 4 * segment + 8192 + 98, value=0xff)


def main():
    for which, kind, body in blocks():
        write("segblock", which, bytes([kind, 7]) + body)
    for which, body in summaries():
        write("segsummary", which, body)
    for which, body in edits():
        write("segstore", which, body)


main()
