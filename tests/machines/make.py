#!/usr/bin/python3
"""Writes the machines of the tests, as captures, from the short descriptions below.

    tests/machines/make.py [NAME ...]

A capture holds hwloc's XML (version 2) and the files below /sys and /proc that the daemon reads. Both are made from one description,
so they agree, except where a description makes them disagree on purpose. No machine here is a copy of a real one.
"""
import json
import os
import sys
from xml.sax.saxutils import quoteattr

HERE = os.path.dirname(os.path.abspath(__file__))
GIB = 1 << 30
M2, G1 = "hugepages-2048kB", "hugepages-1048576kB"
NVIDIA, MELLANOX, SAMSUNG, INTEL, AMD, VIRTIO, REDHAT = 0x10DE, 0x15B3, 0x144D, 0x8086, 0x1022, 0x1AF4, 0x1B36
GEN3, GEN4, GEN5 = "8.0 GT/s PCIe", "16.0 GT/s PCIe", "32.0 GT/s PCIe"


def ranges(numbers):
    out, numbers = [], sorted(numbers)
    for n in numbers:
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def parse(text):
    out = []
    for part in filter(None, text.split(",")):
        a, _, b = part.partition("-")
        out += range(int(a), int(b or a) + 1)
    return out


def bitmap(numbers):
    """A set as hwloc writes it: words of 32 bits, the highest first, zero words in the middle left empty."""
    value = sum(1 << n for n in set(numbers))
    words = []
    while value or not words:
        words.append(value & 0xFFFFFFFF)
        value >>= 32
    words.reverse()
    return ",".join("0x%08x" % w if w or len(words) == 1 else "" if i < len(words) - 1 else "0x0" for i, w in enumerate(words))


class Node:
    """huge: directory name -> (pages, free). kind: None, "gpu" (with the GPU's address), "cxl"."""

    def __init__(self, os, cpus="", gib=0, package=0, huge=None, kind=None, gpu=None, free=0.9, near=None):
        self.os, self.cpus, self.gib, self.package, self.kind, self.gpu = os, parse(cpus), gib, package, kind, gpu
        self.huge = {M2: (0, 0), G1: (0, 0)} if huge is None else huge
        self.bytes, self.free, self.near = int(gib * GIB) >> 20 << 20, int(gib * GIB * free) >> 20 << 20, near


class Pci:
    """A function or a bridge. node: what numa_node says, None = no such file."""

    def __init__(self, at, cls, vendor, node=None, model="", net=None, rdma=None, nvme=None, speed=GEN5, width=16, max=None,
                 gib=0, below=(), serial="", physfn=None, via="", hidden=False):
        self.at, self.cls, self.vendor, self.node, self.model = at if at.count(":") == 2 else "0000:" + at, cls, vendor, node, model
        self.net, self.rdma, self.nvme, self.speed, self.width, self.max = net, rdma, nvme, speed, width, max or (speed, width)
        self.gib, self.below, self.serial, self.physfn, self.via, self.hidden = gib, list(below), serial, physfn, via, hidden


def bridge(at, node, *below, **kw):
    return Pci(at, 0x0604, INTEL, node, below=below, **kw)


def gpu(at, node, model="NVIDIA H100 80GB HBM3", **kw):
    return Pci(at, 0x0302, NVIDIA, node, model, **kw)


def rdma(at, node, name, net, model="ConnectX-7", **kw):
    return Pci(at, 0x0207 if net.startswith("ib") else 0x0200, MELLANOX, node, model, net=net, rdma=name, **kw)


def nic(at, node, net, model="Ethernet Controller X710", **kw):
    kw.setdefault("speed", GEN3)
    kw.setdefault("width", 8)
    return Pci(at, 0x0200, kw.pop("vendor", INTEL), node, model, net=net, **kw)


def nvme(at, node, name, gib=3576, model="SAMSUNG MZQL23T8HCLS", **kw):
    kw.setdefault("speed", GEN4)
    kw.setdefault("width", 4)
    return Pci(at, 0x0108, SAMSUNG, node, model, nvme=name, gib=gib, serial=kw.pop("serial", "S6CK" + at.replace(":", "")[-6:]), **kw)


class Root:
    """A host bridge. hw: the node hwloc hangs it under; None = the same as `node`; -1 = the whole machine."""

    def __init__(self, bus, node, *below, hw=None):
        self.bus, self.node, self.below, self.hw = bus if ":" in bus else "0000:" + bus, node, below, node if hw is None else hw


class Machine:
    def __init__(self, name, nodes, roots=(), board=("Example", "Server"), kernel="6.1.0-28-amd64", arch="x86_64", threads=1,
                 l3=0, dist=None, offline="", isolated="", cpus_allowed=None, mems_allowed=None, cgroup="0::/system.slice/lmcache.service",
                 files=None, values=None, mounts=(), caps="0000000000000000", seccomp=0, memlock=8388608, tiers=None, soft_rdma=None,
                 hide_gpu_nodes=False, sysfs=True):
        self.__dict__.update(locals())
        self.online = [c for n in nodes for c in n.cpus]
        self.gp = 0


