"""Every request of every dialect: reply frames exact, types strict, nothing answered that has no handler."""
import sys
import time

sys.dont_write_bytecode = True
from lmclient import (ALL, CHUNK, JOB_IDS, KV, NESTED, NUMBERS, REG_FRAMES, SLOW, STUB, Client, Engine, NoReply,  # noqa: E402
                      Tap, eq, pack, random_instance, random_tokens, unpack)

tap = Tap()


def exact(e, name, payload, reply):
    """The reply is the uid and type frames as sent, then exactly `reply` (bytes) or nothing; a bool: an event and it."""
    client = e.client
    frames = client.frames(name, *payload)
    client.send_frames(frames, name)
    got = client.recv_frames(frames[0])
    if type(reply) is bool:
        event = unpack(got[2])[0]
        e.kv.reply(event, reply)
        e.kv.settle(client.port)
        reply = b"\x92" + pack(event) + pack(reply)
    want = frames[:2] + ([] if reply is None else [reply])
    eq([f.hex() for f in got], [f.hex() for f in want], "%s %s" % (client.dialect, name))


def life(dialect):
    """One request after the other through the life of a prompt, all replies compared as bytes."""
    daemon = tap.daemon
    names = NUMBERS[dialect]
    with Engine(daemon.port, dialect, KV(1, nb=40), model="life/" + dialect, register=False) as e:
        ex = lambda name, *payload, reply=None: exact(e, name, payload, reply)                    # noqa: E731
        ex("GET_CHUNK_SIZE", reply=b"\xcd\x01\x00")
        if "PING" in names and REG_FRAMES[dialect] < 7:
            ex("PING", reply=b"\xc3")
        if REG_FRAMES[dialect] == 7:
            ex("PING", e.instance, reply=b"\xc3")
            ex("PING", None, reply=b"\xc3")
        ex("NOOP", reply=b"\xa2OK")
        e.register()
        tokens = random_tokens(3 * CHUNK + 100)
        blocks = e.blocks(32)
        data = e.kv.read(blocks)
        key = lambda worker, start=0, end=2 * CHUNK: e.key(tokens, start, end, "life-0", worker)   # noqa: E731
        ids = [blocks] if NESTED[dialect] else blocks
        ex("RETRIEVE", key(0), e.instance, ids, e.kv.event(), 0, reply=False)
        ex("STORE", key(0), e.instance, ids, e.kv.event(), reply=True)
        ex("STORE", key(0), e.instance, ids, e.kv.event(), reply=True)          # all present: still true
        if dialect in JOB_IDS:
            job = e.lookup_only(tokens, "life-0")
            assert type(job) is int and job >= 0, job
        else:
            ex("LOOKUP", key(None, 0, 3 * CHUNK), 1)
            job = "life-0"
        if "QUERY_PREFETCH_LOOKUP_HITS" in names:
            ex("QUERY_PREFETCH_LOOKUP_HITS", job, reply=b"\x02")
            ex("QUERY_PREFETCH_LOOKUP_HITS", job, reply=b"\x02")
        ex("QUERY_PREFETCH_STATUS", job, reply=b"\x02")
        ex("QUERY_PREFETCH_STATUS", job, reply=b"\x00")
        if "QUERY_PREFETCH_LOOKUP_HITS" in names:
            ex("QUERY_PREFETCH_LOOKUP_HITS", job, reply=b"\x00")
        if "WAIT_PREFETCH_STATUS" in names:
            ex("WAIT_PREFETCH_STATUS", "life-0", 0.05, reply=b"\x00")
            e.lookup_only(tokens, "life-w")
            ex("WAIT_PREFETCH_STATUS", "life-w", 30.0, reply=b"\x02")
            ex("WAIT_PREFETCH_STATUS", "life-w", 0.0, reply=b"\x00")
            ex("FREE_LOOKUP_LOCKS", e.key(tokens, 0, 2 * CHUNK, "life-w", None), 1)
        if "REPORT_BLOCK_ALLOCATION" in names:
            ex("REPORT_BLOCK_ALLOCATION", e.instance, e.model,
               [{"req_id": "life-0", "new_block_ids": blocks[:3], "new_token_ids": tokens[:48]}])
            ex("REPORT_BLOCK_ALLOCATION", e.instance, e.model, [])
        e.take(tokens, data, "life-0", end=2 * CHUNK)
        ex("FREE_LOOKUP_LOCKS", key(None), 1)
        ex("END_SESSION", "life-0")
        ex("END_SESSION", "no such request")
        if "GET_EXPERIMENTAL" in names:
            ex("GET_EXPERIMENTAL", reply=b"\x90")
        ex("UNREGISTER_KV_CACHE", e.instance)
        ex("UNREGISTER_KV_CACHE", e.instance)
        ex("CLEAR")
        ex("NOOP", reply=b"\xa2OK")
        eq(e.lookup(tokens, "life-1"), 0, "hits after CLEAR")


