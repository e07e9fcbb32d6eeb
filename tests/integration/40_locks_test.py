"""Locks, sessions, eviction, TTLs and CLEAR."""
import sys
import time

sys.dont_write_bytecode = True
from lmclient import CHUNK, KV, SLOW, Client, Daemon, Engine, Tap, eq, random_instance, random_tokens  # noqa: E402

tap = Tap()
MIB4 = dict(fmt=1, nl=4, nb=64, nh=8, hs=128)          # 4 MiB per chunk object: 64 of them fill 0.25 GiB


def big(d, model="big", dialect="D2", **kw):
    return Engine(d.port, dialect, KV(**dict(MIB4, **kw)), model=model)


@tap.test("locked chunks outlive any number of stores; unlocked ones make room, oldest first")
def eviction():
    with Daemon() as d, big(d) as e:
        kept, old = random_tokens(3 * CHUNK), random_tokens(3 * CHUNK)
        old_data = e.fill(old)
        eq(e.lookup(old, "touch"), 3, "hits")
        e.take(old, old_data, "touch")
        data = e.fill(kept)
        eq(e.lookup(kept, "lock"), 3, "hits")
        last = None
        for i in range(100):                           # 100 * 4 MiB through 256 MiB
            last = random_tokens(CHUNK)
            last_data = e.fill(last, rid="f%d" % i)
        l1 = d.l1()
        assert l1["memory_used_bytes"] <= l1["memory_total_bytes"], l1
        eq(e.lookup(last, "last"), 1, "the newest is there")
        e.take(last, last_data, "last")
        eq(e.lookup(old, "old"), 0, "the oldest is gone")
        e.take(kept, data, "lock")
        d.wait_l1("read_locked_count", 0)
        for i in range(100):
            e.fill(random_tokens(CHUNK))
        eq(e.lookup(kept, "gone"), 0, "unlocked, it is evicted")


@tap.test("the older prompt goes first, from its tail: no chunk stays without its prefix")
def tail_first():
    with Daemon() as d, big(d) as e:
        first, second = random_tokens(16 * CHUNK), random_tokens(16 * CHUNK)
        for rid, tokens in (("a", first), ("b", second)):
            for i in range(0, 16, 4):
                eq(e.store(tokens, i * CHUNK, (i + 4) * CHUNK, e.blocks(64), rid), True, "STORE")
            e.end(rid)
        singles = 0
        while d.l1()["total_object_count"] == 32 + singles:
            assert singles < 80, "nothing is ever evicted"
            e.fill(random_tokens(CHUNK), rid="x%d" % singles)
            singles += 1
            time.sleep(0.03)
        time.sleep(0.3)
        count = d.l1()["total_object_count"]
        a, b = e.lookup(first, "a"), e.lookup(second, "b")
        assert b == 16 or a == 0, "%d chunks of the older prompt are left, %d of the younger" % (a, b)
        assert a < 16, "%d of the oldest prompt's chunks are left" % a
        if b:
            eq(count, a + b + singles, "objects that can be hit (older %d, younger %d, single %d)" % (a, b, singles))
        e.end("a")
        e.end("b")


@tap.test("everything locked: STORE answers at once, and room comes back with the locks")
def full():
    with Daemon() as d, big(d) as e:
        held = []
        for i in range(80):
            # The watermark may take the one chunk that is not locked yet, between its STORE and its LOOKUP: full is what
            # three stores in a row say.
            for _ in range(3):
                tokens = random_tokens(CHUNK)
                e.fill(tokens)
                got = e.lookup(tokens, "h%d" % i)
                if got:
                    break
            if got == 0:
                break
            held.append((tokens, "h%d" % i))
        assert 40 <= len(held) <= 64, "%d chunks of 4 MiB fit in 256 MiB" % len(held)
        begin = time.monotonic()
        for _ in range(5):
            tokens = random_tokens(CHUNK)
            e.store(tokens, 0, CHUNK, e.blocks(16))
            eq(e.lookup(tokens, "no"), 0, "no room, hence no hit")
        assert time.monotonic() - begin < 3 * SLOW, "a STORE into a full L1 waits"
        for tokens, rid in held:
            e.free(tokens, 0, CHUNK, rid)
        tokens = random_tokens(CHUNK)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "yes"), 1, "hits")
        e.take(tokens, data, "yes")
        d.wait_l1("read_locked_count", 0)


