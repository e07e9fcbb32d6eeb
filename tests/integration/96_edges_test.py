"""Edges of what unmodified clients and operators may say: longest names, widest worlds, smallest chunks."""
import ctypes
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import urllib.parse

sys.dont_write_bytecode = True
from lmclient import (BIN, CHUNK, KV, Client, Daemon, Engine, Skip, Tap, eq, fork, free_port,   # noqa: E402
                      random_tokens)

tap = Tap()


@tap.test("a cache_salt of 128 characters is a tenant like any other, in letters of every width")
def wide_salts():
    for letter in ("a", "\u00e9", "\u20ac", "\U0001f511"):
        salt = letter * 128
        with Engine(tap.daemon.port, "D4", KV(1), model="salted", salt=salt) as e:
            tokens = random_tokens(2 * CHUNK)
            data = e.fill(tokens)
            eq(e.lookup(tokens, "r" + letter), 2, "hits of %r" % letter)
            e.take(tokens, data, "r" + letter)
            e.salt = letter * 127
            eq(e.lookup(tokens, "other" + letter), 0, "hits under another salt")
        path = "/quota/" + urllib.parse.quote(salt, safe="")
        eq(tap.daemon.http("PUT", path, {"limit_gb": 1})[0], 200, "PUT a quota")
        code, body = tap.daemon.http("GET", path)
        eq((code, body["cache_salt"], body["exists"]), (200, salt, True), "GET the quota")
        eq(tap.daemon.http("DELETE", path)[1]["status"], "removed", "DELETE the quota")


def http_get(host, port, path):
    conn = http.client.HTTPConnection(host, port, timeout=10)
    conn.request("GET", path)
    reply = conn.getresponse()
    text = reply.read()
    conn.close()
    return reply.status, text


@tap.test("--host and --http-host as IPv6 addresses, with brackets and without")
def ipv6():
    try:
        socket.socket(socket.AF_INET6).bind(("::1", 0))
    except OSError:
        raise Skip("this machine has no ::1")
    for host in ("::1", "[::1]"):
        port, http_port = free_port(), free_port()
        args = [BIN, "server", "--l1-size-gb", "0.01", "--eviction-policy", "LRU", "--host", host, "--http-host", host,
                "--port", str(port), "--http-port", str(http_port), "--state-dir", tempfile.mkdtemp()]
        process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stderr:
                if "ZMQ cache server is running on" in line:
                    break
            if "tcp://[::1]:%d" % port not in line:
                raise AssertionError("the ready line is " + line)
            status = json.loads(http_get("::1", http_port, "/status")[1])
            eq(status["zmq_endpoint"], "tcp://[::1]:%d" % port, "zmq_endpoint")
            eq(status["http_endpoint"], "http://[::1]:%d" % http_port, "http_endpoint")
            for url in (status["zmq_endpoint"], status["http_endpoint"], status["zmq_endpoint"] + "/"):
                eq(subprocess.run([BIN, "ping", "kvcache", "--url", url, "-q"]).returncode, 0, "ping " + url)
        finally:
            process.terminate()
            process.communicate()
        eq(process.returncode, 0, "exit code")


@tap.test("/conf and /config have the reference's sections")
def conf():
    for path in ("/conf", "/config"):
        code, body = tap.daemon.http("GET", path)
        eq((code, sorted(body)), (200, ["appliance", "http", "mp", "observability", "storage_manager"]), path)
        eq((body["mp"]["port"], body["http"]["http_port"]), (tap.daemon.port, tap.daemon.http_port), "ports")
        eq(body["storage_manager"]["eviction_config"]["eviction_policy"], "LRU", "policy")