# ---- hwloc's XML ----------------------------------------------------------------------------------------------------
class Xml:
    def __init__(self, m):
        self.m, self.out, self.gp = m, [], 0
        self.shown = [n for n in m.nodes if not (m.hide_gpu_nodes and n.kind == "gpu")]
        self.all_nodes = [n.os for n in self.shown]

    def open(self, tag, close=False, **attrs):
        self.gp += 1
        text = "".join(f" {k}={quoteattr(str(v))}" for k, v in attrs.items() if v is not None)
        self.out.append(f'<object type="{tag}"{text} gp_index="{self.gp}"{"/" if close else ""}>')

    def info(self, name, value):
        if value:
            self.out.append(f"<info name={quoteattr(name)} value={quoteattr(str(value))}/>")

    def end(self):
        self.out.append("</object>")

    def sets(self, cpus, nodes):
        c, n = bitmap(cpus), bitmap(nodes)
        return dict(cpuset=c, complete_cpuset=c, nodeset=n, complete_nodeset=n)

    def numa(self, node, cpus):
        self.open("NUMANode", os_index=node.os, local_memory=node.bytes, subtype="GPUMemory" if node.kind == "gpu" else None,
                  **self.sets(cpus, [node.os]))
        if node.kind == "gpu":
            self.info("PCIBusID", node.gpu)
        if node.kind == "cxl":
            self.info("DAXDevice", f"dax{node.os}.0")
        self.end()

    def cores(self, cpus, nodes):
        """Hyper-threads are half of a node's CPUs apart, as servers number them."""
        t = self.m.threads
        n = len(cpus) // t
        share = self.m.l3 or n
        for at in range(0, n, share):
            group = range(at, min(at + share, n))
            self.open("L3Cache", cache_size=33554432, depth=3, cache_linesize=64, cache_associativity=16, cache_type=0,
                      **self.sets([cpus[i + k * n] for i in group for k in range(t)], nodes))
            for i in group:
                pus = [cpus[i + k * n] for k in range(t)]
                self.open("Core", os_index=pus[0], **self.sets(pus, nodes))
                for p in pus:
                    self.open("PU", close=True, os_index=p, **self.sets([p], nodes))
                self.end()
            self.end()

    def device(self, d):
        if d.hidden:
            return
        if d.cls == 0x0604:
            sub = d.below[0].at if d.below else d.at
            domain, bus = sub.split(":")[:2]
            last = max([bus] + [b.at.split(":")[1] for b in walk(d.below)])
            self.open("Bridge", bridge_type="1-1", depth=1, bridge_pci=f"{domain}:[{bus}-{last}]", pci_busid=d.at,
                      pci_type="%04x [%04x:0000] [0000:0000] 00" % (d.cls, d.vendor), pci_link_speed="0.000000")
            for b in d.below:
                self.device(b)
            self.end()
            return
        gbs = 0 if d.speed == "Unknown" else float(d.speed.split()[0]) * d.width * 128 / 130 / 8
        self.open("PCIDev", pci_busid=d.at, pci_type="%04x [%04x:0000] [0000:0000] 00" % (d.cls, d.vendor), pci_link_speed="%f" % gbs)
        self.info("PCIDevice", d.model)
        if d.nvme:
            self.open("OSDev", name=d.nvme, osdev_type=0)
            self.info("Size", int(d.gib * GIB) >> 10)
            self.info("Model", d.model)
            self.info("SerialNumber", d.serial)
            self.end()
        if d.net:
            self.open("OSDev", close=True, name=d.net, osdev_type=2)
        if d.rdma:
            self.open("OSDev", close=True, name=d.rdma, osdev_type=3)
        self.end()

    def root(self, r):
        domain, bus = r.bus.split(":")
        last = max([bus] + [d.at.split(":")[1] for d in walk(r.below)])
        self.open("Bridge", bridge_type="0-1", depth=0, bridge_pci=f"{domain}:[{bus}-{last}]")
        for d in r.below:
            self.device(d)
        self.end()

    def roots(self, node):
        for r in self.m.roots:
            if r.hw == node:
                self.root(r)

    def package(self, index, members):
        with_cpus = [n for n in members if n.cpus]
        cpus, ids = [c for n in members for c in n.cpus], [n.os for n in members]
        self.open("Package", os_index=index, **self.sets(cpus, ids))
        if len(with_cpus) == 1:
            for n in members:
                self.numa(n, cpus)
            self.cores(with_cpus[0].cpus, ids)
            self.roots(with_cpus[0].os)
        else:
            for n in with_cpus:
                own = [n] + [k for k in members if not k.cpus and k.near == n.os]
                self.open("Group", kind=0, subkind=0, **self.sets(n.cpus, [k.os for k in own]))
                for k in own:
                    self.numa(k, n.cpus)
                self.cores(n.cpus, [k.os for k in own])
                self.roots(n.os)
                self.end()
        self.end()

    def whole(self):
        m = self.m
        cpus = m.online
        complete = cpus + parse(m.offline)
        allowed = parse(m.cpus_allowed) if m.cpus_allowed else cpus
        mems = parse(m.mems_allowed) if m.mems_allowed else self.all_nodes
        self.out.append('<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n<topology version="2.0">')
        self.open("Machine", os_index=0, cpuset=bitmap(cpus), complete_cpuset=bitmap(complete), allowed_cpuset=bitmap(allowed),
                  nodeset=bitmap(self.all_nodes), complete_nodeset=bitmap(self.all_nodes), allowed_nodeset=bitmap(mems))
        for k, v in (("DMISysVendor", m.board[0]), ("DMIProductName", m.board[1]), ("Backend", "Linux"), ("OSName", "Linux"),
                     ("OSRelease", m.kernel), ("HostName", m.name), ("Architecture", m.arch)):
            self.info(k, v)
        for p in sorted({n.package for n in self.shown if n.cpus}):
            self.package(p, [n for n in self.shown if n.package == p])
        self.roots(-1)
        self.end()
        if m.dist and len(self.shown) > 1:
            n = len(self.shown)
            self.out.append(f'<distances2 type="NUMANode" nbobjs="{n}" kind="5" name="NUMALatency" indexing="os">')
            self.out.append(f'<indexes length="{sum(len(str(i)) + 1 for i in self.all_nodes)}">{" ".join(map(str, self.all_nodes))} </indexes>')
            index = {k.os: i for i, k in enumerate(m.nodes)}
            for a in self.all_nodes:
                row = " ".join(str(m.dist[index[a]][index[b]]) for b in self.all_nodes) + " "
                self.out.append(f'<u64values length="{len(row)}">{row}</u64values>')
            self.out.append("</distances2>")
        self.out.append("</topology>\n")
        return "\n".join(self.out)


