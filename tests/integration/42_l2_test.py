"""The tier below L1: what is stored comes back from there, in every dialect, after restarts, late, broken and cancelled."""
import importlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
import numpy                                                                       # noqa: E402
from lmclient import (BIN, CHUNK, KV, MAIN, NUMBERS, SLOW, Client, Daemon, Died, Engine, Skip, Tap, eq,  # noqa: E402
                      per_chunk, random_tokens)

Driver = importlib.import_module("30_engine_driven_test").Driver

tap = Tap()
MIB4 = dict(fmt=1, nl=4, nb=64, nh=8, hs=128)          # 4 MiB per chunk object
MOCK = {"type": "mock", "max_size_gb": 2, "mock_bandwidth_gb": 20}


def adapter(kind, folder):
    if kind == "mock":
        return MOCK
    if kind == "raw_block":
        return {"type": "raw_block", "device_path": os.path.join(folder, "raw"), "capacity_bytes": 1 << 30}
    return {"type": kind, "base_path": os.path.join(folder, kind), "max_capacity_gb": 2}


class L2:
    """A daemon over one or more adapters, with a folder that outlives it."""

    def __init__(self, *kinds, extra=(), **kw):
        self.folder = tempfile.mkdtemp(prefix="lmca-l2-")
        self.args = []
        for kind in kinds:
            a = adapter(kind, self.folder) if isinstance(kind, str) else kind
            if "base_path" in a:
                os.makedirs(a["base_path"], exist_ok=True)
            self.args += ["--l2-adapter", json.dumps(a)]
        self.args += list(extra)
        try:
            self.d = Daemon(*self.args, **kw)
        except Died as died:
            shutil.rmtree(self.folder)
            if "is not in this build" in str(died):
                raise Skip("%s is not in this build" % (kinds,))
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        try:
            self.d.__exit__(kind, *rest)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def flush(self):
        code, body = self.d.http("POST", "/l2/flush", timeout=20)
        eq((code, body.get("status")), (200, "ok"), "flush says %r" % (body,))
        return body

    def forget(self):
        """What is in L1 goes, once L2 has it."""
        self.flush()
        eq(self.d.http("POST", "/cache/clear", {"tier": "l1"})[0], 200, "clear")
        eq(self.d.l1()["total_object_count"], 0, "L1 is empty")

    def tier(self):
        return self.d.status()["storage_manager"]["tier"]

    def adapters(self):
        return self.d.status()["storage_manager"]["l2_adapters"]

    def quiet(self):
        """Nothing is locked, loading or waiting any more."""
        self.d.wait_l1("read_locked_count", 0)
        self.d.wait_l1("write_locked_count", 0)
        s = self.d.status()
        eq(s["active_prefetch_jobs"], 0, "jobs")
        eq(s["storage_manager"]["prefetch_controller"]["in_flight_request_count"], 0, "loading")


def slow(**kw):
    return dict({"type": "fault_inject", "adapter": MOCK}, **kw)


KINDS = ["mock", "fs", "fs_native", "raw_block"]


def round_trip(kind, nchunks=6):
    with L2(kind) as l2, Engine(l2.d.port, "D2", KV(1, nb=160)) as e:
        tokens = random_tokens(nchunks * CHUNK)
        data = e.fill(tokens)
        l2.forget()
        eq(e.lookup(tokens, "r"), nchunks, "chunks from below")
        eq(l2.tier()["loaded_objects"], nchunks, "objects loaded")
        e.take(tokens, data, "r")
        e.end("r")
        l2.quiet()
        l2.d.wait_l1("total_object_count", 0)          # temporary: gone with the last lock
        eq(e.lookup(tokens, "again"), nchunks, "and once more")
        e.take(tokens, data, "again")


for k in KINDS:
    tap.add("stored, gone from L1, and back from %s with every byte" % k, round_trip, k)


