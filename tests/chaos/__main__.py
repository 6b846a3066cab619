"""`make chaos`: storms of two minutes at most, each with a seed that is printed and can be given again.

`python -m tests.chaos [SEED…] [--runs N] [--seconds S] [--redis KIND]`
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from typing import get_args

from tests.chaos.places import Kind
from tests.chaos.storm import Storm, weather

MOST_S = 100.0
KINDS: tuple[Kind, ...] = get_args(Kind)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, metavar="SEED", help="what is to be broken again")
    parser.add_argument("--runs", type=int, default=len(KINDS), help="how many, where no seeds are given")
    parser.add_argument("--seconds", type=float, default=30.0, help=f"of load and faults, {MOST_S:g} at most")
    parser.add_argument(
        "--redis", choices=KINDS, help="how it writes to disk, or that there are several; all in turn if left out"
    )
    given = parser.parse_args()
    seeds = given.seeds or [secrets.randbelow(1_000_000) for _ in range(given.runs)]
    storms = [
        Storm(seed, min(given.seconds, MOST_S), given.redis or KINDS[at % len(KINDS)], provider="moody")
        for at, seed in enumerate(seeds)
    ]
    return sum([_failed(storm) for storm in storms]) and 1


def _failed(storm: Storm) -> bool:
    print(storm, flush=True)
    report = asyncio.run(weather(storm))
    for step in report.steps:
        print(f"  {step}")
    print("  " + ", ".join(f"{value:g} {name}" for name, value in report.figures.items()))
    print("  " + ", ".join(f"{count} {kind}" for kind, count in sorted(report.happened.items())))
    for sentence in report.violations:
        print(f"  WRONG {sentence}")
    print("  as it should be" if not report.violations else f"  {len(report.violations)} violations", flush=True)
    return bool(report.violations)


if __name__ == "__main__":
    sys.exit(main())
