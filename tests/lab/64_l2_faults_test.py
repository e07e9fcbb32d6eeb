"""One of two drives below the second tier fails, hangs, or is pulled out: the answer comes by the deadline and is right, requests that do
not need that drive do not notice, and when the drive is well again it is used again, without a restart."""
import json
import sys
import time

sys.dont_write_bytecode = True
from lablib.daemon import Daemon                                # noqa: E402
from lablib.faults import NamespaceFault, plug, unplug          # noqa: E402
from lablib.testing import SLOW, LabTest                        # noqa: E402

lab = LabTest("--node cpus=2,mem=1792 --nvme size=256M,serial=GOOD --nvme size=256M,serial=BAD")
STALL = 1.0
PROMPTS = 8
SLACK = 1.5         # seconds that an emulated guest may take beside the deadline
# While somebody still holds the old one open, the drive that came back is nvme1n2 of nvme2.
NAME_AGAIN = """for c in /sys/class/nvme/nvme*; do
    name=$(ls "$c" | grep -E '^nvme[0-9]+n[0-9]+$')
    [ "$(tr -d ' ' <"$c/serial")" = BAD ] && [ -b "/dev/$name" ] && ln -sfn "../$name" /dev/lab/BAD-n1 && exit 0
done
exit 1"""
ADAPTER = {"type": "raw_block", "device_paths": ["/dev/lab/GOOD-n1", "/dev/lab/BAD-n1"], "segment_bytes": 16 << 20}


class Watch:
    """The client in the guest, and what it said so far."""

    def __init__(self, server, seconds=400):
        self.job = lab.start(["tests/lab/inside/l2_watch.py", str(server.port), str(server.http_port), str(PROMPTS), str(seconds)])
        lab.wait(lambda: self.lines() or self.job.poll() is not None, 90, "what is to be watched")
        self.alive()

    def alive(self):
        assert self.job.poll() is None, self.job.output("err").decode("utf-8", "replace")[-2000:]

    def lines(self):
        out = []
        for line in self.job.output().decode("utf-8", "replace").splitlines(True):
            if line.endswith("\n"):
                out.append(json.loads(line))
        return out

    def steps(self):
        return [line for line in self.lines() if "hits" in line]

    def next(self, count, seconds=120):
        """The next `count` steps from now on."""
        have = len(self.steps())
        lab.wait(lambda: len(self.steps()) >= have + count or self.job.poll() is not None, seconds, "%d steps" % count)
        self.alive()
        return self.steps()[have:]


def share(steps, of):
    """What `of` of the requests that need no drive took at most."""
    all_of = sorted(x for s in steps for x in s["others"])
    return all_of[int(len(all_of) * of)]


def whole(steps):
    return all(s["hits"] == s["chunks"] for s in steps)


def server():
    return Daemon(lab, "--l2-adapter", json.dumps(ADAPTER), "--l2-prefetch-stall-seconds", str(STALL), "--l2-dirty-max-percent", "60", "--log-level", "DEBUG",
                  l1="0.25")


def put_back(qmp):
    """Without udev nobody else gives the drive its name again."""
    plug(qmp, lab.lab.machine, "nvme1")
    lab.wait(lambda: lab.run(NAME_AGAIN).rc == 0, 30, "the drive")


def bad(qmp):
    return NamespaceFault(qmp, "nvme1n1")


def used_again(daemon):
    """The pause between probes doubles, so it may take as long again as the fault lasted."""
    try:
        lab.wait(lambda: "L2 device /dev/lab/BAD-n1: in use again" in daemon.log(), 60, "the drive to be used again")
    except AssertionError:
        for line in [x for x in daemon.log().splitlines() if "L2" in x or "BAD" in x][-15:]:
            print("# log: " + line)
        raise


def through(name, begin, end, said):
    """The drive gets a fault, is dropped, is healed, and is used again."""
    def test():
        with server() as daemon:
            watch = Watch(daemon)
            before = watch.next(6)
            assert whole(before), "before the fault: %r" % [(s["hits"], s["chunks"]) for s in before]
            with lab.lab.guests[0].qmp() as qmp:
                begin(qmp)
                first = watch.next(4)
                lab.wait(lambda: "L2 device /dev/lab/BAD-n1: " + said in daemon.log(), 60, "the line about the drive: " + said)
                during = watch.next(6)
                end(qmp)
            used_again(daemon)
            lab.wait(lambda: whole(watch.next(PROMPTS)), 180, "whole prompts")
            slowest = max(s["took"] for s in first + during)
            ratio = share(during, 0.5) / share(before, 0.5)
            print("# %s: slowest answer %.2f s; others: median %.1f ms before, %.1f ms during: %.2f; p99 %.1f and %.1f ms" %
                  (name, slowest, share(before, 0.5) * 1e3, share(during, 0.5) * 1e3, ratio, share(before, 0.99) * 1e3,
                   share(during, 0.99) * 1e3))
            assert slowest < (STALL + SLACK) * SLOW, "an answer took %.2f s" % slowest
            assert not whole(first + during), "the fault did nothing"
            assert ratio < 2 * SLOW, "others wait for the drive: %.2f" % ratio
    return test


lab.test("reads fail", limit=400)(through("errors", lambda q: bad(q).errors(io="read"), lambda q: bad(q).off(), "read errors"))
lab.test("the drive hangs", limit=400)(through("hang", lambda q: bad(q).slow(1), lambda q: bad(q).off(), ""))
lab.test("the drive is pulled out and put back", limit=400)(
    through("removal", lambda q: unplug(q, "nvme1"), put_back, ""))


@lab.test("writes fail: reads go on, stores go to the other drive", limit=300)
def writes():
    with server() as daemon:
        watch = Watch(daemon)
        with lab.lab.guests[0].qmp() as qmp:
            bad(qmp).errors(io="write")
            lab.wait(lambda: "L2 device /dev/lab/BAD-n1: write errors" in daemon.log(), 120, "the line about the drive")
            during = watch.next(PROMPTS)
            assert whole(during), [(s["hits"], s["chunks"]) for s in during]
            bad(qmp).off()
        used_again(daemon)
        time.sleep(0.1)
        assert whole(watch.next(4))


lab.main()
