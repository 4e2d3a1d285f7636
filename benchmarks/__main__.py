"""`python -m benchmarks`: unirun beside its peers, in one table; see README.md."""

import argparse
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import ROOT, _all, _runner, _table, limits
from benchmarks._peers import PACKAGES, PEERS
from benchmarks._workload import Workload

ROUNDS = 5


def main(arguments: list[str] | None = None) -> int:
    wanted = _parse(arguments)
    report: dict[str, Any] = {"machine": machine(), "load": [os.getloadavg()], "rows": []}
    print(*(f"{name}: {text}" for name, text in report["machine"].items()), sep=", ")
    print(f"load before: {_load()}, rounds: {wanted.rounds}{', quick' if wanted.quick else ''}\n")
    if wanted.limits:
        report["limits"] = _print_limits(wanted.quick)
    else:
        print(_table.heading(), flush=True)
    for workload in wanted.only if not wanted.limits else ():
        for line in _lines(workload, wanted):
            print(_table.text(line), flush=True)
            report["rows"].append(_table.data(line))
        _write(wanted.json, report)  # after each: an end in between loses little
    report["load"].append(os.getloadavg())
    _write(wanted.json, report)
    print(f"\nload after: {_load()}")
    return 1 if any(row["failed"] for row in report["rows"]) else 0


def _lines(workload: Workload, wanted: argparse.Namespace) -> list[_table.Line]:
    sizes = workload.quick if wanted.quick else workload.sizes
    if wanted.brief and not wanted.quick:
        sizes = {**sizes, **workload.brief}
    return _table.lines(workload, _runner.run(workload, wanted.rounds, sizes, wanted.peers))


def _print_limits(quick: bool) -> dict[str, float]:
    found = limits.measure(quick)
    for name, seconds in found.items():
        print(f"{name:<54}{seconds * 1e6:>12,.1f} us")
    return found


# -- what was asked for ---------------------------------------------------------------------------


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        type=_workloads,
        default=list(_all.BESIDE_PEERS),
        help=f"some of: {','.join(_all.BY_NAME)}; or groups: {','.join(_all.GROUPS)}; "
        "default: all but the group reliability",
    )
    parser.add_argument(
        "--peers",
        type=_peers,
        default=list(PEERS),
        help=f"all, none, or some of: {','.join(PEERS)}",
    )
    parser.add_argument("--rounds", type=int, help=f"turns of each contender (default: {ROUNDS})")
    parser.add_argument("--json", type=Path, help="file for all figures of all rounds")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does it run?")
    parser.add_argument("--brief", action="store_true", help="sizes as in benchmarks/results/")
    parser.add_argument("--limits", action="store_true", help="only what the machine itself allows")
    wanted = parser.parse_args(arguments)
    wanted.rounds = wanted.rounds or (1 if wanted.quick else ROUNDS)
    return wanted


def _workloads(text: str) -> list[Workload]:
    names = _some_of(text, (*_all.BY_NAME, *_all.GROUPS))
    return [each for name in names for each in _all.GROUPS.get(name) or (_all.BY_NAME[name],)]


def _peers(text: str) -> list[str]:
    return {"all": list(PEERS), "none": []}.get(text) or _some_of(text, ("none", *PEERS))


def _some_of(text: str, known: tuple[str, ...]) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)}; known: {', '.join(known)}"
        )
    return names


# -- the machine ----------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    facts = {
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "system": platform.system(),
        "unirun": _origin(),
    }
    return facts | {name: _version(package) for name, package in PACKAGES.items()}


def _origin() -> str:
    """Whether an installed wheel is measured, or the checkout."""
    spec = find_spec("unirun")
    if spec is None or spec.origin is None:
        sys.exit("unirun is not installed for this interpreter; run: pip install .")
    in_checkout = Path(spec.origin).resolve().is_relative_to(ROOT / "unirun")
    return "the checkout, not a wheel" if in_checkout else f"wheel {_version('unirun-executor')}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _load() -> str:
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


def _write(file: Path | None, report: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    sys.exit(main())
