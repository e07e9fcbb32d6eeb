"""kill -9 of the server at random points while it stores: what was durable is there afterwards, and never a wrong byte.

LMCA_KILLS: how many points (a few by default; docs/l2-testing.md has the long run). LMCA_SEED: of the points.
"""
import json
import os
import random
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from lmclient import SLOW, Daemon, Tap, eq, fork                           # noqa: E402
from lmkv import unlink_of                                                 # noqa: E402
from lml2 import Prompts, flush, load, read_journal, recovered, verify     # noqa: E402

KILLS = int(os.environ.get("LMCA_KILLS", "8"))
SEED = int(os.environ.get("LMCA_SEED", str(random.SystemRandom().randrange(1 << 30))))
FRESH_EVERY = 8         # kills until a new store, so that nothing durable has to be evicted
tap = Tap()


def adapter(folder):
    return json.dumps({"type": "raw_block", "device_path": os.path.join(folder, "store.img"), "capacity_bytes": 2 << 30,
                       "segment_bytes": 32 << 20})


def server(folder):
    return Daemon("--l2-adapter", adapter(folder), "--l2-dirty-max-percent", "60", l1="0.5")


def one_kill(daemon, chance, first, journal):
    """Loads, kills at a random moment, starts again, checks. Returns (next number, durable, checked, whole)."""
    child = fork(load, daemon.port, daemon.http_port, first, journal)
    time.sleep(chance.uniform(0.15, 1.2) * SLOW)
    daemon.kill()
    os.kill(child, 9)
    os.waitpid(child, 0)
    unlink_of(child)
    daemon.start()
    recovered(daemon)
    durable, begun = read_journal(journal)
    durable, begun = {n for n in durable if n >= first}, {n for n in begun if n >= first}
    with Prompts(daemon.port) as prompts:
        checked, whole = verify(prompts, durable, begun)
    return max(begun, default=first) + 1, len(durable), checked, whole


@tap.test("killed at %d random points: nothing durable lost, no wrong byte" % KILLS, limit=60 + 20 * KILLS)
def kills():
    chance, total = random.Random(SEED), [0, 0, 0]
    print("# seed %d" % SEED)
    folder, daemon, number = None, None, 0
    try:
        for n in range(KILLS):
            if n % FRESH_EVERY == 0:
                if daemon:
                    daemon.close()
                    shutil.rmtree(folder)
                folder = tempfile.mkdtemp(prefix="lmca-l2-")
                daemon = server(folder)
            number, *counts = one_kill(daemon, chance, number + 1000, os.path.join(folder, "journal"))
            total = [a + b for a, b in zip(total, counts)]
            if n % 50 == 49:
                print("# %d kills: %d durable prompts, %d checked, %d whole" % (n + 1, *total), flush=True)
        print("# %d kills: %d durable prompts, %d checked, %d whole" % (KILLS, *total))
        assert total[0] > KILLS, "too few durable prompts to mean anything: %r" % total
        daemon.close()
    finally:
        if daemon and daemon.alive():
            daemon.kill()
        if folder:
            shutil.rmtree(folder, True)


@tap.test("usage after a kill and a restart is exact")
def usage():
    folder = tempfile.mkdtemp(prefix="lmca-l2-")
    daemon = server(folder)
    try:
        load(daemon.port, daemon.http_port, 1, os.path.join(folder, "journal"), stop_after=1.0 * SLOW)
        flush(daemon.http_port)
        before = counts(daemon)
        daemon.kill()
        daemon.start()
        recovered(daemon)
        eq(counts(daemon), before, "objects and bytes")
        daemon.close()
    finally:
        if daemon.alive():
            daemon.kill()
        shutil.rmtree(folder, True)


def counts(daemon):
    found = daemon.status()["storage_manager"]["l2_adapters"][0]
    return found["stored_object_count"], found["current_size_bytes"]


tap.main(daemon=False)
