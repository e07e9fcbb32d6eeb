"""Hazards between clients: colliding ids, hostile floods, slots and locks nobody gives back, a start that fails."""
import importlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
import numpy                                                                       # noqa: E402

from lmclient import (BIN, CHUNK, KV, SAN, SLOW, Client, Daemon, Engine, NoReply, Tap, eq, free_port, make_key,  # noqa: E402
                      pack, random_instance, random_tokens, register_payload)
from lmpickle import tensor_list                                                    # noqa: E402

Driver = importlib.import_module("30_engine_driven_test").Driver
tap = Tap()


def worst_ping(port, during, dialect="D4"):
    """Runs during() while another client pings; the slowest PING in seconds."""
    done, worst = threading.Event(), [0.0]

    def pinger():
        with Client(port, dialect) as c:
            while not done.is_set():
                begin = time.monotonic()
                c.ping()
                worst[0] = max(worst[0], time.monotonic() - begin)
                time.sleep(0.002)
    thread = threading.Thread(target=pinger)
    thread.start()
    time.sleep(0.1)
    try:
        during()
    finally:
        done.set()
        thread.join()
    return worst[0]


# ---- ids that collide ------------------------------------------------------------------------------------------------

@tap.test("two engines with one instance id (two pid namespaces): neither touches the other's memory")
def same_instance():
    for dialect in ("D2", "D4", "D6"):
        instance = random_instance()
        with Engine(tap.daemon.port, dialect, KV(1), model="twin", instance=instance) as a:
            before = random_tokens(CHUNK)
            data = a.fill(before)
            with Engine(tap.daemon.port, dialect, KV(1), model="twin", instance=instance) as b:
                for e in (a, b):
                    tokens = random_tokens(CHUNK)
                    blocks = e.blocks(16)
                    mine = e.kv.read(blocks)
                    if e.store(tokens, 0, CHUNK, blocks):          # a refusal is fine, foreign bytes are not
                        eq(e.lookup(tokens, "t"), 1, "hits")
                        with Engine(tap.daemon.port, dialect, KV(1), model="twin") as c:
                            c.take(tokens, mine, "t")
                    words = [x.kv.snapshot() for x in (a, b)]
                    eq(e.lookup(before, "u"), 1, "hits")
                    blocks = e.blocks(16)
                    ok = e.retrieve(before, 0, CHUNK, blocks, "u")
                    other = b if e is a else a
                    assert other.kv.same(words[1 if e is a else 0]), "%s: a RETRIEVE wrote into the other engine" % dialect
                    if ok:
                        assert (e.kv.read(blocks) == data).all(), "wrong bytes"
                    e.end("u")
                    e.end("t")
            a.unregister()
        tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("two engines that number their requests alike: each gets its own hits, locks and bytes")
def same_request():
    for dialect in ("D1", "D2", "D4", "D6"):
        with Engine(tap.daemon.port, dialect, KV(1), model="one" + dialect) as a, \
             Engine(tap.daemon.port, dialect, KV(2), model="two" + dialect) as b:
            ta, tb = random_tokens(3 * CHUNK), random_tokens(2 * CHUNK)
            da, db = a.fill(ta, rid="7"), b.fill(tb, rid="7")
            ja = a.lookup_only(ta, "7")
            jb = b.lookup_only(tb, "7")
            eq(a.query(ja), 3, dialect + ": hits of the first engine")
            eq(b.query(jb), 2, dialect + ": hits of the second engine")
            b.take(tb, db, "7")
            b.end("7")
            a.take(ta, da, "7")
            a.end("7")
        tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("a worker on its own connection retrieves what its scheduler looked up")
def two_connections():
    with Engine(tap.daemon.port, "D4", KV(1), model="sched") as worker, Client(tap.daemon.port, "D4") as c, \
         Client(tap.daemon.port, "D4") as late:
        tokens = random_tokens(2 * CHUNK)
        data = worker.fill(tokens, rid="r")
        scheduler = Engine(0, client=c, kv=worker.kv, model="sched", register=False)
        eq(scheduler.lookup(tokens, "r"), 2, "hits")
        worker.take(tokens, data, "r")
        eq(scheduler.lookup(tokens, "r"), 2, "hits")
        again = Engine(0, client=late, kv=worker.kv, model="sched", register=False)    # its connection came back
        again.end("r")
        tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("a registration of the same model with another shape does not hide what is stored")
