"""Running guests: boot, commands and their results, power cuts."""
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

from . import guest as scripts
from . import kernel, qemu
from .kernel import LabError, write_atomic
from .machine import Machine

POLL_S = 0.02
OOPS = re.compile(r"^.*(BUG: |Oops|general protection|Kernel panic|WARNING: CPU|soft lockup|blocked for more than|KASAN).*$", re.M)


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG


def _read(path, default=""):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return default


class Job:
    """A command in a guest; its folder holds cmd, in, out, err, pid and at the end rc."""

    def __init__(self, guest, folder):
        self.guest, self.dir = guest, folder

    def poll(self):
        """The exit status (128+N when killed by signal N), or None while it runs. LabError when the guest is gone."""
        text = _read(self.dir + "/rc")
        if text:
            return int(text)
        if not self.guest.alive():
            text = _read(self.dir + "/rc")
            if text:
                return int(text)
            raise LabError("guest %d ended before the command did\n%s" % (self.guest.number, self.guest.tail()))
        return None

    def output(self, name="out"):
        with open(os.path.join(self.dir, name), "rb") as f:
            return f.read()

    def wait(self, timeout):
        """The exit status, or None when the time was up."""
        end = time.monotonic() + timeout if timeout else None
        while True:
            rc = self.poll()
            if rc is not None or (end and time.monotonic() > end):
                return rc
            time.sleep(POLL_S)

    def kill(self, sig="KILL"):
        """Signals the command's whole process group."""
        pid = _read(self.dir + "/pid").strip()
        if pid and self.guest.alive():
            self.guest.submit("kill -%s -- -%s" % (sig, pid), {}, "/").wait(30)


class Guest:
    def __init__(self, lab, number):
        self.lab, self.number = lab, number
        self.dir = os.path.join(lab.dir, "g%d" % number)
        self.share = os.path.join(lab.dir, "share", "g%d" % number)
        self.process, self.console_from = None, 0

    # ---- QEMU -----------------------------------------------------------------------------------------------------
    def pid(self):
        """QEMU's process, also when another run of the lab started it."""
        if self.process:
            return self.process.pid if self.process.poll() is None else None
        text = _read(self.dir + "/qemu.pid").strip()
        try:
            with open("/proc/%d/cmdline" % int(text), "rb") as f:
                return int(text) if self.dir.encode() in f.read() else None
        except (OSError, ValueError):
            return None

    def alive(self):
        return self.pid() is not None

    def qmp(self, wait=10):
        return qemu.Qmp(self.dir + "/qmp.sock", wait)

    def start(self):
        machine = self.lab.machine
        shutil.rmtree(self.share, ignore_errors=True)
        os.makedirs(self.share + "/q")
        os.makedirs(self.dir, exist_ok=True)
        for name in ("qemu.pid", "qmp.sock"):
            if os.path.exists(os.path.join(self.dir, name)):
                os.unlink(os.path.join(self.dir, name))
        release = kernel.find_kernel(machine.kernel)[1]
        write_atomic(os.path.join(self.lab.dir, "share", "agent.sh"), scripts.AGENT.encode())
        write_atomic(self.share + "/setup.sh", scripts.setup_script(machine, self.number, release).encode())
        console = self.dir + "/console.log"
        self.console_from = os.path.getsize(console) if os.path.exists(console) else 0
        args = qemu.command_line(machine, self.number, self.lab.dir)
        write_atomic(self.dir + "/qemu.cmd", (" ".join(shlex.quote(w) for w in args) + "\n").encode())
        with open(self.dir + "/qemu.log", "ab") as log:
            self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                            preexec_fn=_die_with_parent if self.lab.tied else None)

    def kill(self):
        """Power cut; the disk images stay."""
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
            return
        end = time.monotonic() + 10
        while self.alive() and time.monotonic() < end:
            time.sleep(POLL_S)

    def wait_ready(self):
        """A guest that has not reached its agent in a third of the time hangs (seen about once in 600 boots under emulation):
        it is started again, once."""
        limit = self.lab.machine.boot_timeout
        end, retry = time.monotonic() + limit, time.monotonic() + limit / 3
        while not os.path.exists(self.share + "/ready"):
            if not self.alive():
                raise LabError("guest %d ended during boot\n%s" % (self.number, self.tail()))
            if retry and time.monotonic() > retry:
                retry = None
                if "lab-agent" not in self.console():
                    print("lab: guest %d hangs at boot, starting it again" % self.number, file=sys.stderr)
                    self.kill()
                    self.start()
                    end = time.monotonic() + limit
            if time.monotonic() > end:
                raise LabError("guest %d did not come up in %d s\n%s" % (self.number, limit, self.tail()))
            time.sleep(POLL_S)
        if _read(self.share + "/ready").strip() != "ok":
            raise LabError("set-up failed in guest %d\n%s" % (self.number, _read(self.share + "/setup.log")))

    # ---- what its kernel says -------------------------------------------------------------------------------------
    def console(self):
        """Of this boot; consoles of earlier ones are in the same file."""
        try:
            with open(self.dir + "/console.log", "rb") as f:
                f.seek(self.console_from)
                return f.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def tail(self, lines=25):
        out = []
        for name in ("qemu.log", "console.log"):
            out += ["--- guest %d %s" % (self.number, name)] + _read(os.path.join(self.dir, name)).splitlines()[-lines:]
        return "\n".join(out)

    def complaint(self):
        """The first line by which its kernel reports a fault of its own, or None."""
        found = OOPS.search(self.console())
        return found and found[0].strip()

    # ---- commands -------------------------------------------------------------------------------------------------
    def submit(self, command, env=None, cwd="/", stdin=b"", fresh=False):
        """Starts a command (words, or a piece of bash) and returns its Job. `fresh`: files that changed on the host since the
        last command are seen as they are."""
        queue, number = self.share + "/q", 1
        while True:
            folder = "%s/%d" % (queue, number)
            try:
                os.mkdir(folder)
                break
            except FileExistsError:
                number += 1
        files = {"cmd": scripts.request_script(command, env or {}, cwd).encode(), "in": stdin, "out": b"", "err": b""}
        if fresh and number > 1:    # nothing is cached that could be stale the first time
            files["fresh"] = b""
        for name, data in list(files.items()) + [("go", b"")]:
            with open(os.path.join(folder, name), "wb") as f:
                f.write(data)
        return Job(self, folder)

    def shut_down(self):
        with open(self.share + "/off", "wb"):
            pass


