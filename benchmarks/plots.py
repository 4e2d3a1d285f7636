"""Pictures of the result files, for docs/images/: bars for peers, lines for what grows.

Each picture holds, as its description, a checksum of the figures it was drawn from: the tests see
by it that it is of the files beside it, without matplotlib.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import ROOT, _pages
from benchmarks._table import SCALES

FOLDER = ROOT / "docs" / "images"
OURS, THEIRS = "#c2410c", "#64748b"
WIDTH = 7.5
"""Inches."""

Row = dict[str, Any]


def draw_all() -> list[Path]:
    """Those that are missing, or of other figures; none without matplotlib."""
    old = [name for name in PICTURES if not is_current(name)]
    if not old:
        return []
    try:
        import matplotlib
    except ImportError:
        print(f"not drawn, for want of matplotlib: {', '.join(old)}")
        return []
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "unirun", "svg.fonttype": "none", "font.size": 9})
    FOLDER.mkdir(exist_ok=True)
    return [_draw(name) for name in old]


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.svg"


def is_current(name: str) -> bool:
    path = path_of(name)
    return path.exists() and checksum(name) in path.read_text(encoding="utf-8")


def checksum(name: str) -> str:
    figures = json.dumps(_rows(name), sort_keys=True)
    return f"figures {hashlib.sha256(figures.encode()).hexdigest()[:16]}"


def _rows(name: str) -> list[Row]:
    source, workloads, _ = PICTURES[name]
    return [row for row in _pages.report(source)["rows"] if _pages.belongs(row, workloads)]


def _draw(name: str) -> Path:
    from matplotlib import pyplot

    figure = PICTURES[name][2](_rows(name))
    figure.savefig(
        path_of(name),
        metadata={"Date": None, "Creator": "benchmarks/plots.py", "Description": checksum(name)},
        bbox_inches="tight",
    )
    pyplot.close(figure)
    return path_of(name)


# -- bars: the peers of some workloads ------------------------------------------------------------


def bars(rows: list[Row]) -> Any:
    """A panel for each workload: who takes how long, on a logarithmic scale."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["workload"] for row in rows if row["peer"]["figures"]))
    figure, panels = pyplot.subplots(
        len(names), 1, figsize=(WIDTH, 2.2 * len(names)), squeeze=False, layout="constrained"
    )
    for name, panel in zip(names, panels[:, 0], strict=True):
        _panel(panel, name, [row for row in rows if row["workload"] == name])
    return figure


def _panel(panel: Any, name: str, rows: list[Row]) -> None:
    scale = SCALES[rows[0]["unit"]]
    found = {"unirun": rows[0]["ours"]["figures"]}
    found |= {row["peer"]["name"]: row["peer"]["figures"] for row in rows if row["peer"]["figures"]}
    shown = sorted(found, key=lambda each: -statistics.median(found[each]))
    middles = [statistics.median(found[each]) * scale for each in shown]
    lows = [m - min(found[each]) * scale for m, each in zip(middles, shown, strict=True)]
    highs = [max(found[each]) * scale - m for m, each in zip(middles, shown, strict=True)]
    colours = [OURS if each == "unirun" else THEIRS for each in shown]
    panel.barh(shown, middles, xerr=[lows, highs], color=colours, error_kw={"lw": 0.8})
    panel.set_xscale("log")
    panel.set_title(name, loc="left")
    panel.set_xlabel(_pages.UNITS[rows[0]["unit"]])
    panel.spines[["top", "right"]].set_visible(False)


# -- lines: what changes with a number ------------------------------------------------------------


def lines(rows: list[Row]) -> Any:
    """One panel: a line for each contender over the last word of the workload, a number."""
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(WIDTH, 3.4), layout="constrained")
    scale = SCALES[rows[0]["unit"]]
    for name, points in _lines_of(rows).items():
        numbers = sorted(points)
        middles = [statistics.median(points[n]) * scale for n in numbers]
        style = {"color": OURS, "lw": 2.2} if name == "unirun" else {"lw": 1.1}
        panel.plot(numbers, middles, marker="o", ms=3, label=name, **style)
    panel.set_xscale("log", base=2 if max(_number(row) for row in rows) < 100 else 10)
    panel.set_yscale("log")
    panel.set_ylabel(_pages.UNITS[rows[0]["unit"]])
    panel.set_title(rows[0]["workload"].split()[0], loc="left")
    panel.grid(visible=True, which="major", lw=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    return figure


def _lines_of(rows: list[Row]) -> dict[str, dict[int, list[float]]]:
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        for side in (row["ours"], row["peer"]):
            if side["figures"]:
                found.setdefault(side["name"], {})[_number(row)] = side["figures"]
    return found


def _number(row: Row) -> int:
    return int("".join(row["workload"].split()[1:]))


PICTURES: dict[str, tuple[str, list[str], Callable[[list[Row]], Any]]] = {
    "calls": ("calls", [], bars),
    "payloads": ("payloads", ["ndarray"], bars),
    "lifecycle": ("lifecycle", ["startup", "kill"], bars),
    "memory": ("lifecycle", ["memory"], bars),
    "recovery": ("recovery", ["recovery"], bars),
    "real": ("jobs", ["real"], bars),
    "engines": ("engines", [], bars),
    "scale-calls": ("scale", ["scale-calls"], lines),
    "scale-workers": ("scale", ["scale-workers"], lines),
    "scale-work": ("scale", ["scale-work"], lines),
}
"""Name of the picture -> file, workloads of it (none: all), and how it is drawn."""
