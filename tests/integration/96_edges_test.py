"""Edges of what unmodified clients and operators may say: longest names, widest worlds, smallest chunks."""
import sys
import urllib.parse

sys.dont_write_bytecode = True
from lmclient import CHUNK, KV, Engine, Tap, eq, random_tokens                     # noqa: E402

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


if __name__ == "__main__":
    tap.main()
