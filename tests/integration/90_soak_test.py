"""Several engines of different layouts and dialects do random things on one model; every byte is checked."""
import os
import random
import sys
import time

sys.dont_write_bytecode = True
import numpy                                                                       # noqa: E402

from lmclient import CHUNK, KV, SLOW, Engine, Tap, eq, fork                         # noqa: E402

tap = Tap()
NL, HIDDEN = 4, 64                     # 256 KiB per chunk object
PROMPTS, LONGEST = 300, 8              # up to 600 MiB wanted in an L1 of 256
KINDS = [("D2", 1, 16), ("D6", 7, 32), ("D4", 10, 16), ("D1", 6, 64), ("D5", 0, 16), ("D3", 2, 128), ("D6", 4, 16)]


def prompt(i):
    """Prompt i; a third of them share their head with another."""
    rng = random.Random(i)
    n = rng.randrange(1, LONGEST + 1)
    if i % 3 == 0 and i:
        head = prompt(i - 1)
        keep = rng.randrange(0, len(head) // CHUNK + 1) * CHUNK
        return (head[:keep] + [rng.randrange(128256) for _ in range(n * CHUNK)])[:LONGEST * CHUNK]
    return [rng.randrange(128256) for _ in range(n * CHUNK + rng.randrange(CHUNK))]


def content(tokens, chunk):
    """What a chunk holds is a function of the tokens up to its end, so that every process can check it."""
    import zlib
    seed = zlib.crc32(numpy.asarray(tokens[:(chunk + 1) * CHUNK], dtype=numpy.uint32).tobytes())
    base = numpy.random.default_rng(seed).integers(0, 65536, HIDDEN * CHUNK, dtype=numpy.uint16)
    out = numpy.empty((2, NL, CHUNK, HIDDEN), dtype=numpy.uint16)
    for k in range(2):
        for l in range(NL):
            out[k, l] = numpy.roll(base, 7 * (k * NL + l) + 1).reshape(CHUNK, HIDDEN) ^ numpy.uint16(k * 257 + l)
    return out


class Soaker:
    def __init__(self, port, number, tolerant):
        dialect, fmt, bs = KINDS[number % len(KINDS)]
        self.rng = random.Random(1000 + number)
        self.tolerant, self.number, self.count = tolerant, number, 0
        self.e = Engine(port, dialect, KV(fmt, nl=NL, nb=4096 // bs, bs=bs, nh=4, hs=16), model="soak",
                        instance=os.getpid())
        self.stats = dict(stored=0, hits=0, misses=0, lost=0)

    def store(self, tokens, rid):
        e, whole = self.e, len(tokens) // CHUNK
        first = self.rng.randrange(whole)
        last = self.rng.randrange(first, whole) + 1
        blocks = e.blocks((last - first) * e.bpc())
        for i in range(first, last):
            e.kv.write(blocks[(i - first) * e.bpc():(i - first + 1) * e.bpc()], content(tokens, i))
        eq(e.store(tokens, first * CHUNK, last * CHUNK, blocks, rid), True, "STORE")
        self.stats["stored"] += last - first

    def load(self, tokens, rid):
        e = self.e
        hits = e.lookup(tokens, rid)
        if hits == 0:
            self.stats["misses"] += 1
            return
        how = self.rng.random()
        if how < 0.15:
            e.free(tokens, 0, hits * CHUNK, rid)
            return
        if how < 0.25:
            e.end(rid)
            return
        start = self.rng.randrange(hits) if how < 0.5 else 0
        if start:
            e.free(tokens, 0, start * CHUNK, rid)
        skip = self.rng.randrange((hits - start) * e.bpc()) * e.kv.bs if how > 0.8 else 0
        blocks = e.blocks((hits - start) * e.bpc())
        want = e.kv.snapshot()
        ok = e.retrieve(tokens, start * CHUNK, hits * CHUNK, blocks, rid, skip)
        if not ok:
            if not self.tolerant:
                raise AssertionError("RETRIEVE of %d locked chunks failed" % (hits - start))
            self.stats["lost"] += 1
            assert e.kv.same(want), "a failed RETRIEVE wrote"
            return
        data = numpy.concatenate([content(tokens, i) for i in range(start, hits)], axis=2)
        skipped = skip // e.kv.bs
        e.kv.write(blocks[skipped:], data[:, :, skip:], words=want)
        assert e.kv.same(want), "wrong bytes in prompt of %d tokens, chunks %d..%d, skip %d" % (len(tokens), start, hits, skip)
        self.stats["hits"] += hits - start

    def step(self):
        self.count += 1
        rid = "k%d-%d" % (self.number, self.count)
        tokens = prompt(self.rng.randrange(PROMPTS))
        what = self.rng.random()
        if what < 0.45:
            self.store(tokens, rid)
            if what < 0.1:
                self.load(tokens, rid)
        elif what < 0.95:
            self.load(tokens, rid)
        elif what < 0.96:
            self.e.unregister()
            self.e.register()
        elif what < 0.98:
            self.e.client.ping()
        elif self.tolerant and what < 0.99:
            self.e.clear()
        if self.rng.random() < 0.9:
            self.e.end(rid)

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()
        print("# soak %d (%s, format %d): %d steps, %r" % (self.number, self.e.dialect, self.e.kv.fmt, self.count, self.stats), flush=True)
        assert self.stats["stored"] > 0 and self.stats["hits"] > 0, self.stats
        self.e.close()


def soak(seconds, tolerant, numbers):
    d = tap.daemon
    fds = d.fds()
    pids = [fork(lambda n=n: Soaker(d.port, n, tolerant).run(seconds)) for n in numbers]
    failed = []
    while pids:
        pid, code = os.wait()
        if pid in pids:
            pids.remove(pid)
            if code:
                failed.append(code)
    eq(failed, [], "child processes that failed")
    d.wait_l1("write_locked_count", 0)
    eq(d.wait(lambda: not d.contexts(), 4), True, "contexts of ended engines are gone")
    d.wait_l1("read_locked_count", 0)
    l1 = d.l1()
    assert l1["memory_used_bytes"] <= l1["memory_total_bytes"] and l1["memory_used_bytes"] == l1["total_object_count"] * 2 * NL * CHUNK * HIDDEN * 2, l1
    assert d.wait(lambda: d.fds() <= fds + 2, 4), "fds %d, then %d" % (fds, d.fds())


tap.add("four engines, evictions all the time: a locked chunk is never lost, every byte right", soak, 13, False, (0, 1, 2, 3))
tap.add("three engines, with CLEARs in between: bytes right or a clean miss", soak, 6, True, (4, 5, 6))

if __name__ == "__main__":
    assert SLOW
    tap.main()