# ---- the files ------------------------------------------------------------------------------------------------------
def walk(devices):
    for d in devices:
        yield d
        yield from walk(d.below)


class Files:
    def __init__(self, m):
        self.m, self.files, self.dirs, self.links = m, {}, {}, {}

    def dir(self, path, *names):
        self.dirs.setdefault(path, []).extend(names)

    def node(self, n):
        base = f"/sys/devices/system/node/node{n.os}"
        self.files[base + "/meminfo"] = f"Node {n.os} MemTotal: {n.bytes >> 10} kB\nNode {n.os} MemFree: {n.free >> 10} kB"
        self.files[base + "/cpulist"] = ranges(n.cpus)
        if self.m.dist:
            i = self.m.nodes.index(n)
            self.files[base + "/distance"] = " ".join(map(str, self.m.dist[i]))
        for size, (total, free) in n.huge.items():
            self.dir(base + "/hugepages", size)
            for name, v in (("nr", total), ("free", free), ("surplus", 0)):
                self.files[f"{base}/hugepages/{size}/{name}_hugepages"] = str(v)
        if n.kind == "gpu":
            self.files[f"/proc/driver/nvidia/gpus/{n.gpu}/numa_status"] = f"Node:         {n.os}\nStatus:       online"

    def pci(self, d, above):
        base, path = "/sys/bus/pci/devices/" + d.at, above + "/" + d.at
        self.dir("/sys/bus/pci/devices", d.at)
        self.links[base] = "../../../devices" + path
        self.files[base + "/class"] = "0x%04x00" % d.cls
        self.files[base + "/vendor"] = "0x%04x" % d.vendor
        if d.node is not None:
            self.files[base + "/numa_node"] = str(d.node)
        for b in d.below:
            self.pci(b, path)
        if d.cls == 0x0604:
            return
        for which, (speed, width) in (("current", (d.speed, d.width)), ("max", d.max)):
            self.files[f"{base}/{which}_link_speed"], self.files[f"{base}/{which}_link_width"] = speed, str(width)
        if d.physfn:
            self.links[base + "/physfn"] = "../" + d.physfn
        if d.vendor == NVIDIA and d.cls == 0x0302:
            self.dir("/proc/driver/nvidia/gpus", d.at)
            self.files[f"/proc/driver/nvidia/gpus/{d.at}/information"] = f"Model: \t\t {d.model}\nBus Location: \t {d.at}"
        via = "/" + d.via if d.via else ""
        for cls, name in (("net", d.net), ("infiniband", d.rdma)):
            if name:
                self.dir("/sys/class/" + cls, name)
                self.links[f"/sys/class/{cls}/{name}"] = f"../../devices{path}{via}/{cls}/{name}"
        if d.nvme:
            ctrl = d.nvme[:d.nvme.index("n", 4)]
            self.dir("/sys/class/nvme", ctrl)
            self.links["/sys/class/nvme/" + ctrl] = f"../../devices{path}/nvme/{ctrl}"
            self.dir("/sys/class/nvme/" + ctrl, "model", "serial", d.nvme)
            self.files[f"/sys/class/nvme/{ctrl}/model"], self.files[f"/sys/class/nvme/{ctrl}/serial"] = d.model, d.serial
            self.files[f"/sys/class/block/{d.nvme}/size"] = str(int(d.gib * GIB) >> 9)

    def process(self):
        m, f = self.m, self.files
        lists = f"Cpus_allowed_list:\t{m.cpus_allowed or ranges(m.online)}\nMems_allowed_list:\t{m.mems_allowed or ranges(n.os for n in m.nodes)}"
        f["/proc/self/status"] = f"Name:\tlmcache-applian\nCapEff:\t{m.caps}\nSeccomp:\t{m.seccomp}\n{lists}"
        f["/proc/self/limits"] = ("Limit                     Soft Limit           Hard Limit           Units\n"
                                  "Max locked memory         %-20s %-20s bytes" % (m.memlock, m.memlock))
        f["/proc/self/cgroup"] = m.cgroup
        mounts = m.mounts or ("30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate",)
        f["/proc/self/mountinfo"] = "\n".join(("25 1 0:23 / /dev/shm rw,nosuid,nodev - tmpfs tmpfs rw",
                                               "33 1 0:29 / /dev/hugepages rw,relatime - hugetlbfs hugetlbfs rw,pagesize=2M") + tuple(mounts))
        f["/proc/sys/kernel/numa_balancing"] = "1" if len(m.nodes) > 1 else "0"
        f["/sys/kernel/mm/transparent_hugepage/enabled"] = "always [madvise] never"
        f["/sys/kernel/mm/transparent_hugepage/shmem_enabled"] = "always within_size advise [never] deny force"

    def whole(self):
        m, f = self.m, self.files
        f["/proc/sys/kernel/hostname"], f["/proc/sys/kernel/osrelease"] = m.name, m.kernel
        f["/sys/class/dmi/id/sys_vendor"], f["/sys/class/dmi/id/product_name"] = m.board
        f["/sys/devices/system/node/online"] = ranges(n.os for n in m.nodes)
        f["/sys/devices/system/node/has_memory"] = ranges(n.os for n in m.nodes if n.bytes)
        f["/sys/devices/system/cpu/online"] = ranges(m.online)
        f["/sys/devices/system/cpu/present"] = ranges(m.online + parse(m.offline))
        f["/sys/devices/system/cpu/isolated"] = m.isolated
        for n in m.nodes:
            self.node(n)
        for r in m.roots:
            for d in r.below:
                self.pci(d, "/pci" + r.bus)
        for name, netdev in (m.soft_rdma or {}).items():
            self.dir("/sys/class/infiniband", name)
            self.links["/sys/class/infiniband/" + name] = "../../devices/virtual/infiniband/" + name
            self.files[f"/sys/class/infiniband/{name}/parent"] = netdev
        for tier, nodes in (m.tiers or {}).items():
            self.dir("/sys/devices/virtual/memory_tiering", f"memory_tier{tier}")
            self.files[f"/sys/devices/virtual/memory_tiering/memory_tier{tier}/nodelist"] = nodes
        self.process()
        f.update(m.files or {})
        for names in self.dirs.values():
            names.sort()


