"""The server on three nodes: pools and threads where the plan says, clients that find their bytes near."""
import sys

sys.dont_write_bytecode = True
from lablib.daemon import Daemon            # noqa: E402
from lablib.testing import BIN, LabTest, eq, has, json_of      # noqa: E402

lab = LabTest("--node cpus=2,mem=1024,huge=96 --node cpus=2,mem=1024,huge=96 --node cpus=0,mem=512,huge=40 --dist 0-2=30 --dist 1-2=17")


def bench(node, *more, port=5555):
    return lab.start(["numactl", "-N", str(node), "-m", str(node), BIN, "bench", "kvcache", "--url", "tcp://localhost:%d" % port,
                      "--verify-only", "--clients", "1", "--tokens", "512", "--format", "json", *more])


@lab.test("two clients on two nodes store and get back what they stored")
def clients():
    with Daemon(lab, "--l1-pages", "4k"):
        jobs = [bench(node, "--mode", "engine-driven") for node in (0, 1)]
        for job in jobs:
            eq(job.wait(180), 0, job.output("err"))


lab.main()
