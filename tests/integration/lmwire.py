"""LMCache MP wire protocol, client side: request numbers, frames, keys, strict replies.

A second implementation, written from the protocol description and the golden vectors only, so that it can disagree
with the daemon.  Values are encoded as msgspec does: the most compact integer, maps in declaration order.
"""
import itertools
import os
import random
import time

import msgpack
import zmq

SAN = bool(os.environ.get("LMCA_SANITIZER"))     # make san sets it: "address" or "thread"
SLOW = 6 if SAN else 1          # sanitizers are several times slower: all deadlines stretch
STUB = b"stub_ipc_handle"       # what CPU clients send in place of a device event
CHUNK = 256

_CB1 = ("CB_REGISTER_KV_CACHE CB_UNREGISTER_KV_CACHE CB_STORE_PRE_COMPUTED CB_LOOKUP_PRE_COMPUTED "
        "CB_RETRIEVE_PRE_COMPUTED CB_STORE_FINAL ")
_CB2 = "CB_LOOKUP_PRE_COMPUTED_V2 CB_RETRIEVE_PRE_COMPUTED_V2 "
_P2P = "P2P_LOOKUP_AND_LOCK P2P_QUERY_LOOKUP_RESULTS P2P_UNLOCK_OBJECTS "
_V3 = "CB_REGISTER_ROPE_V3 CB_UNREGISTER_ROPE_V3 CB_RETRIEVE_PRE_COMPUTED_V3 CB_UNIFIED_LOOKUP "
_CTX = "REGISTER_KV_CACHE_%s_CONTEXT UNREGISTER_KV_CACHE_%s_CONTEXT "
_XFER = "PREPARE_STORE COMMIT_STORE PREPARE_RETRIEVE COMMIT_RETRIEVE "
_TAIL = "CLEAR GET_CHUNK_SIZE PING REPORT_BLOCK_ALLOCATION NOOP "
_D6 = ("REGISTER_KV_CACHE UNREGISTER_KV_CACHE REGISTER_Q_CACHE UNREGISTER_Q_CACHE STORE_Q STORE RETRIEVE LOOKUP "
       "QUERY_PREFETCH_STATUS WAIT_PREFETCH_STATUS QUERY_PREFETCH_LOOKUP_HITS FREE_LOOKUP_LOCKS END_SESSION "
       + _CTX.replace("%s", "ENGINE_DRIVEN") + _XFER + _TAIL +
       "CB_REGISTER_ROPE CB_UNREGISTER_ROPE CB_RETRIEVE_PRE_COMPUTED CB_UNIFIED_LOOKUP " + _P2P +
       "GET_EXPERIMENTAL CB_PROTOCOL_HANDSHAKE")
_HEAD = ("REGISTER_KV_CACHE UNREGISTER_KV_CACHE STORE RETRIEVE LOOKUP QUERY_PREFETCH_STATUS "
         "QUERY_PREFETCH_LOOKUP_HITS FREE_LOOKUP_LOCKS END_SESSION ")

