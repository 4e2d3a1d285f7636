"""Hand-made runs: events as the pools tell them, turned into traces without running anything."""

from __future__ import annotations

import json
from typing import Any

from unirun._trace_picture import Picture
from unirun.report.reading import read
from unirun.report.run import Run

__all__ = ["PID", "Story", "run_of"]

PID = 100
"""The program."""


class Story:
    """What happens in a program, told second by second from 0."""

    def __init__(self, *, cores: int = 4, limit: int = 10**9) -> None:
        self.picture = Picture(0.0, PID, limit)
        self.lines: list[str] = []
        self.picture.begin({"program": "story.py", "cores": cores})
        self._number = 0

    def tell(self, what: str, at: float, *, thread: int = PID, **known: Any) -> None:
        """An event that the worker itself tells of, if `thread` is not the program's."""
        name = "main thread" if thread == PID else known.get("worker", f"thread {thread}")
        self.picture.see({"what": what, "at": at, **known}, thread, name)

    def call(
        self,
        start: float,
        end: float,
        *,
        task: str = "work",
        worker: int = 201,
        queued: float | None = None,
        what: str = "finished",
        backend: str = "process",
        kind: str = "cpu",
        **known: Any,
    ) -> int:
        """A call from submit to end; `worker` is a process, or on other backends a thread."""
        self._number += 1
        queued = start if queued is None else queued
        about = {"call": self._number, "task": task, "backend": backend, "kind": kind}
        submit = {key: known.pop(key) for key in ("packing", "parent") if key in known}
        remote = backend == "process"
        place = {"pid": worker if remote else PID, "worker": f"{'pid' if remote else 'w'} {worker}"}
        thread = PID if remote else worker
        self.tell("submitted", queued, attempt=known.get("attempt"), **about, **submit)
        times = {"queued": queued, "started": start, "finished": end}
        self.tell(what, known.pop("at", end), thread=thread, **about, **place, **times, **known)
        return self._number

    def count(self, name: str, pid: int, values: dict[float, float], key: str) -> None:
        for at, value in values.items():
            self.picture.count(name, pid, at, {key: value})

    def data(self, *, whole: bool = True, **counted: int) -> bytes:
        """The file."""
        if whole:
            self.picture.end(dropped=counted.get("dropped", 0))
        self.lines += self.picture.lines()
        end = "\n]\n" if whole else ""
        return ("[\n" + ",\n".join(self.lines) + end).encode()

    def events(self) -> list[dict[str, Any]]:
        return list(json.loads(self.data()))


def run_of(story: Story) -> Run:
    return read(story.data(), "story.json")


def breaches(events: list[dict[str, Any]]) -> list[str]:
    """What viewers would object to: the rules of the format, and those of Perfetto's importer."""
    found = []
    for event in events:
        found += [f"{why}: {event}" for why, holds in _rules(event) if not holds]
    timed = sorted((e for e in events if e["ph"] != "M"), key=lambda event: event["ts"])
    return found or [*_uncut(timed), *_tied(timed)]


def _rules(event: dict[str, Any]) -> list[tuple[str, bool]]:
    phase, keys = event["ph"], list(event)
    lane = event["pid"], event["tid"]
    return [
        ("a phase that is not ours", phase in {"M", "X", "i", "C", "s", "f"}),
        ("pid and tid are 32-bit numbers", all(type(n) is int and 0 < n < 1 << 32 for n in lane)),
        ("a time from 0 on", isinstance(event["ts"], int | float) and event["ts"] >= 0),
        ("numbers before texts", keys.index("ts") < keys.index("name")),
        ("a slice has a length", phase != "X" or event["dur"] > 0),
        ("a mark has a scope", phase != "i" or event["s"] in "tpg"),
        ("a flow has a number", phase not in "sf" or type(event["id"]) is int),
        ("a counter counts", phase != "C" or _counts(event["args"])),
    ]


def _counts(args: dict[str, Any]) -> bool:
    return bool(args) and all(type(value) in (int, float) for value in args.values())


def _uncut(timed: list[dict[str, Any]]) -> list[str]:
    """Slices of one lane nest or are apart."""
    found, open_ = [], {}
    for event in timed:
        if event["ph"] != "X":
            continue
        start, end = event["ts"], event["ts"] + event["dur"]
        stack = open_.setdefault((event["pid"], event["tid"]), [])
        while stack and stack[-1] <= start + 1e-6:
            stack.pop()
        if stack and end > stack[-1] + 1e-3:
            found.append(f"a slice that is cut by its lane's other ones: {event}")
        stack.append(end)
    return found


def _tied(timed: list[dict[str, Any]]) -> list[str]:
    """Each arrow has two ends, later the second one, in slices."""
    found, begun = [], {}
    slices: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in timed:
        if event["ph"] == "X":
            ends = event["ts"], event["ts"] + event["dur"]
            slices.setdefault((event["pid"], event["tid"]), []).append(ends)
    for event in timed:
        if event["ph"] not in "sf":
            continue
        lane = slices.get((event["pid"], event["tid"]), [])
        if not any(start <= event["ts"] < end for start, end in lane):
            found.append(f"an arrow that touches no slice: {event}")
        if event["ph"] == "s":
            begun[event["id"]] = event["ts"]
        elif begun.pop(event["id"], float("inf")) > event["ts"]:
            found.append(f"an arrow without a beginning: {event}")
    return found + [f"an arrow without an end: {number}" for number in begun]
