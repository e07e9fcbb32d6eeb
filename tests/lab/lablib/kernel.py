"""The guest's kernel and its first root file system, made of the host's Debian packages and cached in the build folder."""
import glob
import lzma
import os
import platform
import re
import shutil
import stat
import subprocess
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BOOT_MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay"]
SBIN = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class LabError(Exception):
    """The lab itself failed: boot, set-up, a guest that is gone."""


class Missing(Exception):
    """What the lab needs is not on this machine; the text is for the person who runs it."""


def find_busybox():
    """A busybox that needs no libraries: before the root is mounted there are none."""
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        try:
            with open(path, "rb") as f:
                if b"/ld-linux" not in f.read(4096):
                    return path
        except OSError:
            pass
    return None


def find_kernel(path=None):
    """(image, release) of the newest kernel package that has its modules, or of the image named; None when there is none."""
    images = [path] if path else sorted(glob.glob("/boot/vmlinuz-*"), key=_version, reverse=True)
    for image in images:
        release = os.path.basename(image).replace("vmlinuz-", "", 1)
        if os.access(image, os.R_OK) and os.path.isdir("/lib/modules/" + release):
            return image, release
    return None


def _version(path):
    return [int(n) for n in re.findall(r"\d+", path)]


def require(qemu="qemu-system-x86_64", kernel=None):
    """Raises Missing when the lab cannot run here."""
    if platform.machine() != "x86_64":
        raise Missing("the lab boots the host's own programs and needs an x86-64 machine; this is " + platform.machine())
    lacking = []
    if not shutil.which(qemu):
        lacking.append("qemu-system-x86")
    if not find_kernel(kernel):
        lacking.append("linux-image-amd64")
    if not find_busybox():
        lacking.append("busybox-static")
    if not shutil.which("modprobe", path=SBIN):
        lacking.append("kmod")
    if lacking:
        raise Missing("the lab needs packages that are not here: %s (tools/deps.sh lab installs them)" % " ".join(lacking))


def cache_dir():
    path = os.environ.get("LMCA_LAB_CACHE") or os.path.join(ROOT, "build", "lab")
    os.makedirs(path, mode=0o755, exist_ok=True)
    return path


def write_atomic(path, data, mode=0o644):
    new = "%s.%d.new" % (path, os.getpid())
    with open(new, "wb") as f:
        f.write(data)
    os.chmod(new, mode)
    os.rename(new, path)


def _payloads(image):
    """What the compressed parts of a kernel image unpack to, one after another."""
    kinds = ((b"\xfd7zXZ\x00", lambda b: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(b)),
             (b"\x1f\x8b\x08", lambda b: zlib.decompressobj(31).decompress(b)))
    for magic, unpack in kinds:
        at = image.find(magic)
        while at >= 0:
            try:
                yield unpack(image[at:])
            except (lzma.LZMAError, zlib.error, EOFError):
                pass
            at = image.find(magic, at + 1)


def vmlinux(image):
    """The unpacked kernel, which QEMU boots through its PVH entry: unpacking it under emulation would cost 3 s at each boot."""
    info = os.stat(image)
    out = os.path.join(cache_dir(), "vmlinux-%s-%d-%d" % (os.path.basename(image), info.st_size, info.st_mtime))
    if os.path.exists(out):
        return out
    with open(image, "rb") as f:
        packed = f.read()
    for data in _payloads(packed):
        if data[:4] == b"\x7fELF":
            write_atomic(out, data)
            return out
    return image


def module_files(release, modules):
    """Files to insert for these modules, dependencies first."""
    files = []
    for module in modules:
        shown = subprocess.run(["modprobe", "-S", release, "--show-depends", module], capture_output=True, text=True,
                               env=dict(os.environ, PATH=SBIN), check=False)
        if shown.returncode:
            raise LabError("modprobe --show-depends %s: %s" % (module, shown.stderr.strip()))
        for line in shown.stdout.splitlines():
            words = line.split()
            if words[0] == "insmod" and words[1] not in files:
                files.append(words[1])
    return files


INIT = r"""#!/bin/sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
while read m; do $B insmod /mods/$m || $B echo "lab-init: insmod $m failed"; done < /mods/order
share() { $B mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,$3 $1 $2; }
share host /lower ro,cache=loose || { $B echo "lab-init: cannot mount the host's root"; $B poweroff -f; }
$B mount -t tmpfs -o size=75% tmpfs /rw; $B mkdir /rw/up /rw/wk
$B mount -t overlay -o lowerdir=/lower,upperdir=/rw/up,workdir=/rw/wk,xino=off lab-root /new ||
  { $B echo "lab-init: overlay failed"; $B poweroff -f; }
$B mkdir -p /new/lab /new/proc /new/sys /new/dev /new/run /new/tmp
share lab /new/lab cache=mmap || { $B echo "lab-init: cannot mount the lab's folder"; $B poweroff -f; }
$B mount --move /proc /new/proc; $B mount --move /sys /new/sys; $B mount --move /dev /new/dev
exec $B switch_root /new /bin/busybox sh /lab/agent.sh
"""


def cpio(entries):
    """A newc archive of (name, mode, bytes)."""
    out = bytearray()
    for number, (name, mode, data) in enumerate(entries + [("TRAILER!!!", 0, b"")], 1):
        word = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(word), 0)
        out += b"070701" + b"".join(b"%08X" % v for v in fields) + word
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def initramfs(release):
    """busybox, the modules of 9p and overlayfs and a script; uncompressed, 3.4 MB."""
    files = module_files(release, BOOT_MODULES)
    busybox = find_busybox()
    stamp = INIT + "".join("%s%s" % (f, os.stat(f).st_mtime) for f in files + [busybox])
    out = os.path.join(cache_dir(), "initramfs-%s-%x" % (release, zlib.crc32(stamp.encode())))
    if os.path.exists(out):
        return out
    entries = [(d, stat.S_IFDIR | 0o755, b"") for d in ("bin", "proc", "sys", "dev", "mods", "lower", "rw", "new")]
    with open(busybox, "rb") as f:
        entries.append(("bin/busybox", stat.S_IFREG | 0o755, f.read()))
    entries.append(("bin/sh", stat.S_IFLNK | 0o777, b"busybox"))
    entries.append(("init", stat.S_IFREG | 0o755, INIT.encode()))
    names = []
    for path in files:
        with open(path, "rb") as f:
            data = f.read()
        names.append(re.sub(r"\.xz$", "", os.path.basename(path)))
        entries.append(("mods/" + names[-1], stat.S_IFREG | 0o644, lzma.decompress(data) if path.endswith(".xz") else data))
    entries.append(("mods/order", stat.S_IFREG | 0o644, "".join(n + "\n" for n in names).encode()))
    write_atomic(out, cpio(entries))
    return out
