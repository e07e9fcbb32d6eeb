"""numa apply and undo on a real kernel: byte for byte there and back, a shortage rolled back, kills repaired; numa measure."""
import os
import sys

sys.dont_write_bytecode = True
from lablib.testing import LabTest, eq, has, json_of      # noqa: E402

lab = LabTest("--node cpus=1,mem=768,huge=3 --node cpus=1,mem=640 --nvme 64M,node=1")
HUGE = "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages"
JOURNAL = "/var/lib/lmcache-appliance/numa.journal"
NUMA = '"$LMCA_BIN" numa '
MAP = "--map 0=64M,1=32M --pages 2m"


def settings():
    return lab.sh("for f in /sys/devices/system/node/node*/hugepages/*/nr_hugepages /sys/kernel/mm/transparent_hugepage/*enabled "
                  "/proc/sys/kernel/numa_balancing /proc/sys/vm/nr_hugepages; do echo $f; cat $f; done")


def pages():
    return [int(n) for n in lab.sh("cat %s %s" % (HUGE % 0, HUGE % 1)).split()]


@lab.test("apply, once more, undo: what was asked for, nothing, byte for byte what was there")
def there_and_back():
    before = settings()
    did = json_of(lab.run(NUMA + "apply --json " + MAP))
    eq([(s["found"], s["wanted"], s["got"], s["state"]) for s in did["steps"] if "node1" in s["path"]],
       [("0", "16", "16", "written")])
    eq(did["writes"], len(did["steps"]))
    eq(pages()[1], 16)
    assert pages()[0] >= 32, pages()
    applied = settings()
    eq(json_of(lab.run(NUMA + "apply --json " + MAP))["writes"], 0, "writes of the second apply")
    eq(settings(), applied)
    json_of(lab.run(NUMA + "undo --json"))
    eq(settings(), before)
    eq(lab.run("test -e " + JOURNAL).rc, 1, "the journal is gone")
    eq(json_of(lab.run(NUMA + "undo --json"))["writes"], 0, "writes of a second undo")


@lab.test("NUMA balancing too")
def words():
    before = settings()
    did = json_of(lab.run(NUMA + "apply --json --l1 64M --pages thp"))
    after = settings()
    json_of(lab.run(NUMA + "undo --json"))
    eq(settings(), before)
    asked = {s["path"].split("/")[-1] for s in did["steps"]}
    if "numa_balancing" in asked:
        has(after, "numa_balancing\n0\n")


# Pipe buffers cannot be moved: with every second page of them free there is much free memory and no huge page.
SHATTER = """
import os, fcntl, resource, sys, time
free = int(open("/sys/devices/system/node/node0/meminfo").read().split("MemFree:")[1].split()[0]) >> 10
pipes = [None] * (free - 70)
resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 65536))
for i in range(len(pipes)):
    pipes[i] = os.pipe()
    fcntl.fcntl(pipes[i][1], 1031, 1 << 20)
page = b"x" * 4096
for _ in range(256):
    for p in pipes:
        os.write(p[1], page)
for p in pipes[::2]:
    os.close(p[0])
    os.close(p[1])
open("/tmp/shattered", "w").close()
time.sleep(600)
"""


