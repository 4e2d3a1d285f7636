"""A run as its trace tells it: calls, lanes, marks, counters; times in seconds from its start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Call", "Counter", "Lane", "Mark", "Run", "Submission"]

RAN_WELL = "finished"
"""The state of a call that returned; any other has a reason to be looked at."""


class Call(NamedTuple):
    """One attempt of a call that ran."""

    name: str
    start: float
    end: float
    lane: tuple[int, int]
    """Process and lane, as in the file."""
    number: int
    state: str
    error: str
    kind: str
    backend: str
    attempt: int
    parent: int
    """The number of the call that submitted it; 0: none."""
    wait: float
    """From submit to its start."""
    encode: float
    """Pickling of the arguments, in the thread that submitted it."""
    decode: float
    """Unpickling of the arguments in the worker."""
    answer: float
    """Pickling of the result there."""
    transfer: float
    """From the end of its body until the program had the result."""
    bytes_in: int
    bytes_out: int
    cpu: float | None
    """Seconds of CPU while it ran; None: not measured."""
    memory: int
    pieces: int
    """How many items of a map it carried; 1 for a single call."""

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def pickling(self) -> float:
        """Seconds that its data took, on both sides."""
        return self.encode + self.decode + self.answer

    @property
    def work(self) -> float:
        """Seconds in the function itself."""
        return max(0.0, self.seconds - self.decode - self.answer)


class Lane(NamedTuple):
    """A row of the picture: a worker, or a thread that submits."""

    key: tuple[int, int]
    name: str
    process: str
    is_worker: bool
    born: float | None
    died: float | None


class Mark(NamedTuple):
    """Something that happened at one moment: a kill, a crash, a retry."""

    name: str
    kind: str
    at: float
    lane: tuple[int, int]
    detail: str


class Submission(NamedTuple):
    """A submit as the thread saw it."""

    number: int
    start: float
    end: float
    lane: tuple[int, int]


class Counter(NamedTuple):
    """One value over time."""

    name: str
    pid: int
    points: list[tuple[float, float]]


class Run:
    """Everything that a trace file said, in the order of time."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.lanes: dict[tuple[int, int], Lane] = {}
        self.marks: list[Mark] = []
        self.submissions: dict[int, Submission] = {}
        self.counters: dict[tuple[str, int], Counter] = {}
        self.about: dict[str, object] = {}
        """What the writer said of the program: argv, pid, cores, versions."""
        self.summed: list[dict[str, object]] = []
        """Calls that the trace only counted, by task."""
        self.dropped = 0
        """Events that the writer had no room for."""
        self.unread = 0
        """Lines that made no sense."""
        self.is_whole = False
        """Whether the program ended the trace itself."""

    @property
    def cores(self) -> int:
        found = self.about.get("cores")
        return found if isinstance(found, int) and found > 0 else 1

    def span(self) -> tuple[float, float]:
        """From the first submit or start to the last end."""
        starts = [call.start - call.wait for call in self.calls]
        starts += [each.start for each in self.submissions.values()]
        ends = [call.end for call in self.calls]
        return (max(0.0, min(starts)), max(ends)) if starts and ends else (0.0, 0.0)

    def counted(self, name: str) -> Iterator[Counter]:
        """The counters of that name, one for each process."""
        return (each for (key, _), each in self.counters.items() if key == name)
