"""What `unirun top` shows: rows of text, made of a snapshot and of what the system tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from unirun._reports import Progress
from unirun._terminal import clean, cut, filled

__all__ = ["SORTS", "Row", "View", "duration", "memory", "pids_of", "rows_of"]

SORTS = ("age", "cpu", "memory", "name")
HEADS = ("WORKER", "CPU %", "MEMORY", "AGE", "PROGRESS", "TASK")
WIDTHS = (16, 6, 8, 8, 16)
NARROW = (12, 5, 7, 7, 8)
MOST_WAITING = 20
"""Calls that wait and are shown for each backend; of the rest there is a number."""


class Row(NamedTuple):
    """One line. `key`: what stays the same while a row is selected; "" for those that cannot be."""

    cells: tuple[str, ...]
    key: str = ""
    style: str = ""
    call: int | None = None


def pids_of(snapshot: dict[str, Any]) -> set[int]:
    """The program and its workers."""
    found = {snapshot["pid"]}
    for executor in snapshot["executors"]:
        for backend in executor["backends"]:
            found |= {each["pid"] for each in backend["workers"] if each["pid"]}
    return found


def rows_of(
    snapshot: dict[str, Any], figures: dict[int, tuple[float, int]], sort: str = "age"
) -> Iterator[Row]:
    """All of it, longer than any screen perhaps."""
    if not snapshot["executors"]:
        yield Row(("no executor is there",))
    for executor in snapshot["executors"]:
        state = ", shut down" if executor["closed"] else ""
        held = f", {executor['held']} wait under a limit" if executor["held"] else ""
        yield Row((f"executor {executor['name']!r}{state}{held}",), style="bold")
        if not executor["backends"]:
            yield Row(("  nothing has started",))
        for backend in executor["backends"]:
            yield from _backend(executor["id"], backend, figures, sort)


def _backend(of: int, backend: dict[str, Any], figures: Any, sort: str) -> Iterator[Row]:
    counts = backend["counts"]
    told = [f"{backend['size']} workers", f"{backend['waiting']} waiting"]
    told += [f"{number} {name}" for name, number in counts.items() if name in _ALWAYS]
    told += [
        f"{number} {name}"
        for name, number in counts.items()
        if number and name in ("killed", "crashed", "abandoned")
    ]
    yield Row((f"  {backend['name']}: {', '.join(told)}",), style="bold")
    yield from (Row((f"    {note}",)) for note in backend["notes"])
    lines = [*_workers(of, backend, figures)]
    lines.sort(key=lambda pair: _rank(pair[1], sort))
    yield from (row for row, _ in lines)
    waiting = [call for call in backend["calls"] if not call["worker"]]
    yield from (_call_row(of, call, "waits", None) for call in waiting[:MOST_WAITING])
    more = backend["waiting"] - len(waiting[:MOST_WAITING])
    if more > 0:
        yield Row((f"    ... and {more} more calls that wait",))
    yield from (Row((f"    {line}",)) for line in backend["objects"])


_ALWAYS = ("running", "finished")


def _workers(of: int, backend: dict[str, Any], figures: Any) -> Iterator[tuple[Row, Any]]:
    """Each worker with what it runs; and calls whose worker is not known."""
    by_worker: dict[str, list[dict[str, Any]]] = {}
    for call in backend["calls"]:
        if call["worker"]:
            by_worker.setdefault(_plain(call["worker"]), []).append(call)
    for worker in backend["workers"]:
        seen = figures.get(worker["pid"])
        calls = by_worker.pop(worker["name"], [])
        if not calls:
            cells = (worker["name"], *_figures(seen), "", "", worker["state"])
            yield Row(cells, f"{of} worker {worker['name']}", "dim"), (None, seen, "")
        for call in calls:
            yield _call_row(of, call, worker["name"], seen), (call, seen, call["name"])
    for name, calls in by_worker.items():
        for call in calls:
            yield _call_row(of, call, name, None), (call, None, call["name"])


def _plain(worker: str) -> str:
    return worker.removeprefix("thread ").strip("'")


def _rank(about: tuple[Any, Any, str], sort: str) -> tuple[Any, ...]:
    call, seen, name = about
    if sort == "cpu":
        return (-(seen or (0.0, 0))[0],)
    if sort == "memory":
        return (-(seen or (0.0, 0))[1],)
    if sort == "name":
        return (call is None, name)
    return (call is None, -((call or {}).get("ran") or (call or {}).get("age") or 0.0))


def _call_row(of: int, call: dict[str, Any], worker: str, seen: Any) -> Row:
    age = call["age"] if call["ran"] is None else call["ran"]
    text = call["name"] if call["id"] is None else f"{call['name']} #{call['id']}"
    if call["state"] not in ("running", "waiting"):
        text += f", {call['state']}"
    if call["attempt"] > 1:
        text += f", attempt {call['attempt']}"
    if call["left"] is not None:
        text += f", {duration(call['left'])} left"
    if call["waits"] and call["worker"]:
        text += f", waits {call['waits']}"
    progress = "" if not call["progress"] else _told(call["progress"])
    cells = (worker, *_figures(seen), duration(age), progress, text)
    key = f"{of} call {call['id']}" if call["id"] is not None else ""
    return Row(cells, key, "" if call["worker"] else "dim", call["id"])


def _told(progress: list[Any]) -> str:
    done, total, message = progress
    return str(Progress(0 if done is None else done, total, message))


def _figures(seen: tuple[float, int] | None) -> tuple[str, str]:
    return ("", "") if seen is None else (f"{seen[0]:.0f}", memory(seen[1]))


def memory(size: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def duration(seconds: float | None) -> str:
    """For people."""
    if seconds is None:
        return ""
    sign, whole = "-" if seconds < 0 else "", abs(seconds)
    if whole < 60:
        return f"{sign}{whole:.1f} s"
    minutes, hours = int(whole // 60), int(whole // 3600)
    if hours < 1:
        return f"{sign}{minutes}:{int(whole % 60):02}"
    if hours < 100:
        return f"{sign}{hours}:{minutes % 60:02} h"
    return f"{sign}{hours // 24} days"


class View:
    """Rows as lines of a screen: a window on them that follows what is selected."""

    def __init__(self) -> None:
        self.sort = SORTS[0]
        self.selected = ""  # key of a row
        self._first = 0

    def choose(self, rows: list[Row], step: int) -> None:
        """Select the row so many further."""
        keys = [row.key for row in rows if row.key]
        if not keys:
            self.selected = ""
        elif self.selected not in keys:
            self.selected = keys[0] if step > 0 else keys[-1]
        else:
            at = keys.index(self.selected) + step
            self.selected = keys[max(0, min(at, len(keys) - 1))]

    def chosen(self, rows: list[Row]) -> Row | None:
        return next((row for row in rows if row.key and row.key == self.selected), None)

    def lines(self, rows: list[Row], columns: int, height: int) -> Iterator[tuple[str, str]]:
        """Text and style, `height` of them at most."""
        yield text_of(Row(HEADS), columns), "reverse"
        height -= 1
        at = next((n for n, row in enumerate(rows) if row.key and row.key == self.selected), None)
        if at is not None:
            self._first = min(max(self._first, at - height + 1), at)
        self._first = max(0, min(self._first, len(rows) - height))
        for row in rows[self._first : self._first + max(0, height)]:
            is_selected = row.key and row.key == self.selected
            yield text_of(row, columns), "selected" if is_selected else row.style


def text_of(row: Row, columns: int) -> str:
    """A row in that many columns."""
    if len(row.cells) == 1:
        return cut(clean(row.cells[0]), columns)
    widths = WIDTHS if columns >= 90 else NARROW
    parts = [filled(cell, width) for cell, width in zip(row.cells, widths, strict=False)]
    head = "    " + " ".join(parts) + " "
    return cut(f"{head}{clean(row.cells[-1])}", columns)
