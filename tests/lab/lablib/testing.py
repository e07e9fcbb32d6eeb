"""What a tests/lab/*_test.py is written with: one guest (or lab) shared by the tests of a file, TAP on standard output.

    lab = LabTest("--node cpus=2,mem=768,huge=16 --node cpus=0,mem=512")

    @lab.test("every node is there")
    def nodes():
        eq(lab.run("ls -d /sys/devices/system/node/node*").out.count("node/node"), 2)

    lab.main()

run() takes a piece of bash or a list of words, runs it as root in the guest from the repository's root and returns its exit
status and output; sh() is the same and fails the test when the status is not 0. What the command writes to /lab/scratch is in
lab.scratch here. A guest that died (a test may panic it) is booted again for the next test. Last comes a test of the file's own:
that the guest's kernel reported no fault.
"""
import atexit
import collections
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback

from . import guest as scripts
from . import kernel, machine
from .kernel import ROOT, LabError
from .lab import Lab

SLOW = float(os.environ.get("LMCA_TEST_SCALE", "1"))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
BIN = os.environ.get("LMCA_BIN") or os.path.join(BUILD, "lmcache-appliance")
SKIP_STATUS = 77

Result = collections.namedtuple("Result", "rc out err")


class Skip(Exception):
    """A test that cannot run; the text says why."""


class OutOfTime(Exception):
    pass


def eq(got, want, what=""):
    if got != want or type(got) is not type(want):
        raise AssertionError("%s: %r, not %r" % (what, got, want))


def has(text, *words):
    """Every word is in the text."""
    for word in words:
        if word not in text:
            raise AssertionError("no %r in %r" % (word, text[-3000:]))


def json_of(result, rc=0):
    """The decoded standard output of a command that ended with `rc`."""
    if result.rc != rc:
        raise AssertionError("exit status %s, not %s: %s %s" % (result.rc, rc, result.out[-1500:], result.err[-1500:]))
    try:
        return json.loads(result.out)
    except ValueError as err:
        raise AssertionError("no JSON (%s): %r" % (err, result.out[-1500:])) from err


def _alarm(*_):
    raise OutOfTime("the test took too long")


class LabTest:
    def __init__(self, options):
        self.options, self.tests, self._lab, self.complaints = options, [], None, []
        self.booted_s, self.may_complain = 0.0, False

    # ---- the guest ------------------------------------------------------------------------------------------------
    @property
    def lab(self):
        if self._lab is not None and not all(g.alive() for g in self._lab.guests):
            self._end_lab()
        if self._lab is None:
            begin = time.monotonic()
            made = Lab(tempfile.mkdtemp(prefix="lab-"), machine.from_words(self.options.split()), tied=True)
            self._lab = made
            made.boot()
            self.booted_s = time.monotonic() - begin
            print("# booted in %.1f s" % self.booted_s, flush=True)
        return self._lab

    def _end_lab(self):
        if self._lab is None:
            return
        for guest in self._lab.guests:
            if guest.complaint() and not self.may_complain:
                self.complaints.append(guest.complaint())
        self._lab.remove()
        self._lab = None
        self.may_complain = False

    @property
    def scratch(self):
        return os.path.join(self.lab.dir, "share", "scratch")

    def start(self, command, guest=0, env=None, stdin=b"", cwd=ROOT):
        """Starts a command in the guest and returns its Job (lab.py)."""
        lab = self.lab
        full = dict(scripts.guest_env(lab.machine, guest), LMCA_BIN=BIN, BUILD=BUILD)
        full.update(env or {})
        return lab.guests[guest].submit(command, full, cwd, stdin)

    def run(self, command, timeout=60, **more):
        """Result; its rc is None when the command ran past its time and was killed."""
        job = self.start(command, **more)
        rc = job.wait(timeout * SLOW)
        if rc is None:
            job.kill()
        return Result(rc, job.output().decode("utf-8", "replace"), job.output("err").decode("utf-8", "replace"))

    def sh(self, command, timeout=60, **more):
        """Standard output of a command that must succeed."""
        result = self.run(command, timeout, **more)
        if result.rc != 0:
            raise AssertionError("exit status %s of %s\n%s\n%s" % (result.rc, command, result.out[-3000:], result.err[-3000:]))
        return result.out

    def wait(self, test, seconds=30, what="it"):
        """Polls until test() is true; returns its value."""
        end = time.monotonic() + seconds * SLOW
        while True:
            value = test()
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError("%s did not come within %g s" % (what, seconds))
            time.sleep(0.1)

    # ---- tests ----------------------------------------------------------------------------------------------------
    def test(self, name, *args, limit=180):
        def wrap(fn):
            self.tests.append((name, fn, args, limit))
            return fn
        return wrap

    def _report(self, number, name, fn, args, limit):
        begin = time.monotonic()
        result, note = "ok", ""
        signal.signal(signal.SIGALRM, _alarm)
        signal.alarm(int(limit * SLOW))
        try:
            fn(*args)
        except Skip as skip:
            note = " # SKIP %s" % skip
        except Exception:
            result = "not ok"
            for line in traceback.format_exc().splitlines():
                print("# " + line[:3000])
        finally:
            signal.alarm(0)
        took = time.monotonic() - begin
        print("%s %d - %s%s%s" % (result, number, name, " (%.1f s)" % took if took > 1 else "", note), flush=True)
        return result == "ok"

    def _no_complaint(self):
        self._end_lab()
        if self.complaints:
            raise AssertionError("; ".join(self.complaints))

    def main(self):
        """Runs the tests (those whose name contains an argument) and ends the process."""
        try:
            kernel.require()
        except kernel.Missing as missing:
            print("# %s" % missing)
            sys.exit(SKIP_STATUS)
        for sig in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda number, _: sys.exit(128 + number))
        only = sys.argv[1:]
        tests = [t for t in self.tests if not only or any(w in t[0] for w in only)]
        good = 0
        try:
            for number, test in enumerate(tests, 1):
                good += self._report(number, *test)
            total = len(tests) + 1
            good += self._report(total, "the guest's kernel reported no fault", self._no_complaint, (), 60)
        finally:
            if self._lab is not None:
                self._lab.remove()
        print("1..%d" % total)
        sys.exit(0 if good == total else 1)


def temporary(name="lab-"):
    """A folder for a test's files, removed at the end of the process."""
    path = tempfile.mkdtemp(prefix=name)
    atexit.register(shutil.rmtree, path, True)
    return path


__all__ = ["BIN", "BUILD", "ROOT", "LabError", "LabTest", "Result", "Skip", "eq", "has", "json_of", "temporary"]
