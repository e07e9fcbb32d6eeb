"""The independent client: wire, pickles, paged KV, daemon, and one engine instance on top of them."""
import atexit
import os
import time

import numpy

from lmdaemon import BIN, ROOT, Daemon, Died, Skip, Tap, eq, free_port              # noqa: F401
from lmkv import KV, Shm, per_chunk, unlink_of                                      # noqa: F401
from lmwire import (ALL, CHUNK, JOB_IDS, MAIN, NESTED, NUMBERS, REG_FRAMES, SAN, SLOW, STUB, BadReply, Client,  # noqa
                    NoReply, make_key, pack, random_instance, random_tokens, unpack)


def register_payload(dialect, instance, wrappers, model, world, engine, hints, groups):
    """The payload frames of REGISTER_KV_CACHE as the dialect has them."""
    frames = [instance, wrappers, model, world]
    if REG_FRAMES[dialect] >= 6:
        frames.append(engine)
    if REG_FRAMES[dialect] >= 5:
        frames.append(hints)
    if REG_FRAMES[dialect] >= 7:
        frames.append(groups)
    return frames


class Engine:
    """An engine instance with a paged KV cache: scheduler and one worker on one connection."""

    def __init__(self, port, dialect="D2", kv=None, model="m", world=1, rank=0, instance=None, client=None,
                 register=True, groups=None, chunk=CHUNK, salt=""):
        self.client = client or Client(port, dialect, chunk=chunk)
        self.own_client = client is None
        self.dialect, self.model, self.world, self.rank, self.salt = self.client.dialect, model, world, rank, salt
        self.instance = random_instance() if instance is None else instance
        self.kv, self.chunk = kv or KV(), chunk
        if groups is None:
            groups = [{"engine_group_id": 0, "layer_indices": list(range(self.kv.nl))}]
        self.groups = groups
        if register:
            self.register()

    def register(self, **kw):
        payload = register_payload(self.dialect, kw.get("instance", self.instance), kw.get("wrappers", self.kv.wrappers()),
                                   self.model, self.world, self.kv.engine(), kw.get("hints", self.kv.hints()),
                                   kw.get("groups", self.groups))
        return self.client.call("REGISTER_KV_CACHE", *payload)

    def unregister(self):
        return self.client.call("UNREGISTER_KV_CACHE", self.instance)

    def close(self):
        self.kv.leave(self)
        if self.own_client:
            self.client.close()
        self.kv.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def blocks(self, count, avoid=(), seed=None):
        """Distinct block ids in no order."""
        free = [b for b in range(self.kv.nb) if b not in set(avoid)]
        return [int(b) for b in numpy.random.default_rng(seed).permutation(free)[:count]]

    def bpc(self):
        return self.chunk // self.kv.bs

    def ids(self, blocks):
        return [blocks] if NESTED[self.dialect] else blocks

    def key(self, tokens, start, end, rid, worker, **kw):
        return self.client.key(tokens, start, end, rid, worker=worker, world=kw.pop("world", self.world),
                               model=kw.pop("model", self.model), salt=kw.pop("salt", self.salt), **kw)

    def send_store(self, tokens, start, end, blocks, rid="s", instance=None, ids=None, event=None, **kw):
        return self.client.send("STORE", self.key(tokens, start, end, rid, kw.pop("rank", self.rank), **kw),
                                self.instance if instance is None else instance,
                                self.ids(blocks) if ids is None else ids, self.kv.event() if event is None else event)

    def send_retrieve(self, tokens, start, end, blocks, rid, skip=0, instance=None, ids=None, event=None, **kw):
        return self.client.send("RETRIEVE", self.key(tokens, start, end, rid, kw.pop("rank", self.rank), **kw),
                                self.instance if instance is None else instance,
                                self.ids(blocks) if ids is None else ids, self.kv.event() if event is None else event,
                                skip)

    def flag(self, uid, timeout=None):
        """The bool of a STORE or RETRIEVE reply, whose event is checked and waited for."""
        event, flag = self.client.recv(uid, timeout)
        self.kv.reply(event, flag)
        return flag

    def store(self, tokens, start, end, blocks, rid="s", **kw):
        flag = self.flag(self.send_store(tokens, start, end, blocks, rid, **kw))
        self.kv.settle(self.client.port)
        return flag

    def retrieve(self, tokens, start, end, blocks, rid, skip=0, **kw):
        flag = self.flag(self.send_retrieve(tokens, start, end, blocks, rid, skip, **kw))
        self.kv.settle(self.client.port)
        return flag

    def lookup_only(self, tokens, rid, tp=1, **kw):
        """LOOKUP; returns what the status queries take (job id or request id)."""
        got = self.client.call("LOOKUP", self.key(tokens, 0, len(tokens) // self.chunk * self.chunk, rid, None, **kw), tp)
        return got if self.dialect in JOB_IDS else rid

    def query(self, job):
        end = time.monotonic() + 10 * SLOW
        while True:
            got = self.client.call("QUERY_PREFETCH_STATUS", job)
            if got is not None or time.monotonic() > end:
                return got
            time.sleep(0.005)

    def lookup(self, tokens, rid, tp=1, **kw):
        """Number of leading chunks found (and locked)."""
        return self.query(self.lookup_only(tokens, rid, tp, **kw))

    def free(self, tokens, start, end, rid, tp=1, **kw):
        return self.client.call("FREE_LOOKUP_LOCKS", self.key(tokens, start, end, rid, None, **kw), tp)

    def end(self, rid):
        return self.client.call("END_SESSION", rid)

    def clear(self):
        return self.client.call("CLEAR")

    def fill(self, tokens, rid="s", seed=None, **kw):
        """Stores all whole chunks from random blocks; returns their canonical words."""
        end = len(tokens) // self.chunk * self.chunk
        blocks = self.blocks(end // self.kv.bs, seed=seed)
        data = self.kv.read(blocks)
        eq(self.store(tokens, 0, end, blocks, rid, **kw), True, "STORE")
        return data

    def take(self, tokens, data, rid, start=0, end=None, skip=0, layers=None, **kw):
        """RETRIEVE into random blocks: `data` must arrive there, and not one word elsewhere may change."""
        end = len(tokens) // self.chunk * self.chunk if end is None else end
        blocks = self.blocks((end - start) // self.kv.bs)
        want = self.kv.snapshot()
        eq(self.retrieve(tokens, start, end, blocks, rid, skip, **kw), True, "RETRIEVE")
        first = skip // self.kv.bs
        self.kv.write(blocks[first:], data[:, :, start + first * self.kv.bs:end], words=want)
        if not self.kv.same(want):
            got = self.kv.read(blocks[first:])
            ref = data[:, :, start + first * self.kv.bs:end]
            raise AssertionError("wrong bytes: %d of %d words differ in the blocks, %s" %
                                 ((got != ref).sum(), ref.size, "stray writes" if (got == ref).all() else ""))


def fork(fn, *args):
    """Runs fn in a child process that ends without Python's exit handlers; returns its pid. Its shared memory goes when we end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fn(*args)
            code = 0
        except BaseException:
            import traceback
            for line in traceback.format_exc().splitlines():
                print("# child: " + line, flush=True)
        finally:
            os._exit(code)
    atexit.register(unlink_of, pid)
    return pid
