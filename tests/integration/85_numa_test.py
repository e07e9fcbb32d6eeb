"""Placement: options, what /status and /metrics say about nodes, refusals. Runs on a machine with any number of nodes; several nodes
and huge pages are tested in the virtual lab."""
import glob
import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True
from lmclient import CHUNK, KV, Client, Daemon, Engine, Tap, eq, random_tokens  # noqa: E402
from lmdaemon import BIN, Skip, free_port  # noqa: E402
from lmwire import SAN  # noqa: E402

tap = Tap()
BASE = ["server", "--l1-size-gb", "0.25", "--eviction-policy", "LRU", "--no-http"]


def refused(*options, base=BASE):
    """The last line of a server that must not start."""
    p = subprocess.run([BIN] + base + ["--port", str(free_port())] + list(options), capture_output=True, text=True, timeout=60)
    assert p.returncode in (1, 2), "exit %d: %s" % (p.returncode, p.stderr[-500:])
    return p.returncode, p.stderr.strip().splitlines()[-1]


def nodes():
    return sorted(int(re.search(r"\d+$", d).group()) for d in glob.glob("/sys/devices/system/node/node[0-9]*"))


def free_huge(kib):
    total = 0
    for path in glob.glob("/sys/devices/system/node/node*/hugepages/hugepages-%dkB/free_hugepages" % kib):
        with open(path) as f:
            total += int(f.read())
    return total


def metrics(d):
    out = {}
    for line in d.http("GET", "/metrics")[1].splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            out[name] = int(float(value))
    return out


@tap.test("/status tells pools, threads and notes")
def status():
    d = tap.daemon
    n = d.wait(lambda: d.status()["numa"]["pools"][0]["checked_s"] is not None and d.status()["numa"], 20)
    eq((n["policy"], n["bind"]), ("local", "try"), "policy")
    eq((n["this_machine"]["source"], n["this_machine"]["this_system"]), ("this system", True), "source")
    eq(n["this_machine"]["nodes"] >= 1 and n["this_machine"]["cpus"] >= 1, True, "machine")
    at = 0
    for p in n["pools"]:
        eq(p["start"], at, "pools follow each other")
        at += p["bytes"]
        eq(p["bytes"] % (2 << 20), 0, "whole 2 MiB")
        eq(p["pages"] * p["page_bytes"], p["committed_bytes"], "pages")
        eq(p["pages_on_node"] + p["pages_elsewhere"] + p["pages_absent"], p["pages_looked_at"], "sum")
        eq((p["pages_elsewhere"], p["pages_absent"]), (0, 0), "in place")
        eq(p["backing"] in ("hugetlb", "shm", "shm with THP"), True, p["backing"])
    eq(at, 1 << 28, "sum of the pools")
    eq(sum(p["used_bytes"] for p in n["pools"]), d.l1()["memory_used_bytes"], "used")
    for note in n["notes"]:
        eq(note["severity"] in ("notice", "warning", "shortage") and bool(note["text"]), True, note)


@tap.test("/status names every thread of the process, and where it runs")
def threads():
    d = tap.daemon
    shown = {t["tid"]: t for t in d.status()["numa"]["threads"]}
    real = {int(t) for t in os.listdir("/proc/%d/task" % d.pid)}
    eq(set(shown) - real, set(), "threads that are not there")
    eq(len(real - set(shown)) <= 1, True, "threads not shown: %s" % (real - set(shown)))
    roles = [t["role"] for t in shown.values()]
    for role in ("main", "transfer", "lookup", "control", "zmq", "http"):
        eq(role in roles, True, role)
    if not SAN:    # ThreadSanitizer has a thread of its own
        eq("other" in roles, False, "a thread without a role: %s" % [t for t in shown.values() if t["role"] == "other"])
    allowed = os.sched_getaffinity(d.pid)
    for t in shown.values():
        eq(t["cpu"] in allowed or t["planned_cpus"] is not None, True, t)
        eq(t["name"] != "", True, t)


