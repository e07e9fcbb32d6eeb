"""The lab itself: a machine as ordered, commands and their results, ends of every kind, and a skip where it cannot run."""
import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True
from lablib.testing import ROOT, LabTest, Skip, eq, has, temporary      # noqa: E402

RUN = os.path.join(ROOT, "tests/lab/run")
SYS = "/sys/devices/system/node"
lab = LabTest("--node cpus=2,mem=768,huge=24 --node cpus=2,mem=512,huge=5 --node cpus=0,mem=384,huge=40 "
              "--dist 0-2=30 --dist 1-2=17 --nvme 64M,node=1,serial=ONE --nvme 64M,node=none,serial=BUS --net 2 --nic-node 0,none")


def run(*words, **more):
    return subprocess.run([RUN, *words], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
                          check=False, **more)


@lab.test("nodes have the CPUs, memory and distances ordered")
def nodes():
    eq(lab.sh("cat %s/node*/cpulist" % SYS).split("\n")[:3], ["0-1", "2-3", ""], "CPUs")
    eq(lab.sh("cat %s/node*/distance" % SYS).split("\n")[:3], ["10 21 30", "21 10 17", "30 17 10"], "distances")
    sizes = [int(k) >> 10 for k in re.findall(r"MemTotal: +(\d+)", lab.sh("cat %s/node*/meminfo" % SYS))]
    for got, ordered in zip(sizes, (768, 512, 384)):
        assert ordered * 0.85 < got <= ordered, sizes


@lab.test("each node has its own number of huge pages, and they can be had there")
def hugepages():
    read = "cat %s/node*/hugepages/hugepages-2048kB/nr_hugepages" % SYS
    eq(lab.sh(read).split(), ["24", "5", "40"], "pages")
    eq(lab.sh("cat %s/node*/hugepages/hugepages-2048kB/free_hugepages" % SYS).split(), ["24", "5", "40"], "free pages")
    has(lab.sh("cat /proc/mounts"), "/dev/hugepages hugetlbfs")


@lab.test("devices are on the nodes ordered, and on none on the main bus")
def devices():
    where = lab.sh("for n in ONE BUS; do b=$(readlink /dev/lab/$n-n1); cat /sys/block/${b##*/}/device/device/numa_node; done")
    eq(where.split(), ["1", "-1"], "drives")
    where = lab.sh("for n in eth0 eth1; do cat $(readlink -f /sys/class/net/$n/device)/../numa_node; done")
    eq(where.split(), ["0", "-1"], "NICs")


@lab.test("exit status, both outputs, input and environment of a command arrive")
def commands():
    got = lab.run("echo out; echo err >&2; cat; echo $WORD; exit 7", stdin=b"in\n", env={"WORD": "a 'b' c"})
    eq(tuple(got), (7, "out\nin\na 'b' c\n", "err\n"))
    eq(lab.run(["sh", "-c", "kill -SEGV $$"]).rc, 128 + 11, "a signal")
    eq(lab.run(["no-such-program"]).rc, 127, "no such program")
    eq(lab.sh("pwd").strip(), ROOT, "the folder")


@lab.test("all of a long output arrives")
def long_output():
    text = lab.sh("seq 1 200000")
    eq(len(text), sum(len(str(n)) + 1 for n in range(1, 200001)))
    assert text.endswith("199999\n200000\n")


@lab.test("several commands run at once")
def at_once():
    first = lab.start("until [ -e /tmp/second ]; do sleep 0.1; done; echo met")
    lab.sh("touch /tmp/second")
    eq(first.wait(60), 0)
    eq(first.output(), b"met\n")


@lab.test("a command that runs past its time is killed, and the guest goes on")
def timeout():
    eq(lab.run("sleep 1000 & echo $! >/tmp/sleeper; wait", timeout=2).rc, None)
    lab.sh("for i in $(seq 50); do kill -0 $(cat /tmp/sleeper) || exit 0; sleep 0.1; done; exit 1")


@lab.test("the host's files are seen, and not changed")
def root():
    eq(lab.sh(["head", "-n", "1", "LICENSE"]), open(os.path.join(ROOT, "LICENSE"), encoding="utf-8").readline())
    lab.sh("echo overwritten in the guest >LICENSE; grep -q guest LICENSE; touch only-in-the-guest")
    assert "overwritten in the guest" not in open(os.path.join(ROOT, "LICENSE"), encoding="utf-8").read()
    assert not os.path.exists(os.path.join(ROOT, "only-in-the-guest"))


@lab.test("the scratch folder is shared")
def scratch():
    lab.sh("echo from the guest >$LAB_SCRATCH/word")
    with open(os.path.join(lab.scratch, "word"), encoding="utf-8") as f:
        eq(f.read(), "from the guest\n")


@lab.test("an I/O error put under a drive reaches the guest, and goes away again")
def fault():
    from lablib.faults import NamespaceFault
    write = "dd if=/dev/zero of=/dev/lab/ONE-n1 bs=4096 count=1 oflag=direct 2>&1"
    namespace = "nvme0n1"       # the first drive ordered, whatever the guest calls it
    lab.sh(write)
    with lab.lab.guests[0].qmp() as qmp:
        NamespaceFault(qmp, namespace).errors("write")
        eq(lab.run(write).rc, 1, "with the fault")
        NamespaceFault(qmp, namespace).off()
    lab.sh(write)


