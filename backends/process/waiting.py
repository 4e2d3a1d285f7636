"""The calls that wait: higher priority first; among equals, first come first served.

Pure like the state machine whose part it is.  A call is any object with a `priority`, told apart by
identity.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object  # `typing` takes 3 ms to import


class Call(Protocol):
    """What the machine has to know of a call."""

    kind: int
    """Calls of one kind take about the same time."""

    @property
    def priority(self) -> int: ...


class Waiting:
    """An ordered set of calls."""

    def __init__(self) -> None:
        self._lines: dict[int, OrderedDict[Call, None]] = {}  # by priority, none empty
        self._priorities: list[int] = []  # keys of _lines, negated, ascending
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Call]:
        for minus in self._priorities:
            yield from self._lines[-minus]

    def add(self, calls: Iterable[Call]) -> None:
        for call in calls:
            priority = call.priority
            line = self._lines.get(priority)
            if line is None:
                line = self._lines[priority] = OrderedDict()
                insort(self._priorities, -priority)
            line[call] = None
            self._count += 1

    def put_back(self, calls: Iterable[Call]) -> None:
        """They were taken out before, and come before all others of their priority."""
        calls = list(calls)
        self.add(calls)
        for call in reversed(calls):
            self._lines[call.priority].move_to_end(call, last=False)

    def first(self) -> Call:
        return next(iter(self._lines[-self._priorities[0]]))

    def take_alike(self, most: int) -> list[Call]:
        """The first and those right behind it of its kind and priority, taken out."""
        line = self._lines[-self._priorities[0]]
        kind = next(iter(line)).kind
        calls = list(takewhile(lambda call: call.kind == kind, islice(line, most)))
        for call in calls:
            del line[call]
        self._count -= len(calls)
        if not line:
            del self._lines[-self._priorities.pop(0)]
        return calls

    def remove(self, call: Call) -> bool:
        """False if it is not in here."""
        line = self._lines.get(call.priority)
        if line is None or call not in line:
            return False
        del line[call]
        self._count -= 1
        if not line:
            del self._lines[call.priority]
            self._priorities.remove(-call.priority)
        return True

    def take_all(self) -> list[Call]:
        calls = list(self)
        self._lines.clear()
        self._priorities.clear()
        self._count = 0
        return calls
