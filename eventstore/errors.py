"""What callers of the store catch. What a caller merely has to know about is a typed reply, not an exception."""

from __future__ import annotations


class StoreError(Exception):
    """The log cannot be used now or as it is."""


class StoreUnavailable(StoreError):
    """The log did not answer: the outcome of a write is unknown, and a keyed or fenced one may be sent again."""


class WritesRefused(StoreUnavailable):
    """Nothing was written: the disk or the memory is full, or this is no master any more. Reads may go on."""


class CommandFailed(StoreError):
    """Redis refused a command; the message is its own."""


class StoreMisconfigured(StoreError):
    """This Redis must not hold the log as it is set up."""


class EmbeddedRedisError(StoreError):
    """The redis-server child cannot be used; the message is one line for the person who started it."""


class DataDirBusy(EmbeddedRedisError):
    """Another process holds the data directory."""


class DataDirRefused(EmbeddedRedisError):
    """What the data directory holds was written by a newer redis-server, or cannot be read."""