@tap.test("a writer's node is found, and its bytes are counted")
def locality():
    d = tap.daemon
    before = metrics(d)
    with Engine(d.port, "D5", KV(3, nl=2, nb=64), model="local") as e:
        meta = d.status()["gpu_context_meta"][str(e.instance)]
        eq(meta["node_source"] in ("pages", None), True, "source")
        eq(meta["node"] is None, meta["node_source"] is None, "node and its source")
        if meta["node"] is not None:
            eq(meta["node"] in nodes(), True, "node %r" % meta["node"])
        tokens = random_tokens(4 * CHUNK)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "r"), 4, "lookup")
        e.take(tokens, data, "r")
        after = metrics(d)

        def moved(op):
            return {w: after[k] - before[k] for w in ("local", "remote", "unknown")
                    for k in ['lmcache_appliance_numa_bytes_total{op="%s",locality="%s"}' % (op, w)]}
        size = 4 * meta["object_bytes"]
        eq(sum(moved("store").values()), size, "stored %s" % moved("store"))
        eq(sum(moved("retrieve").values()), size, "retrieved %s" % moved("retrieve"))
        if meta["node"] is None:
            eq(moved("store")["unknown"], size, "unknown")
        elif len(nodes()) == 1:
            eq(moved("store")["local"], size, "one node: all is local")
    used = {k: v for k, v in after.items() if k.startswith("lmcache_appliance_l1_node_used_bytes{")}
    eq(sum(used.values()), size, "used bytes per node: %s" % used)
    eq(sum(v for k, v in after.items() if k.startswith("lmcache_appliance_l1_pages_misplaced{")), 0, "misplaced")
    eq(after["lmcache_appliance_numa_fallbacks"], 0, "fallbacks")


@tap.test("nonsense is refused with the option's name", limit=120)
def nonsense():
    for options, want in (
            (("--numa-map", "0=1G"), "--numa-map 0=1G: only with --numa-policy manual"),
            (("--numa-policy", "manual"), "--numa-policy manual needs --numa-map"),
            (("--numa-policy", "manual", "--numa-map", "0=256"), "expected NODE=SIZE"),
            (("--numa-policy", "manual", "--numa-map", "0=128M,0=128M"), "node 0 is named twice"),
            (("--numa-policy", "manual", "--numa-map", "0=512M"), "0.50 GiB together"),
            (("--numa-policy", "sideways"), "local, spread, pack, manual"),
            (("--numa", "always"), "yes, try, no"),
            (("--l1-pages", "4k,2m"), "largest first"),
            (("--l1-pages", "3m"), "'3m' is none of")):
        code, line = refused(*options)
        eq((code, want in line), (2, True), "%s: %s" % (options, line))
    code, line = refused("--numa-policy", "manual", "--numa-map", "987=256M")
    eq((code, "987" in line), (1, True), line)


@tap.test("huge pages that are not there stop the start when demanded, and not when tried", limit=120)
def strict():
    if free_huge(2048) or free_huge(1048576):
        raise Skip("this machine has free huge pages")
    for options in (("--l1-pages", "2m"), ("--l1-use-hugepages",), ("--l1-pages", "2m", "--numa", "yes")):
        code, line = refused(*options)
        eq(code, 1, "exit")
        for word in ("cannot start: ", "2 MiB", "128", "nr_hugepages"):
            eq(word in line, True, "%s in: %s" % (word, line))
    base = [a if a != "0.25" else "1" for a in BASE]
    code, line = refused("--l1-pages", "1g", base=base)
    eq((code, "1 GiB" in line), (1, True), line)
    with Daemon("--l1-pages", "1g,2m,4k", "--numa", "yes") as d:
        pool = d.status()["numa"]["pools"][0]
        eq((pool["page_bytes"], pool["backing"]), (4096, "shm"), "fell back")
        with Client(d.port, "D5") as c:
            c.ping()


@tap.test("--numa no, a map by hand, and no check", limit=120)
def variants():
    with Daemon("--numa", "no", "--numa-check-seconds", "0") as d:
        n = d.status()["numa"]
        eq((n["bind"], len(n["pools"]), n["pools"][0]["node"], n["pools"][0]["bound"]), ("no", 1, None, False), "not bound")
        eq({t["planned_cpus"] for t in n["threads"]}, {None}, "no planned CPUs")
        eq(n["pools"][0]["checked_s"], None, "no check")
    first = nodes()[0]
    with Daemon("--numa-policy", "manual", "--numa-map", "%d=256M" % first, "--numa-spill", "evict") as d:
        n = d.status()["numa"]
        eq((n["policy"], len(n["pools"]), n["pools"][0]["bytes"]), ("manual", 1, 1 << 28), "by hand")


if __name__ == "__main__":
    tap.main()
