"""What the page's script needs to draw the timeline: columns of whole numbers, as JSON.

Times are tenths of microseconds from the first submit.  A row of the drawing is a worker, or a
level of it where a call runs inside another: so no two calls of a row overlap, and the script
finds those of a moment by bisection.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from unirun.report.figures import Figures
from unirun.report.run import RAN_WELL, Call, Run

__all__ = ["MOST", "drawing"]

MOST = 200_000
"""Calls that are drawn; of more, those that failed and the longest."""


def drawing(run: Run, found: Figures) -> dict[str, Any]:
    """The data of the timeline."""
    calls = _drawn(run.calls)
    names = _Words(row.name for row in found.tasks)
    states, errors = _Words([RAN_WELL]), _Words([""])
    levels = _levels(calls)
    lanes = [row.key for row in found.workers]
    number = {key: n for n, key in enumerate(lanes)}
    order = sorted(
        range(len(calls)), key=lambda n: (number[calls[n].lane], levels[n], calls[n].start)
    )

    def ticks(seconds: float) -> int:
        return round(seconds * 1e7)

    columns: dict[str, list[int]] = defaultdict(list)
    for n in order:
        call = calls[n]
        for key, value in (
            ("start", ticks(call.start - found.start)),
            ("took", ticks(call.seconds)),
            ("lane", number[call.lane]),
            ("level", levels[n]),
            ("name", names[call.name]),
            ("state", states[call.state]),
            ("error", errors[call.error]),
            ("number", call.number),
            ("attempt", call.attempt),
            ("parent", call.parent),
            ("wait", ticks(call.wait)),
            ("pickling", ticks(call.pickling)),
            ("cpu", -1 if call.cpu is None else ticks(call.cpu)),
            ("in", call.bytes_in),
            ("out", call.bytes_out),
        ):
            columns[key].append(value)
    marks = [mark for mark in run.marks if mark.lane in number]
    return {
        "span": ticks(found.seconds),
        "left_out": len(run.calls) - len(calls),
        "lanes": [{"name": row.name, "process": row.process} for row in found.workers],
        "names": names.all,
        "states": states.all,
        "errors": errors.all,
        "calls": columns,
        "marks": [
            {
                "at": ticks(mark.at - found.start),
                "lane": number[mark.lane],
                "kind": mark.kind,
                "name": mark.name,
                "detail": mark.detail,
            }
            for mark in marks
        ],
    }


def _drawn(calls: list[Call]) -> list[Call]:
    if len(calls) <= MOST:
        return calls
    ranked = sorted(calls, key=lambda call: (call.state == RAN_WELL, -call.seconds))[:MOST]
    return sorted(ranked, key=lambda call: call.start)


def _levels(calls: list[Call]) -> list[int]:
    """For each call, in the order of their starts, how many calls of its lane it is inside of."""
    open_: dict[tuple[int, int], list[float]] = defaultdict(list)
    levels = []
    for call in calls:
        ends = open_[call.lane]
        level = next((n for n, end in enumerate(ends) if end <= call.start), len(ends))
        ends[level:] = [call.end, *ends[level + 1 :]]
        levels.append(level)
    return levels


class _Words:
    """Each word once, and its number."""

    def __init__(self, words: Any) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}
        for word in words:
            self[word]

    def __getitem__(self, word: str) -> int:
        if word not in self._numbers:
            self._numbers[word] = len(self.all)
            self.all.append(word[:300])
        return self._numbers[word]
