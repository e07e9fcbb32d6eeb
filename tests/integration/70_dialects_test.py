"""Which dialect a client speaks: recognised per connection, remembered over restarts, or told."""
import os
import sys
import time

sys.dont_write_bytecode = True
from lmclient import (ALL, CHUNK, JOB_IDS, KV, NUMBERS, SLOW, Client, Daemon, Engine, NoReply, Skip, Tap, eq, pack,  # noqa: E402
                      random_tokens, register_payload)

tap = Tap()


@tap.test("clients of all dialects at once on one server, interleaved")
def mixed():
    engines = {d: Engine(tap.daemon.port, d, KV(1), model="mixed") for d in ALL}
    prompts, datas = {}, {}
    for d, e in engines.items():
        prompts[d] = random_tokens(2 * CHUNK + 3)
        datas[d] = e.fill(prompts[d])
    for d, e in engines.items():
        for src in ALL:
            eq(e.lookup(prompts[src], "x"), 2, "%s finds what %s stored" % (d, src))
            e.take(prompts[src], datas[src], "x")
    jobs = {d: e.lookup_only(prompts["D2"], "i" + d) for d, e in engines.items()}
    for d in ALL:
        eq(type(jobs[d]), int if d in JOB_IDS else str, d)
        eq(engines[d].query(jobs[d]), 2, d)
        engines[d].end("i" + d)
    for e in engines.values():
        e.unregister()
        e.close()
    tap.daemon.wait_l1("read_locked_count", 0)


@tap.test("recognised by the first request alone, before anything is registered")
def first():
    for d in ALL:
        with Client(tap.daemon.port, d) as c:
            if "PING" in NUMBERS[d]:
                eq(c.ping(), True, d)
            eq(c.call("NOOP"), "OK", d)
            if d not in JOB_IDS:
                c.call("LOOKUP", c.key(random_tokens(300), 0, 256, "x"), 1)
                eq(c.call("QUERY_PREFETCH_STATUS", "x"), 0, d)
            else:
                job = c.call("LOOKUP", c.key(random_tokens(300), 0, 256, "x"), 1)
                eq(c.call("QUERY_PREFETCH_STATUS", job), 0, d)
            c.call("END_SESSION", "x")


@tap.test("D4 clients of early June: REGISTER with six frames, PING with none")
def early_d4():
    with Client(tap.daemon.port, "D4") as c:
        kv = KV(6)
        eq(c.call("PING"), True, "PING without a payload")
        c.call("REGISTER_KV_CACHE", *register_payload("D3", 777 << 40, kv.wrappers(), "early", 1, "vllm", kv.hints(), None))
        e = Engine(0, client=c, kv=kv, model="early", instance=777 << 40, register=False)
        tokens = random_tokens(CHUNK)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "e"), 1, "hits")
        e.take(tokens, data, "e")
        kv.close()


@tap.test("no group infos (empty list): one group with all layers")
def no_groups():
    for d in ("D4", "D5", "D6"):
        with Engine(tap.daemon.port, d, KV(2), model="nog" + d, groups=[]) as e:
            tokens = random_tokens(CHUNK)
            data = e.fill(tokens)
            eq(e.lookup(tokens, "g"), 1, "hits")
            e.take(tokens, data, "g")


@tap.test("D6 keys with and without the late fields")
def late_fields():
    with Engine(tap.daemon.port, "D6", KV(1), model="late") as e:
        tokens = random_tokens(CHUNK)
        data = e.fill(tokens)
        for drop in (("null_chunk_mask",), ("request_configs", "num_kv_readers", "null_chunk_mask"), ("num_kv_readers",), ()):
            key = e.key(tokens, 0, CHUNK, "l", None)
            for k in drop:
                key.pop(k)
            e.client.call("LOOKUP", key, 1)
            eq(e.query("l"), 1, "hits without %r" % (drop,))
            e.take(tokens, data, "l")
        key = dict(e.key(tokens, 0, CHUNK, "l", None), request_configs={"a": {"b": [1, None]}}, null_chunk_mask=None)
        e.client.call("LOOKUP", key, 1)
        eq(e.query("l"), 1, "hits with request_configs")
        e.end("l")