def other_shape():
    with Engine(tap.daemon.port, "D4", KV(1), model="shape") as e:
        tokens = random_tokens(2 * CHUNK)
        data = e.fill(tokens)
        others = [Driver(tap.daemon.port, "D4", "shape", nl=1, hidden=8) for _ in range(20)]
        eq(e.lookup(tokens, "s"), 2, "hits")
        e.take(tokens, data, "s")
        eq(others[0].retrieve(tokens, "none"), None, "another size is a miss")
        for o in others:
            o.unregister()
            o.close()
    tap.daemon.wait_l1("read_locked_count", 0)


# ---- engine-driven transfers -----------------------------------------------------------------------------------------

@tap.test("PREPARE_RETRIEVE again and again: one COMMIT_RETRIEVE gives everything back")
def prepare_again():
    with Driver(tap.daemon.port, "D4", "again") as e:
        tokens = random_tokens(2 * CHUNK)
        e.store(tokens, e.random(2))
        key = e.key(tokens)
        for _ in range(2000):
            eq(e.call("PREPARE_RETRIEVE", key)["success"], True, "PREPARE_RETRIEVE")
        eq(e.call("COMMIT_RETRIEVE", key), True, "COMMIT_RETRIEVE")
        tap.daemon.wait_l1("read_locked_count", 0)
        eq(e.call("COMMIT_RETRIEVE", key), False, "a second COMMIT_RETRIEVE")
        e.close()


@tap.test("pending transfers of one instance are bounded; those of others go on")
def many_pending():
    with Driver(tap.daemon.port, "D4", "mp") as e, Driver(tap.daemon.port, "D4", "mp") as other:
        tokens = random_tokens(CHUNK)
        e.store(tokens, e.random(1))
        refused = 0
        for i in range(6000):
            refused += not e.call("PREPARE_RETRIEVE", e.key(tokens, rid="p%d" % i))["success"]
        assert 0 < refused < 5999, "%d of 6000 refused" % refused
        assert other.retrieve(tokens, "o") is not None, "another instance"
        e.unregister()
        tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("a COMMIT_RETRIEVE without a PREPARE releases nobody's lookup locks")
def stray_commit():
    with Driver(tap.daemon.port, "D4", "stray") as a:
        tokens = random_tokens(2 * CHUNK)
        a.store(tokens, a.random(2))
        eq(a.lookup(tokens, "m"), 2, "hits")
        eq(a.call("COMMIT_RETRIEVE", a.key(tokens, rid="m")), False, "nothing pending")
        eq(tap.daemon.l1()["read_locked_count"], 2, "locks of the lookup")
        a.retrieve(tokens, "m")
        tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("slots offered but not usable: the engine may still COMMIT_STORE bytes")
def slots_then_bytes():
    with Driver(tap.daemon.port, "D4", "stb") as e:
        tokens = random_tokens(2 * CHUNK)
        data = e.random(2)
        key = e.key(tokens)
        eq(len(e.prepare(key)[0]), 2, "slots")
        eq(e.call("COMMIT_STORE", key, tensor_list(data, e.dtype)), True, "COMMIT_STORE with bytes")
        eq(e.lookup(tokens, "s"), 2, "hits")
        got = e.retrieve(tokens, "s")
        assert all((g == w).all() for g, w in zip(got, data)), "wrong bytes"
    tap.daemon.wait_l1("write_locked_count", 0)
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("a client that asks for pickles and never reads them costs bounded memory")
def never_reads():
    with Daemon("--shm-name", "", "--max-message-mb", "64") as d:
        def rss():
            with open("/proc/%d/statm" % d.pid) as f:
                return int(f.read().split()[1]) * resource.getpagesize()
        with Driver(d.port, "D4", "nr", nl=8, hidden=512) as e, Driver(d.port, "D4", "nr", nl=8, hidden=512) as other:
            tokens = random_tokens(4 * CHUNK)
            data = e.random(4)                                     # 4 MiB each
            e.call("COMMIT_STORE", e.key(tokens), tensor_list(data, e.dtype))
            base = rss()
            # libzmq's client thread reads by itself: so a raw socket plays the client.
            sock = raw_dealer(d.port)
            for i in range(200):
                raw_send(sock, e.client.frames("PREPARE_RETRIEVE", e.key(tokens, rid="n%d" % i), e.instance))
            time.sleep(2 * SLOW)
            grown = rss() - base
            assert grown < (700 << 20) * (2 if SAN else 1), "%d MiB for replies nobody reads" % (grown >> 20)
            assert other.retrieve(tokens, "o") is not None, "another client"
            sock.close()


def raw_dealer(port):
    """A ZMTP 3 DEALER by hand, which reads only when told."""
    s = socket.create_connection(("127.0.0.1", port))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + b"\x00" + bytes(31))
    got = b""
    while len(got) < 64:
        got += s.recv(64 - len(got))
    body = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
    s.sendall(bytes([4, len(body)]) + body)
    time.sleep(0.1)
    raw_send(s, [b"\x00", b"\x11"])                                 # D4's GET_CHUNK_SIZE
    time.sleep(0.1)
    return s


