"""lmcache-appliance running in a guest."""
import json
import re

from .kernel import LabError
from .testing import BIN, SLOW

READY = b"LMCache ZMQ cache server is running on"
SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.M)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Died(Exception):
    """The server ended at start; `rc` and `log` say how."""

    def __init__(self, rc, log):
        super().__init__("the server exits with %s: %s" % (rc, log[-2500:]))
        self.rc, self.log = rc, log


class Daemon:
    """A server in a LabTest's guest. `before`: words in front of the command (numactl, a wrapper), or a piece of shell that ends
    in exec."""

    def __init__(self, lab, *options, l1="0.125", port=5555, before="exec"):
        self.lab, self.port, self.http_port = lab, port, port + 1
        words = [BIN, "server", "--host", "localhost", "--port", str(port), "--http-host", "127.0.0.1", "--http-port",
                 str(self.http_port), "--l1-size-gb", l1, "--eviction-policy", "LRU", "--state-dir", "/tmp/lmca-%d" % port, *options]
        self.job = lab.start(before + " " + " ".join("'%s'" % w for w in words) + " 2>&1")
        try:
            lab.wait(self._ready, 60, "the server")
        except BaseException:
            self.job.kill()
            raise

    def _ready(self):
        rc = self.job.poll()
        if rc is not None:
            raise Died(rc, self.log())
        return READY in self.job.output()

    def log(self):
        return self.job.output().decode("utf-8", "replace")

    def warnings(self):
        return [line for line in self.log().splitlines() if "LMCache WARNING" in line]

    def pid(self):
        return int(self.lab.sh("cat %s" % self.job.dir.replace(self.lab.lab.dir + "/share", "/lab") + "/pid"))

    def get(self, path):
        return self.lab.sh("busybox wget -q -O - http://127.0.0.1:%d%s" % (self.http_port, path))

    def status(self):
        return json.loads(self.get("/status"))

    def metrics(self):
        """[(name, {label: value}, number)]."""
        return [(name, dict(LABEL.findall(labels)), float(value)) for name, labels, value in SERIES.findall(self.get("/metrics"))]

    def metric(self, name, **labels):
        """The sum of the series with these labels; None when there is none."""
        found = [v for n, have, v in self.metrics() if n == name and all(have.get(k) == w for k, w in labels.items())]
        return sum(found) if found else None

    def kill(self):
        self.job.kill("KILL")
        self.job.wait(30)

    def stop(self):
        """SIGTERM; it must end with 0."""
        self.job.kill("TERM")
        rc = self.job.wait(40 * SLOW)
        if rc is None:
            self.job.kill()
            raise LabError("the server still runs 40 s after SIGTERM: " + self.log()[-1500:])
        if rc != 0:
            raise Died(rc, self.log())

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None and self.job.poll() is None:
            self.stop()
        elif self.job.poll() is None:
            self.kill()
