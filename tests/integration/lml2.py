"""Load on the second tier whose every byte can be checked later by another process: a prompt is a number, and tokens and KV follow
from it. The loader writes to a journal what it stored and, after a flush was answered, up to where all of it is durable."""
import http.client
import json
import os
import time

import numpy

from lmclient import CHUNK, KV, Engine

# (model, layers, heads, head size): objects of 32 KiB, 512 KiB and 2 MiB.
SHAPES = (("kill-s", 2, 2, 8), ("kill-m", 4, 2, 64), ("kill-l", 8, 4, 64))
PAGES = 96          # of 16 tokens: six chunks at most
FLUSH_EVERY = 6     # prompts
USUAL = (0.3, 0.5, 0.2)
SMALL = (0.6, 0.4, 0.0)     # for an emulated machine


class Prompts:
    """Engines of all shapes on one server, and what prompt number n holds."""

    def __init__(self, port, dialect="D4", shares=USUAL):
        self.shares = shares
        self.engines = [Engine(port, dialect, KV(nl=nl, nb=PAGES, nh=nh, hs=hs, seed=1), model=model)
                        for model, nl, nh, hs in SHAPES]

    def close(self):
        for engine in self.engines:
            engine.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def make(self, number):
        """(engine, tokens, canonical words) of a prompt."""
        rng = numpy.random.default_rng(number)
        engine = self.engines[int(rng.choice(len(SHAPES), p=self.shares))]
        chunks = int(rng.integers(1, 5))
        tokens = [int(t) for t in rng.integers(0, 128256, chunks * CHUNK)]
        _, nl, nh, hs = SHAPES[self.engines.index(engine)]
        words = rng.integers(0, 1 << 16, (2, nl, chunks * CHUNK, nh * hs), dtype=numpy.uint16)
        return engine, tokens, words

    def store(self, number):
        engine, tokens, words = self.make(number)
        blocks = engine.blocks(len(tokens) // engine.kv.bs)
        engine.kv.write(blocks, words)
        return engine.store(tokens, 0, len(tokens), blocks, "s%d" % number)

    def check(self, number):
        """(chunks found, chunks there were); wrong bytes raise."""
        engine, tokens, words = self.make(number)
        rid = "c%d" % number
        hits = engine.lookup(tokens, rid)
        if hits:
            engine.take(tokens, words[:, :, :hits * CHUNK], rid, end=hits * CHUNK)
        engine.end(rid)
        return hits, len(tokens) // CHUNK


def flush(http_port, timeout=30):
    """Objects that were dropped since the server's start, once all stored before is durable; None when it could not be had, for
    instance because the server was killed meanwhile."""
    conn = http.client.HTTPConnection("127.0.0.1", http_port, timeout=timeout)
    try:
        conn.request("POST", "/l2/flush")
        reply = conn.getresponse()
        body = json.loads(reply.read())
        return body["dropped"] if reply.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        conn.close()


def load(port, http_port, first, journal, stop_after=None, on_ack=None, flush_every=FLUSH_EVERY, prompts_most=None,
         shares=USUAL):
    """Stores prompts first, first + 1, ... until the server is gone. Lines of the journal: `stored N`, `durable N` (all up to N)."""
    with Prompts(port, shares=shares) as prompts, open(journal, "a", buffering=1) as out:
        number, begun, before = first, first, flush(http_port)
        end = time.monotonic() + stop_after if stop_after else None
        while (end is None or time.monotonic() < end) and (prompts_most is None or number - first < prompts_most):
            out.write("begun %d\n" % number)
            if prompts.store(number):
                out.write("stored %d\n" % number)
            number += 1
            if (number - first) % flush_every == 0:
                now = flush(http_port)
                if now is not None and now == before:
                    out.write("durable %d %d\n" % (begun, number - 1))
                    if on_ack:
                        on_ack(number - 1)
                before, begun = now, number
    return number


def recovered(daemon, seconds=30):
    """Waits until every device has loaded what it holds: before, a lookup may miss what is there."""
    def all_loaded():
        return all(device["recovered"] for adapter in daemon.status()["storage_manager"]["l2_adapters"] for device in adapter["devices"])
    assert daemon.wait(all_loaded, seconds), "recovery did not end: " + daemon.log()[-1500:]


def read_journal(path):
    """(durable prompt numbers, all that were begun)."""
    durable, begun = set(), set()
    if os.path.exists(path):
        with open(path) as f:
            for line in f:
                words = line.split()
                if not line.endswith("\n"):
                    break
                if words[0] == "begun":
                    begun.add(int(words[1]))
                elif words[0] == "durable":
                    durable.update(range(int(words[1]), int(words[2]) + 1))
    return durable, begun


def verify(prompts, durable, begun):
    """Every durable prompt is there whole, the others with right bytes or not at all. (checked, found whole)."""
    whole = 0
    for number in sorted(begun):
        hits, chunks = prompts.check(number)
        if number in durable and hits != chunks:
            raise AssertionError("prompt %d was durable: %d of %d chunks are left" % (number, hits, chunks))
        whole += hits == chunks
    return len(begun), whole
