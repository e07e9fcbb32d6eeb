"""What a guest is made of, and the options that say so."""
import argparse
import dataclasses
import json
import os
import re


class Bad(Exception):
    """Options that make no machine."""


@dataclasses.dataclass
class Node:
    """A NUMA node; memory in MiB, huge pages as counts. Without CPUs it is memory only."""
    cpus: int = 1
    mem: int = 768
    huge: int = 0
    giga: int = 0


@dataclasses.dataclass
class Drive:
    """An NVMe controller with its namespaces. `node` -1: on the main bus, of no node."""
    size: int = 1 << 30
    file: str = ""
    serial: str = ""
    node: int = 0
    ns: int = 1
    lbs: int = 512
    cache: str = "none"
    log: str = ""
    mdts: int = 7
    aio: str = "threads"
    reuse: bool = False


CACHE_MODES = {"none": ("on", "off"), "writeback": ("off", "off"), "directsync": ("on", "off"), "unsafe": ("off", "on")}


@dataclasses.dataclass
class Machine:
    """Every guest of a lab; all are alike. Saved in the lab's folder, so that later commands know it."""
    nodes: list
    distances: list  # [from, to, value]; the rest is 21
    drives: list
    nic_nodes: list  # one per NIC, -1: on the main bus
    rdma: int = 0
    guests: int = 1
    poll_queues: int = 1
    mtu: int = 9000
    fwd: list = dataclasses.field(default_factory=list)
    rw: list = dataclasses.field(default_factory=list)
    module: list = dataclasses.field(default_factory=list)
    modparam: list = dataclasses.field(default_factory=list)
    setup: list = dataclasses.field(default_factory=list)
    boot_timeout: float = 180
    kernel: str = ""
    append: str = ""
    cpu: str = "max,-la57"
    qemu: str = "qemu-system-x86_64"
    qemu_arg: list = dataclasses.field(default_factory=list)
    aslr: bool = False
    verbose_kernel: bool = False

    def cpus(self):
        return sum(n.cpus for n in self.nodes)

    def save(self, path):
        with open(path, "w", encoding="utf-8") as f:
            json.dump(dataclasses.asdict(self), f, indent=1)

    @classmethod
    def load(cls, path):
        with open(path, encoding="utf-8") as f:
            fields = json.load(f)
        fields["nodes"] = [Node(**n) for n in fields["nodes"]]
        fields["drives"] = [Drive(**d) for d in fields["drives"]]
        return cls(**fields)


def guest_ip(guest, nic=0):
    return "10.77.%d.%d" % (nic, guest + 1)


def parse_size(text):
    found = re.fullmatch(r"(\d+)([KMGT]?)i?B?", text, re.I)
    if not found:
        raise Bad("bad size " + text)
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[found[2].upper()]


def _number(option, key, text):
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise Bad("%s: %s=%s is not a number" % (option, key, text))
    return value


def _pairs(option, spec, keys, first=None):
    """{key: text} of "key=value,..."; a word without '=' is the value of `first`."""
    out = {}
    for word in spec.split(","):
        key, sign, text = word.partition("=")
        if not sign and first:
            key, text = first, word
        if key not in keys or not text:
            raise Bad("%s: %s is not one of %s" % (option, word, ", ".join(k + "=" for k in keys)))
        out[key] = text
    return out


def parse_node(spec):
    return Node(**{k: _number("--node", k, v) for k, v in _pairs("--node", spec, ("cpus", "mem", "huge", "giga")).items()})


def parse_place(option, text, nodes):
    """A node's number, or -1 for "none": the main bus."""
    if text == "none":
        return -1
    node = _number(option, "node", text)
    if node >= nodes:
        raise Bad("%s: there is no node %d" % (option, node))
    return node


def parse_drive(spec, index, nodes):
    given = _pairs("--nvme", spec, [f.name for f in dataclasses.fields(Drive)], "size")
    drive = Drive(serial="LAB%04d" % index, node=index % nodes)
    for key, text in given.items():
        if key == "size":
            drive.size = parse_size(text)
        elif key == "node":
            drive.node = parse_place("--nvme", text, nodes)
        elif key in ("ns", "lbs", "mdts"):
            setattr(drive, key, _number("--nvme", key, text))
        elif key == "reuse":
            drive.reuse = text.lower() in ("1", "on", "yes", "true")
        else:
            setattr(drive, key, os.path.abspath(text) if key in ("file", "log") else text)
    if drive.cache not in CACHE_MODES:
        raise Bad("--nvme: cache=%s is not one of %s" % (drive.cache, ", ".join(CACHE_MODES)))
    if drive.lbs not in (512, 4096) or drive.ns < 1:
        raise Bad("--nvme: lbs is 512 or 4096, ns at least 1")
    return drive


def parse_distance(spec, nodes):
    found = re.fullmatch(r"(\d+)-(\d+)=(\d+)", spec)
    if not found:
        raise Bad("--dist: %s is not FROM-TO=VALUE" % spec)
    a, b, value = (int(g) for g in found.groups())
    if a >= nodes or b >= nodes or a == b or not 10 < value < 255:
        raise Bad("--dist: %s: two nodes of this machine and a value from 11 to 254" % spec)
    return [a, b, value]


