"""Damage to files: bytes in, bytes out, drawn from one generator. Each format has its own mutations beside the general.

A mutation returns None for a file that is missing, and DIRECTORY for a folder in its place.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes | None]

DIRECTORY = b"\0a directory\0"
"""Stands for a folder in the file's place."""
NUMBERS = (0, 1, 2, 7, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
JSON_VALUES = (
    *("null", "true", "false", '""', "[]", "{}", "-1", "0", "1", "2.5", "1e999", "-1e999", "NaN", "Infinity", "1e308"),
    *("123456789012345678901234567890", "9" * 5000, '"none"', '"../../x"', '"\\ud800"', '"a\\u0000b"', "[null]"),
    *("[[1, 2], [3]]", '{"a": {"a": 1}}', '[1, true, "x"]', "[" * 100_000, "[" * 50_000 + "]" * 50_000, "-5e-324"),
)
TEXTS = (
    b"hello\n",
    b"# a text file\n" * 40,
    b"<!DOCTYPE html><html></html>",
    b"\xff\xfe\x00x" * 9,
    b"\n",
    b"{}",
    b"[]",
)
BOMB_BYTES = 600 << 20
LIMIT = 1 << 22
"""Bytes that are unpacked of a file that is damaged a second time."""


def bomb() -> bytes:
    """600 MiB of zeros, deflated to 600 KiB."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands for itself wherever it is put
    return block * (BOMB_BYTES >> 20) + packer.flush()


# Any file


def flip(rng: random.Random, data: bytes) -> bytes:
    """Flip one to eight bits, anywhere or near either end."""
    if not data:
        return b"\0"
    changed = bytearray(data)
    ranges = (range(len(data)), range(min(len(data), 128)), range(max(len(data) - 128, 0), len(data)))
    places = rng.choice(ranges)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.choice(places)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    """Keep the first bytes."""
    return data[: rng.choice((rng.randrange(len(data) + 1), max(len(data) - rng.randrange(1, 64), 0)))]


def splice(rng: random.Random, data: bytes) -> bytes:
    """Remove, repeat, insert or append a block."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    junk = rng.randbytes(rng.choice((1, 4, 64)))
    return rng.choice((data[:a] + data[b:], data[:b] + data[a:], data[:a] + junk + data[a:], data + junk))


def overwrite(rng: random.Random, data: bytes) -> bytes:
    """Write a number of 1, 2, 4 or 8 bytes at some place, near the start more often than elsewhere."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    place = rng.randrange(max(min(len(data), rng.choice((32, 256, 1 << 20))), 1))
    number = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
    return data[:place] + number.to_bytes(width, order) + data[place + width :]  # type: ignore[arg-type]


def renumber(rng: random.Random, data: bytes) -> bytes:
    """Another decimal number in place of one that is spelled in the first 64 KiB."""
    found = list(re.finditer(rb"\d+", data[: 1 << 16]))
    if not found:
        return flip(rng, data)
    at = rng.choice(found)
    number = rng.choice((*map(str, NUMBERS), "-1", "-9", "9" * 400, "1e400", "0x10", "01", "True", "nan"))
    return data[: at.start()] + number.encode() + data[at.end() :]


def text(rng: random.Random, data: bytes) -> bytes:
    """A text file under this name."""
    return rng.choice(TEXTS)


def empty(rng: random.Random, data: bytes) -> bytes:
    """No bytes."""
    return b""


def missing(rng: random.Random, data: bytes) -> None:
    """No file."""


def directory(rng: random.Random, data: bytes) -> bytes:
    """A folder under this name."""
    return DIRECTORY


GENERAL: tuple[Mutation, ...] = (
    *(flip, flip, flip, truncate, truncate, splice, splice, overwrite, overwrite, renumber, renumber),
    *(text, empty, missing, directory),
)


# .npy


def npy(rng: random.Random, data: bytes) -> bytes:
    """Another header, well formed or not, before the same content."""
    if data[:6] != b"\x93NUMPY" or len(data) < 10:
        return flip(rng, data)
    end = 10 + int.from_bytes(data[8:10], "little")
    header, content = data[10:end].decode("latin1"), data[end:]
    descr = rng.choice(("'<f8'", "'>f4'", "'<i8'", "'|O'", "'<c16'", "'|V4'", "'<U4'", "'|S0'", "'<M8[s]'", "'f99'",
                        "[('x', '<f4'), ('y', '<f4')]", "[('x', '|O')]", "('<f4', (2, 2))", "'|b1'", "None", "3",
                        "'<f4' * 9", "{'names': ['a'], 'formats': ['<f4'], 'offsets': [2000000000]}"))  # fmt: skip
    shape = rng.choice(("()", "(0,)", "(-1, 4)", "(1 << 40,)", "(10995116277760,)", "(2**70,)",
                        "(4294967296, 4294967296)",
                        "(1.5,)", "(True, 9)", "None", "'x'", "(9223372036854775808, 0)", "(4611686018427387904, 4)",
                        "(" * 200 + ")" * 200, "(1,) * 9**9", "(1,)" + " " * 20000, "(" + "1," * 80 + ")"))  # fmt: skip
    header = rng.choice((
        re.sub(r"'descr': *('[^']*'|\[.*?\])", lambda _: f"'descr': {descr}", header),
        re.sub(r"\([^)]*\)", lambda _: shape, header),
        header.replace("False", rng.choice(("True", "0", "None", "'x'"))),
        "[" * rng.choice((50, 900, 9000)), header.replace("{", "{'more': 1, "), header.rstrip("\n"),
        header.replace(")", "L)"), header + "x" * 30000,
        "{" + "'a': " * 3000, header.replace("'shape'", "'shape ' * 10**9"),
    ))  # fmt: skip
    version = rng.choice((1, 1, 1, 1, 2, 3, 9))
    size = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS)
    width = 2 if version in (1, 9) else 4
    size &= (1 << 8 * width) - 1
    return b"\x93NUMPY" + bytes((version, 0)) + size.to_bytes(width, "little") + header.encode("latin1") + content


# Zip, npz and PyTorch's archives


def _members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.open(info).read(LIMIT)) for info in archive.infolist() if not info.is_dir()]


def _zip(members: list[tuple[str, bytes]], packed: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
    return stream.getvalue()


def zip_member(rng: random.Random, data: bytes) -> bytes:
    """One member damaged, renamed, repeated or removed; the archive around it is whole."""
    members = _members(data)
    if not members:
        return flip(rng, data)
    i = rng.randrange(len(members))
    name, content = members[i]
    names = ("../../../tmp/x", "/etc/x", "..", "", name.upper(), "a" * 300, "x\x1b[2J.npy", "images.npy", "mu.npy")
    action = rng.randrange(6)
    if action < 2:
        changed = mutate(rng, name if PurePosixPath(name).suffix else "x.bin", content)[1]
        members[i] = (name, changed if changed not in (None, DIRECTORY) else b"")
    elif action == 2:
        members.append((name, content if rng.random() < 0.5 else flip(rng, content)))
    elif action == 3:
        members[i] = (rng.choice(names) + rng.choice(("", PurePosixPath(name).suffix)), content)
    elif action == 4:
        members.append((rng.choice(names), rng.choice(TEXTS)))
    else:
        del members[i]
    return _zip(members, rng.random() < 0.5)


def zip_directory(rng: random.Random, data: bytes) -> bytes:
    """A field of the local headers or of the central directory with another value."""
    signature, fields = rng.choice((
        (b"PK\x01\x02", {6: 2, 8: 2, 10: 2, 16: 4, 20: 4, 24: 4, 28: 2, 30: 2, 32: 2, 42: 4}),
        (b"PK\x03\x04", {4: 2, 6: 2, 8: 2, 14: 4, 18: 4, 22: 4, 26: 2, 28: 2}),
        (b"PK\x05\x06", {4: 2, 8: 2, 10: 2, 12: 4, 16: 4, 20: 2}),
    ))  # fmt: skip
    places = [m.start() for m in re.finditer(re.escape(signature), data)]
    if not places:
        return flip(rng, data)
    place, (offset, width) = rng.choice(places), rng.choice(list(fields.items()))
    number = rng.choice((*NUMBERS, rng.randrange(1 << 16))) & ((1 << 8 * width) - 1)
    at = place + offset
    return data[:at] + number.to_bytes(width, "little") + data[at + width :]


def zip_bomb(rng: random.Random, data: bytes) -> bytes:
    """A member that unpacks to 600 MiB; its claimed size is true, or that of a small array."""
    name = rng.choice([name for name, _ in _members(data)] or ["images.npy"]).encode()
    size = rng.choice((BOMB_BYTES, 4096, 2**32 - 2))
    packed, crc = bomb(), rng.randrange(2**32)
    head = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(packed), size, len(name), 0)
    local = b"PK\x03\x04" + head + name + packed
    central = b"PK\x01\x02" + struct.pack("<H", 20) + head + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + central + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)


# gzip and IDX


def gz(rng: random.Random, data: bytes) -> bytes:
    """Another content in a whole gzip, a bomb, a second member, or another header."""
    content = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LIMIT)
    action = rng.randrange(6)
    if action < 2:
        return gzip.compress(idx(rng, content), mtime=0)
    if action == 2:
        head = gzip.compress(content, mtime=0)
        tail = struct.pack("<II", rng.randrange(2**32), BOMB_BYTES)
        return rng.choice((head, b"")) + b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + bomb() + tail
    if action == 3:
        return data + rng.choice((data, b"\0" * 9, b"junk"))
    if action == 4:
        return data[:3] + bytes((rng.randrange(256),)) + data[4:]
    return gzip.compress(content + rng.randbytes(rng.choice((1, 1000))), mtime=0)


def idx(rng: random.Random, data: bytes) -> bytes:
    """Another type, number of axes or size of an axis; or the largest label there is."""
    changed = bytearray(data)
    action = rng.randrange(4)
    if action == 0:
        changed[2] = rng.choice((8, 9, 11, 12, 13, 14, 0, 255))
    elif action == 1:
        changed[3] = rng.choice((0, 1, 2, 3, 4, 64, 255))
    elif action == 2:
        at = 4 + 4 * rng.randrange(max(data[3], 1))
        changed[at : at + 4] = (rng.choice(NUMBERS) & 0xFFFFFFFF).to_bytes(4, "big")
    else:
        return b"\0\0\x0c\x01" + struct.pack(">IIi", 2, 0, rng.choice((2**31 - 1, 10**6, -5)))
    return bytes(changed)


# Pictures


def png(rng: random.Random, data: bytes) -> bytes:
    """A chunk with another content and a right checksum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return flip(rng, data)
    i = rng.randrange(len(chunks))
    kind, content = chunks[i]
    action = rng.randrange(6)
    if action < 2 and chunks[0][0] == b"IHDR":
        i, head = 0, bytearray(chunks[0][1])
        place, values = rng.choice(
            ((0, NUMBERS), (4, NUMBERS), (8, range(64)), (9, range(8)), (10, (1, 9)), (12, (1, 2)))
        )
        wide = place < 8
        head[place : place + (4 if wide else 1)] = (rng.choice(values) & 0x7FFFFFFF).to_bytes(4, "big")[
            0 if wide else 3 :
        ]
        chunks[0] = (b"IHDR", bytes(head))
    elif action == 2:
        chunks[i] = (kind, overwrite(rng, content))
    elif action == 3:
        chunks.insert(i, (rng.choice((b"zTXt", b"iCCP", b"tEXt", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"IDAT")),
                          b"x\0\0" + zlib.compress(bytes(1 << 20))))  # fmt: skip
    elif action == 4:
        chunks[i] = (kind, b"x\x9c" + bomb() + bytes(4))
    else:
        del chunks[i]
    whole = [len(c).to_bytes(4, "big") + k + c + zlib.crc32(k + c).to_bytes(4, "big") for k, c in chunks]
    return data[:8] + b"".join(whole)


# JSON, JSON lines, TOML, safetensors


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in items for place in _places(child, (*path, key)))]


