#!/usr/bin/python3
"""A client that keeps asking for what only the second tier has, and says how that went: one JSON line per step.

    l2_watch.py PORT HTTP_PORT PROMPTS SECONDS

First stores PROMPTS prompts and waits until they are durable ("stored"). Then, in turns, empties L1, checks a prompt byte by byte, and
measures requests that need no second tier: PING and the lookup of a prompt that is in L1. Wrong bytes end it with status 1.
"""
import http.client
import json
import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "integration"))
from lml2 import SMALL, Prompts, flush                         # noqa: E402

OTHERS = 12


def clear_l1(http_port):
    conn = http.client.HTTPConnection("127.0.0.1", http_port, timeout=30)
    conn.request("POST", "/cache/clear", json.dumps({"tier": "l1"}), {"Content-Type": "application/json"})
    conn.getresponse().read()
    conn.close()


def timed(fn, *args):
    begin = time.monotonic()
    value = fn(*args)
    return time.monotonic() - begin, value


def l1_hit(engine, tokens, want):
    hits = engine.lookup(tokens, "near")
    engine.end("near")
    assert hits == want, (hits, want)


def main(port, http_port, count, seconds):
    with Prompts(port, shares=SMALL) as prompts:
        for number in range(count):
            assert prompts.store(number)
        assert flush(http_port) == 0
        print(json.dumps({"stored": count}), flush=True)
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            engine, tokens, words = prompts.make(number % count)
            clear_l1(http_port)
            took, (hits, chunks) = timed(prompts.check, number % count)
            near = prompts.make(10 ** 6 + number)
            prompts.store(10 ** 6 + number)
            others = [timed(engine.client.ping, engine.instance)[0] for _ in range(OTHERS)]
            others += [timed(l1_hit, near[0], near[1], len(near[1]) // 256)[0] for _ in range(OTHERS)]
            print(json.dumps({"t": time.time(), "hits": hits, "chunks": chunks, "took": took, "others": others}), flush=True)
            number += 1


main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
