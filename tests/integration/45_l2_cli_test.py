"""l2 format, info, verify, dump. The store that is looked at is written here, by docs/l2-format.md alone."""
import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
from lmclient import Tap, eq  # noqa: E402
from lmdaemon import BIN, Skip  # noqa: E402

tap = Tap()
MIB = 1 << 20
os.environ["PATH"] += ":/usr/sbin:/sbin"  # where mkfs and losetup are; not on everybody's path
DIR = tempfile.mkdtemp(prefix="lmca-l2-")
TABLE = []
for _i in range(256):
    for _ in range(8):
        _i = _i >> 1 ^ (0x82F63B78 if _i & 1 else 0)
    TABLE.append(_i)


def crc(data):
    c = 0xFFFFFFFF
    for byte in data:
        c = TABLE[(c ^ byte) & 255] ^ c >> 8
    return c ^ 0xFFFFFFFF


def l2(*words, rc=0, says=""):
    p = subprocess.run([BIN, "l2"] + [str(w) for w in words], capture_output=True, text=True, timeout=60)
    eq((p.returncode, says in p.stdout + p.stderr), (rc, True), "%s: exit %d: %s%s" % (words, p.returncode, p.stdout, p.stderr))
    return p.stdout


def l2_json(*words, rc=0):
    got = json.loads(l2(*words, "--json", rc=rc))
    return got.get("metrics", got)


def path(name, size=None):
    p = os.path.join(DIR, name)
    if os.path.exists(p):
        os.unlink(p)
    if size is not None:
        with open(p, "wb") as f:
            f.truncate(size)
    return p


