"""The commands of numa beside a running server: its pages count as free, and where it differs from the plan is a finding."""
import json
import subprocess
import sys

sys.dont_write_bytecode = True
from lmclient import Daemon, Tap, eq  # noqa: E402
from lmdaemon import BIN  # noqa: E402

tap = Tap()
L1 = 1 << 28


def numa(d, verb, *words, rcs=(0,)):
    p = subprocess.run([BIN, "numa", verb, "--url", "http://127.0.0.1:%d" % d.http_port] + list(words), capture_output=True, text=True,
                       timeout=60)
    eq(p.returncode in rcs, True, "exit %d: %s %s" % (p.returncode, p.stdout[-500:], p.stderr[-500:]))
    return p.stdout


@tap.test("plan takes the server's size, and says so")
def plan():
    got = json.loads(numa(tap.daemon, "plan", "--json", "--pages", "4k"))
    eq((got["wishes"]["l1_bytes"], got["placed_bytes"], got["l1_from"]), (L1, L1, "as the server has"), "L1")
    got = json.loads(numa(tap.daemon, "plan", "--json", "--pages", "4k", "--l1", "64M"))
    eq((got["wishes"]["l1_bytes"], got["l1_from"]), (64 << 20, None), "asked for")


@tap.test("check: nothing to say of a server that is as planned, and where it is not")
def check():
    with Daemon("--l1-pages", "4k") as d:
        pools = d.status()["numa"]["pools"]
        url = "http://127.0.0.1:%d" % d.http_port

        def about_server(*words):
            got = json.loads(numa(d, "check", "--json", "--pages", "4k", *words, rcs=(0, 1)))
            for f in got["findings"]:
                eq(set(f), {"severity", "what", "where", "remedy"}, "keys")
            eq(got["ok"], all(f["severity"] == "notice" for f in got["findings"]), "ok")
            return [f["what"] for f in got["findings"] if f["where"] == url]

        eq(about_server(), [], "as planned")
        larger = about_server("--l1", "512M")
        eq((len(larger), "512 MiB" in larger[0] or len(pools) > 1), (len(pools), True), "another size: %s" % larger)


@tap.test("no server: exit code 3, and a line that says who was asked")
def nobody():
    for verb in ("plan", "check", "show", "verify"):
        p = subprocess.run([BIN, "numa", verb, "--url", "http://127.0.0.1:1"], capture_output=True, text=True, timeout=60)
        eq((p.returncode, "127.0.0.1:1" in p.stderr), (3, True), "%s: %s" % (verb, p.stderr))


if __name__ == "__main__":
    tap.main()
