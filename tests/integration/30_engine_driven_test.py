"""Engines that copy their own KV: slots in the mapped arena, pickles in messages, CPU chunks of D3b."""
import mmap
import os
import sys

sys.dont_write_bytecode = True
import numpy                                                                       # noqa: E402

from lmclient import (CHUNK, KV, NUMBERS, Client, Daemon, Engine, Tap, eq, per_chunk, random_instance,  # noqa: E402
                      random_tokens, unpack)
from lmpickle import ITEM, STORAGE, WORDS, load_tensor_list, tensor_list            # noqa: E402

tap = Tap()
SHM_DIALECTS = ("D4", "D4v3", "D5a", "D5", "D6", "D7")


class Pool:
    """The arena as an engine maps it."""

    def __init__(self, name, size):
        fd = os.open("/dev/shm/" + name.lstrip("/"), os.O_RDWR)
        try:
            assert os.fstat(fd).st_size >= size > 0, (os.fstat(fd).st_size, size)
            self.map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self.size = size

    def array(self, slot):
        """A slot as numpy words of its dtype's size and its shape."""
        item = ITEM[slot["dtype"]]
        count = slot["length"] // item
        assert slot["length"] == item * int(numpy.prod(slot["shape"])), slot
        assert 0 <= slot["offset"] and slot["offset"] + slot["length"] <= self.size, slot
        return numpy.frombuffer(self.map, WORDS[item], count, slot["offset"]).reshape(slot["shape"])


class Driver:
    """An engine-driven context."""

    def __init__(self, port, dialect="D4", model="e", nl=2, hidden=16, dtype="float16", mla=False, world=1, rank=0,
                 client=None, instance=None, bs=16):
        self.client = client or Client(port, dialect)
        self.own = client is None
        self.model, self.world, self.rank, self.dtype = model, world, rank, dtype
        self.instance = random_instance() if instance is None else instance
        self.shape = [nl, CHUNK, hidden] if mla else [2, nl, CHUNK, hidden]
        names = NUMBERS[self.client.dialect]
        self.registers = [n for n in names if n.startswith("REGISTER_KV_CACHE_")][0]
        fields = dict(instance_id=self.instance, model_name=model, world_size=world, block_size=bs, num_layers=nl,
                      hidden_dim_size=hidden, dtype_str=dtype, use_mla=mla)
        if self.client.dialect == "D3b":
            self.reply = self.client.call(self.registers, self.instance, model, world, "vllm", {}, bs, nl, hidden, dtype,
                                          mla)
            self.pool = None
            return
        self.reply = self.client.call(self.registers, fields)
        self.pool = Pool(self.reply["shm_name"], self.reply["pool_size"]) if self.reply["shm_name"] else None

    def key(self, tokens, start=0, end=None, rid="e", **kw):
        end = len(tokens) // CHUNK * CHUNK if end is None else end
        return self.client.key(tokens, start, end, rid, worker=kw.pop("rank", self.rank), world=self.world,
                               model=self.model, **kw)

    def call(self, name, key, *more):
        return self.client.call(name, key, self.instance, *more)

    def random(self, chunks, seed=None):
        rng = numpy.random.default_rng(seed)
        word = WORDS[ITEM[self.dtype]]
        return [rng.integers(0, min(1 << 8 * ITEM[self.dtype], 1 << 62), self.shape, dtype=numpy.uint64).astype(word)
                for _ in range(chunks)]

    def prepare(self, key):
        """(slots, chunk indices) of a PREPARE_STORE in shared-memory mode."""
        got = self.call("PREPARE_STORE", key)["context"]
        eq(list(got), ["slots", "chunk_indices"], "context")
        eq(len(got["slots"]), len(got["chunk_indices"]), "counts")
        for slot in got["slots"]:
            eq(list(slot), ["offset", "length", "shape", "dtype"], "slot")
            eq((slot["shape"], slot["dtype"]), (self.shape, self.dtype), "slot")
        return got["slots"], got["chunk_indices"]

    def store(self, tokens, data, start=0, end=None, rid="e"):
        """PREPARE, write, COMMIT; returns the chunk indices that were new."""
        key = self.key(tokens, start, end, rid)
        slots, indices = self.prepare(key)
        for slot, i in zip(slots, indices):
            self.pool.array(slot)[...] = data[i]
        if slots:
            eq(self.call("COMMIT_STORE", key, b""), True, "COMMIT_STORE")
        return indices

    def lookup(self, tokens, rid, tp=1):
        self.client.call("LOOKUP", self.key(tokens, rid=rid, rank=None), tp)
        return self.client.call("QUERY_PREFETCH_STATUS", rid)

    def retrieve(self, tokens, rid, start=0, end=None):
        """Copies of the chunks read from the arena, None for a miss."""
        key = self.key(tokens, start, end, rid)
        got = self.call("PREPARE_RETRIEVE", key)
        if not got["success"]:
            eq((got["data"], got["context"]), (b"", {}), "a miss")
            return None
        if self.pool is None:
            eq(got["context"], {}, "context in pickle mode")
            out = []
            for t in load_tensor_list(got["data"]):
                eq((t.dtype, list(t.array.shape)), (self.dtype, self.shape), "tensor")
                out.append(t.array)
        else:
            eq((got["data"], list(got["context"])), (b"", ["slots"]), "reply")
            out = [self.pool.array(s).copy() for s in got["context"]["slots"]]
        eq(self.call("COMMIT_RETRIEVE", key), True, "COMMIT_RETRIEVE")
        return out

    def unregister(self):
        return self.client.call("UN" + self.registers, self.instance)

    def close(self):
        if self.own:
            self.client.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def same(got, want, what="bytes"):
    assert got is not None, what + ": a miss"
    eq(len(got), len(want), what)
    for i, (a, b) in enumerate(zip(got, want)):
        assert numpy.array_equal(a, b), "%s: chunk %d differs in %d words" % (what, i, (a != b).sum())


