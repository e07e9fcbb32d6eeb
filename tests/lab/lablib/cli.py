"""tests/lab/run: runs a command in virtual machines, or keeps them for several.

    tests/lab/run [options] -- COMMAND        boot, run the command as root, power off, exit with its status
    tests/lab/run up|exec|kill|boot|down ...  a lab that stays
    tests/lab/run fault|unplug|plug|link ...  faults of its devices
    tests/lab/run qmp|hmp ...                 its monitor
    tests/lab/run replay ...                  a disk as it was when the power went
    tests/lab/run check                       says whether the lab can run here

The guests see the host's whole root file system, read-only below an overlay whose writes go to the guest's memory: what was
built on the host runs as it is, from the same folder. Exit status: the command's own (128+N when signal N killed it); 77 QEMU or
a kernel is not here; 124 the command ran past --timeout; 125 the lab failed; 2 bad options.
"""
import argparse
import json
import os
import shutil
import signal
import sys
import tempfile

from . import faults, guest, kernel, machine, replay
from .lab import Lab, attend

SKIP, TIMEOUT, FAILED = 77, 124, 125


def _words(args):
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise machine.Bad("no command")
    return command


def _submit(lab, args, fresh):
    env = {}
    for spec in args.env:
        name, sign, value = spec.partition("=")
        env[name] = value if sign else os.environ.get(name, "")
    stdin = sys.stdin.buffer.read() if args.stdin else b""
    where = lab.guests if args.all else [_guest(lab, args)]
    return [g.submit(_words(args), {**guest.guest_env(lab.machine, g.number), **env}, args.cwd or os.getcwd(), stdin, fresh)
            for g in where]


def _guest(lab, args):
    if not 0 <= (args.guest or 0) < len(lab.guests):
        raise machine.Bad("there is no guest %d" % args.guest)
    return lab.guests[args.guest or 0]


def _attend(jobs, args):
    worst = 0
    for job, rc in zip(jobs, attend(jobs, args.timeout)):
        if rc is None:
            print("lab: timed out after %g s in guest %d" % (args.timeout, job.guest.number), file=sys.stderr)
            rc = TIMEOUT
        worst = worst or rc
    return worst


def _complaints(lab):
    for g in lab.guests:
        if g.complaint():
            print("lab: the kernel of guest %d complained: %s" % (g.number, g.complaint()), file=sys.stderr)


def cmd_run(args):
    _words(args)
    lab = Lab(args.dir or tempfile.mkdtemp(prefix="lab-"), machine.from_options(args), tied=True)
    try:
        lab.boot()
        rc = _attend(_submit(lab, args, False), args)
        if args.sync:
            lab.down(grace=15)
        return rc
    finally:
        lab.down()
        _complaints(lab)
        if args.console:
            for g in lab.guests:
                print(g.tail(400), file=sys.stderr)
        if not args.dir and not args.keep:
            shutil.rmtree(lab.dir, ignore_errors=True)


def cmd_up(args):
    lab = Lab(args.dir or tempfile.mkdtemp(prefix="lab-"), machine.from_options(args))
    if any(g.alive() for g in lab.guests):
        raise kernel.LabError("a guest already runs in " + lab.dir)
    try:
        lab.boot()
    except BaseException:
        lab.down()
        raise
    print(lab.dir)
    return 0


def cmd_exec(args):
    lab = Lab(args.dir)
    jobs = _submit(lab, args, not args.keep_cache)
    if args.background:
        for job in jobs:
            print(job.dir)
        return 0
    return _attend(jobs, args)


def _chosen(lab, args):
    return lab.guests if args.guest is None else [_guest(lab, args)]


def cmd_kill(args):
    lab = Lab(args.dir)
    for g in _chosen(lab, args):
        g.kill()
    return 0


def cmd_boot(args):
    lab = Lab(args.dir)
    todo = [g for g in _chosen(lab, args) if not g.alive()]
    if todo:
        lab.boot(todo)
    return 0


def cmd_down(args):
    lab = Lab(args.dir)
    lab.down(grace=15 if args.sync else 0)
    if args.remove:
        lab.remove()
    return 0


def cmd_qmp(args):
    lab = Lab(args.dir)
    with _guest(lab, args).qmp() as qmp:
        if args.what == "hmp":
            sys.stdout.write(qmp.hmp(" ".join(args.line)))
            return 0
        request = json.loads(args.line[0]) if args.line[0].startswith("{") else {
            "execute": args.line[0], "arguments": json.loads(args.line[1]) if len(args.line) > 1 else {}}
        print(json.dumps(qmp.cmd(request["execute"], **request.get("arguments", {}))))
    return 0


def cmd_device(args):
    lab = Lab(args.dir)
    with _guest(lab, args).qmp() as qmp:
        if args.what == "unplug":
            faults.unplug(qmp, args.device, args.wait)
        elif args.what == "plug":
            faults.plug(qmp, lab.machine, args.device)
        elif args.what == "link":
            faults.link(qmp, args.device, args.state == "up")
        else:
            fault = faults.NamespaceFault(qmp, args.namespace)
            if args.off:
                fault.off()
            elif args.slow is not None:
                fault.slow(args.slow)
            else:
                fault.errors(args.io, args.errno, args.sector, args.once)
    return 0