@tap.test("a busy port is named with the flag that chooses another; exit code 1, and nothing is left behind")
def busy_port():
    d = tap.daemon
    for flag, other, busy in (("--port", "--http-port", d.port), ("--http-port", "--port", d.http_port)):
        before = set(os.listdir("/dev/shm"))
        run = subprocess.run([BIN, "server", "--l1-size-gb", "0.01", "--eviction-policy", "LRU", flag, str(busy),
                              other, "0", "--state-dir", tempfile.mkdtemp(), "--shm-name", "lmca_busy_%d" % os.getpid()],
                             stderr=subprocess.PIPE, text=True, timeout=60)
        eq(run.returncode, 1, "exit code")
        # Not always the last line: the thread that makes L1 may have its say after it.
        said = [line for line in run.stderr.splitlines() if "Address already in use" in line]
        eq([("another %s" % flag) in line for line in said], [True], run.stderr)
        eq([n for n in set(os.listdir("/dev/shm")) - before if n == "lmca_busy_%d" % os.getpid()], [], "left in /dev/shm")


@tap.test("commands that went to the wrong door say so, and nothing checked is not OK")
def wrong_door():
    run = subprocess.run([BIN, "ping", "kvcache", "--url", "http://localhost:%d" % tap.daemon.port], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, timeout=60)
    eq((run.returncode, "no HTTP server" in run.stderr, "FAIL" in run.stdout), (1, True, True), run.stderr)
    run = subprocess.run([BIN, "bench", "kvcache", "--url", "localhost:%d" % free_port(), "--verify-only"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    eq((run.returncode, "0/0 not checked" in run.stdout), (1, True), run.stdout)


def series(page):
    """{(name, labels in order): value} of a /metrics page."""
    out = {}
    for line in page.splitlines():
        if line and line[0] != "#":
            name, value = line.rsplit(" ", 1)
            labels = tuple(re.findall(r'="([^"]*)"', name))
            out[name.split("{")[0].removeprefix("lmcache_"), labels] = float(value)
    return out


@tap.test("labels of /metrics: what happened is counted under its model, salt, request, device and reason")
def labels():
    d = tap.daemon
    before = series(d.http("GET", "/metrics")[1])
    with Client(d.port, "D4") as c:
        both = [Engine(d.port, "D4", KV(1), model="org/labels", world=2, rank=r, client=c, salt="team") for r in (0, 1)]
        tokens = random_tokens(2 * CHUNK)
        for e in both:
            e.fill(tokens)
        longer = tokens + random_tokens(CHUNK)
        eq(both[0].lookup(longer, "r"), 2, "hits")
        both[0].free(longer, 0, 2 * CHUNK, "r")
        eq(both[0].retrieve(tokens, 0, 2 * CHUNK, both[0].blocks(32), "nobody"), False, "RETRIEVE without LOOKUP")
        eq(both[0].lookup(tokens, "r2", model="never/registered"), 0, "hits of an unknown model")
        eq(both[0].lookup(random_tokens(CHUNK - 1), "r3"), 0, "hits of no chunk")
        eq(both[0].store(tokens, 0, 2 * CHUNK, both[0].blocks(32), instance=1), False, "unknown instance")
        for e in both:
            e.kv.close()
    after = series(d.http("GET", "/metrics")[1])
    who = ("org/labels", "team")
    for name, label, grown in (
            ("mp_lookups_requests_total", who, 1), ("mp_lookup_requested_tokens_total", who, 3 * CHUNK),
            ("mp_lookup_hit_tokens_total", who, 2 * CHUNK), ("mp_lookup_hit_l1_tokens_total", who, 2 * CHUNK),
            ("mp_lookup_hit_l1_keys_total", who, 4), ("mp_sm_read_succeed_keys_total", (), 4),
            ("mp_sm_read_failed_keys_total", (), 2), ("mp_sm_read_requests_total", (), 1),
            ("mp_lookup_early_exit_requests_total", ("", "", "no_gpu_context"), 1),
            ("mp_lookup_early_exit_requests_total", ("", "", "empty_chunk_hashes"), 1),
            ("mp_num_submitted_stores_total", ("cpu",), 2), ("mp_num_finished_stores_total", ("cpu",), 2),
            ("mp_num_submitted_retrieves_total", ("cpu",), 1), ("mp_num_finished_retrieves_total", ("cpu",), 1),
            ("mp_l1_read_failure_chunks_total", ("l1_retrieve", "not_found", "org/labels"), 1),
            ("appliance_request_errors_total", ("refused",), 1), ("appliance_requests_total", ("LOOKUP",), 3),
            ("appliance_requests_total", ("STORE",), 3), ("appliance_request_seconds_count", ("LOOKUP",), 3)):
        eq(int(after.get((name, label), 0) - before.get((name, label), 0)), grown, "%s%r" % (name, label))


@tap.test("lookups of more tenants than a thread remembers are each counted under their own salt")
def tenants():
    d = tap.daemon
    salts = ["", "x" * 128] + ["tenant%d" % i for i in range(60)]
    with Engine(d.port, "D4", KV(1), model="org/tenants") as e:
        tokens = random_tokens(CHUNK)
        for n in range(3):
            for i, e.salt in enumerate(salts):
                eq(e.lookup(tokens, "t%d.%d" % (n, i)), 0, "hits")
        e.unregister()
    after = series(d.http("GET", "/metrics")[1])
    for salt in salts:
        for name, count in (("requests", 3), ("requested_tokens", 3 * CHUNK), ("hit_tokens", 0)):
            got = int(after.get(("mp_lookup%s_total" % ("s_" + name if name == "requests" else "_" + name),
                                 ("org/tenants", salt)), 0))
            eq(got, count, "%s of %r" % (name, salt))


def small_shm():
    """Runs in a child: a /dev/shm of its own that somebody else fills up while the server runs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x20000) != 0 or libc.mount(b"none", b"/", None, 0x44000, None) != 0 or \
       libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=400m") != 0:
        os._exit(77)
    kv = KV(1, nl=8, nh=8, hs=64, nb=64)                        # 4 MiB a chunk
    with Daemon("--l1-init-size-gb", "0.02", l1="0.3") as d, Engine(d.port, "D4", kv, model="full") as e:
        def store(count):
            for _ in range(count):
                eq(e.fill(random_tokens(512)) is not None, True, "STORE")
        with open("/dev/shm/hog", "wb", 0) as hog:
            free = os.statvfs("/dev/shm")
            hog.write(bytes(free.f_bavail * free.f_frsize - 8192))
        store(40)                                               # 80 chunks of 4 MiB do not fit
        if not d.wait(lambda: "L1 cannot grow beyond" in d.log()):
            raise AssertionError("not a word about the shortage")
        eq(d.status()["is_healthy"], True, "health")
        tokens = random_tokens(512)
        data = e.fill(tokens)
        eq(e.lookup(tokens, "r"), 2, "hits while short")
        e.take(tokens, data, "r")
        os.unlink("/dev/shm/hog")
        store(40)
        if not d.wait(lambda: "L1 grows again" in d.log() or store(10), 8):
            raise AssertionError("L1 did not grow again")


@tap.test("somebody else fills /dev/shm: L1 stays as large as it is and says so, and grows when there is room again")
def full_shm():
    pid = fork(small_shm)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 77:
        raise Skip("no mount namespaces here")
    eq(code, 0, "the child's exit")


@tap.test("engines are spread over the transfer workers, though each has a second connection that copies nothing")
def spread():
    with Daemon("--max-workers", "2") as d:
        def switches():
            out = {}
            for task in os.listdir("/proc/%d/task" % d.pid):
                with open("/proc/%d/task/%s/status" % (d.pid, task)) as f:
                    status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
                if status["Name"].startswith("lmca-xfer"):
                    out[status["Name"]] = int(status["voluntary_ctxt_switches"])
            return out
        for _ in range(3):                                  # engines come and go: a free worker is found each time
            with Client(d.port, "D6"), Engine(d.port, "D6", KV(1), model="one") as one:
                with Client(d.port, "D6"), Engine(d.port, "D6", KV(1), model="two") as two:
                    one.fill(random_tokens(CHUNK))
                    two.fill(random_tokens(CHUNK))
                    before = switches()
                    for _ in range(20):
                        one.fill(random_tokens(4 * CHUNK))
                        two.fill(random_tokens(4 * CHUNK))
                    after = switches()
                    woken = sorted(after[n] - before[n] for n in after)
                    # of 20 each, less those that found the worker awake still; it was 0 and 40
                    assert len(woken) == 2 and woken[0] >= 3, "wake-ups of the two workers: %r" % woken
                    two.unregister()
                one.unregister()


if __name__ == "__main__":
    tap.main()
