"""The client itself against the golden vectors: no daemon needed."""
import json
import os
import sys

sys.dont_write_bytecode = True
import msgpack                                                                      # noqa: E402
import numpy                                                                        # noqa: E402

import lmpickle                                                                     # noqa: E402
from lmclient import ALL, KV, NUMBERS, ROOT, Tap, eq, make_key, pack, register_payload  # noqa: E402

with open(os.path.join(ROOT, "tests/golden/messages.json")) as f:
    GOLD = json.load(f)
tap = Tap()


def plain(value, pickles):
    """A payload item of the vectors as the Python value to encode."""
    if isinstance(value, dict):
        if set(value) == {"bin"}:
            return bytes.fromhex(value["bin"])
        if set(value) == {"ext1_pickle_of"}:
            return next(pickles)
        return {(int(k) if k.isdigit() else k): plain(v, pickles) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v, pickles) for v in value]
    return value


def exts(frame):
    value = msgpack.unpackb(frame, raw=False)
    return [v for v in value if isinstance(v, msgpack.ExtType)] if isinstance(value, list) else []


@tap.test("request numbers of every dialect are those of the vectors")
def numbers():
    eq(sorted(GOLD["request_types"]), sorted(d for d in ALL if d != "D1E"), "dialects")
    for dialect, table in GOLD["request_types"].items():
        eq(NUMBERS[dialect], table, dialect)
    eq([NUMBERS["D1E"][n] for n in ("GET_CHUNK_SIZE", "NOOP", "CB_REGISTER_KV_CACHE", "CB_RETRIEVE_PRE_COMPUTED_V2")],
       [10, 11, 12, 19], "early D1")


@tap.test("primitives encode as in the vectors")
def primitives():
    words = {"null": None, "true": True, "false": False, "float 30.0": 30.0, "float 0.1": 0.1, 'str ""': "",
             "array 0": [], "map 0": {}, "bin 0": b""}
    seen = 0
    for p in GOLD["primitives"]:
        value = p["value"]
        if isinstance(value, str) and value not in words:
            continue
        eq(pack(words.get(value, value)).hex(), p["hex"], value)
        seen += 1
    assert seen >= 28, seen


@tap.test("every golden request is reproduced byte for byte")
def requests():
    for m in GOLD["messages"]:
        frames = [bytes.fromhex(f) for f in m["request"]["frames"]]
        kind = NUMBERS[m["dialect"]].get(m["name"], m["request_type"])
        payload = m["request"]["payload"]
        wrapped = (e for f in frames[2:] for e in exts(f))
        values = [frames[2 + i] and msgpack.unpackb(frames[2 + i], raw=False)
                  if isinstance(p, dict) and "bin_len" in p else plain(p, wrapped) for i, p in enumerate(payload)]
        if any(isinstance(p, dict) and set(p) == {"0"} for p in payload):
            values[1] = {0: values[1][0]}
        built = [pack(m["uid"]), pack(kind)] + [pack(v) for v in values]
        eq([b.hex() for b in built], [f.hex() for f in frames], m["dialect"] + " " + m["name"])


@tap.test("keys come out in the dialect's field order")
def keys():
    for m in GOLD["messages"]:
        for frame, value in zip(m["request"]["frames"][2:], m["request"]["payload"]):
            if not isinstance(value, dict) or "token_ids" not in value:
                continue
            args = dict(worker=value["worker_id"], world=value["world_size"], model=value["model_name"],
                        salt=value.get("cache_salt", ""))
            dialect = "D4" if m["dialect"] == "D5" else m["dialect"]
            key = make_key(dialect, value["token_ids"], value["start"], value["end"], value["request_id"], **args)
            eq(pack(key).hex(), frame, m["dialect"] + " " + m["name"])


@tap.test("the 1000-token key has the golden length and bytes")
def large_key():
    big = GOLD["large_key_frame"]
    tokens = [(9906 + 7919 * i) % 128256 for i in range(1000)]
    key = make_key("D2", tokens, 0, 768, "cmpl-big-0", worker=0, world=1, model="meta-llama/Llama-3.1-8B-Instruct")
    eq(pack(key).hex(), big["hex"], "key")


@tap.test("wrapper pickles equal the golden ones, protocols 4 and 5")
def wrappers():
    for p in GOLD["device_pickles"]:
        mod, name = p["class"].split()
        fields = {}
        for k, v in p["fields"].items():
            v = plain(v, None)
            if k in ("handle", "shape", "stride") and isinstance(v, list):
                v = tuple(v)
            if k == "dtype":
                v = lmpickle.DTYPES[v.replace("torch.", "")]
            fields[k] = v
        if "_export_id" in fields:
            fields["handle"] = fields["_export_id"]     # one object, hence a memo reference in the pickle
        for protocol in (4, 5):
            eq(lmpickle.wrapper(mod, name, fields, protocol).hex(), p["protocol%d" % protocol], p["name"])


