"""Engines that die: what they held goes back at once; engines that only keep still are left alone."""
import os
import signal
import sys
import time

sys.dont_write_bytecode = True
from lmclient import (CHUNK, KV, SLOW, Client, Daemon, Engine, Skip, Tap, eq, fork, random_instance,  # noqa: E402
                      random_tokens)

tap = Tap()


def child_ready(fn, *args):
    """Forks fn(write_fd, ...); returns (pid, bytes it wrote when ready)."""
    r, w = os.pipe()

    def run():
        os.close(r)
        fn(w, *args)
        time.sleep(600)
    pid = fork(run)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        line = f.readline()
    assert line.endswith(b"\n"), "the child did not get ready"
    return pid, line.decode().strip()


def kill(pid, sig=signal.SIGKILL):
    os.kill(pid, sig)
    os.waitpid(pid, 0)


def holder(w, port, tokens, dialect):
    """Registers with its pid, stores, and holds a lookup's locks."""
    e = Engine(port, dialect, KV(1), model="dead", instance=os.getpid())
    e.fill(tokens)
    eq(e.lookup(tokens, "held", tp=5), 2, "hits")
    os.write(w, b"ready\n")


@tap.test("SIGKILL of a paged engine: context and locks are gone within 2 s, the objects stay")
def killed():
    d = tap.daemon
    for dialect in ("D2", "D4", "D6"):
        tokens = random_tokens(2 * CHUNK)
        pid, _ = child_ready(holder, d.port, tokens, dialect)
        assert pid in d.contexts(), d.contexts()
        d.wait_l1("read_locked_count", 2)
        maps = d.maps()
        kill(pid)
        begin = time.monotonic()
        assert d.wait(lambda: pid not in d.contexts(), 2.5), "the context of a dead engine stays"
        d.wait_l1("read_locked_count", 0, 2.5)
        assert time.monotonic() - begin < 3 * SLOW
        assert d.maps() < maps, "its shared memory stays mapped"
        with Engine(d.port, dialect, KV(1), model="dead") as e:
            eq(e.lookup(tokens, "heir"), 2, "hits")
            eq(e.retrieve(tokens, 0, 512, e.blocks(32), "heir"), True, "RETRIEVE")
            eq(d.l1()["read_locked_count"], 0, "locks of the dead")
            eq(e.store(random_tokens(CHUNK), 0, CHUNK, e.blocks(16), instance=pid), False, "STORE for the dead")
            e.clear()


def reserver(w, port, tokens):
    c = Client(port, "D5")
    c.call("REGISTER_KV_CACHE_ENGINE_DRIVEN_CONTEXT",
           dict(instance_id=os.getpid(), model_name="deadres", world_size=1, block_size=16, num_layers=2,
                hidden_dim_size=16, dtype_str="float16", use_mla=False))
    got = c.call("PREPARE_STORE", c.key(tokens, 0, 512, "r", worker=0, model="deadres"), os.getpid())
    eq(len(got["context"]["slots"]), 2, "slots")
    os.write(w, b"ready\n")


@tap.test("SIGKILL of an engine-driven engine: its reservations are given back")
def reservations():
    d = tap.daemon
    tokens = random_tokens(2 * CHUNK)
    pid, _ = child_ready(reserver, d.port, tokens)
    d.wait_l1("write_locked_count", 2)
    kill(pid)
    d.wait_l1("write_locked_count", 0, 2.5)
    eq(d.wait(lambda: pid not in d.status()["registered_non_cuda_instance_ids"], 2.5), True, "context gone")


@tap.test("a normal exit without UNREGISTER is a death as well")
def exits():
    d = tap.daemon
    pid, _ = child_ready(holder, d.port, random_tokens(2 * CHUNK), "D3")
    kill(pid, signal.SIGTERM)
    eq(d.wait(lambda: pid not in d.contexts(), 2.5), True, "context gone")
    d.wait_l1("read_locked_count", 0, 2.5)


@tap.test("a stopped (SIGSTOP) engine is not a dead one")
def stopped():
    d = tap.daemon
    tokens = random_tokens(2 * CHUNK)
    pid, _ = child_ready(holder, d.port, tokens, "D2")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2.5)
    assert pid in d.contexts(), "dropped while only stopped"
    eq(d.l1()["read_locked_count"], 2, "locks")
    kill(pid)
    d.wait_l1("read_locked_count", 0, 2.5)


@tap.test("death in the middle of transfers: all others go on, nothing is left")
def in_flight():
    d = tap.daemon

    def busy(w):
        e = Engine(d.port, "D2", KV(6, nl=8, nb=2048, nh=8, hs=64), model="busy", instance=os.getpid())
        tokens = random_tokens(100 * CHUNK)
        e.client.recv(e.send_store(tokens, 0, CHUNK, e.blocks(16)))
        os.write(w, b"ready\n")
        for i in range(99):
            e.send_store(tokens, (i + 1) * CHUNK, (i + 2) * CHUNK, e.blocks(16))
        time.sleep(600)

    with Engine(d.port, "D2", KV(1), model="by") as e:
        for wait in (0.0, 0.02, 0.1):
            pid, _ = child_ready(busy)
            time.sleep(wait)
            kill(pid)
            tokens = random_tokens(2 * CHUNK)
            data = e.fill(tokens)
            eq(e.lookup(tokens, "by"), 2, "hits")
            e.take(tokens, data, "by")
            eq(d.wait(lambda: pid not in d.contexts(), 3), True, "context gone")
            d.wait_l1("write_locked_count", 0)
            d.wait_l1("read_locked_count", 0)


@tap.test("an instance id that is no process: an unrelated connection's end changes nothing")
def other_connection():
    d = tap.daemon
    with Engine(d.port, "D6", KV(1), model="oc") as e:
        tokens = random_tokens(2 * CHUNK)
        data = e.fill(tokens)
        with Client(d.port, "D6") as scheduler:                     # scheduler and worker are two connections
            s = Engine(0, client=scheduler, kv=e.kv, model="oc", register=False)
            eq(s.lookup(tokens, "oc"), 2, "hits")
            e.take(tokens, data, "oc")
        for _ in range(5):
            Client(d.port, "D6").close()
        assert e.instance in d.contexts()
        eq(e.lookup(tokens, "oc2"), 2, "hits")
        e.take(tokens, data, "oc2")


@tap.test("small instance ids that are no living process (another pid namespace) can register and work")
def foreign_pid():
    d = tap.daemon
    free = next(p for p in range(4_000_000, 3_000_000, -1) if not os.path.exists("/proc/%d" % p))
    with Engine(d.port, "D2", KV(1), model="ns", instance=free) as e:
        tokens = random_tokens(CHUNK)
        data = e.fill(tokens)
        time.sleep(1.2)
        assert free in d.contexts(), "dropped although it may live in another pid namespace"
        eq(e.lookup(tokens, "n"), 1, "hits")
        e.take(tokens, data, "n")


@tap.test("reaping by age: registered, never pinged, not a process: gone after the grace period", limit=80)
def reaped():
    raise Skip("the reap timeout is at least 30 s and the grace period not shorter: too slow here")


@tap.test("reaping switched off (0): a silent instance stays")
def no_reaping():
    with Daemon("--worker-reap-timeout-seconds", "0") as d, Engine(d.port, "D6", KV(1), instance=random_instance()) as e:
        time.sleep(2)
        assert e.instance in d.contexts()
        tokens = random_tokens(CHUNK)
        e.fill(tokens)


if __name__ == "__main__":
    tap.main()
