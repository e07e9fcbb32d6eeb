"""bench kvcache with its KV in GPU memory: an engine of its own process, every byte checked, and what it says when something is wrong."""
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
from lmclient import SLOW, Skip, Tap, eq  # noqa: E402
from lmdaemon import BIN, ROOT, Daemon  # noqa: E402

# The test driver of this build: both sides here are programs of it.
FAKE = os.path.join(ROOT, os.environ.get("BUILD", "build"), "tests", "fake", "libcuda.so.1")
LIBRARY = os.environ.get("LMCA_CUDA_LIBRARY") or FAKE
REAL = LIBRARY != FAKE
MACHINE = tempfile.mkdtemp(prefix="lmca-bench-gpu-", dir="/dev/shm")
ENV = {"LMCA_FAKE_CUDA_DIR": MACHINE}
ALL, MLA = (0, 1, 2, 4, 6, 7, 8, 9, 10), (3, 5)
tap = Tap("--cuda-library", LIBRARY, "--max-gpu-workers", "2", l1="0.5", env=ENV)


def bench(d, *words, rc=0, env=None, limit=120):
    p = subprocess.run([BIN, "bench", "kvcache", "--url", "localhost:%d" % d.port, "--format", "json", "--timeout", str(20 * SLOW)] + list(words),
                       capture_output=True, text=True, timeout=limit * SLOW, env=dict(os.environ, **ENV, **(env or {})))
    eq(p.returncode, rc, "exit code: %s %s %s" % (p.stdout[-700:], p.stderr[-800:], d.log()[-1500:]))
    return p


def gpu(*words, rc=0, **more):
    """One run on GPUs; the report."""
    p = bench(tap.daemon, "--device", "cuda", "--cuda-library", LIBRARY, "--seed", "4711", *words, rc=rc, **more)
    return json.loads(p.stdout)["metrics"]


def parts(m):
    return m["correctness"], m["operations"], m["hit_rate"]


@tap.test("every layout of K and V, nine engines at the same time; all references given back")
def layouts():
    m = gpu("--verify-only", "--model", "mistral-7b", "--kv-dtype", "fp8", "--layout", "all", "--clients", str(len(ALL)), "--tokens", "512", "--hit-rate",
            "0.7")
    c, ops, hits = parts(m)
    eq((c["chunks_wrong"], c["errors"], c["chunks_right"] >= 9), (0, 0, True), "checked: %s" % c)
    eq((ops["store"] > 0, ops["retrieve"] > 0, hits["l1"] > 0), (True, True, True), "operations")
    eq(c["references"].endswith(" OK") and not c["references"].startswith("0/"), True, "references: %s" % c["references"])
    eq("cuda" in m["device"], True, "device: %s" % m["device"])


@tap.test("MLA: both layouts, two workers that read one shard")
def mla():
    c = parts(gpu("--verify-only", "--model", "deepseek-v3-mla", "--layout", "all", "--clients", str(len(MLA)), "--tokens", "512"))[0]
    eq((c["chunks_wrong"], c["errors"], c["chunks_right"] > 0), (0, 0, True), "checked: %s" % c)


@tap.test("hybrid layers: two groups of blocks, windows, null blocks that nobody writes; every layout that has groups")
def hybrid():
    c = parts(gpu("--verify-only", "--model", "gpt-oss-20b", "--layout", "all", "--clients", "5", "--tokens", "1024", "--hit-rate", "0.7"))[0]
    eq((c["chunks_wrong"], c["errors"], c["chunks_right"] >= 5), (0, 0, True), "checked: %s" % c)


@tap.test("four ranks over the GPUs, raw handles")
def ranks():
    m = gpu("--verify-only", "--model", "qwen3-32b-tp4", "--wrapper", "raw", "--clients", "1", "--tokens", "512", "--hit-rate", "0.8")
    c = parts(m)[0]
    eq((c["chunks_wrong"], c["errors"], c["chunks_right"] >= 4, "references" in c), (0, 0, True, False), "checked: %s" % c)


@tap.test("events of isolated engines; 8-bit elements, blocks of 32, all layers in one tensor")
def timeline():
    m = gpu("--verify-only", "--model", "gpt-oss-20b", "--events", "timeline", "--kv-dtype", "fp8", "--block-size", "32", "--layout", "cross-layer",
            "--clients", "2", "--tokens", "1024")
    c = parts(m)[0]
    eq((c["chunks_wrong"], c["errors"], c["chunks_right"] > 0), (0, 0, True), "checked: %s" % c)


@tap.test("the oldest and the newest dialect, HND pages")
def dialects():
    for dialect in ("D1", "D7"):
        c = parts(gpu("--verify-only", "--model", "llama-3.1-8b", "--kv-dtype", "fp8", "--layout", "hnd", "--dialect", dialect, "--clients", "1", "--tokens", "512"))[0]
        eq((c["chunks_wrong"], c["errors"], c["chunks_right"] > 0), (0, 0, True), "%s: %s" % (dialect, c))


