"""numa apply and undo on a kernel that can be short of pages: byte for byte, rolled back, and repaired after a kill."""
import re
import sys

sys.dont_write_bytecode = True
from lablib.testing import BIN, LabTest, eq, has, json_of      # noqa: E402

lab = LabTest("--node cpus=2,mem=1024,huge=4 --node cpus=2,mem=512,huge=2 --node cpus=0,mem=384,huge=1")
PAGES = "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages"
# Every setting that apply may write, and its neighbours.
SETTINGS = ("grep -r . /sys/devices/system/node/node*/hugepages/*/nr_hugepages /sys/kernel/mm/hugepages/*/nr_* "
            "/sys/kernel/mm/transparent_hugepage/*enabled /proc/sys/vm/nr_* /proc/sys/kernel/numa_balancing "
            "/proc/sys/vm/zone_reclaim_mode /proc/sys/vm/swappiness")


def pages():
    return [int(n) for n in lab.sh("cat /sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages").split()]


def numa(verb, *words, before="", rc=0):
    return json_of(lab.run("%s %s numa %s --json %s" % (before, BIN, verb, " ".join(words))), rc)


@lab.test("apply writes what the plan asks, twice writes nothing, undo restores byte for byte")
def round_trip():
    before = lab.sh(SETTINGS)
    eq(pages(), [4, 2, 1], "before")
    done = numa("apply", "--map", "0=32M,1=64M,2=16M", "--pages", "2m")
    eq((done["writes"], done["rolled_back"]), (3, False), "apply")
    eq(pages(), [16, 32, 8], "applied")
    eq([(s["found"], s["wanted"], s["got"], s["state"]) for s in done["steps"]],
       [("4", "16", "16", "written"), ("2", "32", "32", "written"), ("1", "8", "8", "written")], "steps")
    again = numa("apply", "--map", "0=32M,1=64M,2=16M", "--pages", "2m")
    eq(again["writes"], 0, "the second time")
    eq(numa("undo")["writes"], 3, "undo")
    eq(lab.sh(SETTINGS), before, "after undo")
    eq(numa("undo")["writes"], 0, "undo with nothing to undo")


@lab.test("a second apply on top of a first: one undo goes back to the very start")
def on_top():
    before = lab.sh(SETTINGS)
    numa("apply", "--map", "0=16M", "--pages", "2m")
    numa("apply", "--map", "1=32M", "--pages", "2m")
    eq(pages(), [8, 16, 1], "both")
    numa("undo")
    eq(lab.sh(SETTINGS), before, "after undo")


@lab.test("a dry run writes nothing and says the same steps")
def dry_run():
    before = lab.sh(SETTINGS)
    done = numa("apply", "--dry-run", "--map", "0=32M,1=64M", "--pages", "2m")
    eq((done["writes"], [s["wanted"] for s in done["steps"]]), (0, ["16", "32"]))
    eq(lab.sh(SETTINGS), before, "after a dry run")


@lab.test("fewer pages granted than asked: all is put back, exit code 4, and it is said", limit=300)
def short():
    before = lab.sh(SETTINGS)
    got = lab.run("numactl -p 1 tests/lab/inside/fragment.py 1 %s numa apply --json --map 0=32M,1=160M --pages 2m" % BIN, 200)
    eq(lab.sh(SETTINGS), before, "after the rollback; " + got.err)
    done = json_of(got, 4)
    eq(done["rolled_back"], True)
    last = next(s for s in done["steps"] if "node1" in s["path"])
    eq(last["wanted"], "80")
    has(got.err, PAGES % 1)
    granted = re.search(r"(\d+) instead of 80|80, got (\d+)", done["error"])
    assert granted, done["error"]
    eq(numa("undo")["writes"], 0, "undo after a rollback")


@lab.test("kill -9 in the middle of apply: undo repairs it, and before that no other apply begins", limit=300)
def killed():
    before = lab.sh(SETTINGS)
    half = 0
    for _ in range(4):
        done = lab.run("tests/lab/inside/kill_when.py %s %s numa apply --map 0=512M,1=256M --pages 2m" % (PAGES % 0, BIN))
        if done.rc != 0:        # it was faster than we are
            numa("undo")
            continue
        node0, node1, _ = pages()
        assert node0 != 4, "not killed after the first change"
        eq(node1, 2, "node 1 was not reached")
        half += 1
        refused = lab.run("%s numa apply --map 0=32M --pages 2m" % BIN)
        assert refused.rc not in (0, 4), refused
        has(refused.err, "undo")
        eq(pages(), [node0, node1, 1], "after the refusal")
        numa("undo")
        eq(lab.sh(SETTINGS), before, "after undo")
    assert half >= 2, "killed in the middle only %d times" % half


@lab.test("undo itself may be killed and run again", limit=300)
def killed_undo():
    before = lab.sh(SETTINGS)
    numa("apply", "--map", "0=512M,1=256M", "--pages", "2m")
    lab.run("tests/lab/inside/kill_when.py %s %s numa undo" % (PAGES % 0, BIN))
    numa("undo")
    eq(lab.sh(SETTINGS), before, "after undo")


@lab.test("a journal of before a restart is not obeyed")
def other_boot():
    numa("apply", "--map", "0=32M", "--pages", "2m")
    kept = lab.sh("base64 -w0 /var/lib/lmcache-appliance/numa.journal")
    for guest in lab.lab.guests:
        guest.kill()
    eq(pages(), [4, 2, 1], "after the restart")
    lab.sh("mkdir -p /var/lib/lmcache-appliance && chmod 700 /var/lib/lmcache-appliance && umask 077 && "
           "echo %s | base64 -d >/var/lib/lmcache-appliance/numa.journal" % kept)
    eq(numa("undo")["writes"], 0, "undo")
    eq(pages(), [4, 2, 1], "after undo")


@lab.test("a plan of another machine is refused")
def other_machine():
    lab.sh("lstopo-no-graphics --of xml /tmp/here.xml")
    refused = lab.run("%s numa apply --from /tmp/here.xml --map 0=32M --pages 2m" % BIN)
    eq(refused.rc, 3, refused.err)
    eq(pages(), [4, 2, 1], "after the refusal")


lab.main()
