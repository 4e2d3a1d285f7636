"""`make bench-check`: counts that no other load changes, beside the budgets in budgets.toml.

    python -m benchmarks.check                    # all; exit status 1 if one is over its budget
    python -m benchmarks.check imports functions  # some of them

Each probe runs three times, each time in a fresh process, and its smallest counts are taken: chance
only ever adds to them. A count without a budget fails, as does a budget that nothing counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks import ROOT
from benchmarks._counts import PROBES, Counts

BUDGETS = ROOT / "benchmarks" / "budgets.toml"
TIMES = 3
TIMEOUT = 120.0
ROOMY = 2.0
"""A budget so many times what is counted guards nothing any more."""


class Verdict(NamedTuple):
    name: str
    count: float | None
    budget: float | None
    wrong: str


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.check", description=__doc__)
    parser.add_argument("probes", nargs="*", help=f"some of: {', '.join(PROBES)}")
    parser.add_argument("--budgets", type=Path, default=BUDGETS)
    wanted = parser.parse_args(arguments)
    if unknown := set(wanted.probes) - set(PROBES):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(PROBES)}")
    budgets = tomllib.loads(wanted.budgets.read_text(encoding="utf-8"))
    wrong = 0
    for probe in wanted.probes or PROBES:
        for verdict in verdicts(smallest(run(probe) for _ in range(TIMES)), budgets[probe]):
            wrong += bool(verdict.wrong)
            print(text(verdict), flush=True)
    print(f"{wrong} over budget" if wrong else "all within their budgets")
    return 1 if wrong else 0


def run(probe: str) -> Counts:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._counts", probe],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=TIMEOUT,
    )
    found: Counts = json.loads(done.stdout)
    return found


def smallest(runs: Iterable[Counts]) -> Counts:
    found: Counts = {}
    for each in runs:
        for name, count in each.items():
            found[name] = min(count, found.get(name, count))
    return found


def verdicts(counts: Counts, budgets: Mapping[str, float]) -> Iterator[Verdict]:
    for name in dict.fromkeys((*counts, *budgets)):
        count, budget = counts.get(name), budgets.get(name)
        yield Verdict(name, count, budget, _wrong(count, budget, nothing_counted=not counts))


def _wrong(count: float | None, budget: float | None, nothing_counted: bool) -> str:
    if budget is None:
        return "no budget; give it one in budgets.toml"
    if count is None:
        # A probe without its program counts nothing at all; one that has lost a count is wrong.
        return "" if nothing_counted else "not counted any more; remove its budget"
    return "" if count <= budget else "over budget"


def text(verdict: Verdict) -> str:
    name, count, budget, wrong = verdict
    known = "-" if count is None else f"{count:,.2f}"
    line = f"{name:<60}{known:>12} of {'-' if budget is None else f'{budget:g}':>8}"
    if wrong:
        return f"{line}  NO: {wrong}"
    if count is None:
        return f"{line}  not counted here"
    return f"{line}  lower the budget" if budget and count * ROOMY < budget else line


if __name__ == "__main__":
    sys.exit(main())
