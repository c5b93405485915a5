"""Files that are changed at random."""

import random
from typing import Any


def change_json(rng: random.Random, value: Any) -> Any:
    """A JSON with one value replaced, removed or doubled somewhere inside."""
    strange = [None, 0, -1, 2**40, 1.5, "", "x", "\ud800", "\x1b[31m", [], {}, True, [1], {"a": 1}]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {other: item for other, item in value.items() if other != key}
        return {**value, key: change_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], change_json(rng, value[place]), *value[place + 1 :]]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice([-1, 1, 100])
    if isinstance(value, str) and rng.random() < 0.5:
        return value[::-1]
    return rng.choice(strange)


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    """Content that is cut, flipped or doubled somewhere."""
    place = rng.randrange(max(1, len(content)))
    kind = rng.randrange(4)
    if kind == 0:
        return content[:place]
    if kind == 1 and content:
        return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
    if kind == 2:
        return content + content[:place]
    return rng.randbytes(place + 1)


def flipped(rng: random.Random, content: bytes) -> bytes:
    """Content with one bit changed in its second half, where a JPEG has its pixels."""
    place = rng.randrange(len(content) // 2, len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