@tap.test("noop policy: nothing is evicted, stores are skipped when full")
def noop():
    with Daemon(policy="noop") as d, big(d) as e:
        first = random_tokens(CHUNK)
        data = e.fill(first)
        for _ in range(80):
            e.store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16))
        eq(e.lookup(first, "r"), 1, "hits")
        e.take(first, data, "r")


@tap.test("IsolatedLRU: a salt over its quota does not push out another's")
def isolated():
    with Daemon(policy="IsolatedLRU") as d:
        for salt, gb in (("a", 0.12), ("b", 0.08)):
            code, _ = d.http("PUT", "/quota/" + salt, {"limit_gb": gb})
            eq(code, 200, "quota")
        with big(d, "iso") as a, Engine(d.port, "D2", a.kv, model="iso", salt="b", client=a.client) as b:
            a.salt = "a"
            tokens = random_tokens(4 * CHUNK)
            data = a.fill(tokens)
            for _ in range(100):
                b.fill(random_tokens(CHUNK))
            eq(a.lookup(tokens, "r"), 4, "the other salt's chunks")
            a.take(tokens, data, "r")


@tap.test("the same request id again: the second LOOKUP replaces the first and its locks")
def replace():
    for dialect in ("D1", "D2", "D4", "D6"):
        with Engine(tap.daemon.port, dialect, KV(1), model="rep" + dialect) as e:
            a, b = random_tokens(2 * CHUNK), random_tokens(3 * CHUNK)
            da, db = e.fill(a), e.fill(b)
            e.lookup_only(a, "same")
            job = e.lookup_only(a, "same")
            eq(e.query(job), 2, "hits")
            e.take(a, da, "same")
            eq(tap.daemon.l1()["read_locked_count"], 0, "the first LOOKUP's locks are gone")
            e.lookup_only(a, "same")
            job = e.lookup_only(b, "same")
            eq(e.query(job), 3, "hits of the second prompt")
            e.take(b, db, "same")
            eq(tap.daemon.l1()["read_locked_count"], 0, "the first prompt's locks are gone")
            eq(e.lookup(a, "same"), 2, "hits")                     # after the query too
            eq(e.lookup(a, "same"), 2, "hits")
            e.take(a, da, "same")
            eq(tap.daemon.l1()["read_locked_count"], 0, "only one lock")
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("END_SESSION gives leftover locks back, of that request only")
def end_session():
    for dialect in ("D1", "D2", "D5"):
        with Engine(tap.daemon.port, dialect, KV(1), model="end" + dialect) as e:
            tokens = random_tokens(2 * CHUNK)
            data = e.fill(tokens)
            e.lookup(tokens, "one", tp=3)
            e.lookup(tokens, "two")
            e.end("one")
            e.take(tokens, data, "two")
            tap.daemon.wait_l1("read_locked_count", 0)
            eq(tap.daemon.l1()["read_locked_count"], 0, "after END_SESSION")


@tap.test("END_SESSION before the last STORE: the STORE still works")
def end_then_store():
    with Engine(tap.daemon.port, "D2", KV(1), model="ets") as e:
        tokens = random_tokens(3 * CHUNK)
        data = e.kv.read(blocks := e.blocks(48))
        eq(e.store(tokens, 0, 512, blocks[:32], "late"), True, "STORE")
        e.end("late")
        eq(e.store(tokens, 512, 768, blocks[32:], "late"), True, "STORE after END_SESSION")
        u1 = e.client.send("END_SESSION", "late")
        u2 = e.send_store(tokens, 0, 768, blocks, "late")
        e.client.recv(u1)
        eq(e.flag(u2), True, "STORE right behind END_SESSION")
        eq(e.lookup(tokens, "check"), 3, "hits")
        e.take(tokens, data, "check")