def world(kind):
    """Three ranks: what L1 has of a chunk and what L2 has make one chunk."""
    with L2(kind, extra=["--l2-prefetch-policy", "retain"]) as l2:
        ranks = [Engine(l2.d.port, "D2", KV(1, nh=1), model="w", world=3, rank=r) for r in range(3)]
        try:
            tokens = random_tokens(5 * CHUNK)
            data = [e.fill(tokens) for e in ranks]
            l2.forget()
            ranks[1].store(tokens, 0, CHUNK, ranks[1].blocks(CHUNK // 16))     # other bytes, but the L1 copy wins
            eq(ranks[0].lookup(tokens, "r"), 5, "chunks")
            for r in (0, 2):
                ranks[r].take(tokens, data[r], "r")
            eq(ranks[1].retrieve(tokens, 0, 5 * CHUNK, ranks[1].blocks(5 * CHUNK // 16), "r"), True, "rank 1")
            ranks[0].end("r")
            l2.quiet()
            eq(l2.d.l1()["total_object_count"], 15, "retained")
        finally:
            for e in ranks:
                e.close()


tap.add("three ranks, part of a chunk in L1 and the rest in L2; retained afterwards", world, "mock")


def dialect_answers(name):
    """None (no payload) while loading, in every dialect's form; then chunks, once."""
    with L2(slow(latency=1, latency_ms=400)) as l2, Engine(l2.d.port, name, KV(1, nb=160)) as e:
        tokens = random_tokens(3 * CHUNK)
        data = e.fill(tokens)
        l2.forget()
        t0 = time.monotonic()
        job = e.lookup_only(tokens, "p")
        assert time.monotonic() - t0 < 0.3 * SLOW, "LOOKUP waited for L2"
        eq(e.client.call("QUERY_PREFETCH_STATUS", job), None, "pending")
        if "QUERY_PREFETCH_LOOKUP_HITS" in NUMBERS[name]:
            hits = e.client.call("QUERY_PREFETCH_LOOKUP_HITS", job)
            assert hits in (None, 3), hits
        if "WAIT_PREFETCH_STATUS" in NUMBERS[name]:
            eq(e.client.call("WAIT_PREFETCH_STATUS", job, 0.05), None, "not within 50 ms")
            eq(e.client.call("WAIT_PREFETCH_STATUS", job, 20.0, timeout=25), 3, "waited for")
        else:
            eq(e.query(job), 3, "chunks")
        eq(e.client.call("QUERY_PREFETCH_STATUS", job), 0, "the job is gone")
        e.take(tokens, data, "p")
        e.end("p")
        l2.quiet()


for name in MAIN:
    tap.add("pending, found, loaded: answers of %s" % name, dialect_answers, name)


@tap.test("WAITs wait without a thread: many at once, and PINGs are answered meanwhile")
def waiting():
    with L2(slow(latency=1, latency_ms=1500)) as l2, Engine(l2.d.port, "D5", KV(1, nb=160)) as e:
        tokens = [random_tokens(2 * CHUNK) for _ in range(6)]
        for t in tokens:
            e.fill(t)
        l2.forget()
        others = [Client(l2.d.port, "D5") for _ in range(4)]
        jobs = [e.lookup_only(t, "w%d" % i) for i, t in enumerate(tokens)]
        waits = [e.client.send("WAIT_PREFETCH_STATUS", j, 30.0) for j in jobs for _ in range(20)]
        worst = 0
        for _ in range(50):
            for c in others:
                t0 = time.monotonic()
                eq(c.call("PING", None), True, "PING")
                worst = max(worst, time.monotonic() - t0)
        assert worst < 0.1 * SLOW, "a PING took %.3f s" % worst
        got = [e.client.recv(w, 30) for w in waits]
        for i in range(len(jobs)):
            mine = sorted(got[20 * i:20 * (i + 1)])
            assert mine == [0] * 19 + [2], "one of them gets the answer, the job is gone for the others: %s" % mine
        for c in others:
            c.close()
        for j in jobs:
            e.end(j)
        l2.quiet()


def restart(kind):
    with L2(kind) as l2:
        tokens = random_tokens(8 * CHUNK)
        kv = KV(1, nb=160)
        with Engine(l2.d.port, "D2", kv) as e:
            data = e.fill(tokens)
            l2.flush()
            l2.d.stop()
            l2.d.start()
        kv = KV(1, nb=160)
        with Engine(l2.d.port, "D2", kv) as e:
            end = time.monotonic() + 5 * SLOW
            while e.lookup(tokens, "r") != 8:
                assert time.monotonic() < end, "nothing is found again"
                e.end("r")
                time.sleep(0.02)
            e.take(tokens, data, "r")
        if kind != "mock":
            assert l2.adapters()[0]["stored_object_count"] >= 8, l2.adapters()


def killed(kind):
    with L2(kind) as l2:
        tokens = random_tokens(8 * CHUNK)
        with Engine(l2.d.port, "D2", KV(1, nb=160)) as e:
            data = e.fill(tokens)
            l2.flush()
        l2.d.kill()
        l2.d.start()
        with Engine(l2.d.port, "D2", KV(1, nb=160)) as e:
            end = time.monotonic() + 5 * SLOW
            while e.lookup(tokens, "r") != 8:
                assert time.monotonic() < end, "what was flushed is lost"
                e.end("r")
                time.sleep(0.02)
            e.take(tokens, data, "r")


for k in ("fs", "fs_native", "raw_block"):
    tap.add("a restart keeps what %s has" % k, restart, k)
    tap.add("kill -9 keeps what was flushed to %s" % k, killed, k)


@tap.test("SIGTERM writes what is still to be written")
def drain():
    with L2("fs", extra=["--l2-dirty-max-percent", "90"]) as l2:
        tokens = random_tokens(8 * CHUNK)
        with Engine(l2.d.port, "D2", KV(**dict(MIB4, nb=128))) as e:
            data = e.fill(tokens)
            l2.d.stop()
        l2.d.start()
        with Engine(l2.d.port, "D2", KV(**dict(MIB4, nb=128))) as e:
            eq(e.lookup(tokens, "r"), 8, "chunks")
            e.take(tokens, data, "r")


@tap.test("two engines of one model name with other layouts never share below L1, those of one shape always do")
def layouts():
    with L2("mock") as l2:
        tokens = random_tokens(3 * CHUNK)
        with Engine(l2.d.port, "D2", KV(1, nh=2, hs=8), model="same") as a:
            data = a.fill(tokens)
            l2.forget()
            with Engine(l2.d.port, "D2", KV(1, nh=4, hs=8), model="same") as b:
                eq(b.lookup(tokens, "other"), 3, "it is there, for the other one")
                eq(b.retrieve(tokens, 0, 3 * CHUNK, b.blocks(3 * CHUNK // 16), "other"), False, "not for this one")
                b.end("other")
                eq(a.lookup(tokens, "both"), 3, "the asker's own layout")
                a.take(tokens, data, "both")
                a.end("both")
                b.unregister()
            eq(a.lookup(tokens, "a"), 3, "alone again")
            a.take(tokens, data, "a")
            a.end("a")
            a.unregister()
        for other in (dict(nh=1, hs=8), dict(nh=2, hs=16), dict(dtype="bfloat16"), dict(nl=4), dict(nl=1, nh=4)):
            l2.d.wait_l1("total_object_count", 0)
            with Engine(l2.d.port, "D2", KV(1, **dict(dict(nh=2, hs=8), **other)), model="same") as b:
                eq(b.lookup(tokens, "b"), 0, "%r is another layout" % other)
                b.unregister()
        with Engine(l2.d.port, "D2", KV(2, nh=2, hs=8), model="same") as c:      # other pages, the same objects
            eq(c.lookup(tokens, "c"), 3, "another page format shares")
            c.take(tokens, data, "c")
            c.end("c")


def two_dtypes(first, second):
    """float16 and bfloat16 under one name: as many bytes, other numbers. Each gets its own, from L1 and from below."""
    with L2("mock") as l2:
        tokens = random_tokens(4 * CHUNK)
        engines = [Engine(l2.d.port, "D2", KV(1, nb=160, dtype=t), model="same") for t in (first, second)]
        try:
            data = [e.fill(tokens) for e in engines]
            assert data[0].tobytes() != data[1].tobytes(), "the engines write the same bytes"
            eq(l2.d.l1()["total_object_count"], 8, "objects in L1")
            for where in ("L1", "below"):
                for n, e in enumerate(engines):
                    rid = "%s %d" % (where, n)
                    eq(e.lookup(tokens, rid), 4, "%s: chunks for engine %d" % (where, n))
                    eq(engines[1 - n].retrieve(tokens, 0, 4 * CHUNK, engines[1 - n].blocks(4 * CHUNK // 16), rid), False,
                       "%s: the other one has no part in it" % where)
                    e.end(rid)
                    eq(e.lookup(tokens, rid), 4, "%s: again" % where)
                    e.take(tokens, data[n], rid)
                    e.end(rid)
                if where == "L1":
                    l2.forget()
            # a scheduler on a connection of its own: one of the two, and for the other a miss
            scheduler = Engine(l2.d.port, "D2", KV(1, nb=160, dtype=first), model="same", register=False)
            got = []
            for n, e in enumerate(engines):
                eq(scheduler.lookup(tokens, "s"), 4, "chunks of either")
                blocks = e.blocks(4 * CHUNK // 16)
                if e.retrieve(tokens, 0, 4 * CHUNK, blocks, "s"):
                    assert (e.kv.read(blocks) == data[n]).all(), "wrong bytes"
                    got.append(n)
                scheduler.end("s")
            eq(len(got), 1, "served")
            scheduler.close()
            l2.quiet()
        finally:
            for e in engines:
                e.close()


tap.add("float16 and bfloat16 under one name", two_dtypes, "float16", "bfloat16")
tap.add("bfloat16 and float16 under one name", two_dtypes, "bfloat16", "float16")


def both_kinds(fmt, mla):
    """A paged engine and an engine-driven one of one shape have one kind of objects, above and below."""
    with L2("mock") as l2:
        kv = KV(fmt, nl=3, nh=2, hs=16 if mla else 8)
        with Engine(l2.d.port, "D6", kv, model="kinds") as e:
            paged_tokens = random_tokens(3 * CHUNK)
            paged = e.fill(paged_tokens)
            l2.forget()
            with Driver(l2.d.port, "D6", "kinds", nl=3, hidden=16, mla=mla) as a:
                def looked_up(tokens, rid):
                    a.client.call("LOOKUP", a.key(tokens, rid=rid, rank=None), 1)
                    return e.query(rid)

                chunks = [c.reshape(a.shape) for c in per_chunk(paged, CHUNK)]
                for rid in ("from below", "once more"):
                    eq(looked_up(paged_tokens, rid), 3, "paged objects, " + rid)
                    got = a.retrieve(paged_tokens, rid)
                    assert got and all((x == y).all() for x, y in zip(got, chunks)), "wrong bytes"
                    a.client.call("END_SESSION", rid)
                driven_tokens = random_tokens(2 * CHUNK)
                driven = a.random(2)
                eq(a.store(driven_tokens, driven), [0, 1], "new")
                l2.forget()
                eq(e.lookup(driven_tokens, "driven"), 2, "engine-driven objects from below")
                e.take(driven_tokens, numpy.concatenate([c.reshape(kv.kv, 3, CHUNK, 16) for c in driven], axis=2), "driven")
                e.end("driven")
                l2.quiet()


tap.add("paged and engine-driven engines of one shape share below L1", both_kinds, 1, False)
tap.add("paged and engine-driven MLA engines share below L1", both_kinds, 3, True)


@tap.test("counters of L2 by salt and model")
def labels():
    with L2("mock") as l2, Engine(l2.d.port, "D2", KV(1, nb=160), model="lm", salt="ten") as e, \
            Engine(l2.d.port, "D2", KV(1, nb=160), model="lm", salt="ant") as other:
        tokens = random_tokens(4 * CHUNK)
        data = e.fill(tokens)
        other.fill(tokens[:CHUNK])
        l2.forget()
        eq(e.lookup(tokens + random_tokens(2 * CHUNK), "r"), 4, "chunks")
        e.take(tokens, data, "r")
        e.end("r")
        text = l2.d.http("GET", "/metrics")[1]
        for name, labels, value in (("store_submitted_objects_chunks", 'cache_salt="ten"', 4),
                                    ("store_completed_objects_chunks", 'cache_salt="ten"', 4),
                                    ("store_completed_objects_chunks", 'cache_salt="ant"', 1),
                                    ("prefetch_lookup_objects_chunks", 'cache_salt="ten"', 6),
                                    ("prefetch_hit_chunks", 'cache_salt="ten"', 4),
                                    ("prefetch_load_submitted_objects_chunks", 'cache_salt="ten"', 4),
                                    ("prefetch_load_completed_chunks", 'cache_salt="ten"', 4),
                                    ("prefetch_failure_chunks", 'reason="not_found",model_name="lm"', 2)):
            line = "lmcache_mp_l2_%s_total{%s} %d\n" % (name, labels, value)
            assert line in text, (line, [t for t in text.splitlines() if name in t])


@tap.test("unequal pipeline stages: hits of both, in L1 and from below")
def stages():
    with L2("mock") as l2:
        tokens = random_tokens(4 * CHUNK)
        ranks = [Engine(l2.d.port, "D2", KV(1, nb=160, nl=nl), model="pp", world=2, rank=r)
                 for r, nl in enumerate((3, 2))]
        try:
            data = [e.fill(tokens) for e in ranks]
            for where in ("L1", "below", "below again"):
                eq(ranks[0].lookup(tokens, where), 4, "%s: chunks" % where)
                for e, d in zip(ranks, data):
                    e.take(tokens, d, where)
                ranks[0].end(where)
                l2.quiet()
                l2.forget()
        finally:
            for e in ranks:
                e.close()


def too_small(kind):
    """L1 holds a tenth: what it cannot keep comes back from below, with every byte."""
    with L2(kind, extra=["--l2-dirty-max-percent", "60"], l1="0.016") as l2, \
            Engine(l2.d.port, "D2", KV(**dict(MIB4, nl=1, nb=128)), model="big") as e:
        prompts = [random_tokens(8 * CHUNK) for _ in range(20)]          # 160 MiB
        data = []
        for i, t in enumerate(prompts):
            data.append(e.fill(t, rid="s%d" % i))
            l2.flush()
        found = 0
        for i, t in enumerate(prompts):
            n = e.lookup(t, "r%d" % i)
            found += n
            if n:
                e.take(t[:n * CHUNK], data[i][:, :, :n * CHUNK], "r%d" % i)
            e.end("r%d" % i)
        assert found >= 150, "%d of 160 chunks came back" % found
        l2.quiet()
        text = l2.d.http("GET", "/metrics")[1]
        assert "lmcache_mp_lookup_hit_l2_tokens_total{" in text, "hits of L2 are not counted"


for k in ("mock", "raw_block"):
    tap.add("L1 ten times too small over %s" % k, too_small, k, limit=120)


@tap.test("an adapter that hangs: the lookup is answered when it gets on no more, and the server goes on")
def hangs():
    with L2(slow(hang=1, hang_ms=6000), extra=["--l2-prefetch-stall-seconds", "0.5"]) as l2, \
            Engine(l2.d.port, "D5", KV(1, nb=160)) as e:
        tokens = random_tokens(3 * CHUNK)
        e.fill(tokens)
        end = time.monotonic() + 12 * SLOW
        while l2.adapters()[0]["stored_object_count"] < 3:
            assert time.monotonic() < end, l2.adapters()
            time.sleep(0.1)
        l2.d.http("POST", "/cache/clear", {"tier": "l1"})
        t0 = time.monotonic()
        job = e.lookup_only(tokens, "h")
        eq(e.client.call("WAIT_PREFETCH_STATUS", job, 30.0, timeout=35), 0, "nothing came")
        took = time.monotonic() - t0
        assert 0.4 < took < 2 * SLOW, "answered after %.2f s" % took
        assert l2.tier()["late_jobs"] >= 1, l2.tier()
        e.end("h")
        other = random_tokens(CHUNK)
        data = e.fill(other)
        eq(e.lookup(other, "o"), 1, "L1 serves on")
        e.take(other, data, "o")
        e.end("o")


@tap.test("a total limit answers with what is there by then")
def late():
    with L2(slow(latency=1, latency_ms=3000), extra=["--l2-prefetch-load-timeout", "0.4"]) as l2, \
            Engine(l2.d.port, "D2", KV(1, nb=160)) as e:
        tokens = random_tokens(4 * CHUNK)
        e.fill(tokens)
        end = time.monotonic() + 10 * SLOW
        while l2.adapters()[0]["stored_object_count"] < 4:
            assert time.monotonic() < end, l2.adapters()
            time.sleep(0.05)
        l2.d.http("POST", "/cache/clear", {"tier": "l1"})
        t0 = time.monotonic()
        eq(e.lookup(tokens, "t"), 0, "chunks by then")
        assert time.monotonic() - t0 < 2 * SLOW, "the limit was not kept"
        e.end("t")
        time.sleep(0.1)


def give_up(how):
    with L2(slow(latency=1, latency_ms=700)) as l2, Engine(l2.d.port, "D2", KV(1, nb=160)) as e:
        tokens = random_tokens(4 * CHUNK)
        data = e.fill(tokens)
        l2.forget()
        job = e.lookup_only(tokens, "x")
        eq(e.client.call("QUERY_PREFETCH_STATUS", job), None, "pending")
        if how == "END_SESSION":
            e.end("x")
        elif how == "another LOOKUP":
            e.lookup_only(random_tokens(2 * CHUNK), "x")
        elif how == "UNREGISTER":
            e.unregister()
            e.end("x")
        else:
            l2.d.http("POST", "/sessions/x/end")
        eq(l2.d.status()["active_prefetch_jobs"], 0, "no job is left")
        eq(e.client.call("QUERY_PREFETCH_STATUS", job), 0, "and nothing to ask for")
        time.sleep(1.2 * SLOW)
        l2.quiet()
        if how != "UNREGISTER":
            eq(e.lookup(tokens, "y"), 4, "it can be asked for again")
            e.take(tokens, data, "y")
            e.end("y")
            l2.quiet()


for k in ("END_SESSION", "another LOOKUP", "UNREGISTER", "HTTP"):
    tap.add("a pending lookup is given up by %s" % k, give_up, k)


@tap.test("errors and flipped bits below are misses, never wrong bytes")
def broken():
    with L2(slow(load_error=0.2, corrupt=0.2, seed=7)) as l2, Engine(l2.d.port, "D2", KV(1, nb=160)) as e:
        prompts = [random_tokens(4 * CHUNK) for _ in range(12)]
        data = [e.fill(t, rid="s%d" % i) for i, t in enumerate(prompts)]
        l2.forget()
        found = []
        for i, t in enumerate(prompts):
            n = e.lookup(t, "r%d" % i)
            found.append(n)
            if n:
                e.take(t[:n * CHUNK], data[i][:, :, :n * CHUNK], "r%d" % i)
            e.end("r%d" % i)
        assert 0 < sum(found) < 48, "hits %s of 4 each" % found
        l2.quiet()


@tap.test("skip_l1: what is written leaves L1")
def skip():
    with L2("mock", extra=["--l2-store-policy", "skip_l1"]) as l2, Engine(l2.d.port, "D2", KV(1, nb=160)) as e:
        tokens = random_tokens(4 * CHUNK)
        data = e.fill(tokens)
        l2.flush()
        l2.d.wait_l1("total_object_count", 0)
        eq(e.lookup(tokens, "r"), 4, "chunks")
        e.take(tokens, data, "r")


@tap.test("second-touch: only what a lookup found once is written")
def second():
    with L2("mock", extra=["--l2-admission", "second-touch"]) as l2, Engine(l2.d.port, "D2", KV(1, nb=160)) as e:
        once, twice = random_tokens(2 * CHUNK), random_tokens(2 * CHUNK)
        e.fill(once)
        data = e.fill(twice)
        l2.flush()
        eq(l2.adapters()[0]["stored_object_count"], 0, "nothing yet")
        eq(e.lookup(twice, "t"), 2, "hits in L1")
        e.end("t")
        l2.forget()
        eq(l2.adapters()[0]["stored_object_count"], 2, "the ones that were found")
        eq(e.lookup(once, "a"), 0, "never written")
        eq(e.lookup(twice, "b"), 2, "written")
        e.take(twice, data, "b")


@tap.test("two adapters: both are written to, the first one serves")
def two():
    with L2("mock", MOCK) as l2, Engine(l2.d.port, "D2", KV(1, nb=160)) as e:
        tokens = random_tokens(3 * CHUNK)
        data = e.fill(tokens)
        l2.forget()
        eq([a["stored_object_count"] for a in l2.adapters()], [3, 3], "objects")
        eq(e.lookup(tokens, "r"), 3, "chunks")
        e.take(tokens, data, "r")
        eq([a["loads"] for a in l2.adapters()], [3, 0], "loads")
        eq(l2.d.http("GET", "/config/adapters")[1]["adapters"][1],
           {"index": 1, "type_name": "mock", "tier": "l2", "primary": False, "reconfigurable": False}, "adapters")


@tap.test("operators list, remove and clear what is below")
def operators():
    with L2("mock") as l2, Engine(l2.d.port, "D2", KV(1, nb=160), salt="") as e:
        tokens = random_tokens(7 * CHUNK)
        e.fill(tokens)
        l2.forget()
        entries, token, pages = [], None, 0
        while True:
            code, body = l2.d.http("GET", "/l2/keys?page_size=3&model_name=m" + ("&page_token=" + token if token else ""))
            eq(code, 200, str(body))
            entries += body["entries"]
            token, pages = body["next_page_token"], pages + 1
            if token is None:
                break
        eq(len({x["key"]["chunk_hash_hex"] for x in entries}), 7, "keys of %d pages" % pages)
        eq(l2.d.http("GET", "/l2/keys?model_name=other")[1]["entries"], [], "of another model")
        eq(l2.d.http("GET", "/cache/objects?adapter=mock&page_size=5000")[0], 200, "by type")
        eq(l2.d.http("GET", "/cache/objects?adapter=nope")[0], 404, "unknown adapter")
        for bad in ("page_size=0", "page_size=5001", "page_size=x", "page_size="):
            eq(l2.d.http("GET", "/l2/keys?" + bad)[0], 422, bad)
        eq(l2.d.http("GET", "/l2/keys?page_token=x")[0], 400, "a token of nobody's")
        keys = [x["key"] for x in entries]
        eq(l2.d.http("DELETE", "/l2", {"keys": keys[:2]})[1], {"requested": 2, "adapter": "mock", "ok": True}, "removed")
        eq(l2.adapters()[0]["stored_object_count"], 5, "left")
        eq(l2.d.http("DELETE", "/cache/objects", {"keys": keys, "tier": "l2"})[1], {"deleted": 5, "skipped": 2, "ok": True},
           "the rest")
        eq(l2.d.http("DELETE", "/l2", {"keys": [{"chunk_hash_hex": "xy"}]})[0], 422, "no key")
        e.fill(tokens)
        l2.flush()
        eq(l2.d.http("DELETE", "/cache/objects", {"keys": keys[:3], "tier": "l1"})[1], {"deleted": 3, "skipped": 0, "ok": True},
           "from L1")
        eq(l2.d.http("POST", "/cache/clear", {"tier": "all"})[1], {"status": "ok", "cleared": {"tier": "all"}}, "clear")
        eq(l2.adapters()[0]["stored_object_count"], 0, "L2")
        eq(l2.d.l1()["total_object_count"], 0, "L1")
        p = l2.d.http("GET", "/status/memory-pressure")[1]
        eq([t["tier"] for t in p["tiers"]], ["l1", "l2"], "tiers")
        eq(p["overall_level"], "normal", "level")
        conf = l2.d.http("GET", "/conf")[1]["storage_manager"]["l2_adapter_config"]["adapters"]
        eq(conf[0]["type"], "mock", "configuration")


@tap.test("wrong --l2-adapter values stop the start with exit code 2 and upstream's words")
def start_errors():
    import subprocess
    cases = [("{", "Invalid JSON for --l2-adapter #0"), ("[]", "--l2-adapter #0: expected a JSON object"), ("{}", "type"),
             ('{"type": "s3"}', "s3"), ('{"type": "nope"}', "known: "), ('{"type": "mock"}', "max_size_gb")]
    for text, want in cases:
        done = subprocess.run([BIN, "server", "--l1-size-gb", "1", "--eviction-policy", "LRU", "--l2-adapter", text],
                              capture_output=True, text=True, timeout=20 * SLOW)
        eq(done.returncode, 2, text + ": " + done.stderr)
        assert want in done.stderr, (text, done.stderr)


if __name__ == "__main__":
    tap.main()
