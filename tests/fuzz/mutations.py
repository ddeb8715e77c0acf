"""Hostile variants of good files: bytes flipped, cut, doubled; numbers and words of text made impossible."""

import json
import random
import re
import struct
import zlib

NUMBERS = (
    b"NaN", b"nan", b"Infinity", b"-inf", b"1e999", b"-1", b"0", b"-0.0", b"1e-320", b"1e308", b"2147483648",
    b"9223372036854775808", b"-9223372036854775809", b"9" * 400, b"9" * 5000, b"0x1F", b"1_000", b"0.5", b"1e5",
    "١٢".encode(), b"true", b"null",
)  # fmt: skip
WORDS = (
    b"null", b"[]", b"{}", b'""', b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf",
    b"\r", b"\n", b"\x85", "\u2028".encode(), b"../../etc/passwd", b"/etc/passwd", b"<script>alert(1)</script>",
    b"`touch x`", b"%s%n", b"\xed\xa0\x80", b"&amp;&x;", b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"!!python/none",
    b"!!python/object/apply:os.system [id]", b"*a", b"&a ", b"- ", b": ", b"\t", b"!!set", b"!!binary", b"2001-99-99",
    b"<<: ", b"? ", b"| ", b"a" * 3000, b" " * 5000, b"True", b"'", b'"', b"\\u0000", b"\\ud800",
)  # fmt: skip
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e308, -1e308, 5e-324, float("nan"),
    float("inf"), -float("inf"), "", "0", "1", "nan", "a\nb", "a\x00b", "\ud800", "../../x", "/etc/passwd", "ship",
    "<b>", "a" * 300, [], {}, [[]], [1], [0, 0, 0, 0], ["1", "2", "3", "4"], [1e308] * 4, [float("nan")] * 4,
    [None] * 4, {"a": 1}, {"id": 1}, [{}],
)  # fmt: skip
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(seed: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A variant of `seed` by one to four changes; now and then with a piece of another seed."""
    if rng.random() < 0.6 and (document := _json(seed)) is not None:
        for _ in range(rng.choice((1, 1, 2, 4))):
            document = _with_odd_value(document, rng)
        return json.dumps(document).encode("utf-8", "surrogatepass")
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = bytearray(rng.choice(CHANGES)(data, others, rng))
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        data = _with_png_checksums(data)  # or nothing behind the checksum would ever be reached
    return bytes(data)


def _flip(data, others, rng):
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return data


def _cut(data, others, rng):
    return data[: rng.randrange(len(data) + 1)]


def _drop(data, others, rng):
    start = _place(data, rng)
    del data[start : start + rng.choice((1, 2, 4, 16, 300))]
    return data


def _double(data, others, rng):
    start = _place(data, rng)
    piece = data[start : start + rng.choice((1, 4, 64, 1000))]
    return data[:start] + piece * rng.choice((2, 2, 3, 50)) + data[start + len(piece) :]


def _insert(data, others, rng):
    start = _place(data, rng)
    return data[:start] + rng.choice(WORDS) + data[start:]


def _number(data, others, rng):
    """Another number in the place of one in the text."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:100_000])))
    if not found:
        return _integer(data, others, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(NUMBERS) + data[match.end() :]


def _word(data, others, rng):
    """Another word in the place of one in the text."""
    found = list(re.finditer(rb"[A-Za-z_\-]{2,}", bytes(data[:100_000])))
    if not found:
        return _flip(data, others, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice((*WORDS, *NUMBERS, b"")) + data[match.end() :]


def _integer(data, others, rng):
    """A binary integer at the edge of its type, near the beginning or the end, where sizes stand."""
    form = rng.choice(("<B", "<H", ">H", "<I", ">I"))
    size = struct.calcsize(form)
    if len(data) > size:
        start = min(_place(data, rng), len(data) - size)
        data[start : start + size] = struct.pack(form, rng.choice(EDGES) % (1 << (8 * size)))
    return data


def _splice(data, others, rng):
    other = rng.choice(others) if others else bytes(data)
    return data[: _place(data, rng)] + other[_place(other, rng) :]


CHANGES = (_flip, _flip, _cut, _drop, _double, _insert, _number, _number, _word, _integer, _integer, _splice)


def _place(data, rng) -> int:
    """A place in the data; often in its first kilobyte or its last, where headers and directories are."""
    size = max(len(data), 1)
    which = rng.random()
    if which < 0.4:
        return rng.randrange(min(size, 1024))
    return size - 1 - rng.randrange(min(size, 512)) if which < 0.6 else rng.randrange(size)


def _json(seed: bytes):
    try:
        return json.loads(seed) if seed[:1] in (b"{", b"[") else None
    except ValueError:
        return None


def _with_odd_value(node, rng: random.Random):
    """The document with one value, key or entry replaced, taken out or doubled, at a random depth."""
    if isinstance(node, dict) and node and rng.random() < 0.9:
        key = rng.choice(list(node))
        act = rng.random()
        if act < 0.7:
            return {**node, key: _with_odd_value(node[key], rng)}
        return (
            {name: value for name, value in node.items() if name != key} if act < 0.85 else {**node, "x": key}
        )
    if isinstance(node, list) and node and rng.random() < 0.9:
        place, act = rng.randrange(len(node)), rng.random()
        if act < 0.8:
            return [*node[:place], _with_odd_value(node[place], rng), *node[place + 1 :]]
        return node[:place] + node[place + 1 :] if act < 0.9 else [*node, node[place]]
    return rng.choice(VALUES)


def _with_png_checksums(data: bytearray) -> bytearray:
    """The chunks of a PNG with checksums that fit."""
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return data
