"""Which model answers for an organization: a language model where it has a key, the offline assistant elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eventstore.provider_settings import Providers
from eventstore.schema import OrgId
from workers.model import Model

if TYPE_CHECKING:
    from workers.clients.anthropic import Connections

DEFAULT_MODEL = "claude-haiku-5-5"


class Models:
    """`name` is what a key is used for; None leaves everything offline. `close` it inside the running loop.

    The vendor's SDK is imported for the first organization that has a key, in a thread: that takes 1.6 s.
    """

    def __init__(self, providers: Providers, offline: Model, name: str | None = DEFAULT_MODEL) -> None:
        self._providers = providers
        self._offline = offline
        self._name = name
        self._loading = asyncio.Lock()
        self._connections: Connections | None = None

    async def of(self, org: OrgId) -> Model:
        """As the organization is configured now; connections are shared, so asking for every answer costs little."""
        if self._name is None:
            return self._offline
        settings = await self._providers.of(org)
        if settings.anthropic_api_key is None:
            return self._offline
        connections = await self.load()
        return connections.model(settings.anthropic_api_key, settings.anthropic_base_url, self._name)

    async def load(self) -> Connections:
        """Makes the SDK ready, so that the first answer need not wait for it."""
        async with self._loading:
            if self._connections is None:
                self._connections = (await asyncio.to_thread(_import))()
            return self._connections

    async def close(self) -> None:
        if self._connections is not None:
            await self._connections.close()


def _import() -> type[Connections]:
    from workers.clients.anthropic import Connections

    return Connections
