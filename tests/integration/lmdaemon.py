"""Runs the daemon under test and prints TAP."""
import atexit
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

from lmwire import SAN, SLOW

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("LMCA_BIN") or os.path.join(ROOT, "build", "lmcache-appliance")
SAN_REPORT = re.compile(r"(AddressSanitizer|LeakSanitizer|ThreadSanitizer|UndefinedBehaviorSanitizer|runtime error:)")
_live = []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Died(Exception):
    """The daemon is gone, or did not start or stop as it should."""


@atexit.register
def _kill_all():
    for daemon in list(_live):
        if daemon.owner == os.getpid():
            daemon.kill()


class Daemon:
    """One lmcache-appliance on free ports with a state folder of its own."""

    def __init__(self, *extra, l1="0.25", policy="LRU", chunk=None, dialect=None, port=None, state=True, env=None):
        self.owner = os.getpid()
        self.dir = tempfile.mkdtemp(prefix="lmca-it-")
        self.port, self.http_port = port or free_port(), free_port()
        self.args = ["server", "--host", "localhost", "--port", str(self.port), "--http-host", "127.0.0.1",
                     "--http-port", str(self.http_port), "--l1-size-gb", l1, "--eviction-policy", policy]
        if state:
            self.args += ["--state-dir", os.path.join(self.dir, "state")]
        if chunk:
            self.args += ["--chunk-size", str(chunk)]
        if dialect:
            self.args += ["--dialect", dialect]
        self.args += list(extra)
        self.env = dict(os.environ, **(env or {}))
        self.process, self.logs = None, 0
        self.start()

    def start(self):
        """Starts (again) and waits until both ready lines are in the log."""
        self.logs += 1
        self.log_path = os.path.join(self.dir, "log%d" % self.logs)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([BIN] + self.args, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.env)
        _live.append(self)
        end = time.monotonic() + 30 * SLOW
        while time.monotonic() < end:
            text = self.log()
            if "LMCache cache server is running..." in text and \
               "LMCache ZMQ cache server is running on tcp://localhost:%d" % self.port in text:
                return self
            if self.process.poll() is not None:
                self._forget()
                raise Died("the daemon exits with %d at start: %s" % (self.process.returncode, text[-600:]))
            time.sleep(0.02)
        self.kill()
        raise Died("no ready lines within 30 s: " + self.log()[-600:])

    def log(self):
        with open(self.log_path, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self):
        return self.process.pid

    def _forget(self):
        if self in _live:
            _live.remove(self)

    def kill(self, sig=signal.SIGKILL):
        if self.alive():
            self.process.send_signal(sig)
            self.process.wait()
        self._forget()

    def stop(self):
        """SIGTERM; the exit must be clean and the log free of sanitizer reports."""
        if not self.alive():
            rc = self.process.returncode
            self._forget()
            raise Died("the daemon had died with %s: %s" % (rc, self.log()[-1500:]))
        self.process.send_signal(signal.SIGTERM)
        try:
            rc = self.process.wait(20 * SLOW)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Died("still running 20 s after SIGTERM: " + self.log()[-600:])
        self._forget()
        found = SAN_REPORT.search(self.log())
        if found:
            raise Died("sanitizer report: " + self.log()[max(0, found.start() - 200):][:3000])
        if rc != 0:
            raise Died("exit status %d after SIGTERM: %s" % (rc, self.log()[-1500:]))

    def close(self):
        try:
            if self.process is not None and self in _live:
                self.stop()
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.kill()
            shutil.rmtree(self.dir, ignore_errors=True)

    # ---- what the daemon shows ------------------------------------------------------------------------------------
    def http(self, method, path, body=None, timeout=10):
        """(status, decoded JSON or text)."""
        conn = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout * SLOW)
        try:
            data = None if body is None else body if isinstance(body, (bytes, str)) else json.dumps(body)
            conn.request(method, path, data, {"Content-Type": "application/json"} if data is not None else {})
            reply = conn.getresponse()
            text = reply.read().decode("utf-8", "replace")
            if "json" in (reply.getheader("Content-Type") or ""):
                return reply.status, json.loads(text)
            return reply.status, text
        finally:
            conn.close()

    def status(self):
        code, body = self.http("GET", "/status")
        if code != 200 or not isinstance(body, dict):
            raise Died("/status answers %s %r" % (code, body))
        return body

    def l1(self):
        return self.status()["storage_manager"]["l1_manager"]

    def contexts(self):
        return {int(k) for k in self.status()["gpu_context_meta"]}

    def wait(self, test, seconds=3.0):
        """Polls until test() is true; returns its last value."""
        end = time.monotonic() + seconds * SLOW
        while True:
            value = test()
            if value or time.monotonic() > end:
                return value
            time.sleep(0.05)

    def wait_l1(self, field, value, seconds=3.0):
        got = []
        self.wait(lambda: got.append(self.l1()[field]) or got[-1] == value, seconds)
        if got[-1] != value:
            raise AssertionError("%s is %r, not %r" % (field, got[-1], value))

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def maps(self):
        """Mappings of the process; under a sanitizer, whose allocator never rests, those of files only."""
        with open("/proc/%d/maps" % self.pid) as f:
            return sum(1 for line in f if not SAN or "/" in line)


