"""Paged KV caches in POSIX shared memory, formats 0 to 10, addressed only by the offset formulas of section 9.2."""
import atexit
import glob
import itertools
import mmap
import os

import numpy

from lmpickle import CPU_MODULE, ITEM, WORDS, shm_wrapper
from lmwire import STUB, BadReply

MLA = {3, 5}
HND = {6, 7, 8, 10}
SINGLE = {0, 8}
SPLIT = {4, 9}
ENGINE = {4: "sglang", 5: "sglang", 9: "sglang", 8: "trtllm"}
_count = itertools.count()
_open = {}


@atexit.register
def _unlink_all():
    for pid, name in list(_open.values()):
        if pid == os.getpid():
            try:
                os.unlink("/dev/shm" + name)
            except OSError:
                pass


def unlink_of(pid):
    """What a process that was killed, or ended without exit handlers, left behind."""
    for left in glob.glob("/dev/shm/lmcache_kv_%d_*" % pid):
        os.unlink(left)


class Shm:
    """One POSIX shared memory object, named as vLLM's CPU worker names it."""

    def __init__(self, size):
        self.name = "/lmcache_kv_%d_%d" % (os.getpid(), next(_count))
        self.size = size
        # Whoever had this number before and was killed may have left one.
        if os.path.exists("/dev/shm" + self.name):
            os.unlink("/dev/shm" + self.name)
        self.fd = os.open("/dev/shm" + self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        _open[id(self)] = (os.getpid(), self.name)

    def truncate(self, size):
        os.ftruncate(self.fd, size)

    def close(self):
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        os.unlink("/dev/shm" + self.name)
        _open.pop(id(self), None)


def kv_size(fmt):
    return 1 if fmt in MLA else 2


def offset(fmt, geo, nl, block_stride, l, k, b, t, h, d):
    """Element offset within the tensor.  `geo` is (NB, BS, NH, HS); arguments may be numpy arrays."""
    NB, BS, NH, HS = geo
    if fmt == 0:
        return ((((b * nl + l) * 2 + k) * BS + t) * NH + h) * HS + d
    if fmt == 1:
        return (((k * NB + b) * BS + t) * NH + h) * HS + d
    if fmt == 2:
        return b * block_stride + ((k * BS + t) * NH + h) * HS + d
    if fmt == 3:
        return b * block_stride + t * HS + d
    if fmt in (4, 9):
        return ((b * BS + t) * NH + h) * HS + d
    if fmt == 5:
        return (b * BS + t) * HS + d
    if fmt == 6:
        return (((k * NB + b) * NH + h) * BS + t) * HS + d
    if fmt == 7:
        return b * block_stride + ((k * NH + h) * BS + t) * HS + d
    if fmt == 8:
        return ((((b * nl + l) * 2 + k) * NH + h) * BS + t) * HS + d
    if fmt == 10:
        return b * block_stride + ((h * BS + t) * 2 + k) * HS + d
    raise ValueError(fmt)


def shape(fmt, geo, nl):
    """Physical shape of one tensor (section 9.3)."""
    NB, BS, NH, HS = geo
    return {0: (NB, nl, 2, BS, NH, HS), 1: (2, NB, BS, NH, HS), 2: (NB, 2, BS, NH, HS), 3: (NB, BS, HS),
            4: (NB * BS, NH, HS), 5: (NB * BS, 1, HS), 6: (2, NB, NH, BS, HS), 7: (NB, 2, NH, BS, HS),
            8: (NB, nl, 2, NH * BS * HS), 9: (NB, BS, NH, HS), 10: (NB, NH, BS, 2 * HS)}[fmt]


def strides_of(dims):
    out = [1]
    for n in reversed(dims[1:]):
        out.insert(0, out[0] * n)
    return tuple(out)


class KV:
    """The KV cache of one engine instance.

    layers: (bs, nh, hs) of each layer where they differ; one_shm: all tensors in one object, told apart by
    storage_offset; pad: extra elements between blocks (formats with the block outermost); permuted: HND tensors are
    handed over as the NHD-shaped view that vLLM makes of them.
    """

    def __init__(self, fmt=1, nl=2, nb=80, bs=16, nh=2, hs=8, dtype="float16", layers=None, one_shm=False, pad=0,
                 permuted=False, seed=None):
        self.fmt, self.nb, self.dtype, self.item = fmt, nb, dtype, ITEM[dtype]
        if fmt in MLA:
            nh = 1
        self.geo = [(nb,) + tuple(g) for g in (layers or [(bs, nh, hs)] * nl)]
        self.nl, self.bs, self.kv = len(self.geo), self.geo[0][1], kv_size(fmt)
        self.permuted, self.pad, self.one_shm = permuted, pad, one_shm
        count = 1 if fmt in SINGLE else 2 * self.nl if fmt in SPLIT else self.nl
        self.shapes, self.strides, self.bstride = [], [], []
        for i in range(count):
            dims = shape(fmt, self.geo[i % self.nl], self.nl)
            st = list(strides_of(dims))
            if pad:
                st[0] += pad
            self.shapes.append(dims)
            self.strides.append(tuple(st))
            self.bstride.append(st[0])
        self._allocate(seed)

    def _allocate(self, seed):
        extents = [dims[0] * st[0] for dims, st in zip(self.shapes, self.strides)]
        rng = numpy.random.default_rng(seed)
        self.shms, self.base, self.words = [], [], []
        if self.one_shm:
            lead = 24           # the first tensor does not start at 0 either
            shm = Shm((lead + sum(extents)) * self.item)
            at = lead
            for n in extents:
                self.shms.append(shm)
                self.base.append(at)
                at += n
        else:
            for n in extents:
                self.shms.append(Shm(n * self.item))
                self.base.append(0)
        for shm, at, n in zip(self.shms, self.base, extents):
            words = numpy.frombuffer(shm.map, WORDS[self.item])[at:at + n]
            words[:] = self._random(rng, n)
            self.words.append(words)

    def _random(self, rng, n):
        return rng.integers(0, 1 << (8 * self.item), n, dtype=WORDS[self.item], endpoint=False) if self.item < 8 else \
            rng.integers(0, 1 << 62, n, dtype=numpy.uint64)

    def close(self):
        for shm in dict.fromkeys(self.shms):
            shm.close()

    # ---- what goes into REGISTER ----------------------------------------------------------------------------------
    def view(self, i):
        """(shape, stride) as the client hands them over."""
        dims, st = self.shapes[i], self.strides[i]
        if self.permuted:
            a, b = {6: (2, 3), 7: (2, 3), 10: (1, 2)}[self.fmt]
            dims, st = list(dims), list(st)
            dims[a], dims[b] = dims[b], dims[a]
            st[a], st[b] = st[b], st[a]
        return tuple(dims), tuple(st)

    def wrappers(self, protocol=4, mod=CPU_MODULE):
        return [shm_wrapper(shm.name, shm.size, self.dtype, *self.view(i), storage_offset=self.base[i],
                            protocol=protocol, mod=mod) for i, shm in enumerate(self.shms)]

    # ---- events of requests and replies; CPU clients have none ------------------------------------------------------
    def event(self):
        """What goes into STORE and RETRIEVE."""
        return STUB

    def reply(self, event, flag):
        """The event of a reply: the stub, or empty where the request was no good."""
        if event != STUB and (flag or event != b""):
            raise BadReply("a CPU client gets event %r" % event)

    def settle(self, port):
        """After it the server has made visible, and given back, what earlier replies stood for."""

    def leave(self, engine):
        """The engine is about to end."""

    def hints(self):
        NB, BS, NH, HS = self.geo[0]
        if self.fmt in SPLIT:
            return {"tokens_per_block": BS, "kv_list_layout": "k_v"}
        if self.fmt == 5:
            return {"tokens_per_block": BS}
        if self.fmt == 8:
            return {"kv_layout": "HND", "num_kv_heads": NH, "tokens_per_block": BS, "head_dim": HS}
        if self.fmt in HND:
            return {"kv_layout": "HND"}
        return {"kv_layout": "NHD"} if self.fmt in (0, 2) else {}

    def engine(self):
        return ENGINE.get(self.fmt, "vllm")

    # ---- access by formula ----------------------------------------------------------------------------------------
    def _index(self, l, k, blocks):
        NB, BS, NH, HS = geo = self.geo[l]
        b = numpy.asarray(blocks, dtype=numpy.int64)[:, None, None, None]
        t = numpy.arange(BS)[None, :, None, None]
        h = numpy.arange(NH)[None, None, :, None]
        d = numpy.arange(HS)[None, None, None, :]
        i = 0 if self.fmt in SINGLE else k * self.nl + l if self.fmt in SPLIT else l
        at = offset(self.fmt, geo, self.nl, self.bstride[i], l, k, b, t, h, d)
        return i, at.reshape(-1)

    def read(self, blocks, layers=None):
        """Canonical [kv, layers, tokens, heads * size] words of these blocks (layers of one geometry)."""
        layers = range(self.nl) if layers is None else layers
        out, words = [], self._load()
        for k in range(self.kv):
            for l in layers:
                i, at = self._index(l, k, blocks)
                out.append(words[i][at])
        NB, BS, NH, HS = self.geo[layers[0]]
        return numpy.stack(out).reshape(self.kv, len(layers), len(blocks) * BS, NH * HS)

    def write(self, blocks, data, layers=None, words=None):
        """Writes canonical words into these blocks, of the cache itself or of a snapshot of it."""
        layers = range(self.nl) if layers is None else layers
        into = self._load() if words is None else words
        for k in range(self.kv):
            for n, l in enumerate(layers):
                i, at = self._index(l, k, blocks)
                into[i][at] = data[k][n].reshape(-1)
        if words is None:
            self._save(into)

    def _load(self):
        """The words of each tensor with their padding; here those of the cache itself."""
        return self.words

    def _save(self, words):
        """Puts back what _load gave."""

    def snapshot(self):
        return [w.copy() for w in self._load()]

    def same(self, snapshot):
        return all(numpy.array_equal(a, b) for a, b in zip(self._load(), snapshot))


def per_chunk(data, chunk):
    """Splits canonical [kv, L, T, D] words of a range into one contiguous array per chunk."""
    return [numpy.ascontiguousarray(data[:, :, i:i + chunk]) for i in range(0, data.shape[2], chunk)]
