"""numa show, explain, plan, check and capture on three nodes, with devices behind bridges of their nodes and on the main bus."""
import sys

sys.dont_write_bytecode = True
from lablib.testing import BIN, LabTest, eq, has, json_of      # noqa: E402

lab = LabTest("--node cpus=2,mem=1024,huge=96 --node cpus=2,mem=1024,huge=96 --node cpus=0,mem=512,huge=40 --dist 0-2=30 --dist 1-2=17 "
              "--nvme size=64M,node=1,serial=NEAR --nvme size=64M,node=none,serial=BUS --net 2 --nic-node 0,none")
CGROUP = "/sys/fs/cgroup/lab"


def numa(verb, *words, before=""):
    return lab.run("%s %s numa %s %s" % (before, BIN, verb, " ".join(words)))


def pci_of(serial):
    """PCI address of a drive: its name may be another at each boot."""
    return lab.sh("b=$(readlink /dev/lab/%s-n1); basename $(readlink -f /sys/block/${b##*/}/device/device)" % serial).strip()


@lab.test("show: every node, at most 80 columns, and exit code 0 for anybody")
def show():
    text = numa("show", before="setpriv --reuid 65534 --clear-groups")
    eq(text.rc, 0, text.err)
    assert all(len(line) <= 80 for line in text.out.splitlines()), text.out
    for node in "012":
        has(text.out.lower(), "node " + node)
    json_of(numa("show", "--json"))


@lab.test("explain: the file that says where a device is; a device on the main bus is of no node")
def explain():
    for serial, value in (("NEAR", "1"), ("BUS", "?")):
        pci = pci_of(serial)
        text = numa("explain", pci)
        eq(text.rc, 0, text.err)
        has(text.out, pci, "numa_node", value)


@lab.test("plan: devices on their nodes or on none, no thread where there are no CPUs, a reason and a source in every line")
def plan():
    got = json_of(numa("plan", "--json", "--map", "0=64M,1=64M,2=32M", "--pages", "2m"))
    eq([(p["node"], p["pages"], p["page_bytes"]) for p in got["pools"]], [(0, 32, 2 << 20), (1, 32, 2 << 20), (2, 16, 2 << 20)], "pools")
    eq({d["pci"]: d["node"] for d in got["devices"] if d["kind"] == "NVMe"}, {pci_of("NEAR"): 1, pci_of("BUS"): None}, "drives")
    eq([t for t in got["threads"] if t["node"] == 2], [], "threads on the node without CPUs")
    for kind in ("pools", "threads", "devices"):
        for line in got[kind]:
            assert line["reason"] and line["source"], line


@lab.test("capture: replays as the same plan, and is refused for apply")
def capture():
    eq(numa("capture", "--output", "/tmp/lab.capture").rc, 0)
    words = ("--json", "--map", "0=64M,1=64M,2=32M", "--pages", "2m")
    here, there = json_of(numa("plan", *words)), json_of(numa("plan", "--from", "/tmp/lab.capture", *words))
    for kind in ("pools", "threads", "devices"):
        eq(there[kind], here[kind], kind)
    eq(numa("apply", "--from", "/tmp/lab.capture", *words).rc, 3)


def limited(name, value, *words):
    def test():
        lab.sh("cd /sys/fs/cgroup; echo '+cpuset +hugetlb' >cgroup.subtree_control; mkdir -p lab; echo %s >%s/%s" % (value, CGROUP, name))
        try:
            got = numa("check", "--map", "0=64M,1=64M", "--pages", "2m", before="echo $$ >%s/cgroup.procs;" % CGROUP)
            assert got.rc != 0, got
            has(got.out + got.err, *words)
        finally:
            lab.sh("rmdir " + CGROUP)
    return test


lab.test("check: cpuset.mems")(limited("cpuset.mems", "0", "node 1", "cpuset"))
lab.test("check: hugetlb.2MB.max")(limited("hugetlb.2MB.max", "64M", CGROUP + "/hugetlb.2MB.max", "64 MiB"))
lab.test("check: hugetlb.2MB.rsvd.max")(limited("hugetlb.2MB.rsvd.max", "64M", CGROUP + "/hugetlb.2MB.rsvd.max", "64 MiB"))


@lab.test("check: memlock and seccomp, each with its remedy")
def check():
    got = numa("check", "--l1", "128M", "--pages", "2m", before="ulimit -l 64; setpriv --bounding-set=-ipc_lock")
    eq(got.rc, 1, got.err)
    has(got.out, "ulimit -l", "LimitMEMLOCK=infinity")
    got = numa("check", "--l1", "128M", "--pages", "2m", before="tests/lab/inside/seccomp_exec.py 1 mbind,set_mempolicy,move_pages")
    eq(got.rc, 1, got.err)
    has(got.out, "mbind", "SYS_NICE")


lab.main()
