"""numa verify: of a server in its place, with pages and threads moved behind its back, and seen by somebody who may not look."""
import sys

sys.dont_write_bytecode = True
from lablib.daemon import Daemon                                # noqa: E402
from lablib.testing import LabTest, eq, has, json_of           # noqa: E402

lab = LabTest("--node cpus=2,mem=768,huge=48 --node cpus=2,mem=768,huge=48 --nvme 64M,node=1")
NO_CHECKS = ("--numa-check-seconds", "0")
AS_NOBODY = "setpriv --reuid 65534 --clear-groups "


def verify(server, before="", more=""):
    return lab.run('%s"$LMCA_BIN" numa verify --json --url http://127.0.0.1:%d %s' % (before, server.http_port, more))


def pool_of(got, node):
    return next(p for p in got["pools"] if p["node"] == node)


@lab.test("huge pages on two nodes: every page and thread in its place, nothing to say")
def in_place():
    with Daemon(lab, "--numa", "yes", "--numa-policy", "manual", "--numa-map", "0=64M,1=64M", "--l1-pages", "2m", *NO_CHECKS) as server:
        got = json_of(verify(server))
        eq([(p["node"], p["page_bytes"], p["looked_at"], p["on_node"], p["source"]) for p in got["pools"]],
           [(0, 2 << 20, 32, 32, "move_pages"), (1, 2 << 20, 32, 32, "move_pages")])
        eq(got["pid"], server.pid())
        eq([t["name"] for t in got["threads"] if t["astray"]], [])
        assert any(t["planned_cpus"] and t["allowed_cpus"] == t["planned_cpus"] for t in got["threads"]), got["threads"]
        eq(got["findings"], [])
        assert any(d["interrupts"] and d["node"] == 1 for d in got["devices"]), got["devices"]
        text = lab.sh('"$LMCA_BIN" numa verify --url http://127.0.0.1:%d' % server.http_port)
        assert all(len(line) <= 80 for line in text.splitlines()), text


@lab.test("pages moved behind its back are counted to the page, and where they are")
def moved():
    with Daemon(lab, "--numa", "yes", "--numa-policy", "manual", "--numa-map", "0=64M,1=64M", "--l1-pages", "4k", *NO_CHECKS) as server:
        before = json_of(verify(server))
        eq(sum(p["elsewhere"] for p in before["pools"]), 0)
        lab.sh("migratepages %d 0 1" % server.pid())
        result = verify(server)
        got = json_of(result, 1)
        away = pool_of(got, 0)
        eq(away["looked_at"], 16384)
        assert away["elsewhere"] > 16000 and away["on_node"] + away["elsewhere"] + away["absent"] == 16384, away
        eq(away["where"], "%d on node 1" % away["elsewhere"])
        has("\n".join(got["findings"]), "pool 0: %d of 16384 pages are not on node 0" % away["elsewhere"])
        eq(pool_of(got, 1)["elsewhere"], 0)
        few = json_of(verify(server, more="--max-pages 1000"), 1)
        assert 0 < pool_of(few, 0)["looked_at"] <= 1000, few["pools"]
        # Who may not ask the kernel is told so, and that the server does not look either.
        other = json_of(verify(server, before=AS_NOBODY), 1)
        eq({p["source"] for p in other["pools"]}, {None})
        has(other["findings"][0], "nobody could say", "be the server's user, or root")


@lab.test("a thread moved to another node's CPUs is named")
def thread():
    with Daemon(lab, "--numa", "yes", "--l1-pages", "4k", *NO_CHECKS) as server:
        pinned = [t for t in json_of(verify(server))["threads"] if t["planned_cpus"] and t["name"].startswith("lmca-xfer")]
        other = "2-3" if pinned[0]["planned_cpus"][0] in "01" else "0-1"
        lab.sh("taskset -cp %s %d" % (other, pinned[0]["tid"]))
        got = json_of(verify(server), 1)
        eq([t["tid"] for t in got["threads"] if t["astray"]], [pinned[0]["tid"]])
        has(got["findings"][0], pinned[0]["name"], "may run on CPUs " + other, "taskset -cp " + pinned[0]["planned_cpus"])


@lab.test("the capabilities of the systemd unit are enough: L1 on huge pages has a name that engines can open")
def unit():
    with open("config/lmcache-appliance.service.in", encoding="utf-8") as f:
        caps = next(line for line in f if line.startswith("CapabilityBoundingSet=")).strip().split("=")[1].lower().replace("cap_", "")
    few = "exec setpriv --no-new-privs --bounding-set=-all,+%s" % ",+".join(caps.split())
    with Daemon(lab, "--numa", "yes", "--l1-pages", "2m", *NO_CHECKS, l1="0.0625", before=few) as server:
        name = server.status()["arena"]["backing"]
        has(name, "lmcache_l1_pool_")
        eq(lab.sh("stat -f -c %%T /dev/shm/%s" % name).strip(), "hugetlbfs")
        eq(json_of(verify(server))["findings"], [])
        eq(server.warnings(), [])


@lab.test("no server: exit code 3")
def nobody():
    result = lab.run('"$LMCA_BIN" numa verify --url http://127.0.0.1:9')
    eq(result.rc, 3, result.err)


lab.main()
