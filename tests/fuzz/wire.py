"""Damage to bytes on the wire: what no library would write."""

from __future__ import annotations

import random


def varint(value: int) -> bytes:
    """``value`` as protobuf writes it; negative ones as 64-bit numbers."""
    value &= 2**64 - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def nested(field: int, levels: int, core: bytes = b"") -> bytes:
    """Field number ``field`` within itself, that many levels deep."""
    for _ in range(levels):
        core = varint(field << 3 | 2) + varint(len(core)) + core
    return core


def damage(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one to three injuries."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = _injure(data, rng)
    return data


def _injure(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    field = rng.choice((1, 2, 3, 5, 9, 10, 15, 16, 25, 38, 100, 19_000, 2**29 - 1))
    match rng.randint(0, 15):
        case 0:
            return data[:start]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:end] + data[start:]
        case 3:
            return data + data
        case 4 if data:
            place = min(start, len(data) - 1)
            return data[:place] + bytes([data[place] ^ 1 << rng.randint(0, 7)]) + data[place + 1 :]
        case 5:
            return data[:start] + bytes(rng.randint(0, 255) for _ in range(rng.randint(1, 12))) + data[end:]
        case 6:  # an unknown field, or a known one of another type
            return data + varint(field << 3 | 0) + varint(rng.choice((0, 1, 2**31, 2**63, -1)))
        case 7:
            text = rng.choice((b"", b"x", b"\xff\xfe", b"\xed\xa0\x80", b"a\0b", b"\xc0\x80", b"y" * 3_000))
            return data + varint(field << 3 | 2) + varint(len(text)) + text
        case 8:
            return data + varint(field << 3 | 1) + bytes(rng.randint(0, 255) for _ in range(8))
        case 9:
            return data + varint(field << 3 | 5) + b"\xff\xff\xff\x7f"
        case 10:  # groups: with an end, without, an end alone
            body = varint(field << 3 | 3) * rng.choice((1, 1, 50, 2_000))
            return data + body + (varint(field << 3 | 4) if rng.random() < 0.5 else b"")
        case 11:
            return data + varint(field << 3 | rng.choice((4, 6, 7)))
        case 12:  # lengths that lie
            return data + varint(field << 3 | 2) + varint(rng.choice((1, 127, 2**20, 2**31 - 1, 2**32, 2**63)))
        case 13:  # a number longer than it may be
            return data + varint(field << 3) + b"\x80" * rng.choice((9, 10, 11, 40)) + b"\x01"
        case 14:
            return data + nested(field, rng.choice((3, 30, 99, 101, 500)), data if rng.random() < 0.3 else b"")
        case _:
            return varint(0) + data[start:]
