"""From figures to lines: the ratio of medians, how far it spread, and whether it is enough."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks._runner import Measured
from benchmarks._workload import Row, Workload

SCALES = {"us": 1e6, "ms": 1e3, "MiB": 1 / (1 << 20), "": 1.0}
HEADINGS = ("workload", "ours", "median", "peer", "median", "ratio", "spread", "target", "met?")
WIDTHS = (37, 13, 12, 14, 12, 7, 13, 7, 4)


class Line(NamedTuple):
    """One row with what was measured; what is not known is None."""

    workload: str
    unit: str
    row: Row
    ours: list[float]
    peer: list[float]
    ratio: float | None
    spread: tuple[float, float] | None
    met: bool | None
    note: str
    failed: bool


def lines(workload: Workload, found: Mapping[str, Measured]) -> list[Line]:
    """The rows of `workload` that `found` is about; a quick run has no figures for some keys."""
    compared = [row for row in workload.rows if row.peer in found]
    known = {(row.key, row.ours) for row in compared}
    alone = {
        (row.key, row.ours): replace(row, peer=None, at_least=None)
        for row in workload.rows
        if (row.key, row.ours) not in known
    }
    rows = [*compared, *alone.values()]
    return [_line(workload, row, found) for row in rows if _has_something(row, found)]


def _has_something(row: Row, found: Mapping[str, Measured]) -> bool:
    ours = found[row.ours]
    return bool(ours.figures(row.key) or ours.missing or ours.failed)


def _line(workload: Workload, row: Row, found: Mapping[str, Measured]) -> Line:
    both = {name: found[name] for name in (row.ours, row.peer or "") if name in found}
    ours = both[row.ours].figures(row.key)
    peer = both[row.peer].figures(row.key) if row.peer and row.peer in both else []
    both_known = ours and peer and all(ours)  # what counts failures may have found none
    ratio = statistics.median(peer) / statistics.median(ours) if both_known else None
    each = [theirs / mine for mine, theirs in zip(ours, peer, strict=False) if mine]
    notes = {name: each.failed or each.missing for name, each in both.items()}
    return Line(
        " ".join(filter(None, (workload.name, row.key))),
        workload.unit,
        row,
        ours,
        peer,
        ratio,
        (min(each), max(each)) if each else None,
        _is_met(row, ours, ratio),
        "; ".join(f"{name}: {why}" for name, why in notes.items() if why),
        any(each.failed for each in both.values()),
    )


def _is_met(row: Row, ours: list[float], ratio: float | None) -> bool | None:
    if row.at_most == 0:
        return not any(ours) if ours else None  # one breach in all rounds is one too many
    if row.at_most is not None:
        return statistics.median(ours) <= row.at_most if ours else None
    if row.at_least is None or ratio is None:
        return None
    return ratio >= row.at_least


# -- as text --------------------------------------------------------------------------------------


def heading() -> str:
    return f"{_columns(HEADINGS)}\n{'-' * (sum(WIDTHS) + 2 * len(WIDTHS) - 2)}"


def text(line: Line) -> str:
    row = line.row
    columns = (
        line.workload,
        row.ours,
        _amount(line.ours, line.unit),
        row.peer or "",
        _amount(line.peer, line.unit),
        "-" if line.ratio is None else f"{_short(line.ratio)}x",
        "-" if line.spread is None else "..".join(map(_short, line.spread)),
        _target(row, line.unit),
        {None: "-", True: "yes", False: "NO"}[line.met],
    )
    return _columns(columns) + (f"  {line.note}" if line.note else "")


def _columns(texts: tuple[str, ...]) -> str:
    left = {0, 1, 3}
    cells = [
        f"{text:<{width}}" if n in left else f"{text:>{width}}"
        for n, (text, width) in enumerate(zip(texts, WIDTHS, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _amount(figures: list[float], unit: str) -> str:
    if not figures:
        return "-"
    amount = statistics.median(figures) * SCALES[unit]
    return f"{amount:{',.0f' if amount >= 100 else '.3g'}} {unit}".rstrip()


def _short(ratio: float) -> str:
    return f"{ratio:.{2 if ratio >= 0.1 else 4}f}"


def _target(row: Row, unit: str) -> str:
    if row.at_most is not None:
        return f"<={row.at_most * SCALES[unit]:g}"
    return "-" if row.at_least is None else f"{row.at_least:g}x"


# -- as data --------------------------------------------------------------------------------------


def data(line: Line) -> dict[str, Any]:
    """Figures in seconds, bytes or plain numbers, one for each round."""
    row = line.row
    return {
        "workload": line.workload,
        "unit": line.unit,
        "ours": {"name": row.ours, "figures": line.ours},
        "peer": {"name": row.peer, "figures": line.peer},
        "ratio": line.ratio,
        "spread": line.spread,
        "at_least": row.at_least,
        "at_most": row.at_most,
        "met": line.met,
        "note": line.note,
        "failed": line.failed,
    }
