"""`python -m benchmarks [name…]`: measures, prints the table, and writes it where it belongs."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import answers, append, delivery, http_append, idle, resume, stalled, startup, worker
from benchmarks.report import Claim, as_json, table, told
from benchmarks.steal import Steal

BENCHMARKS = {
    "append": append, "http_append": http_append, "delivery": delivery, "answers": answers, "startup": startup,
    "idle": idle, "stalled": stalled, "resume": resume, "worker": worker,
}  # fmt: skip
HERE = Path(__file__).parent
START, END = "<!-- results -->", "<!-- end of results -->"


def main(names: list[str]) -> int:
    claims, stolen = list[Claim](), dict[str, float]()
    for name in names or list(BENCHMARKS):
        steal = Steal()
        claims += BENCHMARKS[name].measure()
        stolen[name] = steal.share()
        print(table(claims), told(stolen), sep="\n\n", flush=True)
    if not names:
        readme = HERE / "README.md"
        before, _, rest = readme.read_text().partition(START)
        _, _, after = rest.partition(END)
        readme.write_text(f"{before}{START}\n{table(claims)}\n\n{told(stolen)}\n{END}{after}")
        (HERE / "results.json").write_text(as_json(claims, stolen) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