@tap.test("tensor lists: golden ones load, ours load and hold the same")
def tensor_lists():
    emitted = GOLD["tensor_list_pickle_emitted"]["hex"]
    two = next(p for p in GOLD["tensor_list_pickles"] if p["name"] == "float16 two chunks")
    for p in GOLD["tensor_list_pickles"] + [dict(two, hex=emitted)]:
        got = lmpickle.load_tensor_list(bytes.fromhex(p["hex"]))
        eq([(("torch." + t.dtype), list(t.array.shape), t.array.tobytes().hex()) for t in got],
           [(t["dtype"], t["shape"], t["data"]) for t in p["tensors"]], p["name"])
        for protocol in (4, 5):
            again = lmpickle.tensor_list([t.array for t in got], got[0].dtype, protocol)
            back = lmpickle.load_tensor_list(again)
            eq([b.array.tobytes() for b in back], [t.array.tobytes() for t in got], "round trip")


@tap.test("a one-tensor list of ours is the golden pickle but for torch's storage key")
def tensor_list_bytes():
    gold = GOLD["tensor_list_pickles"][0]
    got = lmpickle.load_tensor_list(bytes.fromhex(gold["hex"]))
    eq(lmpickle.tensor_list([got[0].array], "bfloat16").hex(), gold["hex"], "bytes")


@tap.test("golden replies pass the strict reply check")
def replies():
    from lmwire import check_type
    for m in GOLD["messages"]:
        if not m["reply"] or m["name"].startswith(("CB_", "P2P_", "SOME_")):
            continue
        frames = m["reply"]["frames"]
        value = msgpack.unpackb(bytes.fromhex(frames[2]), raw=False) if len(frames) == 3 else None
        check_type(m["name"], m["dialect"], value)


@tap.test("reply check refuses what an LMCache client would refuse")
def bad_replies():
    from lmwire import BadReply, check_type
    for name, value in (("PING", 1), ("STORE", [b"", 1]), ("STORE", [b""]), ("STORE", ["", True]), ("LOOKUP", 0),
                        ("GET_CHUNK_SIZE", True), ("QUERY_PREFETCH_STATUS", False), ("END_SESSION", True),
                        ("PREPARE_RETRIEVE", {"data": b"", "success": True, "context": {}})):
        try:
            check_type(name, "D2", value)
        except BadReply:
            continue
        raise AssertionError("%s %r passes" % (name, value))


@tap.test("KV formats: formula and numpy transposition agree, all offsets distinct")
def formats():
    for fmt in range(11):
        kv = KV(fmt, nl=3, nb=5, bs=4, nh=3, hs=2)
        n, bs, nh, hs = kv.geo[0]
        whole = kv.read(range(n)).reshape(kv.kv, 3, n, bs, nh, hs)
        for l in range(3):
            for k in range(kv.kv):
                i = 0 if fmt in (0, 8) else k * 3 + l if fmt in (4, 9) else l
                w = kv.words[i].reshape(kv.shapes[i])
                ref = {0: lambda: w[:, l, k], 1: lambda: w[k], 2: lambda: w[:, k], 3: lambda: w[:, :, None],
                       4: lambda: w.reshape(n, bs, nh, hs), 5: lambda: w.reshape(n, bs, 1, hs),
                       6: lambda: w[k].swapaxes(1, 2), 7: lambda: w[:, k].swapaxes(1, 2),
                       8: lambda: w[:, l, k].reshape(n, nh, bs, hs).swapaxes(1, 2), 9: lambda: w,
                       10: lambda: w.reshape(n, nh, bs, 2, hs)[:, :, :, k].swapaxes(1, 2)}[fmt]()
                assert numpy.array_equal(whole[k, l], ref), (fmt, l, k)
        kv.close()


@tap.test("register frames have the dialect's count and order")
def register_frames():
    for m in GOLD["messages"]:
        if m["name"] == "REGISTER_KV_CACHE":
            p = m["request"]["payload"]
            engine = p[4] if len(p) > 5 else "vllm"
            hints = p[5] if len(p) > 5 else p[4]
            eq(register_payload(m["dialect"], p[0], p[1], p[2], p[3], engine, hints, p[6] if len(p) > 6 else None), p,
               m["dialect"])


if __name__ == "__main__":
    tap.main(daemon=False)