def json_value(rng: random.Random, data: bytes) -> bytes:
    """One value, key or table of a JSON file changed, removed, repeated or added."""
    try:
        value = json.loads(data)
    except ValueError:
        return flip(rng, data)
    *path, last = rng.choice([place for place in _places(value) if place] or [("",)])
    parent = value
    for key in path:
        parent = parent[key]
    new, action = rng.choice(JSON_VALUES), rng.randrange(8)
    if not isinstance(parent, (dict, list)) or action == 0:
        return new.encode()
    if action == 1:
        del parent[last]
    elif action == 2 and isinstance(parent, dict):
        parent[rng.choice(("", "__class__", "unknown", last + " ", "a" * 2000))] = "@@"
    elif action == 3 and isinstance(parent, dict):
        return (
            json.dumps({**parent, "@@": 0} if parent is value else value)
            .replace('"@@": 0', f"{json.dumps(last)}: {new}")
            .encode()
        )
    elif action == 4 and isinstance(parent[last], (int, float)):
        parent[last] = parent[last] * rng.choice((-1, 2, 0, 1000, 10**6, 10**12, 0.5))
    else:
        parent[last] = "@@"
    return json.dumps(value).replace('"@@"', new).encode()


def json_line(rng: random.Random, data: bytes) -> bytes:
    """One line of JSON changed, removed, repeated, or cut."""
    lines = data.splitlines(keepends=True) or [b"\n"]
    i = rng.randrange(len(lines))
    line = rng.choice((json_value(rng, lines[i].strip()) + b"\n", b"", lines[i] * 2, lines[i][:-9], lines[i] + b"\n"))
    return b"".join([*lines[:i], line, *lines[i + 1 :]])