def raw_send(s, frames):
    out = b""
    for i, f in enumerate(frames):
        more = 1 if i + 1 < len(frames) else 0
        out += bytes([more, len(f)]) if len(f) < 256 else bytes([more | 2]) + len(f).to_bytes(8, "big")
        out += f
    s.sendall(out)


# ---- hostile numbers and floods ----------------------------------------------------------------------------------------

@tap.test("lookups under many salts do not use up the namespaces of those who store")
def salts():
    with Driver(tap.daemon.port, "D4", "salty", world=255) as h, Engine(tap.daemon.port, "D4", KV(1), model="victim") as e:
        tokens = random_tokens(CHUNK)
        for i in range(300):
            h.client.call("LOOKUP", h.key(tokens, rid="salt%d" % i, rank=None, salt="s%d" % i), 1)
        e.salt = "fresh"
        data = e.fill(tokens)
        eq(e.lookup(tokens, "v"), 1, "hits")
        e.take(tokens, data, "v")
        for i in range(300):
            h.client.call("END_SESSION", "salt%d" % i)
        h.unregister()


@tap.test("the arena cannot be registered as an engine's memory")
def arena_as_kv():
    with Driver(tap.daemon.port, "D4", "own") as e:
        tokens = random_tokens(CHUNK)
        data = e.random(1)
        e.store(tokens, data)
        kv = KV(1)
        names = [shm.name for shm in kv.shms]
        for alias in (e.reply["shm_name"], "/" + e.reply["shm_name"]):
            for shm in kv.shms:
                shm.name = alias
            with Client(tap.daemon.port, "D4") as c:
                instance = random_instance()
                c.call("REGISTER_KV_CACHE", *register_payload("D4", instance, kv.wrappers(), "own", 1, "vllm", kv.hints(), []))
                assert instance not in tap.daemon.contexts(), "L1 itself is registered as a KV cache"
        for shm, name in zip(kv.shms, names):
            shm.name = name
        kv.close()


@tap.test("refused and unknown instances, CLEARs: floods do not flood the log")
def log_floods():
    with Daemon() as d, Client(d.port, "D4") as c:
        kv = KV(1)
        good = register_payload("D4", 5 << 40, kv.wrappers(), "lf", 1, "vllm", kv.hints(), [])
        bad = register_payload("D4", 6 << 40, [], "lf", 1, "vllm", {}, [])
        before = d.log().count("\n")
        for _ in range(1500):
            for uid in (c.send("UNREGISTER_KV_CACHE", 99 << 40), c.send("REGISTER_KV_CACHE", *bad),
                        c.send("REGISTER_KV_CACHE", *good), c.send("CLEAR")):
                c.recv(uid)
        lines = d.log().count("\n") - before
        assert lines < 1500, "%d lines for 6000 requests" % lines
        kv.close()


@tap.test("PING is not behind another client's registrations and CLEARs")
def ping_first():
    d = tap.daemon
    with Client(d.port, "D4") as c:
        kv = KV(1, nl=64)
        wrappers = kv.wrappers() * 60

        def work():
            for _ in range(8):
                c.call("REGISTER_KV_CACHE", *register_payload("D4", 3 << 41, wrappers, "pf", 1, "vllm", {}, []))
                c.call("CLEAR")
        worst = worst_ping(d.port, work)
        assert worst < 0.1 * (10 if SAN else 1), "a PING took %.0f ms" % (worst * 1000)
        kv.close()


# ---- start and stop ------------------------------------------------------------------------------------------------------

def pools():
    return {n for n in os.listdir("/dev/shm") if n.startswith("lmcache_l1_pool_")}


@tap.test("the arena of a killed daemon does not fill /dev/shm for ever")
def stale_arena():
    with Daemon(state=False) as d:
        mine = "lmcache_l1_pool_%d" % d.pid
        assert mine in pools()
        d.kill()
        assert mine in pools(), "nobody could have removed it yet"
        with open("/dev/shm/lmcache_l1_pool_999999999", "wb") as f:  # a reference server's: not ours to remove
            f.write(b"x")
        try:
            d.start()
            assert mine not in pools(), "the dead daemon's arena stays"
            assert "lmcache_l1_pool_999999999" in pools(), "a foreign pool was removed"
            assert "lmcache_l1_pool_%d" % tap.daemon.pid in pools(), "a living daemon's arena was removed"
        finally:
            os.unlink("/dev/shm/lmcache_l1_pool_999999999")


