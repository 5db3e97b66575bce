"""Hostile values of every scalar type, and messages made of them from nothing but their descriptors."""
# ruff: noqa: E501 - lists of words

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

MAX_DEPTH = 6
"""Levels of messages within messages; Structs get deeper by :func:`deep_value`."""


STRINGS = (
    "", " ", "a", "0", "-1", "none", "null", "true", "nan", "..", ".", "/", "~", "~root", "~nobody-of-this-name/x", "//",
    "\0", "a\0b", "\n", "\r\n", "\x1b[31m", "\x7f", "\ufeff", "\u202e", "\uffff", "ä", "日本語", "😀" * 40, "\U0010ffff",
    "%s%n%x", "%00", "{0}", "{}", "${HOME}", "$(id)", "`id`", "';--", "<b>", "*", "?", "[", "[!", "*" * 200, "[a-" * 50,
    "../../../../etc/passwd", "/etc/passwd", "/etc/passwd/x", "/dev/null", "/proc/self/environ", "/dev/null/../..",
    "file:///etc/passwd", "hf://a/b/../../c", "http://127.0.0.1:1/x", "unix:/x", "a,b,c", "a=b", '{"a": 1}', "[]", "{",
    '[["<a>", "</a>"]]', "[" * 5_000, '{"a":' * 2_000, "(" * 500, "9" * 5_000, "1e999", "-" * 300, "a" * 1_025, "x" * 70_000,
    "/" + "a/" * 3_000, "/" + "b" * 300, "." * 4_097, "\0" * 300, "é" * 5_000, "Traceback", "00000000-0000-4000-8000-000000000000",
)  # fmt: skip
_INTEGERS = (0, 1, -1, 2, 3, 7, 10, 100, 127, 128, 255, 256, 1000, 65_536, 2**31 - 1, -(2**31), 2**32, 2**53, 2**53 + 1,
             2**63 - 1, -(2**63), 2**63, 2**64 - 1)  # fmt: skip
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e308, -1e308, math.inf, -math.inf, math.nan, 2.0**53, 2.0**63, 1e22, 0.1)
_BYTES = (b"", b"\0", b"\xff" * 9, b"\xed\xa0\x80", b"a" * 70_000)

_BOUNDS: Mapping[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}

Words = Callable[[FieldDescriptor], Sequence[str]]
"""Texts that mean something in a field."""


def no_words(field: FieldDescriptor) -> Sequence[str]:
    return ()