# Names in number order, the first being 1.
_TABLES = {
    "D1E": "REGISTER_KV_CACHE UNREGISTER_KV_CACHE STORE RETRIEVE LOOKUP QUERY_PREFETCH_STATUS FREE_LOOKUP_LOCKS "
           "END_SESSION CLEAR GET_CHUNK_SIZE NOOP " + _CB1 + _CB2,
    "D1": _HEAD + "CLEAR GET_CHUNK_SIZE PING NOOP " + _CB1 + _CB2,
    "D2": _HEAD + _TAIL + _CB1 + _CB2,
    "D3": _HEAD + _TAIL + _CB1 + _CB2,
    "D3b": _HEAD + "REGISTER_KV_CACHE_NON_GPU_CONTEXT STORE_CPU_CHUNKS RETRIEVE_CPU_CHUNKS " + _TAIL + _CB1 + _CB2,
    "D4": _HEAD + _CTX.replace("%s", "NON_GPU") + _XFER + _TAIL + _CB1 + _CB2,
    "D4v3": _HEAD + _CTX.replace("%s", "ENGINE_DRIVEN") + _XFER + _TAIL + _CB1 + _CB2 + _V3 + _P2P,
    "D5a": _HEAD.replace("QUERY_PREFETCH_LOOKUP_HITS", "WAIT_PREFETCH_STATUS QUERY_PREFETCH_LOOKUP_HITS")
           + _CTX.replace("%s", "ENGINE_DRIVEN") + _XFER + _TAIL + _CB1 + _CB2 + _V3 + _P2P,
    "D5": "REGISTER_KV_CACHE UNREGISTER_KV_CACHE REGISTER_Q_CACHE UNREGISTER_Q_CACHE STORE_Q STORE RETRIEVE LOOKUP "
          "QUERY_PREFETCH_STATUS WAIT_PREFETCH_STATUS QUERY_PREFETCH_LOOKUP_HITS FREE_LOOKUP_LOCKS END_SESSION "
          + _CTX.replace("%s", "ENGINE_DRIVEN") + _XFER + _TAIL + _CB1 + _CB2 + _V3 + _P2P + "GET_EXPERIMENTAL",
    "D6": _D6,
    "D7": _D6,
}
NUMBERS = {d: {n: i for i, n in enumerate(t.split(), 1)} for d, t in _TABLES.items()}
ALL = tuple(NUMBERS)
MAIN = ("D2", "D3", "D4", "D5", "D6")
REG_FRAMES = {"D1E": 4, "D1": 5, "D2": 5, "D3": 6, "D3b": 6, "D4": 7, "D4v3": 7, "D5a": 7, "D5": 7, "D6": 7, "D7": 7}
NESTED = {d: REG_FRAMES[d] == 7 for d in ALL}
JOB_IDS = {"D1E", "D1"}
PING_ARG = {"D4", "D4v3", "D5a", "D5", "D6", "D7"}

KEY_FIELDS = ("model_name", "world_size", "worker_id", "token_ids", "start", "end", "request_id")


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


def unpack(data):
    return msgpack.unpackb(data, raw=False, strict_map_key=False)


def make_key(dialect, tokens, start, end, rid, worker=None, world=1, model="m", salt="", **extra):
    """The range key of section 5.1 in the field order of the dialect."""
    key = dict(model_name=model, world_size=world, worker_id=worker, token_ids=tokens, start=start, end=end,
               request_id=rid)
    if dialect not in JOB_IDS:
        key["cache_salt"] = salt
    if dialect in ("D5", "D6", "D7"):
        key["request_configs"] = None
    if dialect in ("D6", "D7"):
        key["num_kv_readers"] = extra.pop("readers", 1)
        key["null_chunk_mask"] = None
    extra.pop("readers", None)
    key.update(extra)
    return key


class NoReply(Exception):
    """The server did not answer within the deadline."""


class BadReply(Exception):
    """The server answered with something an LMCache client would choke on."""


def _is(value, kind):
    return type(value) is kind


def check_type(name, dialect, value):
    """Strict reply types, as msgspec would decode them with the declared type."""
    ok = False
    if name in ("STORE", "RETRIEVE"):
        ok = _is(value, list) and len(value) == 2 and _is(value[0], bytes) and _is(value[1], bool)
    elif name == "RETRIEVE_CPU_CHUNKS":
        ok = _is(value, list) and len(value) == 2 and _is(value[0], bool) and _is(value[1], bytes)
    elif name in ("GET_CHUNK_SIZE",) or (name == "LOOKUP" and dialect in JOB_IDS):
        ok = _is(value, int)
    elif name in ("QUERY_PREFETCH_STATUS", "WAIT_PREFETCH_STATUS", "QUERY_PREFETCH_LOOKUP_HITS"):
        ok = value is None or _is(value, int)
    elif name in ("PING", "COMMIT_STORE", "COMMIT_RETRIEVE", "STORE_CPU_CHUNKS"):
        ok = _is(value, bool)
    elif name == "NOOP":
        ok = value == "OK"
    elif name == "GET_EXPERIMENTAL":
        ok = _is(value, list) and all(_is(v, str) for v in value)
    elif name == "PREPARE_STORE":
        ok = _is(value, dict) and list(value) == ["context"] and _is(value["context"], dict)
    elif name == "PREPARE_RETRIEVE":
        ok = (_is(value, dict) and list(value) == ["success", "data", "context"] and _is(value["success"], bool)
              and _is(value["data"], bytes) and _is(value["context"], dict))
    elif name.startswith("REGISTER_KV_CACHE_") and dialect != "D3b":
        ok = (_is(value, dict) and list(value)[:2] == ["shm_name", "pool_size"] and _is(value["shm_name"], str)
              and _is(value["pool_size"], int))
    else:
        ok = value is None
    if not ok:
        raise BadReply("%s %s: reply %r has the wrong type" % (dialect, name, value))