def shm_mode(dialect):
    d = tap.daemon
    for spec in (dict(), dict(dtype="bfloat16", nl=3, hidden=24), dict(mla=True, hidden=72, dtype="float32"),
                 dict(dtype="uint8", hidden=7, nl=1)):
        with Driver(d.port, dialect, "shm%s%s" % (dialect, sorted(spec)), **spec) as e:
            if dialect == "D4":
                eq(list(e.reply), ["shm_name", "pool_size"], "registration")
            eq(e.reply["shm_name"].lstrip("/"), "lmcache_l1_pool_%d" % d.pid, "pool name")
            tokens = random_tokens(3 * CHUNK + 50)
            data = e.random(3)
            eq(e.retrieve(tokens, "none"), None, "retrieve of nothing")
            eq(e.store(tokens, data), [0, 1, 2], "new chunks")
            eq(e.store(tokens, data), [], "all cached")
            eq(e.lookup(tokens, "r"), 3, "hits")
            same(e.retrieve(tokens, "r"), data)
            more = tokens[:3 * CHUNK] + random_tokens(2 * CHUNK)
            eq(e.store(more, data + e.random(2, 5), 0, 5 * CHUNK), [3, 4], "the two new chunks")
            eq(e.lookup(more, "r2"), 5, "hits")
            same(e.retrieve(more, "r2", 3 * CHUNK), e.random(2, 5))
            e.client.call("FREE_LOOKUP_LOCKS", e.key(more, 0, 3 * CHUNK, "r2", rank=None), 1)
            d.wait_l1("read_locked_count", 0)
            e.client.call("END_SESSION", "r")
            eq(e.unregister(), None, "UNREGISTER")
    d.wait_l1("write_locked_count", 0)


for name in SHM_DIALECTS:
    tap.add("%s: shared-memory mode, new, cached, missing, partly new" % name, shm_mode, name)


@tap.test("an uncommitted slot is invisible, cannot be taken twice, and goes with UNREGISTER")
def pending():
    d = tap.daemon
    with Driver(d.port, "D5", "pend") as a, Driver(d.port, "D5", "pend") as b:
        tokens = random_tokens(2 * CHUNK)
        key = a.key(tokens)
        slots, indices = a.prepare(key)
        eq(indices, [0, 1], "chunks")
        eq(len({s["offset"] for s in slots}), 2, "distinct slots")
        d.wait_l1("write_locked_count", 2)
        eq(a.lookup(tokens, "p"), 0, "hits of a reservation")
        eq(b.prepare(b.key(tokens)), ([], []), "already being written")
        eq(b.call("COMMIT_STORE", b.key(tokens), b""), False, "commit of another's reservation")
        eq(b.lookup(tokens, "p"), 0, "still invisible")
        a.unregister()
        d.wait_l1("write_locked_count", 0)
        data = b.random(2)
        eq(b.store(tokens, data), [0, 1], "free again")
        eq(a.call("COMMIT_STORE", key, b""), False, "commit after UNREGISTER")
        eq(b.lookup(tokens, "q"), 2, "hits")
        same(b.retrieve(tokens, "q"), data)
        eq(b.call("COMMIT_STORE", b.key(tokens), b""), False, "a second commit")
        eq(b.call("COMMIT_RETRIEVE", b.key(tokens, rid="q")), False, "a second COMMIT_RETRIEVE")
    d.wait_l1("read_locked_count", 0)


