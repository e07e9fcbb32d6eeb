#!/usr/bin/python3
"""Writes the seed corpora of msgpack_fuzz and request_fuzz from the golden messages.

Usage: tests/fuzz/make_corpus.py [messages.json [corpus-folder]], from the repository root.
Formats: see the head of each fuzz target. Existing files of the same name are overwritten, others left alone.
"""
import json
import pathlib
import sys

DIALECTS = ["D1E", "D1", "D2", "D3", "D3b", "D4", "D4v3", "D5a", "D5", "D6", "D7"]

# Shapes no golden message shows: (dialect, request number, name, frames).
EXTRA = [
    ("D1E", 10, "chunk_size", []),
    ("D1E", 1, "register_four_frames", ["cd1092", "91d40100", "a16d", "01"]),
    ("D3b", 10, "register_cpu_context",
     ["cd1092", "a16d", "02", "a4766c6c6d", "81a96b765f6c61796f7574a3484e44", "10", "20", "40", "a7666c6f61743136", "c2"]),
    ("D6", 25, "register_rope", ["07", "91d40100", "cc80", "c3", "9200ff", "929091c3"]),
    ("D6", 26, "unregister_rope", ["07"]),
    ("D5", 5, "store_q", ["07"]),
    ("D4", 1, "groups_later_fields",
     ["05", "90", "a16d", "01", "a4766c6c6d", "80",
      "9185af656e67696e655f67726f75705f696400b0746f6b656e735f7065725f626c6f636b10ae73775f73697a655f746f6b656e73ff"
      "b665787472615f6f626a6563745f67726f75705f746167a178ad6c617965725f696e646963657390"]),
]


def frame(hex_text):
    body = bytes.fromhex(hex_text)
    return len(body).to_bytes(2, "little") + body


def request(dialect, number, options, frames):
    return bytes([DIALECTS.index(dialect), number, options]) + b"".join(map(frame, frames))


def main():
    source = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/messages.json")
    folder = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "tests/fuzz/corpus")
    golden = json.loads(source.read_text())
    out = {"request": {}, "msgpack": {}}

    def add_document(name, hex_text, count=None):
        body = bytes.fromhex(hex_text)
        out["msgpack"][name] = (len(body) if count is None else count).to_bytes(2, "little") + body

    for i, message in enumerate(golden["messages"]):
        number = message["request_type"]
        if not isinstance(number, int):
            continue
        name = "%02d-%s-%s" % (i, message["dialect"], message["name"].lower())
        frames = message["request"]["frames"][2:]
        out["request"][name] = request(message["dialect"], number, 3, frames)
        for k, text in enumerate(frames):
            add_document("%s-p%d" % (name, k), text)
        reply = message["reply"]
        if reply and len(reply["frames"]) == 3:
            out["request"][name + "-reply"] = request(message["dialect"], number, 0x80, reply["frames"][2:])
    for dialect, number, name, frames in EXTRA:
        out["request"]["extra-%s-%s" % (dialect, name)] = request(dialect, number, 0, frames)

    big = golden["large_key_frame"]["hex"]
    out["request"]["large-key"] = request("D2", 5, 6, [big, "01"])
    at = big.index("dc03e8") + 6
    add_document("large-key-tokens", big[at:at + 2 * 3400], 900)
    for i, primitive in enumerate(golden["primitives"]):
        add_document("primitive-%02d" % i, primitive["hex"], 1)

    for target, files in out.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        seen = set()
        for name, body in files.items():
            if body not in seen:
                (folder / target / name).write_bytes(body)
            seen.add(body)
        print(target, len(seen), "seeds")


if __name__ == "__main__":
    main()
