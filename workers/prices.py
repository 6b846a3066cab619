"""What a model call costs, from the vendor's published prices.

https://platform.claude.com/docs/en/about-claude/pricing and the models' own pages, read on 2026-11-20. In US dollars
for a million tokens. Change the table when the page changes: what was recorded keeps its price.
"""

from __future__ import annotations

from typing import NamedTuple

CACHE_WRITE, CACHE_READ = 1.25, 0.1
"""Of the price of input; writes are those that live five minutes."""
LONG_PROMPT = 100_000


class Price(NamedTuple):
    """`long` multiplies all prices of a call whose prompt has more than `LONG_PROMPT` tokens, caches included."""

    input: float
    output: float
    long: float = 1.0


PRICES = {
    "claude-haiku-5-5": Price(0.10, 0.50, long=5.0),
    "claude-sonnet-5-5": Price(2.0, 10.0),
    "claude-opus-5-5": Price(4.0, 20.0),
    "claude-fable-5-1": Price(10.0, 50.0),
    "claude-haiku-4-5": Price(1.0, 5.0),
}


def cost_usd(model: str, prompt: int, output: int, cache_write: int = 0, cache_read: int = 0) -> float | None:
    """None for a model that is not in the table. `prompt` counts the tokens that no cache has to do with."""
    price = PRICES.get(model)
    if price is None:
        return None
    factor = price.long if prompt + cache_write + cache_read > LONG_PROMPT else 1.0
    read = prompt + cache_write * CACHE_WRITE + cache_read * CACHE_READ
    return round(factor * (read * price.input + output * price.output) / 1_000_000, 9)