def restart(dialect):
    """After a restart a reconnected client says nothing that names its dialect: the state folder remembers."""
    with Daemon() as d:
        c = Client(d.port, dialect)
        c.ping()
        if dialect not in ("D5", "D6", "D7"):
            kv = KV(1)
            c.call("REGISTER_KV_CACHE", *register_payload(dialect, 1 << 50, kv.wrappers(), "m", 1, "vllm", {}, []))
            c.call("LOOKUP", c.key(random_tokens(CHUNK), 0, CHUNK, "r"), 1)
            c.call("END_SESSION", "r")
            kv.close()
        d.stop()
        d.start()
        eq(c.ping(timeout=15), True if "PING" in NUMBERS[dialect] else "OK", "PING over the reconnected socket")
        with Client(d.port, dialect, hello=False) as late:
            got = late.call("LOOKUP", late.key(random_tokens(CHUNK), 0, CHUNK, "r"), 1)
            eq(got is None, dialect not in JOB_IDS, "LOOKUP as first request")
            late.call("END_SESSION", "r")
        with Engine(0, client=Client(d.port, dialect, hello=False), kv=KV(1), model="after") as e:
            tokens = random_tokens(CHUNK)
            data = e.fill(tokens)
            eq(e.lookup(tokens, "a"), 1, "hits")
            e.take(tokens, data, "a")
            e.client.close()
        c.close()
        d.kill()                                            # not only over clean stops
        d.start()
        with Client(d.port, dialect, hello=False) as late:
            late.ping(timeout=15)


for name in ("D2", "D3", "D4", "D5", "D6"):
    tap.add("%s: understood after a restart without GET_CHUNK_SIZE" % name, restart, name)


@tap.test("after a restart another dialect's client is still recognised by its first request")
def restart_other():
    with Daemon() as d:
        with Client(d.port, "D2") as c:
            c.ping()
        d.stop()
        d.start()
        for name in ALL:
            with Client(d.port, name) as c:
                eq(c.ping(), True if "PING" in NUMBERS[name] else "OK", name)


@tap.test("no record, no hello: CLEAR as the first request of an unknown peer clears nothing")
def unknown_clear():
    with Daemon(state=False) as d, Engine(d.port, "D2", KV(1)) as e:
        tokens = random_tokens(CHUNK)
        e.fill(tokens)
        for name in ALL:
            if name == "D2":
                continue
            with Client(d.port, name, hello=False) as c:
                c.send("CLEAR")
                time.sleep(0.02)
        time.sleep(0.2)
        hits = e.lookup(tokens, "r")
        if hits == 0:
            raise AssertionError("an unknown peer's CLEAR was guessed from another client's dialect")


def override(name):
    with Daemon("--dialect", name) as d:
        with Client(d.port, name, hello=False) as c:
            eq(c.call("NOOP"), "OK", "NOOP as the first request")
        with Engine(0, client=Client(d.port, name, hello=False), kv=KV(1), model="over") as e:
            tokens = random_tokens(CHUNK)
            data = e.fill(tokens)
            eq(e.lookup(tokens, "o"), 1, "hits")
            e.take(tokens, data, "o")
            if "GET_EXPERIMENTAL" in NUMBERS[name]:
                eq(e.client.call("GET_EXPERIMENTAL"), [], "GET_EXPERIMENTAL")
            e.client.close()


for name in ("D1", "D2", "D3", "D3b", "D4", "D4v3", "D5a", "D5", "D6", "D7"):
    tap.add("--dialect %s: no recognition needed" % name, override, name)