# ---- TAP -----------------------------------------------------------------------------------------------------------

class Skip(Exception):
    pass


class Timeout(Exception):
    pass


def _alarm(*_):
    raise Timeout("the test took too long")


class Tap:
    """Collects tests; main() runs them against one shared daemon, which is started again should it die."""

    def __init__(self, *args, **kw):
        self.args, self.kw = args, kw
        self.tests, self._daemon = [], None

    @property
    def daemon(self):
        if self._daemon is not None and not self._daemon.alive():
            self._daemon.kill()
            self._daemon = None
        if self._daemon is None:
            self._daemon = Daemon(*self.args, **self.kw)
        return self._daemon

    def test(self, name, *args, limit=60):
        def wrap(fn):
            self.tests.append((name, fn, args, limit))
            return fn
        return wrap

    def add(self, name, fn, *args, limit=60):
        self.tests.append((name, fn, args, limit))

    def _one(self, fn, args, limit):
        signal.signal(signal.SIGALRM, _alarm)
        signal.alarm(limit * SLOW)
        try:
            fn(*args)
            if self._daemon is not None and not self._daemon.alive():
                raise Died("the daemon died (%s): %s" % (self._daemon.process.returncode, self._daemon.log()[-2500:]))
        finally:
            signal.alarm(0)

    def _report(self, number, name, fn, args, limit):
        begin = time.monotonic()
        try:
            self._one(fn, args, limit)
            result, note = "ok", ""
        except Skip as skip:
            result, note = "ok", " # SKIP %s" % skip
        except Exception:
            result, note = "not ok", ""
            for line in traceback.format_exc().splitlines():
                print("# " + line[:2000])
            if self._daemon is not None and not self._daemon.alive():
                print("# the daemon died with %s" % self._daemon.process.returncode)
                for line in self._daemon.log()[-2500:].splitlines():
                    print("# log: " + line)
            elif self._daemon is not None:
                for line in [l for l in self._daemon.log().splitlines() if "LMCache INFO" not in l][-5:]:
                    print("# log: " + line[:600])
            self._fresh()
        took = time.monotonic() - begin
        print("%s %d - %s%s%s" % (result, number, name, " (%.1f s)" % took if took > 1 else "", note), flush=True)
        return result == "ok"

    def _final(self):
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.close()

    def _fresh(self):
        """After a failure the next test starts with a daemon of its own; the old one must still stop cleanly."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        try:
            daemon.close()
        except Exception as err:
            for line in str(err).splitlines():
                print("# afterwards: " + line[:2000])

    def main(self, daemon=True):
        if daemon and not os.access(BIN, os.X_OK):
            print("Bail out! no daemon at %s (set LMCA_BIN)" % BIN)
            sys.exit(2)
        only = sys.argv[1:]
        tests = [t for t in self.tests if not only or any(w in t[0] for w in only)]
        good = 0
        for number, (name, fn, args, limit) in enumerate(tests, 1):
            good += self._report(number, name, fn, args, limit)
        total = len(tests)
        if daemon:
            total += 1
            what = "the daemon stops cleanly" + (", no sanitizer report" if SAN else "")
            good += self._report(total, what, self._final, (), 60)
        print("1..%d" % total)
        sys.exit(0 if good == total else 1)


def eq(got, want, what=""):
    if got != want or type(got) is not type(want):
        raise AssertionError("%s: %r, not %r" % (what, got, want))
