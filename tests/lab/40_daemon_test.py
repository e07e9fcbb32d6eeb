"""The server on three nodes, one without CPUs: pools and threads where the plan says, clients that find their bytes near, pages
moved behind its back seen, and nothing left of it after a kill."""
import json
import sys
import time

sys.dont_write_bytecode = True
from lablib.daemon import Daemon, Died            # noqa: E402
from lablib.testing import BIN, LabTest, eq, has, json_of      # noqa: E402

# Room for two engines with their own pages next to the pools.
lab = LabTest("--node cpus=2,mem=1792,huge=360 --node cpus=2,mem=1536,huge=340 --node cpus=0,mem=768,huge=120 "
              "--dist 0-2=30 --dist 1-2=17 --nvme 64M,node=1 --net 2 --nic-node 0,1")
HUGE = 2 << 20
FREE = "cat /sys/devices/system/node/node*/hugepages/hugepages-2048kB/free_hugepages"
INTERVAL = 3
BACKINGS = {"2m": ("hugetlb", HUGE), "4k": ("shm", 4096)}
SPREAD = ("--numa", "yes", "--numa-policy", "manual", "--numa-check-seconds", str(INTERVAL))


def free():
    return [int(n) for n in lab.sh(FREE).split()]


def bench(node, *more):
    return lab.start(["numactl", "-N", str(node), "-m", str(node), BIN, "bench", "kvcache", "--verify-only", "--clients", "1",
                      "--tokens", "512", "--seed", str(100 + node), "--format", "json", *more])


def checked(daemon):
    """`numa` of /status once every pool was looked at."""
    def look():
        numa = daemon.status()["numa"]
        return all(p["checked_s"] is not None for p in numa["pools"]) and numa
    return lab.wait(look, 30, "a look at the pages")


def ranges(numa):
    return ["%d:%d" % (p["start"], p["bytes"]) for p in numa["pools"]]


def pages_of(daemon, numa, *more):
    """[{node: pages}] of each pool, as a client that maps the arena by its name sees it."""
    name = daemon.status()["arena"]["backing"]
    words = ["tests/lab/inside/pages_of.py", "/dev/shm/" + name, str(numa["pools"][0]["page_bytes"]), *ranges(numa), *more]
    return [{int(node): n for node, n in found.items()} for found in json_of(lab.run(words, 120))]


def verify(daemon, rc=0):
    return json_of(lab.run([BIN, "numa", "verify", "--json", "--max-pages", "0", "--url", "http://localhost:%d" % daemon.http_port],
                           120), rc)


def all_in_place(pages):
    def test():
        backing, page = BACKINGS[pages]
        with Daemon(lab, *SPREAD, "--numa-map", "0=160M,1=128M,2=64M", "--l1-pages", pages, l1="0.34375") as d:
            numa = checked(d)
            eq([(p["node"], p["bytes"] >> 20, p["bound"], p["backing"], p["page_bytes"]) for p in numa["pools"]],
               [(n, mib, True, backing, page) for n, mib in ((0, 160), (1, 128), (2, 64))], "pools")
            for p in numa["pools"]:
                eq((p["pages_elsewhere"], p["pages_absent"]), (0, 0), p)
                eq(p["pages"] * page, p["bytes"], "pages")
            eq([(p["node"], p["looked_at"], p["on_node"], p["source"]) for p in verify(d)["pools"]],
               [(p["node"], p["pages"], p["pages"], "move_pages") for p in numa["pools"]], "numa verify")
            eq(pages_of(d, numa), [{p["node"]: p["pages"]} for p in numa["pools"]], "a client's mapping")
            eq(d.metric("lmcache_appliance_numa_fallbacks"), 0.0, "fallbacks")
            has(d.log(), "bound to node 0-2")
    return test


lab.test("L1 on huge pages: every page on its node, from a client's mapping too")(all_in_place("2m"))
lab.test("L1 on pages of 4 KiB: the same")(all_in_place("4k"))


@lab.test("threads run where the plan says, none on the node without CPUs")
def threads():
    with Daemon(lab, *SPREAD, "--numa-map", "0=128M,1=128M,2=64M", "--l1-pages", "2m", l1="0.3125") as d:
        shown = checked(d)["threads"]
        text = lab.sh("cd /proc/%d/task; for t in *; do echo $t $(grep Cpus_allowed_list $t/status); done" % d.pid())
        really = {int(line.split()[0]): line.split()[2] for line in text.splitlines()}
        for t in shown:
            if t["planned_cpus"] is not None:
                eq(really[t["tid"]], t["planned_cpus"], t)
            assert t["node"] in (0, 1), t
            if t["planned_cpus"] in ("0", "1", "0-1"):
                eq(t["node"], 0, t)
            if t["planned_cpus"] in ("2", "3", "2-3"):
                eq(t["node"], 1, t)
        workers = [t["node"] for t in shown if t["role"] == "transfer"]
        eq(sorted(workers), [0, 1], "transfer workers")
        eq([t for t in verify(d)["threads"] if t["astray"]], [], "astray")
        moved = next(t for t in shown if t["role"] == "transfer" and t["node"] == 0)
        lab.sh("taskset -p -c 2,3 %d" % moved["tid"])
        eq([t["tid"] for t in verify(d, 1)["threads"] if t["astray"]], [moved["tid"]], "numa verify after a thread was moved")