def cmd_replay(args):
    if args.list:
        replay.describe(args.log)
        return 0
    if not args.image:
        raise machine.Bad("replay: no image")
    print("applied %d writes, dropped %d" % replay.replay(args.log, args.image, args.upto, args.drop, args.tear, args.seed))
    return 0


def cmd_check(_):
    kernel.require()
    print("the lab can run here")
    return 0


def _command_options(parser):
    parser.add_argument("--timeout", type=float, metavar="S", help="for the command; exit status 124 when it ran past them")
    parser.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]", help="into the command's environment")
    parser.add_argument("--cwd", help="its folder (default: the current one)")
    parser.add_argument("--stdin", action="store_true", help="pass standard input on, once it has ended")
    parser.add_argument("--all", action="store_true", help="on every guest at once, output prefixed [N]")
    parser.add_argument("-g", "--guest", type=int, default=0)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")


def _run_parser():
    p = argparse.ArgumentParser(prog="tests/lab/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                usage="%(prog)s [options] -- COMMAND")
    machine.add_options(p)
    p.add_argument("--dir", help="lab folder to use and keep (images, logs, share/scratch)")
    p.add_argument("--keep", action="store_true", help="keep the temporary lab folder")
    p.add_argument("--sync", action="store_true", help="shut the guests down in order instead of cutting their power")
    p.add_argument("--console", action="store_true", help="print the guests' consoles at the end")
    _command_options(p)
    p.set_defaults(what="run")
    return p


def _verbs_parser():
    p = argparse.ArgumentParser(prog="tests/lab/run")
    sub = p.add_subparsers(dest="what", required=True)

    def verb(name, text, guest_option=True):
        s = sub.add_parser(name, help=text, description=text)
        s.add_argument("--dir", required=True, help="the lab's folder")
        if guest_option:
            s.add_argument("-g", "--guest", type=int)
        return s

    s = sub.add_parser("up", help="boot and leave running; prints the lab's folder")
    machine.add_options(s)
    s.add_argument("--dir")
    s = verb("exec", "run a command in a running lab", False)
    s.add_argument("--background", action="store_true", help="do not wait; prints the folder that gets out, err, rc")
    s.add_argument("--keep-cache", action="store_true", help="files that changed on the host since may be seen as they were")
    _command_options(s)
    verb("kill", "power cut: QEMU is killed, images stay")
    verb("boot", "boot stopped guests again on the same images")
    s = verb("down", "stop all", False)
    s.add_argument("--sync", action="store_true", help="in order, not by a power cut")
    s.add_argument("--remove", action="store_true", help="remove the folder")
    for name in ("qmp", "hmp"):
        verb(name, "send a command to the monitor").add_argument("line", nargs="+")
    s = verb("fault", "I/O errors or slowness under a namespace")
    s.add_argument("namespace", help="nvme0n1")
    s.add_argument("--io", default="write", choices=["read", "write", "flush", "discard", "write-zeroes"])
    s.add_argument("--errno", type=int, default=5)
    s.add_argument("--sector", type=int)
    s.add_argument("--once", action="store_true")
    s.add_argument("--slow", type=int, metavar="IOPS", help="no errors: at most so many I/Os per second")
    s.add_argument("--off", action="store_true", help="back to normal")
    s = verb("unplug", "hot-remove a device")
    s.add_argument("device", help="nvme0, nic0")
    s.add_argument("--wait", type=float, default=20)
    verb("plug", "put an unplugged controller back").add_argument("device", help="nvme0")
    s = verb("link", "cut or restore a NIC's cable")
    s.add_argument("device", help="nic0")
    s.add_argument("state", choices=["up", "down"])
    s = sub.add_parser("replay", help="apply a write log to an image")
    s.add_argument("log")
    s.add_argument("image", nargs="?")
    s.add_argument("--list", action="store_true")
    s.add_argument("--upto", type=int, help="entries to apply (default all)")
    s.add_argument("--drop", type=float, default=0.0, help="chance that a write after the last flush is lost")
    s.add_argument("--tear", type=float, default=0.0, help="chance that it is cut short at a sector")
    s.add_argument("--seed", type=int, default=1)
    sub.add_parser("check", help="say whether the lab can run here")
    return p


VERBS = {"run": cmd_run, "up": cmd_up, "exec": cmd_exec, "kill": cmd_kill, "boot": cmd_boot, "down": cmd_down, "qmp": cmd_qmp,
         "hmp": cmd_qmp, "fault": cmd_device, "unplug": cmd_device, "plug": cmd_device, "link": cmd_device,
         "replay": cmd_replay, "check": cmd_check}


def main(argv):
    verbs = argv and argv[0] in VERBS and argv[0] != "run"
    args = _verbs_parser().parse_args(argv) if verbs else _run_parser().parse_args(argv[1:] if argv[:1] == ["run"] else argv)
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda number, _: sys.exit(128 + number))
    try:
        return VERBS[args.what](args)
    except kernel.Missing as missing:
        print("skipped: %s" % missing, file=sys.stderr)
        return SKIP
    except machine.Bad as bad:
        print("lab: %s" % bad, file=sys.stderr)
        return 2
    except (kernel.LabError, OSError, EOFError, RuntimeError) as err:
        print("lab: %s" % err, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