class Lab:
    """Guests in a folder. `tied`: they die with this process, however that ends."""

    def __init__(self, folder, machine=None, tied=False):
        self.dir, self.tied = os.path.abspath(folder), tied
        if machine is None:
            self.machine = Machine.load(os.path.join(self.dir, "machine.json"))
        else:
            if len(os.path.join(self.dir, "n0-0to1")) > 100:
                raise LabError("the lab folder's path is too long for unix sockets: " + self.dir)
            kernel.require(machine.qemu, machine.kernel)
            os.makedirs(os.path.join(self.dir, "share", "scratch"), exist_ok=True)
            self.machine = machine
            machine.save(os.path.join(self.dir, "machine.json"))
        self.guests = [Guest(self, g) for g in range(self.machine.guests)]

    def boot(self, guests=None):
        for guest in guests or self.guests:
            guest.start()
        for guest in guests or self.guests:
            guest.wait_ready()

    def down(self, grace=0):
        if grace:
            for guest in self.guests:
                if guest.alive():
                    guest.shut_down()
            end = time.monotonic() + grace
            while time.monotonic() < end and any(g.alive() for g in self.guests):
                time.sleep(POLL_S)
        for guest in self.guests:
            guest.kill()

    def remove(self):
        self.down()
        shutil.rmtree(self.dir, ignore_errors=True)


class _Stream:
    """Copies a growing file to one of ours; with a prefix, by whole lines."""

    def __init__(self, path, target, prefix):
        self.file, self.target, self.prefix, self.rest = open(path, "rb"), target, prefix, b""

    def pump(self, final=False):
        data = self.rest + self.file.read()
        cut = len(data) if final or not self.prefix else data.rfind(b"\n") + 1
        data, self.rest = data[:cut], data[cut:]
        if not data:
            return
        if self.prefix:
            data = b"".join(self.prefix + line for line in data.splitlines(True))
            if not data.endswith(b"\n"):
                data += b"\n"
        self.target.write(data)
        self.target.flush()


def attend(jobs, timeout=None):
    """Copies the jobs' output to ours until all have ended; their exit statuses, None for one that ran out of time."""
    end = time.monotonic() + timeout if timeout else None
    several = len(jobs) > 1
    streams, left, rcs = {}, list(jobs), {}
    for job in jobs:
        prefix = b"[%d] " % job.guest.number if several else b""
        streams[job] = [_Stream(job.dir + "/out", sys.stdout.buffer, prefix), _Stream(job.dir + "/err", sys.stderr.buffer, prefix)]
    try:
        while left and not (end and time.monotonic() > end):
            for job in list(left):
                try:
                    rcs[job] = job.poll()
                finally:
                    for stream in streams[job]:
                        stream.pump(rcs.get(job) is not None)
                if rcs[job] is not None:
                    left.remove(job)
            time.sleep(POLL_S)
    finally:
        for job in left:
            rcs[job] = None
            job.kill()
    return [rcs[job] for job in jobs]
