"""Power cut of a whole guest while its server stores on NVMe, the drive's write cache lost in any part and torn: what was durable
is there, and never a wrong byte.

The guest's writes are logged below the drive. Each state is a moment in that log, with any of the writes after the last flush lost or torn;
a server on this machine then recovers from the image. LMCA_POWER_CUTS: guests cut (1), LMCA_POWER_STATES: states of each (6),
LMCA_SEED. docs/l2-testing.md has the long run.
"""
import json
import os
import random
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
from lablib.daemon import Daemon as GuestDaemon                     # noqa: E402
from lablib.replay import entries, replay                           # noqa: E402
from lablib.testing import LabTest, temporary                       # noqa: E402

CUTS = int(os.environ.get("LMCA_POWER_CUTS", "1"))
STATES = int(os.environ.get("LMCA_POWER_STATES", "6"))
SEED = int(os.environ.get("LMCA_SEED", str(random.SystemRandom().randrange(1 << 30))))
SIZE, STORE, MARK = 416 << 20, 384 << 20, 400 << 20
PROMPTS = 60
GUEST = "--node cpus=2,mem=1536 --nvme size=%d,file=%s,log=%s,serial=POWER"

folder = temporary("lab-l2-")
image, log = os.path.join(folder, "drive.img"), os.path.join(folder, "drive.log")
lab = LabTest(GUEST % (SIZE, image, log))


def adapter(path):
    return json.dumps({"type": "raw_block", "device_path": path, "capacity_bytes": STORE, "segment_bytes": 16 << 20})


def run_and_cut(chance):
    """One guest from an empty drive; the power goes at a random moment. Returns the log's entries."""
    for path in (image, log):
        if os.path.exists(path):
            os.unlink(path)
    if lab._lab is not None:
        lab._end_lab()
    server = GuestDaemon(lab, "--l2-adapter", adapter("/dev/lab/POWER-n1"), "--l2-dirty-max-percent", "60", l1="0.25")
    job = lab.start(["tests/lab/inside/l2_load.py", str(server.port), str(server.http_port), "/tmp/journal", "/dev/lab/POWER-n1",
                     str(MARK), str(PROMPTS)])
    enough, limit = chance.randrange(6, PROMPTS // 2), time.monotonic() + 150
    while len(marks(entries(log))) < enough and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.1)
    time.sleep(chance.uniform(0, 1))
    lab.lab.guests[0].kill()
    assert len(marks(entries(log))) > 3, "the guest stores nothing: " + job.output("err").decode("utf-8", "replace") + server.log()[-2000:]
    return entries(log)


def marks(found):
    """[(index in the log, prompts that are durable)]."""
    out = []
    with open(log, "rb") as f:
        for e in found:
            if e.count * e.unit == 4096 and e.sector * e.unit == MARK:
                f.seek(e.at)
                data = f.read(16)
                if data[:8] == b"lmcamark":
                    out.append((e.index, int.from_bytes(data[8:], "little")))
    return out if any(n for _, n in out) else []


def check_state(found, durable_at, chance):
    from lmclient import Daemon
    from lml2 import SMALL, Prompts, recovered, verify
    upto = chance.randrange(durable_at[1][0] + 1, len(found) + 1)      # durable_at[0]: of none
    how = {"upto": upto, "drop": chance.choice((0.0, 0.2, 0.5, 0.9, 1.0)), "tear": chance.choice((0.0, 0.3, 0.8)),
           "seed": chance.randrange(1 << 30)}
    disk = os.path.join(folder, "state.img")
    if os.path.exists(disk):
        os.unlink(disk)
    with open(disk, "wb") as f:
        f.truncate(SIZE)
    replay(log, disk, **how)
    durable = max((n for i, n in durable_at if i < upto), default=0)
    try:
        with Daemon("--l2-adapter", adapter(disk), l1="0.25") as daemon, Prompts(daemon.port, shares=SMALL) as prompts:
            recovered(daemon)
            return durable, *verify(prompts, set(range(durable)), set(range(PROMPTS)))
    except Exception as err:
        raise AssertionError("state %r: %s" % (how, err)) from err


def campaign():
    chance, total = random.Random(SEED), [0, 0, 0]
    print("# seed %d" % SEED)
    for cut in range(CUTS):
        found = run_and_cut(chance)
        durable_at = marks(found)
        print("# cut %d: %d writes and flushes, %d marks, %d prompts durable" % (cut + 1, len(found), len(durable_at), durable_at[-1][1]),
              flush=True)
        for _ in range(STATES):
            total = [a + b for a, b in zip(total, check_state(found, durable_at, chance))]
    print("# %d states: %d durable prompts, %d checked, %d whole" % (CUTS * STATES, *total))
    assert total[0] > 0, "nothing was durable"


lab.test("power cut, %d states of the drive: nothing durable lost, no wrong byte" % (CUTS * STATES),
         limit=120 + CUTS * 120 + CUTS * STATES * 15)(campaign)
lab.main()
