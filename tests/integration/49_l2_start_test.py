"""What L2 costs a start: the server is ready as soon as without it, also after kill -9, and the first hit follows at once. L1 is registered with the
rings as it is committed, never the other way round.

LMCA_START_OBJECTS: how many objects of 256 KiB there are (a few thousand by default). Figures are printed.
"""
import datetime
import json
import os
import re
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from lmclient import CHUNK, KV, SLOW, Daemon, Engine, Tap, eq, random_tokens           # noqa: E402

OBJECTS = int(os.environ.get("LMCA_START_OBJECTS", "600" if SLOW > 1 else "2048"))
PROMPT = 16             # chunks
ROUNDS = 4              # the quickest counts: others use this machine, too
READY = "LMCache cache server is running..."
STAMP = re.compile(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\].*" + re.escape(READY), re.M)
tap = Tap()


def kv():
    return KV(fmt=1, nl=4, nh=1, hs=64, nb=2 * PROMPT * CHUNK // 16)       # 256 KiB per chunk object


def adapter(folder, **more):
    return json.dumps(dict({"type": "raw_block", "device_path": os.path.join(folder, "store"),
                            "capacity_bytes": 2 << 30}, **more))


def ready_at(daemon):
    when = STAMP.search(daemon.log()).group(1)
    return datetime.datetime.strptime(when + "000", "%Y-%m-%d %H:%M:%S,%f").timestamp()


def start_seconds(daemon):
    """Of a daemon that is not running: from exec to the ready line."""
    begin = time.time()
    daemon.start()
    return ready_at(daemon) - begin


def device(daemon):
    return daemon.status()["storage_manager"]["l2_adapters"][0]["devices"][0]


def shm_bytes(daemon):
    return os.stat("/dev/shm/lmcache_l1_pool_%d" % daemon.pid).st_blocks * 512


def without_l2(l1):
    daemon = Daemon(l1=l1)
    try:
        times = []
        for _ in range(ROUNDS):
            daemon.kill()
            times.append(start_seconds(daemon))
        return min(times)
    finally:
        daemon.close()


class Store:
    """A store on a file, and its server, whose L1 is small."""

    def __init__(self, l1="0.25", *args, **more):
        self.folder = tempfile.mkdtemp(prefix="lmca-l2-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        try:
            self.begin = time.time()
            self.daemon = Daemon("--l2-adapter", adapter(self.folder, **more), *args, l1=l1)
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.daemon.close() if kind is None else self.daemon.kill()
        finally:
            shutil.rmtree(self.folder, True)

    def fill(self, prompts):
        """[(tokens, words)] of what is durable afterwards."""
        made = []
        with Engine(self.daemon.port, "D4", kv()) as e:
            for _ in range(prompts):
                tokens = random_tokens(PROMPT * CHUNK)
                made.append((tokens, e.fill(tokens)))
                if len(made) % 8 == 0:
                    eq(self.daemon.http("POST", "/l2/flush", timeout=60)[0], 200, "flush")
        eq(self.daemon.http("POST", "/l2/flush", timeout=60)[0], 200, "flush")
        return made

    def first_hit(self, cache, tokens, words):
        """Seconds from the ready line until the first chunk is with an engine that came just then; then the whole prompt."""
        blocks = list(range(CHUNK // cache.bs))
        with Engine(self.daemon.port, "D4", cache) as e:
            hits = e.lookup(tokens[:CHUNK], "first")
            came = hits == 1 and e.retrieve(tokens, 0, CHUNK, blocks, "first")
            took = time.time() - ready_at(self.daemon)
            eq((hits, came), (1, True), "first chunk")
            eq(bool((cache.read(blocks) == words[:, :, :CHUNK]).all()), True, "its bytes")
            e.end("first")
            eq(e.lookup(tokens, "all"), PROMPT, "all chunks")
            e.take(tokens, words, "all")
            e.end("all")
        return took


@tap.test("after kill -9: ready as soon as without L2, and the first hit at once", limit=300)
def killed():
    plain = without_l2("0.25")
    with Store() as s:
        made = s.fill(OBJECTS // PROMPT)
        ready, hit, recovery = [], [], []
        for n in range(ROUNDS):
            cache = kv()
            s.daemon.kill()
            ready.append(start_seconds(s.daemon))
            hit.append(s.first_hit(cache, *made[n * 7]))
            found = re.search(r"recovered (\d+) objects of (\d+) segments in (\d+) ms; (\d+) segments were read whole",
                              s.daemon.log())
            eq(int(found.group(1)) >= OBJECTS // PROMPT * PROMPT, True, "all objects: %s" % found.group(0))
            recovery.append(int(found.group(3)) / 1000)
        figures = "%s objects, %s segments, %s of them read whole; %d kills: ready after %s s (%.3f without L2), " \
            "recovered in %s s, first hit %s s after ready" % (
                found.group(1), found.group(2), found.group(4), ROUNDS, " ".join("%.3f" % t for t in ready), plain,
                " ".join("%.3f" % t for t in recovery), " ".join("%.3f" % t for t in hit))
        print("# " + figures)
        assert min(ready) <= plain + 0.2 * SLOW, figures
        assert min(hit) <= 0.2 * SLOW, figures


@tap.test("raw_block commits nothing of L1 that L1 does not need itself", limit=120)
def lazy():
    with Store("1", "--l1-init-size-gb", "0.25") as s:
        time.sleep(1)
        used, d = shm_bytes(s.daemon), device(s.daemon)
        print("# %.2f of 1 GiB are committed; %s" % (used / 2**30, d["engine"]))
        assert used <= 0.3 * 2**30, used
        assert "of 1.0 GiB" in d["engine"], d["engine"]


@tap.test("all bytes go through fixed buffers once L1 is there", limit=120)
def fixed():
    with Store("0.5") as s:
        end = time.monotonic() + 30 * SLOW
        while True:
            d = device(s.daemon)
            have = re.search(r"fixed buffers ([0-9.]+) of ([0-9.]+) (\w+)", d["engine"])
            if not have:
                print("# %s" % d["engine"])        # no ring here
                return
            if have.group(1) == have.group(2):
                break
            assert time.monotonic() < end, d["engine"]
            time.sleep(0.05)
        before = device(s.daemon)["disk"]
        made = s.fill(8)
        eq(s.daemon.http("POST", "/cache/clear", {"tier": "l1"})[0], 200, "clear")
        s.first_hit(kv(), *made[0])
        after = device(s.daemon)["disk"]
        moved = after["fixed_bytes"] - before["fixed_bytes"]
        print("# %s: %.1f MiB fixed, %d bytes not" % (d["engine"], moved / 2**20,
                                                      after["loose_bytes"] - before["loose_bytes"]))
        eq(after["loose_bytes"], before["loose_bytes"], "bytes not through fixed buffers")
        assert moved >= 9 * PROMPT * 256 * 1024, moved


@tap.test("a store on a new file does not hold up the start, and its blocks are its own", limit=120)
def new_file():
    plain = without_l2("0.25")
    with Store() as s:
        took = ready_at(s.daemon) - s.begin
        st = os.stat(os.path.join(s.folder, "store"))
        print("# a file of 2 GiB formatted at the start: ready after %.3f s (%.3f without L2)" % (took, plain))
        eq((st.st_size, st.st_blocks * 512 >= st.st_size), (2 << 30, True), "size, and no holes")
        assert took <= plain + 1.0 * SLOW, took


if __name__ == "__main__":
    tap.main(daemon=False)
