"""Events that belong into one append."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eventstore.schema import ConversationId, Event


class Batch(NamedTuple):
    """`addresses` tells what the ids of new conversations among the events stand for."""

    events: Sequence[Event] = ()
    addresses: Mapping[ConversationId, str] | None = None
