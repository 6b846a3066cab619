"""How an organization's assistants behave: configuration is events too."""

from __future__ import annotations

from typing import Literal

from eventstore.schema import Body

Kind = Literal["telephony", "staff", "health", "loan", "member"]


class AssistantConfigured(Body, frozen=True, kw_only=True, tag="assistant.configured"):
    """The whole configuration of one assistant from now on; it replaces the one before.

    `model` None is the installation's. `tools` are names from the catalogue, `members` ids of other assistants that
    this one may delegate to.
    """

    assistant: str
    name: str
    kind: Kind
    prompt: str
    model: str | None = None
    tools: list[str] = []
    members: list[str] = []


TYPES = (AssistantConfigured,)