@tap.test("chunk sizes other than 256")
def chunk_sizes():
    for size in (16, 64, 512, 1024):
        with Daemon(chunk=size) as d, Engine(d.port, "D4", KV(7, nb=512, bs=16), chunk=size) as e:
            tokens = random_tokens(3 * size + size // 2)
            data = e.fill(tokens)
            eq(e.lookup(tokens, "c"), 3, "hits at chunk size %d" % size)
            e.take(tokens, data, "c")
            eq(d.status()["chunk_size"], size, "chunk_size")


@tap.test("hash algorithms: sha256_cbor works, builtin is accepted with a warning")
def hashes():
    for name in ("blake3", "sha256_cbor", "builtin"):
        with Daemon("--hash-algorithm", name, env={"PYTHONHASHSEED": "0"}) as d, Engine(d.port, "D2", KV(1)) as e:
            tokens = random_tokens(3 * CHUNK)
            data = e.fill(tokens)
            eq(e.lookup(tokens[:600], "h"), 2, "hits")
            e.take(tokens[:600], data, "h")
            if name == "builtin":
                assert "builtin" in d.log(), "no warning"


@tap.test("--max-workers 4: transfers of many connections, in order each")
def workers():
    with Daemon("--max-workers", "4") as d:
        engines = [Engine(d.port, "D2", KV(6), model="mw") for _ in range(6)]
        for i in range(10):
            jobs = []
            for e in engines:
                tokens = random_tokens(2 * CHUNK)
                blocks = e.blocks(32)
                jobs.append((e, tokens, e.kv.read(blocks), e.send_store(tokens, 0, 512, blocks)))
            for e, tokens, data, uid in jobs:
                eq(e.flag(uid), True, "STORE")
            for e, tokens, data, _ in jobs:
                eq(e.lookup(tokens, "m"), 2, "hits")
                e.take(tokens, data, "m")
        for e in engines:
            e.close()


@tap.test("--supported-transfer-mode limits who may register")
def modes():
    from lmclient import random_instance
    ctx = dict(instance_id=random_instance(), model_name="m", world_size=1, block_size=16, num_layers=2, hidden_dim_size=16,
               dtype_str="float16", use_mla=False)
    for mode, paged, driven in (("auto", True, True), ("lmcache_driven", True, False), ("engine_driven", False, True)):
        with Daemon("--supported-transfer-mode", mode) as d, Engine(d.port, "D6", KV(1), register=False) as e:
            e.client.send("REGISTER_KV_CACHE", *register_payload("D6", e.instance, e.kv.wrappers(), "m", 1, "vllm", {}, e.groups))
            e.client.send("REGISTER_KV_CACHE_ENGINE_DRIVEN_CONTEXT", ctx)
            e.client.ping()
            got, until = None, time.monotonic() + 5 * SLOW
            while got != (paged, driven) and time.monotonic() < until:
                time.sleep(0.1)                     # both are answered in the background; what is refused has its time too
                status = d.status()
                got = e.instance in status["registered_gpu_ids"], ctx["instance_id"] in status["registered_non_cuda_instance_ids"]
            eq(got, (paged, driven), mode + ": paged, engine-driven")


@tap.test("--shm-name: the pool has that name while the server runs, and is gone afterwards")
def shm_name():
    name = "lmca_it_pool_%d" % os.getpid()
    with Daemon("--shm-name", name) as d:
        assert os.path.exists("/dev/shm/" + name)
        d.stop()
        left = [f for f in os.listdir("/dev/shm") if f in (name, "lmcache_l1_pool_%d" % d.pid)]
        eq(left, [], "left in /dev/shm")


@tap.test("a port in use: the second server says so and ends with an error")
def port_taken():
    from lmclient import Died
    try:
        Daemon(port=tap.daemon.port).close()
    except Died as err:
        assert "exits with" in str(err) and " 0 at start" not in str(err), err
        return
    raise AssertionError("two servers on one port")


@tap.test("SIGTERM with transfers in flight and clients connected: exit 0 in good time")
def term():
    with Daemon() as d:
        e = Engine(d.port, "D2", KV(6, nl=8, nb=1024, nh=8, hs=64))
        tokens = random_tokens(60 * CHUNK)
        for i in range(60):
            e.send_store(tokens, i * CHUNK, (i + 1) * CHUNK, e.blocks(16))
        begin = time.monotonic()
        d.stop()
        assert time.monotonic() - begin < 5 * SLOW, "stopping took long"
        e.close()


if __name__ == "__main__":
    assert NoReply and Skip and pack
    tap.main()