@tap.test("sessions do not pile up")
def sessions():
    d = tap.daemon
    with Engine(d.port, "D2", KV(1), model="sess") as e:
        tokens = random_tokens(CHUNK)
        e.fill(tokens)
        e.end("s")
        base = d.status()["active_sessions"]
        for i in range(50):
            e.lookup(tokens, "s%d" % i)
        d.wait(lambda: d.status()["active_sessions"] == base + 50) or eq(d.status()["active_sessions"], base + 50, "sessions")
        for i in range(50):
            e.end("s%d" % i)
        d.wait(lambda: d.status()["active_sessions"] == base) or eq(d.status()["active_sessions"], base, "sessions")
    d.wait_l1("read_locked_count", 0)


@tap.test("CLEAR while locked: keys vanish at once, a RETRIEVE of them fails, memory comes back, new stores work")
def clear():
    d = tap.daemon
    with Engine(d.port, "D2", KV(1), model="clear") as e:
        tokens = random_tokens(3 * CHUNK)
        e.fill(tokens)
        eq(e.lookup(tokens, "held"), 3, "hits")
        e.clear()
        eq(e.lookup(tokens, "other"), 0, "hits after CLEAR")
        eq(d.l1()["total_object_count"], 0, "objects")
        want = e.kv.snapshot()
        eq(e.retrieve(tokens, 0, 768, e.blocks(48), "held"), False, "RETRIEVE of cleared chunks")
        assert e.kv.same(want), "a failed RETRIEVE wrote"
        e.kv.words[0][:] ^= 0xffff
        data = e.fill(tokens, rid="again")
        eq(e.lookup(tokens, "new"), 3, "hits")
        e.end("held")                                               # its locks were on the objects that are gone
        eq(d.l1()["read_locked_count"], 3, "locks of the new request")
        e.take(tokens, data, "new")
        e.clear()
        d.wait_l1("memory_used_bytes", 0)
        d.wait_l1("read_locked_count", 0)


@tap.test("CLEAR through HTTP does the same")
def clear_http():
    d = tap.daemon
    with Engine(d.port, "D6", KV(1), model="clearh") as e:
        tokens = random_tokens(CHUNK)
        for path, body, want in (("/clear-cache", None, {"status": "ok"}), ("/api/clear-cache", None, {"status": "ok"}),
                                 ("/cache/clear", {"tier": "l1", "force": True},
                                  {"status": "ok", "cleared": {"tier": "l1"}})):
            e.fill(tokens)
            eq(e.lookup(tokens, "r"), 1, "hits")
            eq(d.http("POST", path, body), (200, want), path)
            eq(e.lookup(tokens, "r"), 0, "hits after " + path)


@tap.test("read TTL: a lookup's locks expire, its RETRIEVE then fails cleanly, a new LOOKUP is good")
def read_ttl():
    # The daemon keeps expiries in whole seconds: a TTL of 1 s has passed for certain after 2.
    with Daemon("--l1-read-ttl-seconds", "1") as d, Engine(d.port, "D2", KV(1)) as e:
        tokens = random_tokens(2 * CHUNK)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "r"), 2, "hits")
        time.sleep(2.3)
        d.wait_l1("read_locked_count", 0)
        eq(e.lookup(tokens, "r2"), 2, "hits")
        e.take(tokens, data, "r2")
        e.lookup(tokens, "r3")                                      # an expired lock does not add to a new one
        time.sleep(2.3)
        eq(e.lookup(tokens, "r4"), 2, "hits")
        e.take(tokens, data, "r4")
        eq(d.l1()["read_locked_count"], 0, "the lock is spent")