@lab.test("the kernel gives less than asked: exit 4, the answer of each node, everything as before", limit=300)
def shortage():
    job = lab.start(["taskset", "-c", "0", "/usr/bin/python3", "-c", SHATTER])
    try:
        lab.sh("until [ -e /tmp/shattered ]; do sleep 0.2; done", timeout=150)
        before = settings()
        free = int(lab.sh("cat /sys/devices/system/node/node0/meminfo").split("MemFree:")[1].split()[0]) >> 10
        result = lab.run(NUMA + "apply --json --pages 2m --map 0=%dM,1=16M" % (free // 2 * 2))
        did = json_of(result, 4)
        short = [s for s in did["steps"] if s["state"] == "short"]
        eq([s["path"] for s in short], [HUGE % 0])
        assert int(short[0]["got"]) < int(short[0]["wanted"]), short
        eq([s["got"] for s in did["steps"] if s["path"] == HUGE % 1], ["8"], "the other node gave what it was asked for")
        eq(did["rolled_back"], True)
        has(result.err, "rolled back", "asked for " + short[0]["wanted"], "got " + short[0]["got"])
        eq(settings(), before)
        eq(lab.run("test -e " + JOURNAL).rc, 1, "no journal is left")
        print("# %d MiB free on node 0, %s pages asked for, %s got" % (free, short[0]["wanted"], short[0]["got"]))
    finally:
        job.kill()


@lab.test("killed at any time, undo repairs it", limit=300)
def kills():
    before = settings()
    done = lab.sh("""
for i in $(seq 1 12); do
    rm -f /tmp/plan; "$LMCA_BIN" numa apply %s >/dev/null 2>&1 & pid=$!
    if [ $((i %% 4)) = 0 ]; then sleep 0.$((i * 7 %% 9 + 1)); else until [ -s %s ] || ! kill -0 $pid; do :; done 2>/dev/null; fi
    kill -9 $pid 2>/dev/null; wait $pid; rc=$?
    if [ -e %s ] && ! grep -q '^end' %s; then echo half; else echo whole $rc; fi
    "$LMCA_BIN" numa undo >/dev/null || echo undo failed
    [ "$(cat %s)" = 3 ] && [ "$(cat %s)" = 0 ] || echo not repaired
done""" % (MAP, JOURNAL, JOURNAL, JOURNAL, HUGE % 0, HUGE % 1), timeout=200).split("\n")
    eq([w for w in done if "undo" in w or "repaired" in w], [])
    eq(settings(), before)
    assert done.count("half") > 1, done
    print("# %d of 12 kills left a journal half written" % done.count("half"))


@lab.test("a second apply on top of a first: one undo goes back to the very start")
def on_top():
    before = settings()
    json_of(lab.run(NUMA + "apply --json --map 0=32M --pages 2m"))
    json_of(lab.run(NUMA + "apply --json --map 1=64M --pages 2m"))
    eq(pages(), [16, 32])
    json_of(lab.run(NUMA + "undo --json"))
    eq(settings(), before)


@lab.test("undo itself may be killed and run again")
def killed_undo():
    before = settings()
    json_of(lab.run(NUMA + "apply --json --map 0=256M,1=256M --pages 2m"))
    lab.run("tests/lab/inside/kill_when.py %s %sundo" % (HUGE % 0, NUMA))
    json_of(lab.run(NUMA + "undo --json"))
    eq(settings(), before)


@lab.test("a half-done apply is refused until it is undone")
def half_done():
    boot = lab.sh("cat /proc/sys/kernel/random/boot_id").strip()
    lab.sh("mkdir -p /var/lib/lmcache-appliance; printf 'lmcache-appliance numa journal 1\\nboot =%s\\nrun\\nset %s =0%%%%0A =9\\n' >%s; "
           "echo 9 >%s" % (boot, HUGE % 1, JOURNAL, HUGE % 1))
    result = lab.run(NUMA + "apply " + MAP)
    eq(result.rc, 1)
    has(result.err, "killed half way", "numa undo")
    lab.sh(NUMA + "undo")
    eq(pages(), [3, 0])


@lab.test("a journal that names other files, or is another user's, makes root write nothing")
def hostile():
    head = "lmcache-appliance numa journal 1\\nboot =%s\\nrun\\n" % lab.sh("cat /proc/sys/kernel/random/boot_id").strip()
    for line in ("set /proc/sys/kernel/core_pattern =|/tmp/x%%0A =1\\n", "set /etc/passwd =x =1\\n",
                 "set /sys/devices/system/node/node1/../node1/hugepages/hugepages-2048kB/nr_hugepages =5 =1\\n"):
        lab.sh("printf '%s%s' >%s" % (head, line.replace("%%", "%%%%"), JOURNAL))
        core = lab.sh("cat /proc/sys/kernel/core_pattern")
        eq(lab.run(NUMA + "undo").rc, 1)
        eq((pages(), lab.sh("cat /proc/sys/kernel/core_pattern")), ([3, 0], core))
    lab.sh("printf '%sset %s =7%%%%0A =1\\nend\\n' >%s; chown 65534 %s" % (head, HUGE % 1, JOURNAL, JOURNAL))
    result = lab.run(NUMA + "undo")
    eq((result.rc, pages()), (1, [3, 0]))
    has(result.err, "not obeyed")
    lab.sh("rm " + JOURNAL)


@lab.test("not root, or another machine: nothing is written")
def refused():
    result = lab.run("setpriv --reuid 65534 --clear-groups " + NUMA + "apply " + MAP)
    eq(result.rc, 1)
    has(result.err, "root")
    result = lab.run(NUMA + "apply --from tests/machines/gpu8.json --l1 64G")
    eq(result.rc, 3, result.err)
    has(result.err, "not for this system")
    eq(pages(), [3, 0])


@lab.test("a journal of before a restart is not obeyed")
def other_boot():
    json_of(lab.run(NUMA + "apply --json " + MAP))
    kept = lab.sh("base64 -w0 " + JOURNAL)
    for guest in lab.lab.guests:
        guest.kill()
    eq(pages(), [3, 0], "after the restart")
    lab.sh("mkdir -p -m 700 $(dirname %s); umask 077; echo %s | base64 -d >%s" % (JOURNAL, kept, JOURNAL))
    eq(json_of(lab.run(NUMA + "undo --json"))["writes"], 0, "writes of undo")
    eq(pages(), [3, 0])


@lab.test("measure: every pair of nodes with pages proven in place, the drive, and a file")
def measure():
    got = json_of(lab.run(NUMA + "measure --json --seconds 0.1 --buffer-mib 16 --output /tmp/m.json"))
    eq([(c["cpu_node"], c["memory_node"], c["misplaced_pages"]) for c in got["memcpy"]], [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)])
    for c in got["memcpy"]:
        assert c["gb_per_s"] > 0.01 and c["pages"] == 8192 and "reason" not in c, c
    eq([(d["device_node"], d["cpu_node"]) for d in got["nvme"]], [(1, 0), (1, 1)])
    assert all(d["read_gb_per_s"] > 0.01 for d in got["nvme"]), got["nvme"]
    assert os.path.basename(lab.sh("ls /tmp/m.json*").strip()) == "m.json"
    result = lab.run("setpriv --reuid 65534 --clear-groups " + NUMA + "measure --seconds 0.1 --buffer-mib 16")
    eq(result.rc, 0, result.err)
    has(result.out, "reading it needs root or group disk")
    has(result.err, "Not stored")


lab.main()