@tap.test("a paged STORE and a reservation of the same chunk do not disturb each other")
def conflict():
    d = tap.daemon
    with Driver(d.port, "D6", "conf") as a, Engine(d.port, "D6", KV(1), model="conf") as e:
        tokens = random_tokens(2 * CHUNK)
        key = a.key(tokens, 0, CHUNK)
        slots, _ = a.prepare(key)
        blocks = e.blocks(32)
        paged = e.kv.read(blocks)
        eq(e.store(tokens, 0, 512, blocks), True, "STORE skips what is being written")
        data = a.random(1)
        a.pool.array(slots[0])[...] = data[0]
        eq(a.call("COMMIT_STORE", key, b""), True, "COMMIT_STORE")
        eq(a.lookup(tokens, "c"), 2, "hits")
        same(a.retrieve(tokens, "c"), [data[0], per_chunk(paged, CHUNK)[1].reshape(a.shape)])


@tap.test("CLEAR between PREPARE and COMMIT: no wrong hit afterwards")
def clear_between():
    d = tap.daemon
    with Driver(d.port, "D4", "clearb") as a:
        tokens = random_tokens(CHUNK)
        key = a.key(tokens)
        slots, _ = a.prepare(key)
        a.client.call("CLEAR")
        data = a.random(2)
        a.pool.array(slots[0])[...] = data[0]
        committed = a.call("COMMIT_STORE", key, b"")
        hits = a.lookup(tokens, "x")
        assert hits in ((0, 1) if committed else (0,)), (committed, hits)
        if hits:
            same(a.retrieve(tokens, "x"), data[:1])
        a.store(tokens, data[1:])
        eq(a.lookup(tokens, "y"), 1, "hits")
        same(a.retrieve(tokens, "y"), data[:1] if hits else data[1:])
    d.wait_l1("read_locked_count", 0)
    d.wait_l1("write_locked_count", 0)


def cross_use(fmts, **spec):
    """Stored engine-driven, retrieved from a paged cache, and the other way round."""
    d = tap.daemon
    for fmt in fmts:
        model = "cu%d" % fmt
        kv = KV(fmt, nl=3, nh=2, hs=8 if fmt not in (3, 5) else 16)
        with Driver(d.port, "D6", model, nl=3, hidden=16, **spec) as a, Engine(d.port, "D6", kv, model=model) as e:
            tokens = random_tokens(2 * CHUNK)
            data = a.random(2)
            eq(a.store(tokens, data), [0, 1], "new")
            eq(e.lookup(tokens, "x"), 2, "hits")
            words = numpy.concatenate([c.reshape(kv.kv, 3, CHUNK, 16) for c in data], axis=2)
            e.take(tokens, words, "x")
            tokens = random_tokens(3 * CHUNK)
            paged = e.fill(tokens)
            eq(a.lookup(tokens, "y"), 3, "hits")
            same(a.retrieve(tokens, "y"), [c.reshape(a.shape) for c in per_chunk(paged, CHUNK)], "format %d" % fmt)
    d.wait_l1("read_locked_count", 0)


tap.add("cross use with paged engines of every K/V format", cross_use, (0, 1, 2, 4, 6, 7, 8, 9, 10))
tap.add("cross use with paged MLA engines", lambda: cross_use((3, 5), mla=True))