for d in ALL:
    tap.add("%s: every request of a prompt's life, reply frames exact" % d, life, d)


def no_handler(dialect):
    """Blend, P2P and Q-cache requests get what a reference server without them gives: nothing."""
    daemon = tap.daemon
    with Engine(daemon.port, dialect, KV(1), model="nohandler") as e:
        c, key = e.client, e.key(list(range(CHUNK)), 0, CHUNK, "cb", 0)
        match = [{"old_st": 0, "old_ed": CHUNK, "cur_st": 0, "cur_ed": CHUNK, "hash": bytes(32)}]
        okey = [{"chunk_hash": bytes(32), "model_name": "m", "kv_rank": 0x01000100, "object_group_id": 0,
                 "cache_salt": ""}]
        late = dialect in ("D6", "D7")
        payload = {
            "CB_REGISTER_KV_CACHE": (e.instance, e.kv.wrappers()[:1], "m", 1), "CB_UNREGISTER_KV_CACHE": (e.instance,),
            "CB_STORE_PRE_COMPUTED": (key, 0, e.instance, STUB), "CB_LOOKUP_PRE_COMPUTED": (key,),
            "CB_RETRIEVE_PRE_COMPUTED": (key, match, [[0]], e.instance, STUB) if late else
                                        (key, [[0, CHUNK]], 0, e.instance, STUB),
            "CB_STORE_FINAL": (key, 0, e.instance, STUB), "CB_LOOKUP_PRE_COMPUTED_V2": (key,),
            "CB_RETRIEVE_PRE_COMPUTED_V2": (key, match, 0, e.instance, STUB),
            "CB_REGISTER_ROPE_V3": (e.instance, e.kv.wrappers()[:1], 8, True, [0]),
            "CB_REGISTER_ROPE": (e.instance, e.kv.wrappers()[:1], 8, True, [0]),
            "CB_UNREGISTER_ROPE_V3": (e.instance,), "CB_UNREGISTER_ROPE": (e.instance,),
            "CB_RETRIEVE_PRE_COMPUTED_V3": (key, match, [[0]], e.instance, STUB),
            "CB_UNIFIED_LOOKUP": (key, 1), "CB_PROTOCOL_HANDSHAKE": (1,),
            "P2P_LOOKUP_AND_LOCK": (okey, {0: {"shapes": [[2, 2, 256, 16]], "dtypes": ["float16"]}}),
            "P2P_QUERY_LOOKUP_RESULTS": (1,), "P2P_UNLOCK_OBJECTS": (okey,),
            "REGISTER_Q_CACHE": (e.instance, e.kv.wrappers(), "m", 1), "UNREGISTER_Q_CACHE": (e.instance,),
            "STORE_Q": (key, e.instance, [[0]], STUB)}
        names = [n for n in NUMBERS[dialect] if n.startswith(("CB_", "P2P_")) or n.endswith(("Q_CACHE", "STORE_Q"))]
        uids = [c.send(n, *payload[n]) for n in names]
        unknown = [c.send_frames([pack(900 + i), pack(n)]) for i, n in enumerate((0, 77, 255, 70000, 1 << 40, -1))]
        eq(c.ping(), True if "PING" in NUMBERS[dialect] else "OK", "PING")
        try:
            c.recv_frames(b"nothing", 0.4 * SLOW)
        except NoReply:
            pass
        eq([n for n, u in zip(names, uids) if u in c.early], [], "answered")
        eq([u.hex() for u in unknown if u in c.early], [], "unknown numbers answered")
        tokens = random_tokens(CHUNK)
        data = e.fill(tokens)                   # and the instance is as it was
        eq(e.lookup(tokens, "after"), 1, "hits")
        e.take(tokens, data, "after")