class Maker:
    """Makes values and messages. All that it decides it asks ``rng``, which may be one that Hypothesis shrinks."""

    def __init__(self, rng: random.Random, words: Words = no_words) -> None:
        self.rng = rng
        self._words = words

    def fill(self, message: Message, depth: int = 0, share: float = 0.35) -> None:
        """Gives about ``share`` of the fields a value; of a oneof the last that gets one wins."""
        if isinstance(message, Struct | Value) and depth > MAX_DEPTH:
            return
        for field in message.DESCRIPTOR.fields:
            if self.rng.random() < share:
                self.set_field(message, field, depth)

    def set_field(self, message: Message, field: Any, depth: int = 0) -> None:
        """Gives one field a hostile value."""
        if is_map(field):
            self._fill_map(message, field, depth)
        elif field.is_repeated:
            self._fill_repeated(message, field, depth)
        elif field.message_type is not None:
            part = getattr(message, field.name)
            part.SetInParent()
            if depth < MAX_DEPTH:
                self.fill(part, depth + 1)
        else:
            setattr(message, field.name, self.scalar(field))

    def scalar(self, field: FieldDescriptor) -> Any:
        """A value that the field can hold."""
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self.rng.random() < 0.5
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self.rng.choice(_FLOATS)
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return self.rng.choice(_BYTES)
            return self.text(field)
        low, high = _BOUNDS[kind]
        if field.enum_type is not None and self.rng.random() < 0.8:
            return self.rng.choice([value.number for value in field.enum_type.values])
        return min(max(self.rng.choice(_INTEGERS), low), high)

    def text(self, field: FieldDescriptor) -> str:
        """A text: one that means something there, or a hostile one, or something of both."""
        words = self._words(field)
        if words and self.rng.random() < 0.5:
            word = self.rng.choice(words)
            return word if self.rng.random() < 0.7 else self.bend(word)
        return self.rng.choice(STRINGS)

    def bend(self, word: str) -> str:
        """``word`` with a small change."""
        place = self.rng.randint(0, len(word))
        match self.rng.randint(0, 5):
            case 0:
                return word[:place]
            case 1:
                return word[:place] + self.rng.choice(STRINGS) + word[place:]
            case 2:
                return word + self.rng.choice(STRINGS)
            case 3:
                return word.swapcase()
            case 4:
                return word * 2
            case _:
                return (
                    word[:place]
                    + chr(self.rng.choice((0, 9, 10, 42, 47, 92, 127, 233, 0x2028, 0x1F600)))
                    + word[place:]
                )

    def json_value(self, depth: int = 0) -> Any:
        """What a Struct can hold, in Python's types."""
        kind = self.rng.randint(0, 5 if depth > 3 else 7)
        if kind == 0:
            return None
        if kind == 1:
            return self.rng.random() < 0.5
        if kind in (2, 3):
            return float(self.rng.choice((*_FLOATS, *_INTEGERS)))
        if kind in (4, 5):
            return self.rng.choice(STRINGS)
        if kind == 6:
            return [self.json_value(depth + 1) for _ in range(self.rng.randint(0, 4))]
        return {self.rng.choice(STRINGS): self.json_value(depth + 1) for _ in range(self.rng.randint(0, 4))}

    def struct(self, keys: Sequence[str] = ()) -> Struct:
        """A Struct, some of whose keys are ``keys``."""
        struct = Struct()
        if self.rng.random() < 0.1:
            struct.fields[self.rng.choice(keys or STRINGS)].CopyFrom(self._deep())
        for _ in range(self.rng.randint(0, 4)):
            key = self.rng.choice(keys) if keys and self.rng.random() < 0.7 else self.rng.choice(STRINGS)
            struct.update({key: self.json_value()})
        if self.rng.random() < 0.1:
            struct.fields["unset"].Clear()
        return struct

    def _deep(self) -> Value:
        if self.rng.random() < 0.5:
            return deep_value(self.rng.choice((5, 20, 31, 32, 33, 38)))
        return deep_value(self.rng.choice((10, 20, 28, 29, 30, 31, 32)), lists=False)

    def _fill_map(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        entries = getattr(message, field.name)
        entry: Any = field.message_type
        key_field, value_field = entry.fields_by_name["key"], entry.fields_by_name["value"]
        if isinstance(message, Struct):
            message.MergeFrom(self.struct(self._words(field)))
            return
        for _ in range(self._count()):
            key = self.text(field) if key_field.type == FieldDescriptor.TYPE_STRING else self.scalar(key_field)
            if value_field.message_type is None:
                entries[key] = (
                    self.text(field) if value_field.type == FieldDescriptor.TYPE_STRING else self.scalar(value_field)
                )
            elif depth < MAX_DEPTH:
                self.fill(entries[key], depth + 1)

    def _fill_repeated(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        entries = getattr(message, field.name)
        for _ in range(self._count()):
            if field.message_type is None:
                entries.append(self.scalar(field))
            elif depth < MAX_DEPTH:
                self.fill(entries.add(), depth + 1)

    def _count(self) -> int:
        return (
            self.rng.choice((0, 1, 1, 1, 2, 3, 5))
            if self.rng.random() < 0.98
            else self.rng.choice((33, 65, 300, 1_100))
        )


def deep_value(levels: int, *, lists: bool = True) -> Value:
    """A Value of mappings, every second a list instead with ``lists``, that many levels deep. A library that parses no
    more than 100 messages within each other can make 33 levels of mappings alone."""
    value = Value(number_value=1)
    for level in range(levels):
        outer = Value()
        if lists and level % 2:
            outer.list_value.values.append(value)
        else:
            outer.struct_value.fields["deep"].CopyFrom(value)
        value = outer
    return value


def is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def mutate(message: Message, maker: Maker) -> None:
    """Changes one to three fields of ``message``, or of a message within it: cleared, or given a hostile value."""
    for _ in range(maker.rng.choice((1, 1, 1, 2, 3))):
        place: Any = message
        depth = 0
        while True:
            inner = [
                field for field, _ in place.ListFields() if field.message_type is not None and not field.is_repeated
            ]
            if not inner or maker.rng.random() < 0.3:
                break
            place, depth = getattr(place, maker.rng.choice(inner).name), depth + 1
        if not place.DESCRIPTOR.fields:
            continue
        field = maker.rng.choice(list(place.DESCRIPTOR.fields))
        if maker.rng.random() < 0.2:
            place.ClearField(field.name)
        else:
            maker.set_field(place, field, depth)
