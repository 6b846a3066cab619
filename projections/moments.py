"""Dates and times as clients write them: ISO dates, RFC 3339 times, and epoch milliseconds (GoHighLevel's form)."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

YEARS = range(1970, 9_000)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS = re.compile(r"(\d{12,14})(?:\.0)?")
_LOST_PLUS = re.compile(r"(\S+T\S+) (\d\d:?\d\d)", re.I)
"""`…T10:00:00+01:00` in a query string that was not quoted."""


def zone(name: str) -> ZoneInfo:
    """An IANA time zone. Raises ValueError for anything else."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"not a time zone (expected a name like Europe/Berlin): {name[:80]!r}") from None


def parse(text: str) -> date | datetime:
    """A date, or a time with or without offset. Raises ValueError for anything else."""
    if milliseconds := _MILLISECONDS.fullmatch(text.strip()):
        return from_ms(int(milliseconds[1]))
    plain = _LOST_PLUS.sub(r"\1+\2", text.strip()).upper()
    try:
        parsed = date.fromisoformat(plain) if len(plain) <= 10 else datetime.fromisoformat(plain)
        if parsed.year in YEARS:
            return parsed
    except ValueError:
        pass
    raise ValueError("not a date, an RFC 3339 time or epoch milliseconds")


def start(text: str, local: ZoneInfo) -> datetime:
    """The moment itself in UTC; a date begins at its midnight, and what has no offset is the local clock's.

    An hour that the clock shows twice is the first one. Raises ValueError for one that it leaves out.
    """
    parsed = parse(text)
    if not isinstance(parsed, datetime):
        return midnight(parsed, local)
    if parsed.tzinfo is not None:
        return parsed.astimezone(UTC)
    moment = parsed.replace(tzinfo=local).astimezone(UTC)
    if moment.astimezone(local).replace(tzinfo=None) != parsed:
        raise ValueError(f"the clock of {local.key} leaves out {parsed.isoformat()}")
    return moment


def end(text: str, local: ZoneInfo) -> datetime:
    """As `start`, but a date reaches to its end."""
    parsed = parse(text)
    return start(text, local) if isinstance(parsed, datetime) else midnight(parsed + timedelta(days=1), local)


def midnight(day: date, local: ZoneInfo) -> datetime:
    """The first moment of a day in UTC (where the clock leaves midnight out: the first one after it)."""
    return datetime(day.year, day.month, day.day, tzinfo=local).astimezone(UTC)


def to_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def from_ms(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def shown(ms: int, local: ZoneInfo) -> str:
    """RFC 3339 with the offset of that moment."""
    return from_ms(ms).astimezone(local).isoformat(timespec="seconds")