def toml(rng: random.Random, data: bytes) -> bytes:
    """One value of a TOML file changed, a line repeated or removed, or a table added."""
    lines = data.decode("utf-8", "replace").splitlines()
    if not lines:
        return b"x = ["
    i = rng.randrange(len(lines))
    key, equals, _ = lines[i].partition("=")
    values = ("nan", "inf", "-inf", "1979-05-27", "[" * 5000, "{" * 5000, "0x7fffffffffffffffffff", "'''",
              "true", "-1", "9" * 5000, '"none"', "[]", "{}", "[[1], [2]]",
              '"\\ud800"', "1e999", "{a.b.c = 1}", "''", "2.5")  # fmt: skip
    if equals and rng.random() < 0.7:
        lines[i] = f"{key}={rng.choice(values)}"
    else:
        lines[i] = rng.choice(
            ("", lines[i] + "\n" + lines[i], "[a" + ".a" * 3000 + "]", "[[model]]", "x = 1", "\0", "[process")
        )
    return "\n".join(lines).encode()


def tensors(rng: random.Random, data: bytes) -> bytes:
    """Another header of a safetensors file, or another content of the same size."""
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= len(data) - 8:
        return flip(rng, data)
    header, content = data[8 : 8 + size], data[8 + size :]
    action = rng.randrange(6)
    if action == 0:
        return rng.choice(NUMBERS).to_bytes(8, "little") + header + content
    if action == 1:
        kinds = ("I32", "F16", "F64", "BF16", "BOOL", "U8", "F8_E4M3", "X", "C64", "")
        kind = rng.choice(kinds)
        header = re.sub(rb'"F32"', f'"{kind}"'.encode(), header, count=rng.choice((1, 0)))
    elif action == 2:
        at = 4 * rng.randrange(max(len(content) // 4, 1))
        value = struct.pack("<f", rng.choice((float("nan"), float("inf"), 1e38, -0.0, 1e-45)))
        content = content[:at] + value + content[at + 4 :]
    else:
        header = rng.choice((json_value, json_value, renumber, flip))(rng, header)
    return len(header).to_bytes(8, "little") + header + content


FORMATS: dict[str, tuple[Mutation, ...]] = {
    ".npy": (npy,),
    ".npz": (zip_member, zip_member, zip_directory, zip_bomb),
    ".zip": (zip_member, zip_member, zip_directory, zip_bomb),
    ".pt": (zip_member, zip_member, zip_directory, zip_bomb),
    ".gz": (gz,),
    "-ubyte": (idx,),
    ".png": (png,),
    ".json": (json_value,),
    ".jsonl": (json_line,),
    ".toml": (toml,),
    ".safetensors": (tensors,),
}


def mutate(rng: random.Random, name: str, data: bytes, others: tuple[bytes, ...] = ()) -> tuple[str, bytes | None]:
    """One to three mutations of a file.

    Args:
        rng: the source of every choice.
        name: of the file; its end says the format.
        data: its content.
        others: files of other kinds, one of which may stand under this name.
    Returns:
        The mutations' names, and the new content.
    """
    if others and rng.random() < 0.03:
        return "other", rng.choice(others)
    own = next((own for end, own in FORMATS.items() if name.endswith(end)), ())
    labels: list[str] = []
    changed: bytes | None = data
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        if changed is None or changed == DIRECTORY:
            break
        mutation = rng.choice(own) if own and rng.random() < 0.6 else rng.choice(GENERAL)
        content = changed
        try:
            changed = mutation(rng, content)
        except Exception:  # what two mutations left is no longer of this format
            mutation, changed = flip, flip(rng, content)
        labels.append(mutation.__name__)
    return "+".join(labels), changed