PROBES = ("mbind", "set_mempolicy", "move_pages", "sched_setaffinity", "io_uring")


def capture(m):
    """What ends in .xml is hwloc's XML alone, as lstopo saves it."""
    xml = Xml(m).whole()
    if not m.sysfs:
        return m.name + ".xml", xml
    files = Files(m)
    files.whole()
    total = sum(n.bytes for n in m.nodes if n.kind != "gpu") // 2
    values = {"shm_total": str(total), "shm_free": str(total), **{"probe:" + p: "ok" for p in PROBES}, **(m.values or {})}
    out = {"lmcache-appliance capture": 1, "values": values, "files": files.files, "dirs": files.dirs, "links": files.links, "hwloc": xml}
    return m.name + ".json", json.dumps(out, indent=0) + "\n"


# ---- the machines ---------------------------------------------------------------------------------------------------
def square(n, near=10, far=21):
    return [[near if i == k else far for k in range(n)] for i in range(n)]


def switched(bus, node, *below):
    """A root port, and a PCIe switch with these behind it: bus, bus+1 (upstream), bus+2 (downstream ports), devices from +3."""
    b = int(bus, 16)
    ports = [bridge("%02x:%02x.0" % (b + 2, i), node, d) for i, d in enumerate(below)]
    return Root(bus, node, bridge("%02x:01.0" % b, node, bridge("%02x:00.0" % (b + 1), node, *ports)))


