"""Hostile messages and raw bytes: dropped or answered negatively, nobody else notices, nothing leaks."""
import os
import random
import socket
import sys
import time

sys.dont_write_bytecode = True
import msgpack                                                                     # noqa: E402

from lmclient import (CHUNK, KV, MAIN, NESTED, NUMBERS, SLOW, STUB, BadReply, Client, Engine, Tap, eq, pack,  # noqa: E402
                      random_instance, random_tokens, register_payload, unpack)
from lmwire import check_type                                                      # noqa: E402

tap = Tap()


class Witness:
    """An engine of its own that must not notice anything."""

    def __init__(self):
        self.engine = Engine(tap.daemon.port, "D2", KV(1), model="witness")
        self.tokens = random_tokens(2 * CHUNK)
        self.data = self.engine.fill(self.tokens)
        self.pid, self.count = tap.daemon.pid, 0

    def check(self, full=False):
        assert tap.daemon.alive() and tap.daemon.pid == self.pid, "the daemon died"
        begin = time.monotonic()
        eq(self.engine.client.ping(timeout=5), True, "PING")
        took = time.monotonic() - begin
        assert took < 1.0 * SLOW, "PING took %.2f s" % took
        self.count += 1
        if full:
            rid = "w%d" % self.count
            eq(self.engine.lookup(self.tokens, rid), 2, "the witness's hits")
            self.engine.take(self.tokens, self.data, rid)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.check(True)
        self.engine.unregister()
        self.engine.close()


def drain(c, wait=0.02):
    """Whatever has been answered, as frames."""
    out = list(c.early.values())
    c.early.clear()
    while True:
        got = c.recv_any(wait)
        if got is None:
            return out
        out.append(got)


@tap.test("0 to 100 frames")
def counts():
    with Witness() as w:
        for dialect in ("D2", "D6"):
            with Client(tap.daemon.port, dialect) as c:
                for n in list(range(0, 12)) + [50, 100]:
                    for fill in (b"", b"\x00", b"\xc0", b"\x0b", b"\xa1x", b"\x90", b"\xff"):
                        c.socket.send_multipart([fill] * n if n else [b""])
                w.check(True)
                drain(c)
        with Client(tap.daemon.port, "D2") as c:
            for number in range(0, 60):
                for n in range(0, 9):
                    if number == 10 and n == 0:
                        continue                            # a good CLEAR
                    c.send_frames([pack(1000 + number * 10 + n), pack(number)] + [b"\xc0"] * n, "raw")
            w.check(True)
            drain(c)


@tap.test("CLEAR with a payload, of another dialect, or after nonsense clears nothing")
def clear():
    with Witness() as w:
        for dialect, number in NUMBERS.items():
            with Client(tap.daemon.port, dialect) as c:
                for payload in ((None,), (1, 2), ({},)):
                    c.send_frames([pack(1), pack(number["CLEAR"])] + [pack(p) for p in payload], "CLEAR")
                time.sleep(0.05)
        w.check(True)


BROKEN = [b"", b"\xc1", b"\xd9", b"\xdb\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xffabc", b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff",
          b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff" + b"\x00" * 100, b"\x91" * 5000 + b"\x00", b"\x81\xa1a" * 3000 + b"\x00",
          b"\xdd\x7f\xff\xff\xff" * 200, b"\x92\x01", b"\x81\xaamodel_name", b"\xc9\xff\xff\xff\xff\x01", b"\xc7\x10\x01\x80",
          b"\xcf\xff", b"\xa5abc", b"\x00\x00", b"\xcb\x00", b"\x90" * 65536, b"\x80" + b"\x00" * 64,
          b"\xdd\x00\x10\x00\x00" + b"\x00" * 1000, os.urandom(300), b"\xd9\x04\xff\xfe\xfd\xfc"]


