"""From result files to what stands in README.md and docs/: tables between two comments.

<!-- begin results: calls submit latency -->     the rows of these workloads in results/calls.json
<!-- begin results: calls -->                    all of them
<!-- begin results: overview -->                 one of VIEWS, which read several files
...
<!-- end results -->
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks._table import SCALES

FOLDER = ROOT / "benchmarks" / "results"
BLOCK = re.compile(
    r"(<!-- begin results: (?P<what>[^>]*?) -->\n)(?P<body>.*?)(<!-- end results -->)", re.DOTALL
)
UNITS = {"us": "µs", "ms": "ms", "MiB": "MiB", "": ""}
EVEN = 0.05
"""A ratio so near to one says nothing about who is faster."""

Row = dict[str, Any]


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def write_all() -> list[Path]:
    """Renew the blocks of all pages; returns those that have changed."""
    changed = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := renewed(text, page.parent)) != text:
            page.write_text(new, encoding="utf-8")
            changed.append(page)
    return changed


def renewed(text: str, folder: Path) -> str:
    """The text with what each block has to hold; links are seen from `folder`."""

    def block(found: re.Match[str]) -> str:
        return f"{found[1]}{body(found['what'], folder)}{found[4]}"

    return BLOCK.sub(block, text)


def body(what: str, folder: Path) -> str:
    name, *workloads = what.split()
    lines = VIEWS[name]() if name in VIEWS else table(report(name), workloads)
    sources = VIEW_SOURCES.get(name, (name,))
    return "\n".join(["", *lines, "", *_origin(sources, folder), "", ""])


def report(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _origin(names: tuple[str, ...], folder: Path) -> Iterator[str]:
    """Which command has measured it, and where all figures of all rounds are."""
    up = "" if folder == ROOT else "../"
    for name in names:
        found = report(name)
        link = f"[{name}.json]({up}benchmarks/results/{name}.json)"
        hurried = "; **tiny sizes, which mean nothing**" if "--quick" in found["command"] else ""
        yield f"{link}: `{found['command']}`{hurried}"
        yield ""


# -- one file -------------------------------------------------------------------------------------


def table(found: dict[str, Any], workloads: list[str]) -> Iterator[str]:
    """A line for each peer; the ratio is the peer's time divided by ours, round by round."""
    rows = [row for row in found["rows"] if belongs(row, workloads)]
    if not any(row["peer"]["name"] for row in rows):
        yield from _alone(rows)
        return
    yield "| workload | peer | peer's | unirun's | ratio | spread |"
    yield "|---|---|---:|---:|---:|---|"
    for row in rows:
        ours, theirs = row["ours"]["figures"], row["peer"]["figures"]
        note = row["note"] if not theirs else ""
        yield (
            f"| {row['workload']} | {row['peer']['name'] or ''} | {amount(theirs, row['unit'])} "
            f"| {amount(ours, row['unit'])} | {ratio(row)} | {spread(row) or note} |"
        )


def _alone(rows: list[Row]) -> Iterator[str]:
    yield "| workload | median | rounds |"
    yield "|---|---:|---|"
    for row in rows:
        ours = row["ours"]["figures"]
        ends = f"{amount([min(ours)], row['unit'])} to {amount([max(ours)], row['unit'])}"
        yield f"| {row['workload']} | {amount(ours, row['unit'])} | {ends} |"


def belongs(row: Row, workloads: list[str]) -> bool:
    return not workloads or row["workload"].split()[0] in workloads


def amount(figures: list[float], unit: str) -> str:
    if not figures:
        return "-"
    number = statistics.median(figures) * SCALES[unit]
    digits = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:,.{digits}f} {UNITS[unit]}".strip()


def ratio(row: Row) -> str:
    return "-" if row["ratio"] is None else f"{row['ratio']:.{2 if row['ratio'] < 10 else 0}f}x"


def spread(row: Row) -> str:
    if row["spread"] is None:
        return ""
    low, high = row["spread"]
    return f"{low:.{2 if low < 10 else 0}f} to {high:.{2 if high < 10 else 0}f}"


# -- several files --------------------------------------------------------------------------------


def rows_of_all() -> Iterator[Row]:
    for file in sorted(FOLDER.glob("*.json")):
        yield from report(file.stem)["rows"]


def is_behind(row: Row) -> bool:
    """Whether the peer was faster: by the medians, and by more than EVEN."""
    return row["ratio"] is not None and row["ratio"] < 1 - EVEN


def behind() -> Iterator[str]:
    """Each row of each file in which a peer is ahead."""
    rows = sorted(filter(is_behind, rows_of_all()), key=lambda row: float(row["ratio"]))
    if not rows:
        yield "None, by these files."
        return
    yield "| workload | who is ahead | peer's | unirun's | ratio | spread |"
    yield "|---|---|---:|---:|---:|---|"
    for row in rows:
        yield (
            f"| {row['workload']} | {row['peer']['name']} "
            f"| {amount(row['peer']['figures'], row['unit'])} "
            f"| {amount(row['ours']['figures'], row['unit'])} | {ratio(row)} | {spread(row)} |"
        )


