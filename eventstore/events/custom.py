"""Events of the organization's own making: `custom.<anything>`, with any JSON object as data."""

from __future__ import annotations

from typing import Any

import msgspec

from eventstore.schema import Body


class Custom(Body, frozen=True, kw_only=True, tag="custom"):
    """`name` is the full type (`custom.order_shipped`); on the log `data` is the whole data object."""

    name: str
    data: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def type(self) -> str:
        return self.name