class Client:
    """One DEALER connection.  `hello` sends GET_CHUNK_SIZE first, as every adapter does."""

    def __init__(self, port, dialect="D2", hello=True, chunk=CHUNK, timeout=10.0, host="localhost"):
        self.dialect, self.timeout, self.port = dialect, timeout * SLOW, port
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.connect("tcp://%s:%d" % (host, port))
        self.uids = itertools.count()
        self.early = {}
        self.sent = {}
        if hello:
            got = self.call("GET_CHUNK_SIZE")
            if chunk and got != chunk:
                raise BadReply("chunk size %r, not %r" % (got, chunk))

    def close(self):
        self.socket.close()
        self.context.term()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def number(self, name):
        return NUMBERS[self.dialect][name]

    def frames(self, name, *payload):
        kind = self.number(name) if name in NUMBERS[self.dialect] else name
        return [pack(next(self.uids)), pack(kind)] + [pack(p) for p in payload]

    def send(self, name, *payload):
        """Sends without waiting; returns the uid frame to wait for."""
        return self.send_frames(self.frames(name, *payload), name)

    def send_frames(self, frames, name=None):
        if len(frames) > 1:
            self.sent[frames[0]] = (frames[1], name)
        self.socket.send_multipart(frames, copy=len(frames) < 3 or len(frames[2]) < 65536)
        return frames[0] if frames else None

    def recv_any(self, timeout):
        """The next reply on the socket as frames, or None at the deadline."""
        if not self.socket.poll(max(0, int(timeout * 1000)), zmq.POLLIN):
            return None
        return self.socket.recv_multipart()

    def recv_frames(self, uid, timeout=None):
        """The reply to `uid`, others are kept for their own receivers."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while uid not in self.early:
            got = self.recv_any(end - time.monotonic())
            if got is None:
                raise NoReply("%s %s" % (self.dialect, self.sent.get(uid)))
            if not 2 <= len(got) <= 3 or got[0] not in self.sent:
                raise BadReply("reply frames %r" % (got,))
            if got[0] in self.early:
                raise BadReply("two replies to uid %s" % got[0].hex())
            self.early[got[0]] = got
        return self.early.pop(uid)

    def recv(self, uid, timeout=None):
        """The decoded, type-checked reply; None for a reply of two frames."""
        frames = self.recv_frames(uid, timeout)
        kind, name = self.sent.pop(uid)
        if frames[1] != kind:
            raise BadReply("type frame %s for %s" % (frames[1].hex(), kind.hex()))
        value = None
        if len(frames) == 3:
            value = unpack(frames[2])
            if value is None:
                raise BadReply("%s: c0 instead of a reply of two frames" % name)
            if pack(value) != frames[2]:
                raise BadReply("%s: not as msgspec encodes it: %s" % (name, frames[2][:80].hex()))
        if name in NUMBERS[self.dialect]:
            check_type(name, self.dialect, value)
        return value

    def call(self, name, *payload, timeout=None):
        return self.recv(self.send(name, *payload), timeout)

    def silent(self, name, *payload, wait=0.3):
        """Sends what must not be answered; the PING behind it proves that the server went past it."""
        uid = self.send(name, *payload)
        self.ping()
        try:
            frames = self.recv_frames(uid, wait)
        except NoReply:
            return True
        raise BadReply("%s answered: %r" % (name, frames))

    def ping(self, instance=None, timeout=None):
        args = (instance,) if self.dialect in PING_ARG else ()
        name = "PING" if "PING" in NUMBERS[self.dialect] else "NOOP"
        return self.call(name, *args, timeout=timeout)

    def key(self, tokens, start=0, end=None, rid="r", **kw):
        end = len(tokens) if end is None else end
        return make_key(self.dialect, tokens, start, end, rid, **kw)


def random_instance():
    """An instance id as newer clients make it: 63 bits, never a process id."""
    return random.SystemRandom().randrange(1 << 40, 1 << 63)


def random_tokens(count, seed=None):
    rng = random.Random(seed if seed is not None else random.SystemRandom().random())
    return [rng.randrange(128256) for _ in range(count)]