for d in ALL:
    tap.add("%s: Blend, P2P, Q-cache and unknown numbers get no reply" % d, no_handler, d)


@tap.test("D7: unknown operation names are ignored")
def strings():
    with Client(tap.daemon.port, "D7") as c:
        for name in ("some_new_operation", "", "x" * 5000, "\x00", "clear "):
            c.silent(name, wait=0.05)
            c.silent(name, 1, wait=0.05)


@tap.test("uid and type frames of all widths come back as the bytes received")
def widths():
    with Client(tap.daemon.port, "D2") as c:
        uids = ["00", "7f", "cc80", "ccff", "cd0100", "cdffff", "ce00010000", "ceffffffff", "cf0000000100000000",
                "cfffffffffffffffff", "cf0000000000000005", "ce00000006", "cd0007", "cc08"]
        for kind in ("0b", "cc0b", "cd000b", "ce0000000b", "cf000000000000000b"):
            for uid in uids:
                frames = [bytes.fromhex(uid), bytes.fromhex(kind)]
                c.send_frames(frames, "GET_CHUNK_SIZE")
                got = c.recv_frames(frames[0])
                eq([f.hex() for f in got], [uid, kind, "cd0100"], "echo")


@tap.test("the golden smallest exchanges, byte for byte")
def golden():
    import json
    import os
    from lmclient import ROOT
    with open(os.path.join(ROOT, "tests/golden/messages.json")) as f:
        messages = json.load(f)["messages"]
    clients, seen = {}, 0
    plain = ("GET_CHUNK_SIZE", "PING", "NOOP", "END_SESSION", "CLEAR", "GET_EXPERIMENTAL", "UNREGISTER_KV_CACHE",
             "REPORT_BLOCK_ALLOCATION", "FREE_LOOKUP_LOCKS", "UNREGISTER_KV_CACHE_NON_GPU_CONTEXT", "LOOKUP")
    for m in messages:
        if m["name"] not in plain or (m["name"], m["dialect"]) == ("LOOKUP", "D1"):
            continue
        if m["dialect"] not in clients:
            clients[m["dialect"]] = Client(tap.daemon.port, m["dialect"])
        c = clients[m["dialect"]]
        frames = [bytes.fromhex(f) for f in m["request"]["frames"]]
        c.send_frames(frames, m["name"])
        eq([f.hex() for f in c.recv_frames(frames[0])], m["reply"]["frames"], m["dialect"] + " " + m["name"])
        seen += 1
    for c in clients.values():
        c.close()
    assert seen >= 20, seen


