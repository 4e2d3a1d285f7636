"""How the inputs of a map are cut into chunks: what is drawn, and how much at once."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from unirun._deferral import imported
from unirun._record import MAX_ROOM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._async_inputs import Feed

__all__ = ["Chunker", "Columns", "Inputs", "check_size", "inputs_of"]

TARGET_SECONDS = 0.01
"""How long a chunk of automatic size should take: many times what sending it costs."""
SHORTEST = 0.1
"""Of that: what the last chunks, made smaller so that all workers have some, still take."""
MAX_CHUNK = MAX_ROOM
MAX_GROWTH = 16
MAX_DRAWN = 1 << 15
"""Items of a map that may be under way at a time, about: 2 MiB of ints, with their results.

Eight times as many would make a map of calls that do nothing a tenth faster."""


class Columns:
    """The items of a chunk: for each input of the map, a sequence of what was drawn from it."""

    __slots__ = ("columns", "first")

    def __init__(self, columns: tuple[Sequence[Any], ...], first: int = 0) -> None:
        self.columns = columns
        self.first = first  # number of the first item in the inputs

    def __len__(self) -> int:
        return len(self.columns[0])

    def cut(self, start: int, stop: int | None = None) -> Columns:
        columns = tuple([column[start:stop] for column in self.columns])
        return Columns(columns, self.first + start)

    def args(self) -> tuple[Any, ...]:
        """Those of the first item."""
        return tuple([column[0] for column in self.columns])


class Inputs:
    """What is mapped over; sequences are sliced, since a slice of a range stays a range."""

    is_async = False

    def __init__(self, iterables: tuple[Iterable[Any], ...]) -> None:
        self.total = _length(iterables)
        self.error: Exception | None = None  # what the next `take` raises
        self._at = 0  # how many were drawn
        self._sequences: tuple[Sequence[Any], ...] = ()
        self._rest: Iterator[Any] = iter(())
        self._single = len(iterables) == 1
        if all(type(each) in (range, list, tuple) for each in iterables):
            self._sequences = iterables  # type: ignore[assignment]  # as was just looked at
        else:
            self._rest = iter(iterables[0]) if self._single else zip(*iterables, strict=False)

    def take(self, count: int) -> Columns:
        """The next items; fewer, or none, at the end, and before an error of the inputs' own."""
        if self._sequences:
            return self._slice(count)
        first, drawn = self._at, self._draw(count)
        self._at += len(drawn)
        if self._single or not drawn:
            return Columns((drawn,), first)
        return Columns(tuple(zip(*drawn, strict=True)), first)

    def is_over(self, taken: int, asked: int) -> bool:
        """After a `take`: whether there will be no more."""
        return taken < asked and self.error is None

    def stop(self) -> None:
        """Nobody wants more of them; for those that are drawn ahead."""

    def _draw(self, count: int) -> list[Any]:
        drawn: list[Any] = []
        if self.error is not None:
            raise self.error
        try:
            drawn.extend(islice(self._rest, count))
        except Exception as exc:
            if not drawn:
                raise
            self.error = exc  # what was drawn before comes first
        return drawn

    def _slice(self, count: int) -> Columns:
        start, stop = self._at, self._at + count
        columns = tuple([each[start:stop] for each in self._sequences])
        shortest = min(map(len, columns))
        self._at += shortest
        found = Columns(columns, start)
        return found if all(len(each) == shortest for each in columns) else found.cut(0, shortest)


def inputs_of(iterables: tuple[Any, ...]) -> Inputs | Feed:
    """For what is mapped over."""
    if all(hasattr(each, "__iter__") or not hasattr(each, "__aiter__") for each in iterables):
        return Inputs(iterables)
    feed: Feed = imported("unirun._async_inputs").Feed(iterables)
    return feed


class Chunker:
    """How many items go into one call: a fixed number, or grown until a call takes 10 ms."""

    def __init__(self, size: int | None, workers: int) -> None:
        self.size: int = size or 1
        self._adaptive = size is None
        self._workers = workers
        self._short = 1  # items that take a tenth of what a chunk should
        self._learned = self._growing = False
        self._bound = max(1, min(MAX_CHUNK, MAX_DRAWN // self._fewest))

    @property
    def _fewest(self) -> int:
        """Calls that must be under way so that no worker waits for the next."""
        return 2 * self._workers + 2

    def calls(self, most: int) -> int:
        """How many calls may be under way; `most`, unless they are large or grow still."""
        if not self._adaptive or not self._learned:
            return most
        if self._growing:
            return min(most, 2 * self._workers)
        return min(most, max(self._fewest, MAX_DRAWN // (4 * self.size)))

    def limit(self, window: int) -> None:
        """No more than so many items are under way: have enough for every worker all the same."""
        share = max(1, window // (2 * self._workers if self._adaptive else 2))
        self._bound = min(self._bound, share)
        self.size = min(self.size, share)

    def next(self, left: int | None) -> int:
        """`left`: items that are left, where known: the last ones are shared evenly."""
        if not self._adaptive or left is None:
            return self.size
        return max(1, min(self.size, max(self._short, math.ceil(left / (2 * self._workers)))))

    def learn(self, items: int, seconds: float) -> None:
        """A chunk of so many items took so long; it grows only beyond what was tried."""
        if not self._adaptive or not items:
            return
        ideal = TARGET_SECONDS / max(seconds / items, 1e-8)
        if ideal < self.size:
            self.size = max(1, int(ideal))
        else:
            self.size = int(max(self.size, min(ideal, items * MAX_GROWTH, self._bound)))
        self._learned = True
        self._growing = self.size < min(int(ideal), self._bound)
        self._short = max(1, min(self.size, int(ideal * SHORTEST)))


def _length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """How many items there will be; None where no input tells."""
    # A hint will do, such as an iterator over a list gives: no result depends on it.
    hints = [operator.length_hint(each, -1) for each in iterables]
    return min((hint for hint in hints if hint >= 0), default=None)


def check_size(name: str, value: Any) -> int:
    """A whole number of 1 or more, with the standard library's errors."""
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if size < 1:
        raise ValueError(f"{name} must be >= 1.")
    return size