@tap.test("world_size 2: each rank its own shard")
def ranks():
    d = tap.daemon
    with Driver(d.port, "D5", "w2", world=2, rank=0) as a, Driver(d.port, "D5", "w2", world=2, rank=1) as b:
        tokens = random_tokens(2 * CHUNK)
        da, db = a.random(2), b.random(2)
        a.store(tokens, da)
        eq(a.lookup(tokens, "half", 2), 0, "hits of one shard")
        b.store(tokens, db)
        eq(a.lookup(tokens, "both", 2), 2, "hits")
        same(a.retrieve(tokens, "both"), da)
        same(b.retrieve(tokens, "both"), db)
    d.wait_l1("read_locked_count", 0)


@tap.test("many reservations at once, committed in another order")
def many():
    d = tap.daemon
    with Driver(d.port, "D6", "many") as a:
        jobs = []
        for i in range(30):
            tokens = random_tokens(2 * CHUNK)
            jobs.append((tokens, a.key(tokens, rid="m%d" % i), a.random(2)))
        slots = [a.prepare(key)[0] for _, key, _ in jobs]
        spans = sorted((s["offset"], s["offset"] + s["length"]) for ss in slots for s in ss)
        for (_, end), (begin, _) in zip(spans, spans[1:]):
            assert end <= begin, "slots overlap"
        for (_, key, data), ss in reversed(list(zip(jobs, slots))):
            for s, c in zip(ss, data):
                a.pool.array(s)[...] = c
            eq(a.call("COMMIT_STORE", key, b""), True, "COMMIT_STORE")
        for i, (tokens, _, data) in enumerate(jobs):
            eq(a.lookup(tokens, "l%d" % i), 2, "hits")
            same(a.retrieve(tokens, "l%d" % i), data)
    d.wait_l1("read_locked_count", 0)


@tap.test("write TTL: a reservation that is never committed is given back")
def write_ttl():
    with Daemon("--l1-write-ttl-seconds", "1") as d, Driver(d.port, "D4", "ttl") as a:
        tokens = random_tokens(CHUNK)
        key = a.key(tokens)
        a.prepare(key)
        d.wait_l1("write_locked_count", 0, 6)
        data = a.random(1)
        with Driver(d.port, "D4", "ttl") as b:
            eq(b.store(tokens, data), [0], "free again")
            eq(a.call("COMMIT_STORE", key, b""), False, "commit of an expired reservation")
            eq(b.lookup(tokens, "t"), 1, "hits")
            same(b.retrieve(tokens, "t"), data)


def pickle_mode(dialect, daemon):
    for spec in (dict(), dict(dtype="bfloat16", nl=3, hidden=24), dict(mla=True, hidden=72, dtype="float32"),
                 dict(dtype="uint8", hidden=100, nl=1), dict(hidden=512, dtype="float64")):
        with Driver(daemon.port, dialect, "p%s%s" % (dialect, sorted(spec)), **spec) as e:
            eq((e.reply["shm_name"], e.reply["pool_size"]), ("", 0), "registration")
            tokens = random_tokens(3 * CHUNK)
            data = e.random(3)
            key = e.key(tokens)
            eq(e.retrieve(tokens, "none"), None, "retrieve of nothing")
            eq(e.call("PREPARE_STORE", key), {"context": {}}, "PREPARE_STORE")
            eq(e.call("COMMIT_STORE", key, tensor_list(data, e.dtype, 5)), True, "COMMIT_STORE")
            eq(e.lookup(tokens, "r"), 3, "hits")
            same(e.retrieve(tokens, "r", CHUNK), data[1:])
            e.client.call("FREE_LOOKUP_LOCKS", e.key(tokens, 0, CHUNK, "r", rank=None), 1)
            daemon.wait_l1("read_locked_count", 0)
            # Lists that do not fit are refused and leave nothing behind.
            other = random_tokens(2 * CHUNK)
            key = e.key(other)
            for bad in (tensor_list(e.random(1), e.dtype), tensor_list([c[..., :-1] for c in e.random(2)], e.dtype),
                        tensor_list(e.random(2), e.dtype)[:-40], b"\x80\x04]."):
                e.call("PREPARE_STORE", key)
                eq(e.call("COMMIT_STORE", key, bad), False, "a list that does not fit")
                eq(e.lookup(other, "bad"), 0, "hits")
            e.call("PREPARE_STORE", key)
            eq(e.call("COMMIT_STORE", key, tensor_list(e.random(2), e.dtype)), True, "afterwards")
            e.unregister()
    daemon.wait_l1("write_locked_count", 0)


