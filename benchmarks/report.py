"""Claims with their numbers, as a table for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Claim:
    """`ratio` is the median of the pairwise ratios ours/peer of interleaved rounds. It should reach `target`, or stay
    within `limit`."""

    name: str
    unit: str
    ours: float | None = None
    peer: str = ""
    peers: float | None = None
    ratio: float | None = None
    target: float | None = None
    limit: float | None = None

    @property
    def promise(self) -> str:
        if self.limit is not None:
            return f"≤ {self.limit:g}"
        return "" if self.target is None else f"≥ {self.target:g}"

    @property
    def verdict(self) -> str:
        if self.ratio is None or not self.promise:
            return ""
        reached = self.ratio <= self.limit if self.limit is not None else self.ratio >= (self.target or 0.0)
        return "yes" if reached else "no"


def table(claims: Sequence[Claim]) -> str:
    lines = [
        "| what | unit | trunkline | peer | peer's | ratio | target | reached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        cells = [
            claim.name, claim.unit, _number(claim.ours), claim.peer, _number(claim.peers),
            "" if claim.ratio is None else f"{claim.ratio:.2f}", claim.promise, claim.verdict,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def told(stolen: Mapping[str, float]) -> str:
    """What went to the machine's other users, by script; rounds that were made up for included."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in stolen.items())
    return f"Of the CPU time that was asked for, the machine's other users took meanwhile: {shares}."


def as_json(claims: Sequence[Claim], stolen: Mapping[str, float]) -> str:
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    return json.dumps({"machine": machine, "stolen": stolen, "claims": [asdict(claim) for claim in claims]}, indent=2)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