def add_options(parser):
    add = parser.add_argument_group("machine").add_argument
    add("--node", action="append", default=[], metavar="cpus=2,mem=768,huge=16,giga=0",
        help="a NUMA node; again for each. cpus=0: memory only. mem: MiB; huge, giga: pages of 2 MiB and 1 GiB")
    add("--dist", action="append", default=[], metavar="FROM-TO=VALUE",
        help="distance of two nodes, both ways (default 21; the way back may be given as well)")
    add("--numa", type=int, default=1, metavar="N", help="instead of --node: N equal nodes (default 1)")
    add("--cpus", type=int, help="virtual CPUs in all, a multiple of N (default one per node, at least 2)")
    add("--mem", type=int, metavar="MIB", help="memory of each node (default 1024 with one node, else 768)")
    add("--hugepages", type=int, default=0, metavar="COUNT", help="2 MiB pages on each node")
    add("--gigapages", type=int, default=0, metavar="COUNT", help="1 GiB pages on each node")
    add("--nvme", action="append", default=[], metavar="SPEC",
        help="an NVMe drive: SIZE, or size=,file=,serial=,node=(N or none),ns=,lbs=,cache=,log=,mdts=,aio=,reuse=")
    add("--poll-queues", type=int, default=1, help="nvme.poll_queues (default 1; IOPOLL needs it)")
    add("--net", type=int, default=0, metavar="NICS", help="NICs in all (default: as many as --rdma; 1 with several guests)")
    add("--nic-node", default="", metavar="A,B", help="node of each NIC, or none (default: round robin)")
    add("--rdma", nargs="?", type=int, const=1, default=0, metavar="NICS", help="NICs with soft-RoCE: rxe0 on eth0, ...")
    add("--mtu", type=int, default=9000)
    add("--guests", type=int, default=1, help="guests, joined by one wire per NIC")
    add("--fwd", action="append", default=[], metavar="HOST:GUEST", help="127.0.0.1:HOST goes to TCP port GUEST of guest 0")
    add("--rw", action="append", default=[], metavar="DIR", help="a host folder that the guests may write, at the same path")
    add("--module", action="append", default=[], help="a further kernel module to load")
    add("--modparam", action="append", default=[], metavar="MODULE.NAME=VALUE")
    add("--setup", action="append", default=[], metavar="CMD", help="a further shell line of each guest's set-up")
    add("--boot-timeout", type=float, default=180, metavar="S")
    add("--kernel", default="", help="kernel image (default: the newest in /boot that has its modules)")
    add("--append", default="", help="more kernel command line")
    add("--cpu", default="max,-la57")
    add("--qemu", default="qemu-system-x86_64")
    add("--qemu-arg", action="append", default=[], metavar="ARGS")
    add("--aslr", action="store_true", help="randomise addresses (off: that doubles the cost of starting a process)")
    add("--verbose-kernel", action="store_true")


COPIED = ("poll_queues mtu guests rdma fwd module modparam setup boot_timeout kernel append cpu qemu qemu_arg aslr "
          "verbose_kernel").split()


def _nodes(o):
    if o.node:
        if o.numa != 1 or o.cpus or o.mem or o.hugepages or o.gigapages:
            raise Bad("--node goes without --numa, --cpus, --mem, --hugepages, --gigapages")
        return [parse_node(s) for s in o.node]
    if o.numa < 1:
        raise Bad("--numa: at least one node")
    cpus = o.cpus or max(2, o.numa)
    if cpus % o.numa:
        raise Bad("--cpus must be a multiple of --numa")
    # q35 has memory below 2 GiB and above 4 GiB: a whole aligned GiB of node 0 takes 3.5 GiB there.
    mem = o.mem or (2560 + 1024 * o.gigapages if o.gigapages else 1024 if o.numa == 1 else 768)
    return [Node(cpus // o.numa, mem, o.hugepages, o.gigapages) for _ in range(o.numa)]


def from_options(o):
    """The machine these parsed options describe."""
    nodes = _nodes(o)
    if not nodes[0].cpus or not nodes[0].mem:
        raise Bad("node 0 needs CPUs and memory: the guest boots there")
    for n, node in enumerate(nodes):
        if node.huge * 2 + node.giga * 1024 > node.mem * (0.8 if n == 0 else 0.95):
            raise Bad("node %d: huge pages take too much of its %d MiB" % (n, node.mem))
    distances = []
    for spec in o.dist:
        a, b, value = parse_distance(spec, len(nodes))
        if [b, a] not in [d[:2] for d in distances]:
            distances.append([b, a, value])
        distances = [d for d in distances if d[:2] != [a, b]] + [[a, b, value]]
    nics = max(o.net, o.rdma, 1 if o.guests > 1 else 0)
    places = [parse_place("--nic-node", t, len(nodes)) for t in o.nic_node.split(",") if t]
    return Machine(nodes=nodes, distances=distances,
                   drives=[parse_drive(s, i, len(nodes)) for i, s in enumerate(o.nvme)],
                   nic_nodes=[places[i % len(places)] if places else i % len(nodes) for i in range(nics)],
                   rw=[os.path.abspath(p) for p in o.rw], **{k: getattr(o, k) for k in COPIED})


def from_words(words):
    """The machine of a command line's options, for tests."""
    parser = argparse.ArgumentParser(prog="machine")
    add_options(parser)
    return from_options(parser.parse_args(words))