@tap.test("LOOKUP without any registration of the model: 0 hits; after registering again: hits")
def unregistered():
    with Client(tap.daemon.port, "D2") as c:
        e = Engine(0, client=c, kv=KV(1), model="unreg")
        tokens = random_tokens(2 * CHUNK)
        data = e.fill(tokens)
        e.unregister()
        eq(e.lookup(tokens, "a"), 0, "hits without a registered instance")
        eq(e.lookup(tokens, "b", model="never"), 0, "hits of an unheard-of model")
        e.instance = random_instance()
        e.register()
        eq(e.lookup(tokens, "c"), 2, "objects stay over UNREGISTER")
        e.take(tokens, data, "c")
        e.close()
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("D1: integer job ids, all different, each popped once")
def jobs():
    with Engine(tap.daemon.port, "D1", KV(1), model="jobs") as e:
        tokens = random_tokens(3 * CHUNK)
        e.fill(tokens)
        made = [e.lookup_only(tokens[:n * CHUNK], "j%d" % n) for n in (1, 2, 3, 0)]
        eq(len(set(made)), 4, "distinct job ids")
        eq([e.client.call("QUERY_PREFETCH_LOOKUP_HITS", j) for j in made], [1, 2, 3, 0], "lookup hits")
        eq([e.query(j) for j in made], [1, 2, 3, 0], "hits")
        eq([e.query(j) for j in made], [0, 0, 0, 0], "popped")
        for j in (123456789, 0xffffffff, 1 << 62):
            eq(e.query(j), 0, "unknown job")
        for n in (1, 2, 3):
            e.end("j%d" % n)
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("WAIT_PREFETCH_STATUS: value, pops, unknown id, extreme timeouts")
def wait_status():
    for dialect in ("D5a", "D5", "D6"):
        with Engine(tap.daemon.port, dialect, KV(1), model="wait" + dialect) as e:
            tokens = random_tokens(2 * CHUNK)
            e.fill(tokens)
            for timeout in (0.0, 5.0, 1e308, -1.0, 1e-300, float("inf")):
                e.lookup_only(tokens, "w")
                begin = time.monotonic()
                got = e.client.call("WAIT_PREFETCH_STATUS", "w", timeout)
                eq(got, 2, "hits with timeout %r" % timeout)
                assert time.monotonic() - begin < 2 * SLOW
                eq(e.client.call("WAIT_PREFETCH_STATUS", "w", 1.0), 0, "popped")
            e.lookup_only(tokens, "w")
            eq(e.client.call("WAIT_PREFETCH_STATUS", "w", 3), 2, "an integer timeout")
            e.end("w")
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("QUERY_PREFETCH_LOOKUP_HITS does not pop, FREE and END_SESSION of nothing are harmless")
def hits():
    with Engine(tap.daemon.port, "D4", KV(1), model="hits") as e:
        tokens = random_tokens(2 * CHUNK)
        data = e.fill(tokens)
        e.lookup_only(tokens, "h")
        for _ in range(3):
            eq(e.client.call("QUERY_PREFETCH_LOOKUP_HITS", "h"), 2, "lookup hits")
        eq(e.query("h"), 2, "hits")
        e.free(random_tokens(700), 0, 700, "h")
        e.free(tokens, 0, 512, "never heard of")       # another request's FREE: upstream counts per object, ours per request
        e.end("never heard of")
        e.lookup(tokens, "h2")
        e.take(tokens, data, "h2")
        e.end("h")
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("two requests on one prompt: locks add up and are released one by one")
def two():
    with Engine(tap.daemon.port, "D2", KV(1), model="two") as e:
        tokens = random_tokens(2 * CHUNK)
        data = e.fill(tokens)
        for rid in ("a", "b", "c"):
            eq(e.lookup(tokens, rid), 2, "hits")
        e.take(tokens, data, "a")
        e.free(tokens, 0, 512, "b")
        e.take(tokens, data, "c")
        eq(tap.daemon.l1()["read_locked_count"], 0, "all spent")
    tap.daemon.wait_l1("read_locked_count", 0)


if __name__ == "__main__":
    tap.main()