OVERVIEW = {
    "submit": "a call of a no-op, many submitted at once",
    "latency": "one call at a time, submit to result",
    "ndarray 16 MiB one way": "an array of 16 MiB as argument",
    "startup": "a fresh interpreter to its first result",
    "recovery": "a worker dies: to the next result",
    "memory per worker": "private memory of a worker",
}
OVERVIEW_PEERS = {
    "ppe-fork": "`ProcessPoolExecutor`",
    "mp-pool": "`multiprocessing.Pool`",
    "loky": "loky",
    "pebble": "Pebble",
}


def overview() -> Iterator[str]:
    """For README: a line for each workload, a column for each of the best known peers."""
    rows = {(row["workload"], row["peer"]["name"]): row for row in rows_of_all()}
    yield f"| | unirun | {' | '.join(OVERVIEW_PEERS.values())} |"
    yield f"|---|---:|{'---:|' * len(OVERVIEW_PEERS)}"
    for workload, text in OVERVIEW.items():
        found = [rows.get((workload, peer)) for peer in OVERVIEW_PEERS]
        if not (known := [row for row in found if row]):
            continue  # a quick run leaves sizes out
        ours = known[0]
        cells = [amount(row["peer"]["figures"], row["unit"]) if row else "-" for row in found]
        yield (
            f"| {text} | {amount(ours['ours']['figures'], ours['unit'])} | {' | '.join(cells)} |"
        )


SHARED = {
    "lock": "acquire and release a `Lock`",
    "lock-contended": "the same, two processes at once",
    "event": "`Event`, set until the waiter is awake",
    "queue": "`Queue`, an item from one process to another",
    "queue-64k": "the same with 64 KiB",
    "queue-round-trip": "`Queue`, there and back",
    "barrier": "a round of a `Barrier` of two",
}


def shared() -> Iterator[str]:
    rows = {(row["workload"], row["peer"]["name"]): row for row in report("shared")["rows"]}
    yield "| | ours | ours, busy | Manager's | its own |"
    yield "|---|---:|---:|---:|---:|"
    for name, text in SHARED.items():
        idle, busy = (rows[f"shared-{name} {state}", "manager"] for state in ("idle", "busy"))
        own = rows[f"shared-{name} idle", "mp"]
        cells = (idle["ours"], busy["ours"], idle["peer"], own["peer"])
        yield f"| {text} | {' | '.join(amount(each['figures'], 'us') for each in cells)} |"


ENGINES = {"dask": "Dask", "ray": "Ray"}
ON_ENGINES = {
    "map: ms": "an item of a map of tiny items",
    "call: ms": "a tiny call, 100 submitted at once",
    "call of 10 ms: ms": "a call that sleeps 10 ms, 20 at once on 2 workers",
    "alone: ms": "a tiny call, submitted and waited for alone",
    "kill: s": "until the slot of a call that sleeps on for 3 s is free again",
    "lock: s": "until a lock is to be had whose holder was killed, after its death is known",
}


def on_engines() -> Iterator[str]:
    """An engine's own API, and unirun on the same workers."""
    yield f"| |{''.join(f' {name} itself | unirun on {name} |' for name in ENGINES.values())}"
    yield f"|---|{'---:|---:|' * len(ENGINES)}"
    figures = {
        engine: {row["workload"]: row["ours"]["figures"] for row in report(engine)["rows"]}
        for engine in ENGINES
    }
    for key, text in ON_ENGINES.items():
        of_a_second = 1000 if key.endswith(": ms") else 1  # their unit stands in their name
        cells = []
        for engine in ENGINES:
            for by in (" by itself", ""):
                found = figures[engine].get(f"on-{engine} {key}{by}")
                cells.append(time_of(statistics.median(found) / of_a_second) if found else "-")
        yield f"| {text} | {' | '.join(cells)} |"


def time_of(seconds: float) -> str:
    """In the unit that suits."""
    if seconds >= 1:
        return f"{amount([seconds], '')} s"
    return amount([seconds], "us" if seconds < 1e-3 else "ms")


def limits() -> Iterator[str]:
    yield "| what no pool can be faster than | |"
    yield "|---|---:|"
    for name, seconds in report("limits")["limits"].items():
        yield f"| {name} | {time_of(seconds)} |"


def machine() -> Iterator[str]:
    facts = report("calls")["machine"]
    yield ", ".join(f"{name} {text}" for name, text in facts.items()) + "."


VIEWS: dict[str, Callable[[], Iterator[str]]] = {
    "overview": overview,
    "behind": behind,
    "shared-objects": shared,
    "on-engines": on_engines,
    "limits": limits,
    "machine": machine,
}
VIEW_SOURCES: dict[str, tuple[str, ...]] = {
    "overview": ("calls", "payloads", "lifecycle", "recovery"),
    "behind": (),
    "shared-objects": ("shared",),
    "on-engines": ("dask", "ray"),
    "machine": (),
}
