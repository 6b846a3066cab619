"""What callers of the store catch. What a caller merely has to know about is a typed reply, not an exception."""

from __future__ import annotations


class StoreError(Exception):
    """The log cannot be used now or as it is."""


class StoreUnavailable(StoreError):
    """The log did not answer: the outcome of a write is unknown, and a keyed or fenced one may be sent again."""


class CommandFailed(StoreError):
    """Redis refused a command; the message is its own."""


class StoreMisconfigured(StoreError):
    """This Redis must not hold the log as it is set up."""