def fails(*args, code=1, needle=None, port=None):
    """Starts a daemon that cannot start; returns what it says."""
    before = pools()
    run = subprocess.run([BIN, "server", "--host", "localhost", "--port", str(port or free_port()), "--http-port", "0",
                          "--http-host", "127.0.0.1", "--l1-size-gb", "0.05", "--eviction-policy", "LRU", *args],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30 * SLOW)
    text = run.stdout.decode("utf-8", "replace")
    eq(run.returncode, code, "%r: %s" % (args, text[-800:]))
    assert "Sanitizer" not in text and "runtime error" not in text, text[-3000:]
    assert not needle or needle in text, text[-800:]
    # Daemons of other test runs on this machine come and go meanwhile: what counts is a pool whose process is gone.
    left = {name for name in pools() - before if not os.path.exists("/proc/" + name.rsplit("_", 1)[1])}
    eq(left, set(), "left in /dev/shm by %r" % (args,))
    return text


@tap.test("a start that fails says why, leaves nothing behind and does not crash")
def start_failures():
    with tempfile.TemporaryDirectory() as tmp, socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        state = ("--state-dir", tmp)
        fails(*state, port=port, needle="bind")
        fails(*state, "--http-port", str(port))
        fails(*state, "--l1-size-gb", "60000", needle="GiB")
        fails(*state, "--shm-name", "a/b", needle="--shm-name")
        fails(*state, "--shm-name", ".", needle="/dev/shm")
        fails(*state, "--shm-name", "lmcache_l1_pool_%d" % tap.daemon.pid, needle="in use")
        fails("--state-dir", "/proc/nowhere", needle="--state-dir")
        fails("--state-dir", tmp + "/" + "x" * 600, needle="--state-dir")
        with open(tmp + "/file", "w") as f:
            f.write("x")
        fails("--state-dir", tmp + "/file", needle="--state-dir")
        fails(*state, "--host", "no.such.host.invalid", needle="--host", code=2)
        fails(*state, "--host", "no.such.host.invalid", "--insecure-allow-remote", needle="--host")
        with tempfile.TemporaryDirectory() as other:                # limits instead of injected faults
            for mb in (40, 120, 200, 260, 300, 360, 420, 500, 600, 800):
                run = subprocess.run(["bash", "-c", 'ulimit -v %d; exec timeout -s TERM 3 "$@"' % (mb << 10), "-", BIN, "server", "--host",
                                      "localhost", "--port", str(free_port()), "--http-port", "0", "--http-host",
                                      "127.0.0.1", "--l1-size-gb", "0.02", "--eviction-policy", "LRU", "--state-dir", other],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     timeout=20 * SLOW) if not SAN else None
                if run is None:
                    break
                # 1: refused to start; 127: could not even be loaded; 124: enough room, it ran until timeout(1) stopped it
                # (124 also hides a crash on the way down, which the log would show).
                assert run.returncode in (1, 124, 127), (mb, run.returncode, run.stdout[-600:])
                assert run.returncode != 124 or b"stopping" in run.stdout, (mb, run.stdout[-600:])


@tap.test("a hostile record of dialects: a FIFO, a link, a folder, rubbish")
def hostile_state():
    for kind in ("fifo", "link", "dir", "rubbish", "tmplink"):
        with tempfile.TemporaryDirectory() as tmp:
            port = free_port()
            path = os.path.join(tmp, "dialects-%d" % port)
            victim = os.path.join(tmp, "victim")
            with open(victim, "w") as f:
                f.write("precious")
            if kind == "fifo":
                os.mkfifo(path)
            elif kind == "link":
                os.symlink(victim, path)
            elif kind == "dir":
                os.mkdir(path)
            elif kind == "rubbish":
                with open(path, "wb") as f:
                    f.write(b"D4 \xff\x00 D99 D6\n" * 50)
            else:
                os.symlink(victim, path + ".tmp")
            with Daemon("--state-dir", tmp, port=port, state=False) as d:
                with Client(d.port, "D4") as c:
                    eq(c.ping(), True, kind)
                with Client(d.port, "D2") as c:
                    eq(c.ping(), True, kind)
            with open(victim) as f:
                eq(f.read(), "precious", "%s: another file was overwritten" % kind)


@tap.test("clients of two generations: after a restart both are understood, or ignored, never mistaken")
def two_generations():
    with Daemon() as d:
        old, new = Client(d.port, "D4"), Client(d.port, "D6")
        old.ping()
        new.ping()
        d.stop()
        d.start()
        for c in (old, new):
            c.timeout = 15 * SLOW
            eq(c.ping(random_instance()), True, c.dialect)
            c.close()


if __name__ == "__main__":
    tap.main()