@tap.test("what an engine on a GPU stored, one in shared memory retrieves, and the other way round")
def across():
    words = ("--verify-only", "--model", "mistral-7b", "--clients", "1", "--tokens", "512", "--hit-rate", "0.5", "--seed", "99")
    c, _, first = parts(json.loads(bench(tap.daemon, *words).stdout)["metrics"])
    eq((c["chunks_wrong"], c["errors"]), (0, 0), "cpu: %s" % c)
    c, _, second = parts(gpu(*words, "--layout", "hnd"))      # the same prompts
    eq((c["chunks_wrong"], c["errors"], c["chunks_right"] > 0), (0, 0, True), "gpu after cpu: %s" % c)
    eq(second["l1"] > first["l1"] + 0.2, True, "hits %s, then %s" % (first, second))
    c, _, third = parts(json.loads(bench(tap.daemon, *words).stdout)["metrics"])
    eq((c["chunks_wrong"], c["errors"], third["l1"] > first["l1"] + 0.2), (0, 0, True), "cpu after gpu: %s %s" % (c, third))


@tap.test("speed alone: no window, no checks")
def speed():
    m = gpu("--no-verify", "--clients", "2", "--model", "gpt-oss-20b", "--tokens", "1024", "--duration", "1")
    eq((m["correctness"]["errors"], m["correctness"]["checksums"], m["bandwidth"]["l1_write"] > 0), (0, "off", True), "%s" % m)


def spoil(pool, stop):
    """Other bytes all over the arena, again and again."""
    with open(pool, "r+b", buffering=0) as f, mmap.mmap(f.fileno(), 0) as m:
        while not stop.is_set():
            for at in range(0, len(m), 1 << 20):
                m[at:at + 4096] = os.urandom(4096)
            time.sleep(0.02)


@tap.test("wrong bytes in the cache are noticed: exit code 1, and how many")
def noticed():
    with Daemon("--cuda-library", LIBRARY, l1="0.25", env=ENV) as d:
        pool, stop = "/dev/shm/lmcache_l1_pool_%d" % d.pid, threading.Event()
        thread = threading.Thread(target=spoil, args=(pool, stop))
        thread.start()
        try:
            p = bench(d, "--device", "cuda:0", "--cuda-library", LIBRARY, "--model", "gpt-oss-20b", "--clients", "1", "--tokens", "1024", "--hit-rate",
                      "0.9", "--duration", str(2 * SLOW), rc=1)
        finally:
            stop.set()
            thread.join()
    c = json.loads(p.stdout)["metrics"]["correctness"]
    eq((c["chunks_wrong"] > 0, c["errors"], c["checksums"].endswith("FAIL"), "wrong runs" in p.stderr), (True, 0, True, True), "%s %s" % (c, p.stderr))


@tap.test("a block that no request named is watched, too: a server that takes another id for the null block is found out, with and without a GPU")
def null_block():
    with Daemon("--cuda-library", LIBRARY, "--null-block-id", "7", l1="0.25", env=ENV) as d:
        for words in ((), ("--device", "cuda", "--cuda-library", LIBRARY)):
            p = bench(d, "--verify-only", "--model", "gpt-oss-20b", "--clients", "1", "--tokens", "1024", "--hit-rate", "0.8", "--seed", "3", *words, rc=1)
            c = json.loads(p.stdout)["metrics"]["correctness"]
            eq((c["chunks_wrong"] > 0, c["errors"]), (True, 0), "%s: %s %s" % (words, c, p.stderr))


@tap.test("no driver, no such GPU, no GPU at all: one line and exit code 1")
def missing():
    d = tap.daemon
    if REAL:
        raise Skip("GPUs are what they are")
    for words, env, says in (((), {}, "no NVIDIA driver: /nonexistent/libcuda.so.1"),
                             (("--device", "cuda:7"), {}, "there is no GPU 7"),
                             (("--device", "cuda"), {"CUDA_VISIBLE_DEVICES": ""}, "no GPU")):
        library = "/nonexistent/libcuda.so.1" if "no NVIDIA" in says else LIBRARY
        p = subprocess.run([BIN, "bench", "kvcache", "--url", "localhost:%d" % d.port, "--device", "cuda", "--cuda-library", library] + list(words),
                           capture_output=True, text=True, timeout=60 * SLOW, env=dict(os.environ, **ENV, **env))
        eq((p.returncode, says in p.stderr, p.stderr.count("\n"), p.stdout), (1, True, 1, ""), "%s: %s" % (says, p.stderr))


@tap.test("a server that was told to leave GPUs alone refuses the engine; the bench fails and does not hang")
def refused():
    with Daemon("--cuda", "off", env=ENV) as d:
        began = time.monotonic()
        p = bench(d, "--device", "cuda", "--cuda-library", LIBRARY, "--clients", "1", "--model", "gpt-oss-20b", "--tokens", "1024", "--verify-only", rc=1)
        eq(time.monotonic() - began < 60 * SLOW, True, "time")
        eq("the server answers false" in p.stderr, True, p.stderr)


@tap.test("nothing stays behind: no context, no mapping, no torch file")
def clean():
    d = tap.daemon
    eq(d.wait(lambda: not d.contexts()), True, "contexts: %s" % d.contexts())
    eq([f for f in os.listdir("/dev/shm") if f.startswith("torch_") and str(os.getpid()) in f], [], "files")


if __name__ == "__main__":
    try:
        tap.main()
    finally:
        shutil.rmtree(MACHINE, ignore_errors=True)
