"""Commands as Redis reads them. What an append says is framed here, piece by piece, since most of it is the same every
time: hiredis packs such a command in ten microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import hiredis

Argument = bytes | str | int | float


class Framed(NamedTuple):
    """So many arguments, each as a bulk string."""

    size: int
    data: bytes

    def values(self) -> list[bytes]:
        reader = hiredis.Reader()
        reader.feed(b"*%d\r\n%b" % (self.size, self.data))
        values: list[bytes] = reader.gets()
        return values


def bulk(value: Argument) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


known_bulk = lru_cache(maxsize=4_096, typed=True)(bulk)
"""For what comes again and again: numbers of the settings, types, names."""


def pack(command: Sequence[Argument]) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    return packed


def evalsha(sha: str, keys: tuple[str, ...], arguments: Sequence[Argument] | Framed) -> bytes:
    if not isinstance(arguments, Framed):
        return pack(("EVALSHA", sha, len(keys), *keys, *arguments))
    return b"*%d\r\n%b%b" % (3 + len(keys) + arguments.size, _head(sha, keys), arguments.data)


@lru_cache(maxsize=4_096)
def _head(sha: str, keys: tuple[str, ...]) -> bytes:
    return b"".join([bulk("EVALSHA"), bulk(sha), bulk(len(keys)), *map(bulk, keys)])