@tap.test("pickle mode (--shm-name \"\"), D4 to D7")
def pickle_modes():
    with Daemon("--shm-name", "") as d:
        for name in SHM_DIALECTS:
            pickle_mode(name, d)


@tap.test("D3b: STORE_CPU_CHUNKS and RETRIEVE_CPU_CHUNKS")
def cpu_chunks():
    d = tap.daemon
    for spec in (dict(), dict(dtype="bfloat16", nl=3, hidden=24), dict(mla=True, hidden=72)):
        with Driver(d.port, "D3b", "c%s" % sorted(spec), **spec) as e:
            eq(e.reply, None, "registration")
            tokens = random_tokens(3 * CHUNK)
            data = e.random(3)
            eq(e.call("RETRIEVE_CPU_CHUNKS", e.key(tokens)), [False, b""], "a miss")
            eq(e.call("STORE_CPU_CHUNKS", e.key(tokens), tensor_list(data, e.dtype)), True, "STORE_CPU_CHUNKS")
            eq(e.lookup(tokens, "r"), 3, "hits")
            ok, blob = e.call("RETRIEVE_CPU_CHUNKS", e.key(tokens, rid="r"))
            eq(ok, True, "RETRIEVE_CPU_CHUNKS")
            got = load_tensor_list(blob)
            same([t.array for t in got], data)
            eq([(t.dtype, list(t.array.shape)) for t in got], [(e.dtype, e.shape)] * 3, "tensors")
            d.wait_l1("read_locked_count", 0)
    with Driver(d.port, "D3b", "cx", nl=2, hidden=16) as a, Engine(d.port, "D3b", KV(7), model="cx") as e:
        tokens = random_tokens(2 * CHUNK)
        data = a.random(2)
        eq(a.call("STORE_CPU_CHUNKS", a.key(tokens), tensor_list(data, a.dtype)), True, "STORE_CPU_CHUNKS")
        eq(e.lookup(tokens, "x"), 2, "hits")
        e.take(tokens, numpy.concatenate([c.reshape(2, 2, CHUNK, 16) for c in data], axis=2), "x")


@tap.test("tensor lists of every dtype come through")
def dtypes():
    with Daemon("--shm-name", "") as d:
        for dtype in STORAGE:
            if dtype == "bool":
                continue
            with Driver(d.port, "D4", "dt" + dtype, dtype=dtype) as e:
                tokens = random_tokens(CHUNK)
                data = e.random(1)
                e.call("PREPARE_STORE", e.key(tokens))
                eq(e.call("COMMIT_STORE", e.key(tokens), tensor_list(data, dtype)), True, dtype)
                eq(e.lookup(tokens, "r"), 1, "hits")
                same(e.retrieve(tokens, "r"), data, dtype)


@tap.test("a registration with impossible numbers is refused")
def bad_registration():
    d = tap.daemon
    good = dict(instance_id=5, model_name="bad", world_size=1, block_size=16, num_layers=2, hidden_dim_size=16,
                dtype_str="float16", use_mla=False)
    with Client(d.port, "D4") as c:
        for field, value in (("num_layers", 0), ("num_layers", 1 << 40), ("num_layers", -1), ("hidden_dim_size", 0),
                             ("hidden_dim_size", 1 << 62), ("dtype_str", "float17"), ("dtype_str", 5), ("use_mla", 1),
                             ("world_size", 0), ("world_size", 300), ("world_size", -1), ("block_size", 0),
                             ("instance_id", "x"), ("instance_id", -5), ("model_name", "a@b"),
                             ("model_name", None)):
            uid = c.send("REGISTER_KV_CACHE_NON_GPU_CONTEXT", dict(good, **{field: value}))
            eq(c.ping(), True, "PING")
            try:
                frames = c.recv_frames(uid, 0.05)
                assert len(frames) == 2 or type(unpack(frames[2])) is dict, frames
            except Exception as err:
                assert "NoReply" in type(err).__name__, err
            known = d.status()["registered_non_cuda_instance_ids"]
            assert 5 not in known, "%s=%r was registered: %r" % (field, value, known)
        c.call("REGISTER_KV_CACHE_NON_GPU_CONTEXT", good)
        assert 5 in d.status()["registered_non_cuda_instance_ids"]
        c.call("UNREGISTER_KV_CACHE_NON_GPU_CONTEXT", 5)


if __name__ == "__main__":
    tap.main()
