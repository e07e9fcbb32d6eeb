"""What a container's limits do to placement: cpuset, hugetlb cgroup, memlock and seccomp, each with its own message and remedy.
--numa yes and a demanded page size stop; try serves, with one warning and the metric."""
import sys

sys.dont_write_bytecode = True
from lablib.daemon import Daemon, Died            # noqa: E402
from lablib.testing import LabTest, eq, has      # noqa: E402

lab = LabTest("--node cpus=2,mem=1024,huge=96 --node cpus=2,mem=1024,huge=96 --node cpus=0,mem=512,huge=40 --nvme 64M")
CGROUP = "/sys/fs/cgroup/lab"
MAP = ("--numa-policy", "manual", "--numa-map", "0=64M,1=64M", "--max-gpu-workers", "2")
FREE = "cat /sys/devices/system/node/node*/hugepages/hugepages-2048kB/free_hugepages"


class Limit:
    """A cgroup with one of its files set; `before` puts a command into it."""

    def __init__(self, name, value):
        self.file, self.value = CGROUP + "/" + name, value
        self.before = "echo $$ >%s/cgroup.procs && exec" % CGROUP

    def __enter__(self):
        lab.sh("cd /sys/fs/cgroup; echo '+cpuset +hugetlb' >cgroup.subtree_control; mkdir -p lab; echo %s >%s" % (self.value, self.file))
        return self

    def __exit__(self, *_):
        lab.sh("rmdir " + CGROUP)


def refused(before, *options):
    """The log of a server that must not start."""
    try:
        with Daemon(lab, *options, before=before):
            pass
    except Died as died:
        eq(died.rc, 1, died.log)
        eq(lab.sh(FREE).split(), ["96", "96", "40"], "free pages after the refusal")
        return died.log
    raise AssertionError("it starts")


def served(before, *options, warns=()):
    """A server that starts with one fallback and one warning with these words; its /status."""
    with Daemon(lab, *options, before=before) as d:
        eq(d.metric("lmcache_appliance_numa_fallbacks"), 1.0, d.log())
        about = [line for line in d.warnings() if warns[0] in line]
        eq(len(about), 1, d.log())
        has(about[0], *warns)
        numa = d.status()["numa"]
        eq(numa["fallbacks"], 1)
        return numa


@lab.test("cpuset.mems: a map with a hidden node is refused, spreading keeps to the allowed ones")
def cpuset():
    with Limit("cpuset.mems", "0") as limit:
        for want in ("yes", "try"):
            has(refused(limit.before, "--numa", want, *MAP, "--l1-pages", "2m"), "node 1", "cpuset.mems", "AllowedMemoryNodes=")
        with Daemon(lab, "--numa", "yes", "--numa-policy", "spread", "--l1-pages", "2m", before=limit.before) as d:
            eq([p["node"] for p in d.status()["numa"]["pools"]], [0], "pools")


def hugetlb(name):
    def test():
        with Limit(name, "64M") as limit:
            has(refused(limit.before, "--numa", "yes", *MAP, "--l1-pages", "2m"), limit.file, "64 MiB", "128 MiB",
                "echo 134217728 > " + limit.file, "hugepages-2Mi")
            numa = served(limit.before, "--numa", "try", *MAP, "--l1-pages", "2m,4k", warns=(limit.file, "64 MiB", "128 MiB", "echo "))
            eq([(p["node"], p["page_bytes"], p["bound"]) for p in numa["pools"]], [(0, 4096, True), (1, 4096, True)], "pools")
    return test


lab.test("hugetlb.2MB.max of the cgroup: the limiting file is named")(hugetlb("hugetlb.2MB.max"))
lab.test("hugetlb.2MB.rsvd.max of the cgroup: the limiting file is named")(hugetlb("hugetlb.2MB.rsvd.max"))


@lab.test("seccomp without mbind, set_mempolicy and move_pages: yes stops, try serves with one warning and the metric")
def seccomp():
    before = "exec tests/lab/inside/seccomp_exec.py 1 mbind,set_mempolicy,move_pages"
    words = ("mbind", "EPERM", "seccomp", "--cap-add SYS_NICE")
    has(refused(before, "--numa", "yes", *MAP, "--l1-pages", "2m"), *words)
    numa = served(before, "--numa", "try", *MAP, "--l1-pages", "2m", warns=words)
    eq([p["bound"] for p in numa["pools"]], [False, False], "bound")
    with Daemon(lab, "--numa", "no", "--l1-pages", "2m", before=before) as d:
        eq(([line for line in d.warnings() if "mbind" in line], d.metric("lmcache_appliance_numa_fallbacks")), ([], 0.0), d.log())


@lab.test("seccomp without move_pages alone: L1 is bound, and that nobody can verify it is said once")
def blind():
    with Daemon(lab, "--numa", "yes", *MAP, "--l1-pages", "2m", before="exec tests/lab/inside/seccomp_exec.py 1 move_pages") as d:
        about = lab.wait(lambda: [line for line in d.warnings() if "move_pages" in line], 20, "the warning")
        eq(len(about), 1, d.log())
        has(about[0], "seccomp", "SYS_NICE")
        eq([p["bound"] for p in d.status()["numa"]["pools"]], [True, True], "bound")


@lab.test("memlock: what registering L1 would take is said at start, with the remedy")
def memlock():
    with Daemon(lab, "--numa", "try", *MAP, "--l1-pages", "2m", before="ulimit -l 64; exec setpriv --bounding-set=-ipc_lock") as d:
        about = [line for line in d.warnings() if "ulimit -l" in line]
        eq(len(about), 1, d.log())
        has(about[0], "64 KiB", "128 MiB", "LimitMEMLOCK=infinity", "--ulimit memlock=-1")


lab.main()
