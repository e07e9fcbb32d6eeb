"""QEMU's command line, and its monitor (QMP)."""
import json
import os
import shlex
import socket
import time

from . import kernel
from .machine import CACHE_MODES

MAIN_BUS = "pcie.0"


class Builder:
    """The command line of one guest. `folder` is the lab's."""

    def __init__(self, machine, guest, folder):
        self.m, self.g, self.d = machine, guest, folder
        self.slots = 0
        self.args = []

    def add(self, *words):
        self.args += words

    def device(self, text):
        self.add("-device", text)

    def base(self):
        own = os.path.join(self.d, "g%d" % self.g)
        image, release = kernel.find_kernel(self.m.kernel)
        self.add(self.m.qemu, "-name", "lab%d" % self.g, "-accel", "tcg,thread=multi", "-cpu", self.m.cpu,
                 "-M", "q35,usb=off,vmport=off,smbus=off", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                 "-kernel", kernel.vmlinux(image), "-initrd", kernel.initramfs(release), "-append", self.kernel_line(),
                 "-chardev", "file,id=con,path=%s/console.log,append=on" % own, "-serial", "chardev:con",
                 "-qmp", "unix:%s/qmp.sock,server=on,wait=off" % own, "-pidfile", own + "/qemu.pid")
        self.device("virtio-rng-pci")
        self.share("host", "/", "readonly=on,multidevs=remap")
        self.share("lab", os.path.join(self.d, "share"))
        for i, path in enumerate(self.m.rw):
            self.share("rw%d" % i, path, "multidevs=remap")

    def share(self, tag, path, more=""):
        self.add("-fsdev", "local,id=fs%s,path=%s,security_model=none%s" % (tag, path, more and "," + more))
        self.device("virtio-9p-pci,fsdev=fs%s,mount_tag=%s" % (tag, tag))

    def kernel_line(self):
        words = ["console=ttyS0 panic=-1 mitigations=off norandmaps init_on_alloc=0 tsc=reliable",
                 "loglevel=%d" % (7 if self.m.verbose_kernel else 5)]
        if any(n.giga for n in self.m.nodes):   # hardly to be had once the kernel runs: memory is fragmented at once
            words.append("hugepagesz=1G hugepages=" + ",".join("%d:%d" % (i, n.giga) for i, n in enumerate(self.m.nodes) if n.giga))
        words += ["lab.guest=%d" % self.g, self.m.append]
        return " ".join(words)

    def numa(self):
        nodes, total = self.m.nodes, self.m.cpus()
        with_cpus = [n.cpus for n in nodes if n.cpus]
        sockets = len(with_cpus) if len(set(with_cpus)) == 1 else total    # a socket may not span nodes
        self.add("-smp", "%d,sockets=%d,cores=%d,threads=1" % (total, sockets, total // sockets),
                 "-m", "%dM" % sum(n.mem for n in nodes))
        if len(nodes) == 1:
            return
        first = 0
        for i, node in enumerate(nodes):
            spec = "node,nodeid=%d" % i
            if node.mem:
                self.add("-object", "memory-backend-ram,id=mem%d,size=%dM" % (i, node.mem))
                spec += ",memdev=mem%d" % i
            if node.cpus:
                spec += ",cpus=%d-%d" % (first, first + node.cpus - 1)
            first += node.cpus
            self.add("-numa", spec)
        known = {(a, b): v for a, b, v in self.m.distances}
        for a in range(len(nodes)):
            for b in range(len(nodes)):
                if a != b:
                    self.add("-numa", "dist,src=%d,dst=%d,val=%d" % (a, b, known.get((a, b), 21)))
        for n in reversed(range(len(nodes))):     # the last one made is scanned first
            self.device("pxb-pcie,id=pxb%d,bus=%s,bus_nr=%d,numa_node=%d" % (n, MAIN_BUS, 32 + 24 * n, n))

    def port(self, node):
        """A hot-pluggable port of its own for a device, below its node's expander bridge."""
        self.slots += 1
        bus = MAIN_BUS if node < 0 or len(self.m.nodes) == 1 else "pxb%d" % node
        # io-reserve: there are few I/O port windows, and no device of ours needs one
        self.device("pcie-root-port,id=port%d,bus=%s,chassis=%d,slot=%d,io-reserve=0" % (self.slots, bus, self.slots, self.slots))
        return "port%d" % self.slots

    def drive(self, i, drive):
        queues = ",max_ioqpairs=%d" % max(8, self.m.cpus() + self.m.poll_queues + 2) if self.m.poll_queues else ""
        self.device("nvme,id=nvme%d,bus=%s,serial=%s,mdts=%d%s" % (i, self.port(drive.node), drive.serial, drive.mdts, queues))
        direct, noflush = CACHE_MODES[drive.cache]
        for k in range(drive.ns):
            base = "d%dn%d" % (i, k + 1)
            path = self.image(i, k, drive)
            self.add("-blockdev", "driver=file,node-name=%s-file,filename=%s,discard=unmap,aio=%s,cache.direct=%s,cache.no-flush=%s"
                     % (base, path, drive.aio if direct == "on" else "threads", direct, noflush),
                     "-blockdev", "driver=raw,node-name=%s-raw,file=%s-file,discard=unmap,cache.direct=%s,cache.no-flush=%s"
                     % (base, base, direct, noflush))
            top = self.write_log(base, drive) if drive.log else base + "-raw"
            self.device("nvme-ns,id=nvme%dn%d,bus=nvme%d,nsid=%d,drive=%s,logical_block_size=%d,physical_block_size=%d,write-cache=%s"
                        % (i, k + 1, i, k + 1, top, drive.lbs, drive.lbs, "off" if drive.cache == "directsync" else "on"))

    def image(self, i, k, drive):
        path = drive.file or os.path.join(self.d, "g%d-nvme%d.img" % (self.g, i))
        if drive.ns > 1:
            path += ".ns%d" % (k + 1)
        if self.m.guests > 1 and drive.file:
            path += ".g%d" % self.g
        if not os.path.exists(path):
            with open(path, "wb") as f:
                f.truncate(drive.size)
        return path

    def write_log(self, base, drive):
        """Every write and flush goes to a log as well, for replay."""
        path = os.path.join(drive.log, base + ".log") if os.path.isdir(drive.log) else drive.log
        again = drive.reuse and os.path.exists(path) and os.path.getsize(path)
        if not again:
            with open(path, "wb"):
                pass
        # log-super-update-interval=1: otherwise entries after the last flush are not counted
        self.add("-blockdev", "driver=file,node-name=%s-logf,filename=%s" % (base, path),
                 "-blockdev", "driver=blklogwrites,node-name=%s-log,file=%s-raw,log=%s-logf,log-sector-size=%d,"
                 "log-super-update-interval=1%s" % (base, base, base, drive.lbs, ",log-append=on" if again else ""))
        return base + "-log"

    def wire_end(self, nic, mine, theirs):
        return "local.type=unix,local.path=%s,remote.type=unix,remote.path=%s" % (
            os.path.join(self.d, "n%d-%dto%d" % (nic, mine, theirs)), os.path.join(self.d, "n%d-%dto%d" % (nic, theirs, mine)))

    def nic(self, i, node):
        """Datagram sockets between guests: no ports, back-pressure, and either end may die and come back."""
        net, guests = "net%d" % i, self.m.guests
        if guests == 1:
            self.add("-netdev", "hubport,id=%s,hubid=%d" % (net, i + 1))
        elif guests == 2 or self.g != 0:
            self.add("-netdev", "dgram,id=%s,%s" % (net, self.wire_end(i, self.g, 1 - self.g if guests == 2 else 0)))
        else:   # guest 0 is the hub of three and more
            for q in range(1, guests):
                self.add("-netdev", "dgram,id=%s-%d,%s" % (net, q, self.wire_end(i, 0, q)),
                         "-netdev", "hubport,id=%s-h%d,hubid=%d,netdev=%s-%d" % (net, q, i + 1, net, q))
            self.add("-netdev", "hubport,id=%s,hubid=%d" % (net, i + 1))
        self.device("virtio-net-pci,id=nic%d,bus=%s,netdev=%s,mac=52:54:00:77:%02x:%02x,host_mtu=%d,speed=10000,duplex=full,romfile="
                    % (i, self.port(node), net, i, self.g + 1, self.m.mtu))

    def build(self):
        self.base()
        self.numa()
        for i, drive in enumerate(self.m.drives):
            self.drive(i, drive)
        for i, node in enumerate(self.m.nic_nodes):
            self.nic(i, node)
        if self.m.fwd:
            ways = ["hostfwd=tcp:127.0.0.1:%s-:%s" % tuple(f.split(":")) for f in self.m.fwd] if self.g == 0 else []
            self.add("-netdev", ",".join(["user,id=mgmt,restrict=on"] + ways))
            self.device("virtio-net-pci,id=mgmt,netdev=mgmt,romfile=")
        return self.args + [w for x in self.m.qemu_arg for w in shlex.split(x)]


def command_line(machine, guest, folder):
    return Builder(machine, guest, folder).build()


class Qmp:
    """A connection to a guest's monitor. RuntimeError: QEMU refuses; EOFError: it is gone."""

    def __init__(self, path, wait=10):
        end = time.monotonic() + wait
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.cmd("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def cmd(self, execute, **arguments):
        self.file.write(json.dumps({"execute": execute, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise EOFError("QEMU closed the monitor")
            reply = json.loads(line)
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise RuntimeError(reply["error"].get("desc", str(reply["error"])))

    def hmp(self, line):
        return self.cmd("human-monitor-command", **{"command-line": line}).replace("\r\n", "\n")