@lab.test("after a power cut a drive has what was flushed; the log replays it without what was not")
def power_cut():
    from lablib.replay import entries, replay
    folder = temporary()
    log, image, disk = (os.path.join(folder, n) for n in ("log", "image", "disk"))
    done = run("--nvme", "size=1M,file=%s,log=%s" % (image, log), "--", "bash", "-c",
               "d=/dev/nvme0n1; echo kept >/tmp/a; dd if=/tmp/a of=$d bs=512 count=1 conv=sync,fsync oflag=direct && "
               "echo lost >/tmp/b; dd if=/tmp/b of=$d bs=512 count=1 seek=8 conv=sync oflag=direct")
    eq(done.returncode, 0, done.stderr)
    assert any(e.flags & 1 for e in entries(log)), "no flush in the log"
    for drop, want in ((0, b"lost"), (1, b"\0\0\0\0")):
        with open(disk, "wb") as f:
            f.truncate(1 << 20)
        replay(log, disk, drop=drop)
        with open(disk, "rb") as f:
            eq(f.read(4), b"kept", "the flushed write")
            f.seek(8 * 512)
            eq(f.read(4), want, "the other, with drop=%d" % drop)


@lab.test("two guests reach each other, and a killed one comes back")
def two_guests():
    folder = temporary()

    def step(*words):
        done = run(*words)
        eq(done.returncode, 0, done.stderr)
        return done.stdout
    step("up", "--guests", "2", "--dir", folder)
    try:
        ask = ("exec", "--dir", folder, "-g", "0", "--", "busybox", "ping", "-c", "2", "-W", "5", "lab1")
        has(step(*ask), " 0% packet loss")
        both = step("exec", "--dir", folder, "--all", "--", "bash", "-c", "echo $LAB_GUEST $LAB_PEER_IP")
        eq(sorted(both.splitlines()), ["[0] 0 10.77.0.2", "[1] 1 10.77.0.1"], "both guests")
        step("kill", "--dir", folder, "-g", "1")
        eq(run("exec", "--dir", folder, "-g", "1", "--", "true").returncode, 125, "a dead guest")
        step("boot", "--dir", folder)
        has(step(*ask), " 0% packet loss")
    finally:
        run("down", "--dir", folder, "--remove")
    assert not os.path.exists(folder)


@lab.test("soft-RoCE is up")
def rdma():
    if not os.path.exists("/usr/bin/ibv_devinfo"):
        raise Skip("ibverbs-utils is not here")
    done = run("--rdma", "--", "ibv_devinfo", "-d", "rxe0")
    eq(done.returncode, 0, done.stderr)
    has(done.stdout, "PORT_ACTIVE", "Ethernet")


@lab.test("a panic of the guest's kernel ends the run at once and is shown")
def panic():
    done = run("--timeout", "200", "--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 100")
    eq(done.returncode, 125)
    has(done.stderr, "ended before the command did", "Kernel panic")


@lab.test("a run past its time ends with 124, bad options with 2")
def endings():
    done = run("--timeout", "1", "--", "sleep", "100")
    eq((done.returncode, "timed out after 1 s" in done.stderr), (124, True), done.stderr)
    for bad in (["--node", "cpus=x", "--", "true"], ["--node", "cpus=0,mem=512", "--", "true"], ["--numa", "2"],
                ["--numa", "2", "--cpus", "3", "--", "true"], ["--node", "mem=100,huge=100", "--", "true"],
                ["--numa", "2", "--dist", "0-2=30", "--", "true"], ["--nvme", "64M,node=1", "--", "true"]):
        done = run(*bad)
        eq(done.returncode, 2, " ".join(bad) + ": " + done.stderr)


@lab.test("more pages than a node can have are a failed set-up, not a smaller machine")
def too_many():
    done = run("--node", "cpus=2,mem=768", "--node", "cpus=0,mem=256,huge=121", "--", "true")
    eq(done.returncode, 125, done.stderr)
    has(done.stderr, "FAILED: 121 pages of 2048 kB on node 1: got")


@lab.test("without QEMU or a kernel it says what is missing and skips")
def skips():
    done = run("--qemu", "no-such-qemu", "--", "true")
    eq(done.returncode, 77)
    has(done.stderr, "skipped:", "qemu-system-x86")
    done = run("--kernel", "/nowhere/vmlinuz-0", "--", "true")
    eq(done.returncode, 77)
    has(done.stderr, "linux-image-amd64")


@lab.test("no QEMU is left behind when the lab is killed")
def tied():
    folder = temporary()
    child = subprocess.Popen([RUN, "--dir", folder, "--", "sleep", "1000"], cwd=ROOT, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        pidfile = os.path.join(folder, "g0", "qemu.pid")
        lab.wait(lambda: os.path.exists(pidfile) and open(pidfile, encoding="utf-8").read().strip(), 60, "QEMU")
        pid = int(open(pidfile, encoding="utf-8").read())
    finally:
        child.kill()
        child.wait()
    lab.wait(lambda: not os.path.exists("/proc/%d" % pid) or "Z" in open("/proc/%d/stat" % pid).read().split()[2], 20, "its end")


lab.main()