@tap.test("unknown instance: negative answers at once, the connection stays good")
def unknown():
    for dialect in ALL:
        with Engine(tap.daemon.port, dialect, KV(1), model="unknown", register=False) as e:
            e.kv.unknown = True
            begin = time.monotonic()
            tokens = random_tokens(CHUNK)
            for uid in (e.send_store(tokens, 0, CHUNK, list(range(16))),
                        e.send_retrieve(tokens, 0, CHUNK, list(range(16)), "r")):
                eq(e.flag(uid), False, dialect)
            key = e.key(tokens, 0, CHUNK, "r", 0)
            if "PREPARE_STORE" in NUMBERS[dialect]:
                got = e.client.call("PREPARE_RETRIEVE", key, e.instance)
                eq((got["success"], got["data"]), (False, b""), "PREPARE_RETRIEVE")
                slots = e.client.call("PREPARE_STORE", key, e.instance)["context"].get("slots", [])
                eq(slots, [], "PREPARE_STORE")
                eq(e.client.call("COMMIT_STORE", key, e.instance, b""), False, "COMMIT_STORE")
                eq(e.client.call("COMMIT_RETRIEVE", key, e.instance), False, "COMMIT_RETRIEVE")
                e.client.call([n for n in NUMBERS[dialect] if n.startswith("UNREGISTER_KV_CACHE_")][0], e.instance)
            if "STORE_CPU_CHUNKS" in NUMBERS[dialect]:
                eq(e.client.call("STORE_CPU_CHUNKS", key, e.instance, b"\x80\x04]."), False, "STORE_CPU_CHUNKS")
                eq(e.client.call("RETRIEVE_CPU_CHUNKS", key, e.instance), [False, b""], "RETRIEVE_CPU_CHUNKS")
            eq(e.lookup(tokens, "r"), 0, "hits")
            eq(e.unregister(), None, "UNREGISTER")
            assert time.monotonic() - begin < 2 * SLOW, "negative answers took %.1f s" % (time.monotonic() - begin)


@tap.test("2000 pipelined requests: each answered once, with the right type")
def pipelined():
    with Engine(tap.daemon.port, "D5", KV(1), model="pipe") as e:
        tokens = random_tokens(2 * CHUNK)
        e.fill(tokens)
        uids = []
        for i in range(200):
            rid = "p%d" % i
            uids += [e.client.send("LOOKUP", e.key(tokens, 0, 512, rid, None), 1), e.client.send("PING", e.instance),
                     e.send_store(tokens, 0, 256, list(range(16)), rid), e.client.send("GET_CHUNK_SIZE"),
                     e.client.send("QUERY_PREFETCH_LOOKUP_HITS", rid), e.client.send("NOOP"),
                     e.client.send("REPORT_BLOCK_ALLOCATION", e.instance, "pipe", []),
                     e.client.send("FREE_LOOKUP_LOCKS", e.key(tokens, 0, 512, rid, None), 1),
                     e.client.send("END_SESSION", rid), e.client.send("GET_EXPERIMENTAL")]
        for uid in reversed(uids):
            e.client.recv(uid)
        eq(e.client.early, {}, "stray replies")
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("REGISTER does not change what the other numbers of the connection mean")
def after_register():
    for dialect in ALL:
        with Engine(tap.daemon.port, dialect, KV(1), model="ar" + dialect) as e:
            eq(e.client.call("NOOP"), "OK", dialect)
            if "PING" in NUMBERS[dialect]:
                eq(e.client.ping(), True, dialect)
            if "REPORT_BLOCK_ALLOCATION" in NUMBERS[dialect]:
                eq(e.client.call("REPORT_BLOCK_ALLOCATION", e.instance, e.model, []), None, dialect)
            e.end("none")
            eq(e.client.call("GET_CHUNK_SIZE"), CHUNK, dialect)


@tap.test("a CPU client always gets its stub back, also with refusals")
def stub():
    for dialect in ("D1", "D2", "D4", "D6"):
        with Engine(tap.daemon.port, dialect, KV(1), model="stub" + dialect) as e:
            tokens = random_tokens(CHUNK)
            for event in (b"stub_ipc_handle",):
                for start, end, ids, kw in ((0, 256, list(range(16)), {}), (0, 256, [], {}), (0, 300, list(range(16)), {}),
                                            (256, 0, [], {}), (0, 256, [1 << 40] * 16, {}), (0, 256, list(range(16)), {"salt": "a@b"})):
                    if kw and dialect == "D1":
                        continue
                    for uid in (e.send_store(tokens, start, end, ids, event=event, **kw),
                                e.send_retrieve(tokens, start, end, ids, "x", event=event, **kw)):
                        eq(e.client.recv(uid)[0], event, "%s %d..%d %r %r" % (dialect, start, end, ids[:1], kw))


