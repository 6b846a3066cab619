"""Sessions of OpenAI's ChatKit: https://platform.openai.com/docs/api-reference/chatkit/sessions/create."""

from __future__ import annotations

from typing import NamedTuple

import aiohttp
import msgspec

from workers.errors import Rejected, TryAgain

URL = "https://api.openai.com/v1"
TIMEOUT_S = 10.0
MAX_BYTES = 256 * 1024
PASSING = frozenset({408, 409, 429})


class Made(msgspec.Struct, frozen=True):
    """A session as ChatKit tells it: `expires_at` in Unix seconds, `client_secret` for the user's device alone."""

    id: str
    client_secret: str
    expires_at: int


class ChatKit(NamedTuple):
    """One account. `base_url` may end in `/v1`, as OpenAI's own clients have it, or not."""

    api_key: str
    base_url: str | None = None

    async def create(self, workflow_id: str, user: str) -> Made:
        """Raises TryAgain where a repetition may help and Rejected where none will. Repeating is harmless: a session
        that nobody knows of expires within minutes."""
        headers = {"Authorization": f"Bearer {self.api_key}", "OpenAI-Beta": "chatkit_beta=v1"}
        body = {"workflow": {"id": workflow_id}, "user": user}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as http,
                http.post(self._url(), json=body, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    raise _refusal(answer)
                return msgspec.json.decode(await answer.content.read(MAX_BYTES), type=Made)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise TryAgain(f"OpenAI did not answer: {type(error).__name__}") from error
        except msgspec.DecodeError as error:
            raise Rejected("OPENAI_ANSWER", "OpenAI answered something that is not a session") from error

    def _url(self) -> str:
        base = (self.base_url or URL).rstrip("/")
        return f"{base}/chatkit/sessions" if base.endswith("/v1") else f"{base}/v1/chatkit/sessions"


def _refusal(answer: aiohttp.ClientResponse) -> TryAgain | Rejected:
    if answer.status in PASSING or answer.status >= 500:
        after = answer.headers.get("Retry-After", "")
        return TryAgain(f"OpenAI answered {answer.status}", float(after) if after.isdecimal() else 0.0)
    return Rejected("OPENAI_REFUSED", f"OpenAI refused the session (HTTP {answer.status})")
