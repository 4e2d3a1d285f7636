"""The figures of the documents: measures them, into results/, and from there into the pages.

    python -m benchmarks.results                 # all of them: files, tables and plots; 10 min
    python -m benchmarks.results calls scale     # some of them
    python -m benchmarks.results --pages         # tables and plots of the files that are there

A figure in README.md or docs/ stands between two comments, `begin results: ...` and `end results`,
and is never written by hand: `tests/test_benchmark_results.py` compares the pages with the files.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT, __main__, _pages, plots

FOLDER = ROOT / "benchmarks" / "results"
POOLS = "ppe-fork,ppe-spawn,ppe-forkserver,ppe-chunks,mp-pool,loky,joblib,pebble,mpire"
# Name of the file -> the options that measure it. Dask and Ray take seconds to start, so that what
# is compared with them is measured in one process for each round, by the workload `engines`.
PLAN: dict[str, str] = {
    "limits": "--limits",
    "calls": f"--only submit,latency,map --peers {POOLS}",
    "threads": "--only threads,awaits --peers all",
    "payloads": f"--only ndarray,bytes --peers {POOLS}",
    "lifecycle": f"--only startup,kill,memory --peers {POOLS},bare-process",
    "recovery": f"--only recovery --peers {POOLS}",
    "jobs": f"--only balance,real --peers {POOLS},bare-fork",
    "scale": f"--only scale --peers {POOLS},bare-fork",
    "engines": "--only engines --peers all",
    "dask": "--only on-dask --peers none",
    "ray": "--only on-ray --peers none",
    "shared": "--only shared --peers all",
    "auto": "--only auto-submit --peers none",
    "features": "--only travel,relay,trace,events,showing --peers none",
}
APART = ("ray",)
"""Measured only by name, with .venv-ray/bin/python: what Ray's workers import is what lies in the
current directory, so beside the benchmarks they never see a wheel."""
DIGITS = 4
"""Of every figure that is kept."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.results", description=__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"some of: {', '.join(PLAN)}; none: all but {APART[0]}"
    )
    parser.add_argument("--pages", action="store_true", help="measure nothing")
    parser.add_argument("--rounds", type=int, default=__main__.ROUNDS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see whether it runs")
    wanted = parser.parse_args(arguments)
    if unknown := set(wanted.names) - set(PLAN):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(PLAN)}")
    failed = [] if wanted.pages else _measure(wanted.names or _usual(), wanted.rounds, wanted.quick)
    changed = [*_pages.write_all(), *plots.draw_all()]
    print(*(f"written: {path.relative_to(ROOT)}" for path in changed), sep="\n")
    print(*(f"FAILED: {name}; its last file was kept" for name in failed), sep="\n", end="")
    return 1 if failed else 0


def _measure(names: Sequence[str], rounds: int, quick: bool) -> list[str]:
    """Measure each, and keep what came without failures; returns those that failed."""
    failed = []
    for name in names:
        start = time.perf_counter()
        options = options_of(name, rounds, quick)
        print(f"\n== {name}: python -m benchmarks {' '.join(options)}", flush=True)
        new = FOLDER / f"{name}.new"
        try:
            status = __main__.main([*options[:-1], str(new)])
            report = json.loads(new.read_text())
        finally:
            new.unlink(missing_ok=True)
        if status:
            failed.append(name)
            continue
        report["command"] = f"python -m benchmarks {' '.join(options)}"
        _keep(FOLDER / f"{name}.json", report)
        print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return failed


def _usual() -> list[str]:
    return [name for name in PLAN if name not in APART]


def options_of(name: str, rounds: int, quick: bool = False) -> list[str]:
    size = [] if name == "limits" else ["--rounds", str(rounds)]
    size += ["--quick"] if quick else [] if name == "limits" else ["--brief"]
    return [*PLAN[name].split(), *size, "--json", f"benchmarks/results/{name}.json"]


def _keep(file: Path, report: dict[str, Any]) -> None:
    text = json.dumps(rounded(report), indent=1)
    file.write_text(f"{_in_lines(text)}\n")


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _in_lines(text: str) -> str:
    """Lists of figures on one line each: a file is read by people, too."""
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text)


if __name__ == "__main__":
    sys.exit(main())