def requests(e):
    """A well-formed payload for every request of the dialect that has a handler."""
    d = e.dialect
    tokens = random_tokens(2 * CHUNK, seed=5)
    ids = list(range(32))
    key = e.key(tokens, 0, 512, "bad", 0)
    all_ranks = e.key(tokens, 0, 512, "bad", None)
    other = random_instance()
    job = 999 if d == "D1" else "bad"
    out = {"REGISTER_KV_CACHE": register_payload(d, other, e.kv.wrappers(), "bad", 1, "vllm", {}, e.groups),
           "UNREGISTER_KV_CACHE": [other], "STORE": [key, e.instance, [ids] if NESTED[d] else ids, STUB],
           "RETRIEVE": [key, e.instance, [ids] if NESTED[d] else ids, STUB, 0], "LOOKUP": [all_ranks, 1],
           "QUERY_PREFETCH_STATUS": [job], "WAIT_PREFETCH_STATUS": ["bad", 0.1], "QUERY_PREFETCH_LOOKUP_HITS": [job],
           "FREE_LOOKUP_LOCKS": [all_ranks, 1], "END_SESSION": ["bad"], "CLEAR": [], "GET_CHUNK_SIZE": [],
           "PING": [e.instance] if NESTED[d] else [], "NOOP": [], "GET_EXPERIMENTAL": [],
           "REPORT_BLOCK_ALLOCATION": [e.instance, "bad", [{"req_id": "bad", "new_block_ids": [1, 2],
                                                            "new_token_ids": [3, 4]}]],
           "PREPARE_STORE": [key, other], "COMMIT_STORE": [key, other, b""], "PREPARE_RETRIEVE": [key, other],
           "COMMIT_RETRIEVE": [key, other], "STORE_CPU_CHUNKS": [key, other, b"x"], "RETRIEVE_CPU_CHUNKS": [key, other]}
    ctx = dict(instance_id=other, model_name="badc", world_size=1, block_size=16, num_layers=2, hidden_dim_size=16,
               dtype_str="float16", use_mla=False)
    for name in NUMBERS[d]:
        if name.startswith("REGISTER_KV_CACHE_"):
            out[name] = [other, "badc", 1, "vllm", {}, 16, 2, 16, "float16", False] if d == "D3b" else [ctx]
        if name.startswith("UNREGISTER_KV_CACHE_"):
            out[name] = [other]
    return {n: p for n, p in out.items() if n in NUMBERS[d]}


def positive(name, value):
    """A reply that says the request was carried out, to one that must not be."""
    if name in ("STORE", "RETRIEVE"):
        return value[1]
    if name in ("COMMIT_STORE", "COMMIT_RETRIEVE", "STORE_CPU_CHUNKS"):
        return value
    if name == "PREPARE_RETRIEVE":
        return value["success"]
    if name == "RETRIEVE_CPU_CHUNKS":
        return value[0]
    if name == "PREPARE_STORE":
        return bool(value["context"].get("slots"))
    if name in ("QUERY_PREFETCH_STATUS", "WAIT_PREFETCH_STATUS", "QUERY_PREFETCH_LOOKUP_HITS"):
        return bool(value)
    return False


def judge(c, name, bad=True):
    """All replies that came, late ones to earlier requests included: right types, and none of them positive."""
    for frames in drain(c):
        if len(frames) not in (2, 3):
            raise BadReply("%r" % (frames,))
        name = c.sent.get(frames[0], (None, None))[1] or name
        value = unpack(frames[2]) if len(frames) == 3 else None
        check_type(name, c.dialect, value)
        if bad and positive(name, value):
            raise AssertionError("%s %s was carried out: %r" % (c.dialect, name, value))