def gpu8():
    roots, g = [], 0
    for i in range(4):
        node, b = i // 2, 0x10 + 0x20 * i
        below = []
        for k in range(2):
            bus = b + 3 + k * 3
            below += [gpu("%02x:00.0" % bus, node), rdma("%02x:00.0" % (bus + 1), node, f"mlx5_{g}", f"ib{g}"),
                      nvme("%02x:00.0" % (bus + 2), node, f"nvme{g}n1")]
            g += 1
        roots.append(switched("%02x" % b, node, *below))
    roots.insert(0, Root("00", 0, Pci("00:02.0", 0x0300, 0x1A03, 0, "ASPEED Graphics Family", speed="2.5 GT/s PCIe", width=1),
                         bridge("00:1c.0", 0, nic("01:00.0", 0, "eno1", width=8), nic("01:00.1", 0, "eno2", width=8))))
    huge = {M2: (51200, 51200), G1: (384, 380)}
    return Machine("gpu8", [Node(0, "0-31,64-95", 1007.5, 0, huge), Node(1, "32-63,96-127", 1007.9, 1, huge)], roots, threads=2,
                   dist=square(2), board=("Example", "8-GPU server"), memlock="unlimited", caps="0000000000804000")


def plain():
    roots = [Root("00", -1, bridge("00:01.0", -1, nvme("01:00.0", -1, "nvme0n1", 931, "WD_BLACK SN770 1TB")),
                  nic("00:1f.6", -1, "enp0s31f6", "Ethernet Connection I219-LM", speed="2.5 GT/s PCIe", width=1))]
    return Machine("plain", [Node(0, "0-15", 62.6, 0)], roots, threads=2, dist=[[10]], board=("Example", "Desktop"))