@tap.test("RETRIEVE of what no LOOKUP has locked (any more) is refused")
def unlocked():
    for dialect in ("D2", "D6"):
        with Engine(tap.daemon.port, dialect, KV(1), model="unlocked") as e:
            tokens = random_tokens(2 * CHUNK)
            data = e.fill(tokens)
            eq(e.retrieve(tokens, 0, 512, e.blocks(32), "never"), False, "RETRIEVE without LOOKUP")
            eq(e.lookup(tokens, "u"), 2, "hits")
            e.take(tokens, data, "u")
            eq(e.retrieve(tokens, 0, 512, e.blocks(32), "u"), False, "a second RETRIEVE of one lock")


@tap.test("transfers of one connection run in order")
def order():
    with Engine(tap.daemon.port, "D2", KV(6, nb=64), model="order") as e:
        first = random_tokens(CHUNK)
        data = e.fill(first)
        for i in range(20):
            eq(e.lookup(first, "o%d" % i), 1, "hits")
            into, other = e.blocks(16), random_tokens(CHUNK)
            e.kv.write(into, data * 0)
            u1 = e.send_retrieve(first, 0, CHUNK, into, "o%d" % i)
            u2 = e.send_store(other, 0, CHUNK, into, "o%d" % i)        # must see what the RETRIEVE wrote
            eq((e.flag(u1), e.flag(u2)), (True, True), "flags")
            eq(e.lookup(other, "c%d" % i), 1, "hits")
            e.take(other, data, "c%d" % i)


@tap.test("a key of 128k tokens (megabytes of frames)")
def long_key():
    with Engine(tap.daemon.port, "D3", KV(1, nl=1, nh=1, hs=8, nb=8300), model="long") as e:
        tokens = random_tokens(131072 + 7, seed=3)
        data = e.fill(tokens, rid="long")
        eq(e.lookup(tokens, "long"), 512, "hits")
        e.take(tokens, data, "long")
        eq(e.lookup(tokens[:100000], "long2"), 390, "hits of the head")
        e.free(tokens[:100000], 0, 99840, "long2")
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("a second registration of an id: replaces in D2, is ignored in D4")
def again():
    for dialect, new_wins in (("D1", True), ("D2", True), ("D3", True), ("D4", False), ("D6", False)):
        with Engine(tap.daemon.port, dialect, KV(1), model="again" + dialect) as e:
            old, new = e.kv, KV(1)
            e.kv = new
            e.register()
            tokens = random_tokens(CHUNK)
            blocks = list(range(16))
            eq(e.store(tokens, 0, CHUNK, blocks), True, "STORE")
            eq(e.lookup(tokens, "a"), 1, "hits")
            got = (new if new_wins else old)
            want = got.snapshot()
            data = got.read(blocks)
            to = list(range(20, 36))
            got.write(to, data, words=want)
            eq(e.retrieve(tokens, 0, CHUNK, to, "a"), True, "RETRIEVE")
            assert got.same(want), dialect
            old.close()


@tap.test("instance ids of all widths")
def ids():
    for instance in (0, 1 << 31, (1 << 32) + 5, (1 << 63) - 1, random_instance()):
        with Engine(tap.daemon.port, "D6", KV(1), model="ids%d" % instance, instance=instance) as e:
            tokens = random_tokens(CHUNK)
            data = e.fill(tokens)
            eq(e.lookup(tokens, "i"), 1, "hits")
            e.take(tokens, data, "i")
            eq(e.client.ping(instance), True, "PING")
            e.unregister()


if __name__ == "__main__":
    tap.main()