def broken(dialect):
    with Witness() as w, Engine(tap.daemon.port, dialect, KV(1), model="bad") as e:
        c = e.client
        for name, good in requests(e).items():
            for i in range(len(good)):
                for junk in BROKEN:
                    frames = [pack(next(c.uids)), pack(c.number(name))] + [pack(p) for p in good]
                    frames[2 + i] = junk
                    c.send_frames(frames, name)
                whole = pack(good[i])
                for cut in sorted({0, 1, len(whole) // 2, len(whole) - 1}):
                    frames = [pack(next(c.uids)), pack(c.number(name))] + [pack(p) for p in good]
                    frames[2 + i] = whole[:cut]
                    c.send_frames(frames, name)
                frames = [pack(next(c.uids)), pack(c.number(name))] + [pack(p) for p in good]
                frames[2 + i] = whole + b"\x00"             # bytes behind the document
                c.send_frames(frames, name)
                eq(c.ping(), True, "PING")
                time.sleep(0.002)
            e.client.call("NOOP")
            judge(c, name)
            w.check()


for d in MAIN:
    tap.add("%s: broken msgpack in every frame of every request" % d, broken, d)

WRONG = [None, True, False, -1, 0, 1 << 63, (1 << 64) - 1, -(1 << 63), 1.5, float("nan"), "", "x", "\x00", "é" * 2000, b"", b"x" * 100,
         [], [None], [[]], [[[1]]], ["a"], [1.5], [-1], {}, {"a": 1}, {1: 2}, msgpack.ExtType(1, b"\x80\x04N."),
         msgpack.ExtType(5, b"abc"), [msgpack.ExtType(1, b"")], list(range(3000))]


def legal(name, field, value):
    """A wrong-looking value that is right after all (or harmless), so that a positive reply is fine."""
    if name in ("PING", "GET_CHUNK_SIZE", "NOOP", "GET_EXPERIMENTAL"):
        return True
    if field in ("request_id", "cache_salt"):
        return isinstance(value, str)
    if field == "model_name":
        return isinstance(value, str)
    if field in ("request_configs", "null_chunk_mask"):
        return True                                         # may be ignored altogether
    if "PREFETCH" in name:
        # LOOKUPs with such request ids were good; any number is a timeout.
        return isinstance(value, str) or name.startswith("WAIT") and isinstance(value, (int, float))
    if field == "num_kv_readers":
        return isinstance(value, int) and not isinstance(value, bool)
    if field == "token_ids":
        return isinstance(value, list) and len(value) >= 512
    if field in ("start", "skip"):
        return value == 0 and not isinstance(value, bool)
    if field == "worker_id":
        return value is None or value == 0 and not isinstance(value, bool)      # of one shard, None names it as well
    if field == "event":
        return isinstance(value, bytes)
    return False


def wrong(dialect):
    """Every field of every request in turn gets every kind of value."""
    names = {"STORE": ("key", "instance", "blocks", "event"), "RETRIEVE": ("key", "instance", "blocks", "event", "skip")}
    with Witness() as w, Engine(tap.daemon.port, dialect, KV(1), model="bad") as e:
        c, late = e.client, {}
        for name, good in requests(e).items():
            fields = names.get(name, [""] * len(good))
            todo = []
            for i, item in enumerate(good):
                # An int or a str here is how D1 and D2 are told apart.
                skip = (str if dialect == "D1" else int) if name.startswith("QUERY") else ()
                todo += [(fields[i], i, None, v) for v in WRONG if not isinstance(v, skip)]
                if isinstance(item, dict):
                    todo += [(k, i, k, v) for k in item for v in WRONG]
            for field, i, inner, value in todo:
                payload = list(good)
                payload[i] = dict(good[i], **{inner: value}) if inner else value
                uid = c.send(name, *payload)
                label = None if legal(name, field, value) else "%s=%r" % (inner or field or i, value)
                late[uid] = (name, label)
            with Client(tap.daemon.port, dialect) as few:   # too few and too many payload frames
                for missing in range(len(good)):
                    few.send(name, *good[:missing])
                if good:
                    few.send(name, *good, 0)
                few.ping()
                drain(few)
            eq(c.call("NOOP"), "OK", "NOOP")
            time.sleep(0.1)
            eq(c.call("NOOP"), "OK", "NOOP")
            for frames in drain(c, 0.1):
                value = unpack(frames[2]) if len(frames) == 3 else None
                which, label = late[frames[0]]
                check_type(which, dialect, value)
                if label and positive(which, value):
                    raise AssertionError("%s %s with %s was carried out: %r" % (dialect, which, label, value))
            w.check()
        eq(c.ping(), True, "PING")


for d in MAIN + ("D1", "D3b"):
    tap.add("%s: wrong types and values in every field of every request" % d, wrong, d)


@tap.test("mutated good requests: 20000 messages with random bytes changed", limit=120)
def mutated():
    rng = random.Random(20261121)
    with Witness() as w:
        for dialect in ("D2", "D4", "D6"):
            with Engine(tap.daemon.port, dialect, KV(1), model="mut" + dialect) as e:
                c = e.client
                names = {n: p for n, p in requests(e).items() if n != "CLEAR"}
                coded = [[pack(c.number(n))] + [pack(p) for p in ps] for n, ps in names.items()]
                for i in range(20000 // 3 // (4 if SLOW > 1 else 1)):
                    frames = [bytearray(f) for f in rng.choice(coded)]
                    target = frames[rng.randrange(1, len(frames))] if len(frames) > 1 else frames[0]
                    for _ in range(rng.choice((1, 1, 2, 5))):
                        if target:
                            target[rng.randrange(min(len(target), 400))] = rng.choice((0, 0x7f, 0x80, 0xff, rng.randrange(256)))
                    if frames[0] == pack(c.number("CLEAR")):
                        continue
                    c.socket.send_multipart([b"\xce" + (1 << 20 | i).to_bytes(4, "big")] + [bytes(f) for f in frames])
                    if i % 500 == 0:
                        w.check()
                        drain(c, 0)
                eq(w.engine.client.ping(), True, "PING")
                drain(c, 0.1)
    tap.daemon.wait_l1("write_locked_count", 0)


@tap.test("a key with a million tokens that is cut short, counts that lie, a 64 MiB frame")
def huge():
    with Witness() as w, Client(tap.daemon.port, "D2") as c:
        key = c.key(list(range(70000)), 0, 256, "h", worker=0)
        whole = pack(key)
        for cut in range(1, 20):
            c.send_frames([pack(1000 + cut), pack(5), whole[:len(whole) * cut // 20], pack(1)], "LOOKUP")
        lie = whole.replace(b"\xdd\x00\x01\x11\x70", b"\xdd\x7f\xff\xff\xff")
        assert lie != whole
        for body in (lie, whole.replace(b"\xdd\x00\x01\x11\x70", b"\xdd\x00\x01\x11\x71"), b"\x00" * (64 << 20),
                     b"\xc6\x03\xff\xff\xfb" + bytes(64 << 20)):
            c.send_frames([pack(2000), pack(5), body, pack(1)], "LOOKUP")
            w.check()
        drain(c, 0.2)


def raw(data, wait=0.05, half=False):
    s = socket.create_connection(("localhost", tap.daemon.port), 5)
    try:
        s.settimeout(wait)
        try:
            s.sendall(data)
            if half:
                s.shutdown(socket.SHUT_WR)
            s.recv(4096)
        except OSError:
            pass
    finally:
        s.close()


GREETING = bytes.fromhex("ff00000000000000017f03014e554c4c") + bytes(48)
READY = bytes.fromhex("04290552454144590b536f636b65742d54797065000000064445414c4552084964656e7469747900000000")


@tap.test("raw bytes on the TCP port: garbage, half greetings, HTTP, ZMTP frames that lie")
def tcp():
    rng = random.Random(7)
    with Witness() as w:
        junk = [b"", b"\x00", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", GREETING[:10], GREETING[:33], GREETING, b"\xff" * 64, b"\x16\x03\x01" * 50,
                GREETING + READY[:9], GREETING + READY + b"\x01\x01\x00\x00\x01\x0b", GREETING + READY + b"\x02" + b"\x7f" + b"\xff" * 7,
                GREETING + READY + b"\x01\x05ab", GREETING + READY + b"\x03\xff\xff\xff\xff\xff\xff\xff\xff",
                GREETING + READY + b"\x00\x00" * 2000, GREETING + b"\x04\xff" + b"A" * 255,
                GREETING + READY + b"\x01\x01\x00" * 5000] + [rng.randbytes(rng.randrange(1, 3000)) for _ in range(30)]
        for data in junk:
            raw(data, 0.02)
            raw(data, 0.02, half=True)
        w.check(True)
        idle = [socket.create_connection(("localhost", tap.daemon.port), 5) for _ in range(200)]
        w.check(True)
        for s in idle:
            s.close()


@tap.test("raw bytes on the HTTP port")
def http():
    with Witness() as w:
        for data in (b"\x00" * 1000, b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n", b"POST /cache/clear HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{",
                     b"GET /status HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n", b"PUT /quota/%00%ff HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
                     b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST /clear-cache HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
            s = socket.create_connection(("127.0.0.1", tap.daemon.http_port), 5)
            try:
                s.settimeout(0.2)
                s.sendall(data)
                s.recv(4096)
            except OSError:
                pass
            s.close()
            eq(tap.daemon.http("GET", "/healthcheck"), (200, {"status": "healthy"}), "healthcheck")
        for body in (b"", b"{", b"[]", b'{"tier":1}', b'{"tier":"l9"}', b'{"limit_gb":"x"}', b"[" * 100000, b'{"limit_gb":NaN}'):
            code, _ = tap.daemon.http("PUT", "/quota/x", body)
            assert 400 <= code < 500, (body[:20], code)
            if body and b"limit_gb" not in body:
                code, _ = tap.daemon.http("POST", "/cache/clear", body)
                assert 400 <= code < 500, (body[:20], code)
        w.engine.fill(w.tokens)
        eq(tap.daemon.http("GET", "/nope")[0], 404, "unknown path")


@tap.test("nothing leaks: file descriptors and mappings after many rounds")
def leaks():
    d = tap.daemon

    def round_():
        for dialect in ("D2", "D6"):
            with Engine(d.port, dialect, KV(1), model="leak") as e:
                tokens = random_tokens(CHUNK)
                e.fill(tokens)
                e.lookup(tokens, "leak")
                e.client.send_frames([pack(1 << 30), pack(1), b"\xc1"], "raw")
                e.unregister()
        for data in (GREETING, GREETING + READY, b"GET / HTTP/1.0\r\n\r\n", b"junk"):
            raw(data, 0.01)
        d.http("GET", "/status")

    for _ in range(3):
        round_()
    time.sleep(0.5)
    fds, maps = d.fds(), d.maps()
    for _ in range(25):
        round_()
    ok = d.wait(lambda: d.fds() <= fds + 2 and d.maps() <= maps + 3, 5)
    assert ok, "fds %d, then %d; mappings %d, then %d" % (fds, d.fds(), maps, d.maps())


@tap.test("the log does not drown: repeated nonsense is rate limited")
def log():
    d = tap.daemon
    with Client(d.port, "D2") as c:
        size = len(d.log())
        for i in range(3000):
            c.send_frames([pack(1000 + i), pack(5), b"\xc1", b"\xc1"], "LOOKUP")
        c.ping()
        grown = len(d.log()) - size
        assert grown < 200_000, "3000 bad messages wrote %d bytes of log" % grown


if __name__ == "__main__":
    tap.main()