def epyc8():
    """Two packages of four nodes; network cards on the odd nodes only."""
    nodes = [Node(i, f"{i * 8}-{i * 8 + 7},{64 + i * 8}-{71 + i * 8}", 125.6, i // 4) for i in range(8)]
    dist = [[10 if a == b else 12 if a // 4 == b // 4 else 32 for b in range(8)] for a in range(8)]
    roots = []
    for i in range(8):
        b = 0x10 * (i + 1)
        below = []
        if i % 2:
            below.append(bridge("%02x:01.1" % b, i, rdma("%02x:00.0" % (b + 1), i, f"mlx5_{i // 2}", f"ens{i}np0", "ConnectX-6 Dx",
                                                         speed=GEN4), Pci("%02x:01.2" % b, 0x0604, AMD, i)))
        else:
            below.append(bridge("%02x:01.1" % b, i, nvme("%02x:00.0" % (b + 1), i, f"nvme{i // 2}n1")))
        roots.append(Root("%02x" % b, i, *below))
    return Machine("epyc8", nodes, roots, threads=2, l3=4, dist=dist, board=("Example", "EPYC NPS4"))


def gh200():
    """Nine nodes: node 0 has all CPUs, node 1 is the GPU's memory, the rest are kept for its partitions and empty. hwloc hides
    what belongs to the GPU."""
    far = lambda a, b: 10 if a == b else 40 if 0 in (a, b) else 255
    nodes = [Node(0, "0-71", 480, 0), Node(1, "", 95.6, 0, kind="gpu", gpu="0009:01:00.0", near=0, huge={})]
    nodes += [Node(i, "", 0, 0, kind="gpu", gpu="0009:01:00.0", near=0, huge={}) for i in range(2, 9)]
    roots = [Root("0009:00", 0, bridge("0009:00:00.0", 0, gpu("0009:01:00.0", 0, "NVIDIA GH200 480GB"))),
             Root("0002:00", 0, bridge("0002:00:00.0", 0, rdma("0002:01:00.0", 0, "mlx5_0", "enP2s2np0", "BlueField-3"))),
             Root("0004:00", 0, bridge("0004:00:00.0", 0, nvme("0004:01:00.0", 0, "nvme0n1")))]
    m = Machine("gh200", nodes, roots, dist=[[far(a, b) for b in range(9)] for a in range(9)], arch="aarch64",
                kernel="6.8.0-1014-nvidia-64k", board=("Example", "Grace Hopper"), hide_gpu_nodes=True)
    m.nodes[0].huge = {"hugepages-524288kB": (64, 64), "hugepages-16777216kB": (0, 0), M2: (0, 0)}
    # One file tells one node only.
    m.files = {"/proc/driver/nvidia/gpus/0009:01:00.0/numa_status": "Node:         1\nStatus:       online"}
    return m


def vm():
    """A guest with two nodes whose devices say nothing: -1 everywhere."""
    roots = [Root("00", -1, gpu("00:05.0", -1, "NVIDIA A10", speed="Unknown", width=0), nic("00:03.0", -1, "eth0", "Virtio network device", vendor=VIRTIO,
                  speed="Unknown", width=0, via="virtio2"), nvme("00:04.0", -1, "nvme0n1", 100, "Amazon Elastic Block Store", speed="Unknown", width=0))]
    return Machine("vm", [Node(0, "0-7", 31.3, 0), Node(1, "8-15", 31.4, 1)], roots, threads=2, dist=square(2), board=("QEMU", "Standard PC (Q35)"))


def lab():
    """As our own guest: the third node has no CPUs, devices sit behind expander bridges, one stays on the main bus, and a
    software RDMA device runs on a network card."""
    nodes = [Node(0, "0-1", 1, 0, {M2: (64, 64), G1: (0, 0)}), Node(1, "2-3", 1, 1, {M2: (8, 8), G1: (2, 2)}),
             Node(2, "", 0.5, 1, {M2: (0, 0)}, near=1)]
    roots = [Root("00", -1, nic("00:02.0", -1, "eth2", "Virtio network device", vendor=VIRTIO, via="virtio0")),
             Root("20", 0, bridge("20:00.0", 0, nvme("21:00.0", 0, "nvme1n1", 0.25, "QEMU NVMe Ctrl", serial="LAB0000"))),
             Root("38", 1, bridge("38:00.0", 1, nvme("39:00.0", 1, "nvme0n1", 0.25, "QEMU NVMe Ctrl", serial="LAB0001")),
                  bridge("38:01.0", 1, nic("3a:00.0", 1, "eth1", "Virtio network device", vendor=VIRTIO, via="virtio3")))]
    return Machine("lab", nodes, roots, dist=[[10, 21, 30], [21, 10, 17], [30, 17, 10]], board=("QEMU", "Standard PC (Q35)"),
                   soft_rdma={"rxe0": "eth1", "rxe1": "lo"})


def cxl():
    """A third node of CXL memory, near to package 1. hwloc counts it among the local nodes of that package's devices."""
    nodes = [Node(0, "0-15", 255.5, 0), Node(1, "16-31", 255.9, 1), Node(2, "", 512, 1, kind="cxl", near=1)]
    roots = [switched("10", 0, gpu("13:00.0", 0, "NVIDIA L40S", speed=GEN4), rdma("14:00.0", 0, "mlx5_0", "ens1np0")),
             Root("80", None, bridge("80:01.0", None, gpu("81:00.0", None, "NVIDIA L40S", speed=GEN4)), bridge("80:03.0", None, nvme("82:00.0", None, "nvme0n1")), hw=1)]
    return Machine("cxl", nodes, roots, dist=[[10, 21, 24], [21, 10, 14], [24, 14, 10]], tiers={4: "0-1", 22: "2"}, board=("Example", "CXL server"),
                   files={"/sys/devices/system/node/node2/access0/initiators/read_bandwidth": "48000"})


def cpuset():
    """A container: CPUs and memory of node 1 only, a huge-page limit, no CAP_SYS_NICE, seccomp, little locked memory."""
    group = "/sys/fs/cgroup/kubepods.slice/pod7.slice"
    huge = {M2: (4096, 4096), G1: (4, 4)}
    m = gpu8()
    m.__init__("cpuset", [Node(0, "0-15,32-47", 251.5, 0, huge), Node(1, "16-31,48-63", 251.9, 1, huge)],
               [switched("10", 0, gpu("13:00.0", 0), nvme("14:00.0", 0, "nvme0n1")), switched("50", 1, gpu("53:00.0", 1), nvme("54:00.0", 1, "nvme1n1"))],
               threads=2, dist=square(2), cpus_allowed="16-19,48-51", mems_allowed="1", seccomp=2, memlock=65536, caps="00000000a80425fb",
               cgroup="0::/kubepods.slice/pod7.slice/app.scope", values={p: "denied" for p in ("probe:mbind", "probe:set_mempolicy", "probe:move_pages", "probe:io_uring")},
               files={group + "/app.scope/hugetlb.2MB.max": "max", group + "/app.scope/hugetlb.2MB.current": "0",
                      group + "/hugetlb.2MB.max": str(1 << 30), group + "/hugetlb.2MB.current": str(256 << 20),
                      "/sys/fs/cgroup/kubepods.slice/hugetlb.2MB.max": str(64 << 30), "/sys/fs/cgroup/kubepods.slice/hugetlb.2MB.current": str(2 << 30),
                      group + "/hugetlb.1GB.max": "0", group + "/hugetlb.1GB.current": "0",
                      group + "/hugetlb.2MB.rsvd.max": str(2 << 30), group + "/hugetlb.2MB.rsvd.current": str(300 << 20),
                      group + "/app.scope/memory.max": str(16 << 30), group + "/app.scope/memory.current": str(1 << 30),
                      group + "/memory.max": str(128 << 30), group + "/memory.current": str(120 << 30)})
    return m


def cgroup1():
    """Version 1 of cgroups, as a container sees it: only its own part is mounted."""
    mem, huge = "/sys/fs/cgroup/memory", "/sys/fs/cgroup/hugetlb"
    none = "9223372036854771712"
    return Machine("cgroup1", [Node(0, "0-7", 62.6, 0, {M2: (1024, 1000)})], [], dist=[[10]], kernel="4.18.0-553.el8.x86_64",
                   cgroup="11:hugetlb:/docker/c0ffee\n7:memory:/docker/c0ffee\n3:cpuset:/docker/c0ffee\n1:name=systemd:/docker/c0ffee",
                   mounts=(f"40 30 0:35 /docker/c0ffee {mem} ro,nosuid - cgroup cgroup rw,memory",
                           f"41 30 0:36 /docker/c0ffee {huge} ro,nosuid - cgroup cgroup rw,hugetlb",
                           "42 30 0:37 / /mnt/huge\\040pages rw - hugetlbfs none rw,pagesize=1024M"),
                   values={"probe:io_uring": "missing"},
                   files={mem + "/memory.limit_in_bytes": str(8 << 30), mem + "/memory.usage_in_bytes": str(1 << 30),
                          huge + "/hugetlb.2MB.limit_in_bytes": str(512 << 20), huge + "/hugetlb.2MB.usage_in_bytes": str(48 << 20),
                          huge + "/hugetlb.2MB.rsvd.limit_in_bytes": none})


def big():
    """What plans are timed on: 8 nodes, 512 CPUs, 16 GPUs, 16 network cards, 16 drives."""
    nodes = [Node(i, f"{i * 32}-{i * 32 + 31},{256 + i * 32}-{287 + i * 32}", 377.4, i // 4, {M2: (0, 0), G1: (256, 256)}) for i in range(8)]
    roots = []
    for i in range(8):
        below = []
        for k in range(2):
            g, b = 2 * i + k, 0x10 * (2 * i + k)
            below.append(switched("%02x" % b, i, gpu("%02x:00.0" % (b + 3), i, "NVIDIA B200"), rdma("%02x:00.0" % (b + 4), i, f"mlx5_{g}", f"ib{g}"),
                                  nvme("%02x:00.0" % (b + 5), i, f"nvme{g}n1", speed=GEN5)))
        roots += below
    return Machine("big", nodes, roots, threads=2, l3=8, dist=[[10 if a == b else 12 if a // 4 == b // 4 else 32 for b in range(8)] for a in range(8)],
                   memlock="unlimited", board=("Example", "16-GPU server"))


def asym():
    roots = [switched("10", 0, gpu("13:00.0", 0, "NVIDIA A100-PCIE-40GB", speed=GEN4)), switched("50", 1, rdma("53:00.0", 1, "mlx5_0", "ib0", "ConnectX-6", speed=GEN4, width=8, max=(GEN4, 16)))]
    return Machine("asym", [Node(0, "0-7", 31.2, 0, {M2: (2048, 2048), G1: (1, 0)}), Node(1, "8-23", 251.9, 1, {M2: (512, 512), G1: (30, 30)})],
                   roots, dist=[[10, 20], [20, 10]])


def holes():
    """Numbers with holes, as on POWER9: two nodes with CPUs, and each GPU's memory a node of its own."""
    nodes = [Node(0, "0-31", 255.1, 0, {M2: (0, 0), G1: (0, 0)}), Node(8, "32-63", 255.6, 1, {M2: (0, 0), G1: (0, 0)})]
    at = {252: "0035:03:00.0", 253: "0035:04:00.0", 254: "0004:04:00.0", 255: "0004:05:00.0"}
    nodes += [Node(n, "", 15.7, 1 if n > 253 else 0, {}, kind="gpu", gpu=at[n], near=0 if n < 254 else 8) for n in (252, 253, 254, 255)]
    def roots(domain, node, *below):
        return Root(domain + ":00", node, bridge(domain + ":00:00.0", node, *below))
    v100 = "Tesla V100-SXM2-16GB"
    r = [roots("0004", 0, gpu(at[254], 0, v100, speed=GEN3), gpu(at[255], 0, v100, speed=GEN3)),
         roots("0035", 8, gpu(at[252], 8, v100, speed=GEN3), gpu(at[253], 8, v100, speed=GEN3)),
         roots("0033", 8, rdma("0033:01:00.0", 8, "mlx5_0", "ib0", "ConnectX-5", speed=GEN4, width=8))]
    dist = [[10 if a == b else 40 if a < 2 and b < 2 else 80 for b in range(6)] for a in range(6)]
    return Machine("holes", nodes, r, threads=4, dist=dist, arch="ppc64le", kernel="4.18.0-193.el8.ppc64le", board=("Example", "POWER9"))


def dgx2():
    roots, g = [], 0
    for i in range(4):
        node, b = i // 2, 0x20 + 0x30 * i
        below = []
        for k in range(4):
            bus = b + 3 + 2 * k
            below.append(gpu("%02x:00.0" % bus, node, "Tesla V100-SXM3-32GB", speed=GEN3))
            if k % 2 == 0:
                n = 2 * i + k // 2
                below.append(rdma("%02x:00.0" % (bus + 1), node, f"mlx5_{n}", f"ib{n}", "ConnectX-5", speed=GEN3))
            else:
                n = 2 * i + k // 2
                below.append(nvme("%02x:00.0" % (bus + 1), node, f"nvme{n}n1", speed=GEN3))
        roots.append(switched("%02x" % b, node, *below))
    return Machine("dgx2", [Node(0, "0-23,48-71", 755.4, 0), Node(1, "24-47,72-95", 755.8, 1)], roots, threads=2, dist=square(2),
                   board=("Example", "16-GPU server"), kernel="5.15.0-1067-nvidia")


def offline():
    """CPUs 4-7 are switched off, 2-3 kept from the scheduler; node 1 lost all of its CPUs."""
    nodes = [Node(0, "0-3", 15.6, 0), Node(1, "", 15.7, 0, near=0), Node(2, "8-11", 15.7, 1)]
    roots = [Root("00", 1, bridge("00:01.0", 1, nvme("01:00.0", 1, "nvme0n1", 931)), hw=-1), Root("80", 2, bridge("80:01.0", 2, nic("81:00.0", 2, "eth0")))]
    return Machine("offline", nodes, roots, dist=[[10, 12, 21], [12, 10, 21], [21, 21, 10]], offline="4-7,12-15", isolated="2-3")


def many():
    """More nodes than bits in a word, and their numbers far apart."""
    nodes = [Node(3 * i, f"{2 * i}-{2 * i + 1}", 4, i // 2, {M2: (i, i)}) for i in range(72)]
    dist = [[10 if a == b else 12 if a // 2 == b // 2 else 32 for b in range(72)] for a in range(72)]
    roots = [Root("%04x:00" % i, 3 * i, bridge("%04x:00:00.0" % i, 3 * i, nvme("%04x:01:00.0" % i, 3 * i, f"nvme{i}n1"))) for i in (0, 30, 65, 71)]
    return Machine("many", nodes, roots, dist=dist, board=("Example", "72 nodes"))


def disputed():
    """Sources that do not agree: sysfs against hwloc; sysfs without an answer where hwloc or a bridge has one; the operator's
    word; a node that does not exist; slices of a card; a drive behind a volume manager; two paths to one drive."""
    roots = [Root("10", 0, bridge("10:01.0", 0, gpu("11:00.0", 0)), hw=1),
             Root("20", -1, bridge("20:01.0", -1, gpu("21:00.0", -1)), hw=1),
             Root("30", 1, bridge("30:01.0", 1, gpu("31:00.0", -1))),
             Root("40", -1, bridge("40:01.0", 1, gpu("41:00.0", -1)), hw=-1),
             Root("50", 0, bridge("50:01.0", 0, gpu("51:00.0", 0))),
             Root("60", 7, bridge("60:01.0", 7, nvme("61:00.0", 7, "nvme4n1")), hw=-1),
             Root("70", 1, bridge("70:01.0", 1, rdma("71:00.0", 1, "mlx5_0", "ens7np0"),
                                  rdma("71:00.1", 1, "mlx5_1", "ens7v0", physfn="0000:71:00.0", hidden=True))),
             Root("80", 1, hw=1), Root("10000:00", 1, bridge("10000:00:02.0", 1, nvme("10000:01:00.0", 1, "nvme0n1"), hidden=True)),
             Root("90", 0, bridge("90:01.0", 0, nic("91:00.0", None, "eth0", "", hidden=True, speed="2.5 GT/s PCIe", width=1)))]
    return Machine("disputed", [Node(0, "0-3", 31.3, 0), Node(1, "4-7", 31.4, 1)], roots, dist=square(2),
                   values={"env:HWLOC_PCI_LOCALITY": "0000:50-51 0xf0;0000:99 0x1"})


def lstopo():
    """What lstopo saves: no files, so free pages, huge pages, limits and the bridges' words are unknown."""
    m = cxl()
    m.name, m.sysfs = "lstopo", False
    return m


MACHINES = (gpu8, plain, big, epyc8, gh200, vm, lab, cxl, cpuset, cgroup1, asym, holes, dgx2, offline, many, disputed, lstopo)


def main(names):
    for make in MACHINES:
        m = make()
        if names and m.name not in names:
            continue
        name, text = capture(m)
        with open(os.path.join(HERE, name), "w") as f:
            f.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