class Store:
    """Writes segments into a store that the command made."""

    def __init__(self, file):
        self.f = open(file, "r+b")
        sb = self.f.read(4096)
        eq(sb[:8], b"LMCASUPR", "magic")
        eq(struct.unpack_from("<I", sb, 4092)[0], crc(sb[:4092]), "checksum of the superblock")
        self.uuid = sb[16:32]
        self.epoch, self.bytes, self.seg, self.n, self.mid = struct.unpack_from("<QQQII", sb, 32)
        self.sequence = 0

    def at(self, segment):
        return 2 * MIB + segment * self.seg + (MIB if segment >= self.mid else 0)

    def put(self, offset, data):
        self.f.seek(offset)
        self.f.write(data)
        self.f.flush()

    def block(self, offset, body):
        body = body.ljust(4092, b"\0")
        self.put(offset, body + struct.pack("<I", crc(body)))

    def open_segment(self, segment, generation):
        self.segment, self.generation, self.next, self.entries = segment, generation, 8192, b""
        self.block(self.at(segment), b"LMCASEGM" + struct.pack("<II", 1, segment) + self.uuid + struct.pack("<QQ", generation, self.epoch))

    def add(self, model, key, payload):
        self.sequence += 1
        offset, hash32 = self.at(self.segment) + self.next, bytes([key]) * 32
        head = b"LMCARECD" + struct.pack("<II", 1, 1) + self.uuid + struct.pack("<II", self.segment, 1)
        head += struct.pack("<QQQ", self.generation, offset, self.sequence) + hash32 + struct.pack("<QII", len(payload), 5, 0)
        head += b"L" * 16 + struct.pack("<HHI", len(model), 0, 0) + struct.pack("<I", crc(payload))
        head = head.ljust(2184, b"\0") + model
        self.block(offset, head)
        self.put(offset + 4096, payload)
        self.entries += (struct.pack("<II", 1, 0) + hash32 + struct.pack("<QQQI", self.next, len(payload), self.sequence, crc(payload))).ljust(96, b"\0")
        self.next += 4096 + (len(payload) + 4095) // 4096 * 4096
        return offset

    def seal(self, model):
        n = len(self.entries) // 96
        s = (b"LMCASUMM" + struct.pack("<II", 1, self.segment) + self.uuid + struct.pack("<QII", self.generation, n, 1)).ljust(96, b"\0")
        s += self.entries + struct.pack("<II", 5, 0) + b"L" * 16 + struct.pack("<HH", len(model), 0) + model
        s = s.ljust((len(s) + 4095) // 4096 * 4096, b"\0")
        at = self.seg - len(s)
        self.put(self.at(self.segment) + at, s)
        self.block(self.at(self.segment) + 4096, b"LMCASEAL" + struct.pack("<II", 1, self.segment) + self.uuid +
                   struct.pack("<QQIII", self.generation, at, len(s), n, crc(s)))


@tap.test("format makes a file, says what it made, and refuses to do it again")
def format_file():
    p = path("new")
    got = l2_json("format", p, "--size", "20M")
    eq((got["bytes"], got["segment_bytes"], got["segments"]), (20 * MIB, MIB, 16), "geometry")
    eq((os.path.getsize(p), os.stat(p).st_blocks * 512 >= 20 * MIB), (20 * MIB, True), "size")
    l2("format", p, rc=1, says="--force")
    again = l2_json("format", p, "--force", "--segment-size", "2M")
    eq((again["segments"], again["uuid"] != got["uuid"]), (8, True), "made anew")
    device = l2_json("info", p)["devices"][0]
    eq((device["content"], device["epoch"], device["good_superblocks"], device["free"]), ("store", 2, 4, 8), "info")


@tap.test("format: sizes that cannot be, and paths that are none")
def format_wrong():
    p = path("wrong")
    l2("format", rc=2, says="which device")
    l2("format", p, rc=1, says="give a size")
    l2("format", p, "--size", "4M", rc=1, says="too few")
    l2("format", p, "--size", "17T", rc=1, says="16 TiB")
    l2("format", p, "--size", "20M", "--segment-size", "2G", rc=1, says="segment size")
    l2("format", p, "--size", "much", rc=2, says="--size")
    l2("format", p, "extra", "--size", "20M", rc=2, says="extra")
    l2("format", DIR, rc=1, says="neither a block device nor a regular file")
    l2("format", "/dev/lmca-no-such-drive", "--size", "20M", rc=1, says="no such device")
    l2("format", os.path.join(DIR, "no/where"), "--size", "20M", rc=1, says="No such file")
    eq(os.path.exists(p), False, "nothing is left")


@tap.test("foreign contents are named and left alone")
def foreign():
    p = path("ext4", 16 * MIB)
    makers = [("mkfs.ext4", ["-q", "-F", p], "ext4 file system"), ("mkswap", [p], "swap")]
    done = 0
    for program, words, what in makers:
        if not shutil.which(program):
            continue
        done += 1
        p = path("ext4", 16 * MIB)
        subprocess.run([program] + words, check=True, capture_output=True, timeout=60)
        with open(p, "rb") as f:
            before = f.read()
        l2("format", p, rc=1, says=what)
        l2("verify", p, rc=1, says="holds no store")
        device = l2_json("info", p)["devices"][0]
        eq((device["content"], what in device["foreign"]), ("foreign", True), "info")
        with open(p, "rb") as f:
            eq(f.read() == before, True, "not touched")
        l2("format", p, "--force")
        eq(l2_json("info", p)["devices"][0]["content"], "store", "by force")
    p = path("upstream", 16 * MIB)
    with open(p, "r+b") as f:
        f.write(b"LMCIDX01")
    l2("format", p, rc=1, says="LMCache raw_block store")
    p = path("letter")
    with open(p, "wb") as f:
        f.write(b"dear friend, " * 900000)
    l2("format", p, rc=1, says="other contents")
    if not done:
        raise Skip("neither mkfs.ext4 nor mkswap is here; the rest was tested")


@tap.test("a store in use: info works, everything else is refused, also by force")
def in_use():
    p = path("used")
    l2("format", p, "--size", "20M")
    with open(p, "r+b") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        eq(l2_json("info", p)["devices"][0]["in_use"], True, "info")
        for words in (["format", p, "--force"], ["verify", p], ["dump", p]):
            l2(*words, rc=1, says="in use")
    eq(l2_json("info", p)["devices"][0]["in_use"], False, "free again")
    l2("verify", p)


@tap.test("a block device: made, seen in use while mounted, discarded and made again")
def block_device():
    p = path("backing", 64 * MIB)
    for program in ("losetup", "mkfs.ext4", "blkid"):
        if not shutil.which(program):
            raise Skip("no %s here" % program)
    made = subprocess.run(["losetup", "-f", "--show", p], capture_output=True, text=True)
    if made.returncode:
        raise Skip("no loop device: %s" % made.stderr.strip())
    loop, mount = made.stdout.strip(), os.path.join(DIR, "mnt")
    os.makedirs(mount, exist_ok=True)
    try:
        l2("format", p, "--force", rc=1, says="a loop device is made of it")
        eq(l2_json("format", loop)["segments"], 16, "segments")
        l2("verify", loop)
        subprocess.run(["mkfs.ext4", "-q", "-F", loop], check=True)
        l2("format", loop, rc=1, says="ext4 file system")
        if subprocess.run(["mount", loop, mount], capture_output=True).returncode == 0:
            try:
                l2("format", loop, "--force", rc=1, says="in use")
                eq(l2_json("info", loop)["devices"][0]["in_use"], True, "mounted")
            finally:
                subprocess.run(["umount", mount], check=True)
        l2("format", loop, "--force")
        eq(subprocess.run(["blkid", "-p", loop], capture_output=True, text=True).stdout, "", "no signature is left")
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


@tap.test("verify and dump read what the layout's page describes")
def sound():
    p = path("sound")
    l2("format", p, "--size", "20M")
    s = Store(p)
    s.open_segment(3, 1)
    offsets = [s.add(b"llama", k, bytes([k]) * (1000 * k)) for k in range(1, 8)]
    s.seal(b"llama")
    s.open_segment(12, 2)
    offsets.append(s.add(b"we\x1bird", 9, b"x" * 5000))
    got = l2_json("verify", p)
    eq((got["good"], got["records"], got["bytes"], got["segments"]), (True, 8, 33000, 2), "verify")
    device = l2_json("info", p)["devices"][0]
    eq((device["sealed"], device["open"], device["sealed_records"]), (1, 1, 7), "info")
    got = l2_json("dump", p)
    eq((got["complete"], [r["offset"] for r in got["records"]]), (True, offsets), "dump")
    first, last = got["records"][0], got["records"][-1]
    eq((first["model"], first["kv_rank"], first["hash"], first["sequence"], first["generation"], first["layout"]),
       ("llama", 5, "01" * 32, 1, 1, "4c" * 16), "first")
    eq((last["model"], last["segment"], last["bytes"]), ("we?ird", 12, 5000), "names are made printable")
    got = l2_json("dump", p, "--limit", "3")
    eq((got["complete"], len(got["records"])), (False, 3), "limit")
    eq(l2("dump", p, "--limit", "0").count("\n"), 9, "as text")


@tap.test("verify tells what is damaged and where; exit code 1")
def damaged():
    p = path("damaged")
    l2("format", p, "--size", "20M")
    s = Store(p)
    s.open_segment(0, 1)
    offsets = [s.add(b"llama", k, bytes([k]) * 5000) for k in range(1, 5)]
    s.seal(b"llama")
    s.put(offsets[1] + 4096 + 4999, b"?")
    s.put(offsets[2] + 20, b"?")
    got = l2_json("verify", p, rc=1)
    eq((got["good"], got["bad_payloads"], got["bad_headers"], got["records"]), (False, 1, 1, 4), "counts")
    eq([(b["offset"], b["error"].split()[0], b["model"]) for b in got["bad"]],
       [(offsets[1], "payload", "llama"), (offsets[2], "header", "llama")], "places")
    l2("verify", p, rc=1, says=str(offsets[1]))
    got = l2_json("verify", p, "--no-payload", rc=1)
    eq((got["bad_payloads"], got["bad_headers"]), (0, 1), "headers only")
    s.put(offsets[2] + 20, s.uuid[4:5])
    l2("verify", p, "--no-payload")
    s.put(MIB, b"?" * 100)
    got = l2_json("verify", p, "--no-payload", rc=1)
    eq(got["good_superblocks"], 3, "a superblock")


@tap.test("info of several paths: what cannot be read fails, the rest is told")
def several():
    p, q = path("one"), path("two", 16 * MIB)
    l2("format", p, "--size", "20M")
    got = l2_json("info", p, os.path.join(DIR, "absent"), q, rc=1)
    eq([d["content"] for d in got["devices"]], ["store", "nothing known"], "contents")


if __name__ == "__main__":
    try:
        tap.main()
    finally:
        shutil.rmtree(DIR, ignore_errors=True)