def local_bytes(pages, mode, policy, pools):
    def test():
        words = SPREAD[:2] + policy + SPREAD[4:]
        with Daemon(lab, *words, "--l1-pages", pages, l1=str(sum(pools.values()) / 1024)) as d:
            eq({p["node"]: p["bytes"] >> 20 for p in d.status()["numa"]["pools"]}, pools, "pools")
            jobs = [bench(node, "--mode", mode) for node in (0, 1)]
            for job in jobs:
                eq(job.wait(240), 0, job.output("err").decode() + d.log()[-2000:])
                result = json.loads(job.output())
                assert result, result
            moved = {(op, where): d.metric("lmcache_appliance_numa_bytes_total", op=op, locality=where)
                     for op in ("store", "retrieve") for where in ("local", "remote", "unknown")}
            total = sum(moved.values())
            local = moved["store", "local"] + moved["retrieve", "local"]
            print("# %s, %s: %.0f MiB moved, %.1f %% of them local" % (pages, mode, total / (1 << 20), 100 * local / total))
            assert moved["store", "local"] > 64 << 20 and moved["retrieve", "local"] > 32 << 20, moved
            assert local >= 0.95 * total, moved
            used = [d.metric("lmcache_appliance_l1_node_used_bytes", node=n) for n in ("0", "1")]
            assert all(used), used
    return test


for kind, how, policy, pools in (
        ("2m", "handle", ("--numa-policy", "manual", "--numa-map", "0=640M,1=640M,2=64M"), {0: 640, 1: 640, 2: 64}),
        ("2m", "engine-driven", ("--numa-policy", "spread"), {0: 640, 1: 640}),
        ("4k", "handle", ("--numa-policy", "manual", "--numa-map", "0=384M,1=384M,2=64M"), {0: 384, 1: 384, 2: 64})):
    lab.test("bench kvcache with a client on each node, pages %s, %s, %s: at least 95 %% of the bytes are local" % (
        kind, how, policy[1]), limit=400)(local_bytes(kind, how, policy, pools))


@lab.test("pages moved behind its back are counted to the page within one interval")
def moved_pages():
    with Daemon(lab, *SPREAD, "--numa-map", "0=160M,1=128M", "--l1-pages", "2m", l1="0.28125") as d:
        numa = checked(d)
        eq(d.metric("lmcache_appliance_l1_pages_misplaced", node="0"), 0.0, "before")
        found = pages_of(d, numa, "--move", "10:1")
        begin = time.monotonic()
        eq(found, [{0: 70, 1: 10}, {1: 64}], "after the move")
        lab.wait(lambda: d.metric("lmcache_appliance_l1_pages_misplaced", node="0"), 4 * INTERVAL, "the count")
        took = time.monotonic() - begin
        eq(d.metric("lmcache_appliance_l1_pages_misplaced", node="0"), 10.0, "counted")
        eq(d.metric("lmcache_appliance_l1_pages_misplaced", node="1"), 0.0, "the other pool")
        pool = d.status()["numa"]["pools"][0]
        eq((pool["pages_on_node"], pool["pages_elsewhere"]), (70, 10), "/status")
        eq([(p["on_node"], p["elsewhere"]) for p in verify(d, 1)["pools"]], [(70, 10), (64, 0)], "numa verify")
        has(d.log(), "10 ", "node 1")
        print("# seen after %.1f s; the interval is %d s" % (took, INTERVAL))
        assert took <= INTERVAL + 3, took


@lab.test("kill -9 leaves no huge pages taken after the next start")
def killed():
    before = free()
    d = Daemon(lab, *SPREAD, "--numa-map", "0=160M,1=128M,2=64M", "--l1-pages", "2m", l1="0.34375")
    eq([b - f for b, f in zip(before, free())], [80, 64, 32], "taken")
    d.kill()
    with Daemon(lab, *SPREAD, "--numa-map", "0=32M,1=32M", "--l1-pages", "2m", l1="0.0625"):
        eq([b - f for b, f in zip(before, free())], [16, 16, 0], "taken by the next")
    eq(free(), before, "after its end")
    eq(lab.sh("ls /dev/shm; grep lmcache_l1 /proc/mounts || true").strip(), "", "names left")


@lab.test("a node short of pages: yes refuses with node, size, wanted, free and the file; try serves with one warning and the metric")
def short():
    before = free()
    words = ("--numa-policy", "manual", "--numa-map", "0=64M,1=64M,2=320M", "--l1-pages")
    try:
        with Daemon(lab, "--numa", "yes", *words, "2m", l1="0.4375"):
            raise AssertionError("it starts")
    except Died as died:
        eq(died.rc, 1, died.log)
        has(died.log, "node 2", "2 MiB", "160", "120", "/sys/devices/system/node/node2/hugepages/hugepages-2048kB")
    eq(free(), before, "after the refusal")
    with Daemon(lab, "--numa", "try", *words, "2m,4k", l1="0.4375") as d:
        eq(d.metric("lmcache_appliance_numa_fallbacks"), 1.0, d.log())
        about = [line for line in d.warnings() if "node 2" in line]
        eq(len(about), 1, d.log())
        has(about[0], "160", "120")
    eq(free(), before, "after the end")


lab.main()
