"""bench l2: an adapter without a server, every byte checked, in text and as JSON."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
from lmclient import SLOW, Tap, eq  # noqa: E402
from lmdaemon import BIN  # noqa: E402

tap = Tap()
MOCK = {"type": "mock", "max_size_gb": 1, "mock_bandwidth_gb": 1}
WORK = tempfile.mkdtemp(prefix="lmca-bench-l2-")


def bench(adapter, *words, rc=0, env=None):
    text = adapter if isinstance(adapter, str) else json.dumps(adapter)
    given = ["--l2-adapter", text] if adapter is not None else []
    p = subprocess.run([BIN, "bench", "l2"] + given + list(words), capture_output=True, text=True, timeout=120,
                       env=dict(os.environ, **(env or {})))
    eq(p.returncode, rc, "exit code: %s %s" % (p.stdout[-500:], p.stderr[-800:]))
    return p


def metrics(adapter, *words, rc=0):
    return json.loads(bench(adapter, "--format", "json", *words, rc=rc).stdout)["metrics"]


def raw(*names):
    return {"type": "raw_block", "device_paths": [os.path.join(WORK, n) for n in names], "capacity_bytes": 192 << 20}


@tap.test("text: a section per phase, all objects right")
def text():
    out = bench(MOCK, "--in-flight", "4", "--rounds", "2").stdout
    eq([s for s in ("Bench L2 Adapter", " Store ", " Lookup ", " Load ", " Correctness ") if s not in out], [], "sections: %s" % out)
    eq(re.search(r"Objects: +96/96 OK", out) is not None, True, "96 of 96: %s" % out)
    eq({len(line) for line in out.splitlines()}, {56}, "one width")


@tap.test("JSON: counts, bandwidth as the mock was told, share of lookups that hit")
def as_json():
    told = 0.1 / SLOW           # slow enough for a busy machine, and for a sanitized build, to keep up with
    m = metrics(dict(MOCK, mock_bandwidth_gb=told), "--num-keys", "40", "--data-size-kb", "1024", "--in-flight", "4", "--warmup-rounds", "0",
                "--lookup-max-hit-rate", "0.25")
    eq((m["type"], m["num_keys"], m["data_size_kb"], m["in_flight"]), ("mock", 40, 1024, 4), "what was asked")
    eq((m["store"]["operations"], m["lookup"]["operations"], m["load"]["operations"]), (40, 40, 40), "operations")
    eq((m["lookup"]["missing"], m["load"]["missing"], m["load"]["errors"]), (30, 0, 0), "misses")
    eq(m["correctness"]["objects"], "40/40 OK", "bytes")
    eq(told / 2 < m["load"]["throughput_gb_per_second"] <= told * 1.1 + 0.005, True, "bandwidth %s" % m["load"])
    eq(m["load"]["latency_p50_ms"] <= m["load"]["latency_p99_ms"] <= m["load"]["latency_max_ms"], True, "percentiles")


@tap.test("--only measures one phase; the environment names the adapter")
def only():
    for phase in ("store", "lookup", "load"):
        got = json.loads(bench(None, "--only", phase, "--format", "json", env={"L2_ADAPTER_JSON": json.dumps(MOCK)}).stdout)["metrics"]
        eq([p for p in ("store", "lookup", "load") if p in got], [phase], "phases")


@tap.test("raw_block over two files: made, striped, kept over a restart")
def raw_block():
    m = metrics(raw("a", "b"), "--num-keys", "32", "--data-size-kb", "1024", "--in-flight", "8", "--seed", "42", "--keep")
    eq((m["store"]["operations"], m["store"]["present"], m["correctness"]["objects"]), (32, 0, "64/64 OK"), "first")
    m = metrics(raw("a", "b"), "--num-keys", "32", "--data-size-kb", "1024", "--in-flight", "8", "--seed", "42")
    eq((m["store"]["operations"], m["store"]["present"], m["correctness"]["objects"]), (0, 32, "64/64 OK"), "found again")
    m = metrics(raw("a", "b"), "--num-keys", "32", "--data-size-kb", "1024", "--in-flight", "8", "--seed", "42")
    eq((m["store"]["operations"], m["store"]["present"]), (32, 0), "removed at the end")


@tap.test("wrong bytes never come back: they are errors, and the exit code says so")
def corrupt():
    p = bench({"type": "fault_inject", "adapter": MOCK, "corrupt": 0.5, "seed": 3}, "--format", "json", rc=1)
    m = json.loads(p.stdout)["metrics"]
    right, of = re.match(r"(\d+)/(\d+) OK", m["correctness"]["objects"]).groups()
    eq(right, of, "what came back is right")
    eq((m["load"]["errors"] > 10, "checksum" in p.stderr), (True, True), "errors: %s" % p.stderr)


@tap.test("a hung adapter ends the bench in time")
def hung():
    p = bench({"type": "fault_inject", "adapter": MOCK, "hang": 1}, "--timeout", "1", rc=1)
    eq("did not come back within 1000 ms" in p.stderr, True, p.stderr)


@tap.test("usage errors: exit code 2 and the reason")
def usage():
    for adapter, says in ((None, "--l2-adapter JSON is missing"), ("{", "Invalid JSON for --l2-adapter #0"),
                          ({"type": "nixl_store"}, "type 'nixl_store' is not served"), ({"type": "mock", "size": 3}, "unknown key 'size'"),
                          ({"type": "mock"}, "missing required key 'max_size_gb'")):
        p = bench(adapter, rc=2, env={"L2_ADAPTER_JSON": ""})
        eq(says in p.stderr, True, "%s: %s" % (says, p.stderr))


@tap.test("a foreign content is not overwritten")
def foreign():
    path = os.path.join(WORK, "foreign")
    with open(path, "wb") as f:
        f.truncate(192 << 20)
        f.seek(1024 + 56)
        f.write(b"\x53\xef")  # an ext file system's mark
        f.seek(0)
        f.write(b"LMCIDX01")
    before = open(path, "rb").read(1 << 20)
    p = bench(raw("foreign"), rc=1)
    eq(("l2 format --force" in p.stderr, open(path, "rb").read(1 << 20) == before), (True, True), p.stderr)


if __name__ == "__main__":
    try:
        tap.main()
    finally:
        shutil.rmtree(WORK, ignore_errors=True)
