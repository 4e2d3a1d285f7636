"""How far a task is, in its own words: `current_task().report()`, read as `future.progress`.

    a task in a worker ──ten times a second at most──▶ `_news` ──▶ heard ──┐
    a task that runs here ──────────────────────────────────────────▶ its future ──▶ who watches

1. What a worker may not send yet is replaced by what the task says next; the last of it is sent
   when its time has come, or when the task ends: so whoever has the result has the last report.
2. Reports carry a number, and one that was overtaken is dropped.
3. What comes after the end of a call, or from a process that it has forked, changes nothing.

Light by rule: a worker imports it once a task reports.
"""

from __future__ import annotations

import itertools
import operator
import time
from _thread import start_new_thread

from unirun import _context, _observe
from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._output import Output

__all__ = ["Progress", "Reported", "heard", "report"]

PAUSE = 0.1
"""Seconds between two reports that a worker sends."""
LONGEST = 200
"""Characters of a message; the rest is cut off."""


@record
class Progress:
    """How far a call is, as it has told by `current_task().report()`; see `Future.progress`."""

    done: float
    """How much is done."""
    total: float | None = None
    """How much there is to do; None: not known."""
    message: str = ""
    """What it is at."""

    @property
    def fraction(self) -> float | None:
        """From 0 to 1; None where the total is not known."""
        if not self.total:
            return None
        return min(1.0, max(0.0, self.done / self.total))

    def __str__(self) -> str:
        part = self.fraction
        told = f"{self.done:g}" if part is None else f"{part:.0%}"
        return f"{told} {self.message}".rstrip()


Progress.__module__ = "unirun"  # where users find it


class Reported:
    """What a future has for it."""

    __slots__ = ()

    _progress: Progress | None = None
    _reported = 0  # number of that report

    @property
    def progress(self) -> Progress | None:
        """How far the call is, if it says so by `current_task().report()`; None: it has not.

        A call that is run again begins anew. What a task in a worker process tells is known here a
        tenth of a second later; the last of it with the result.
        """
        return self._acting()._progress  # type: ignore[no-any-return]

    @property
    def output(self) -> Output | None:
        """What the call has printed so far, with `capture=True`; None without. See `unirun.Output`.

        A call that is run again begins anew.
        """
        from unirun._output import output_of  # for who asks

        return output_of(self)

    def _acting(self) -> Any:
        """The future that stands for the call where it runs: one that others follow, perhaps."""
        return self


_numbers = itertools.count(1)


def report(task: Any, done: Any, total: Any, message: Any) -> None:
    """As `TaskContext.report`."""
    told = (_number("done", done), None if total is None else _number("total", total))
    value = (*told, str(message)[:LONGEST], next(_numbers))
    if task.origin is not None:
        future = task.origin()
        if future is not None and not future.done():
            _note(future, value)
    elif index := getattr(task, "_index", 0):
        _outbox.put(task, index, value)


def _number(name: str, value: Any) -> float:
    if type(value) is int or type(value) is float:
        return value
    try:
        return operator.index(value)
    except TypeError:
        pass
    try:
        return float(value + 0)  # a Fraction, or a number of numpy; no text
    except TypeError:
        raise TypeError(f"{name} must be a number, not {value!r}") from None


def heard(origin: Any, value: tuple[float, float | None, str, int]) -> None:
    """What a worker has told of a call."""
    if origin.future is not None:
        _note(origin.future, value)


def _note(future: Any, value: tuple[float, float | None, str, int]) -> None:
    done, total, message, number = value
    if number <= future._reported:
        return  # rule 2
    future._reported = number
    future._progress = Progress(done, total, message)
    if "progress" in _observe.wanted:
        told = future._tell_info()
        options, backend = told.get("options"), future._backend
        chosen = getattr(options, "chosen", None)
        _observe.tell(
            "progress",
            call=_observe.call_of(future, options),
            task=getattr(options, "name", None) or (chosen and chosen.function),
            backend=getattr(backend, "name", None),
            worker=told.get("worker"),
            pid=told.get("pid"),
            attempt=getattr(options, "attempt", None),
            source=id(backend),
            future=future,
            done=done,
            total=total,
            message=message,
        )


class _Outbox:
    """Of a worker: rule 1. It needs no lock, and signal handlers of a task may report, too."""

    def __init__(self) -> None:
        self._index = 0  # the call that has reported last
        self._worker: Any = None
        self._latest: Any = None  # what it has said
        self._told: Any = None  # what was sent of that
        self._told_at = 0.0
        self._is_watched = False

    def put(self, task: Any, index: int, value: Any) -> None:
        if task._worker.running != index:
            return  # rule 3
        if index != self._index:
            self._latest = self._told = None
            self._index, self._worker, self._told_at = index, task._worker, 0.0
            _context.when_task_ends(self._task_ends)
        self._latest = value
        if time.monotonic() - self._told_at >= PAUSE:
            self._send(index)
        elif not self._is_watched:
            self._is_watched = True
            start_new_thread(self._watch, ())  # ends when there is nothing more to send

    def _send(self, index: int) -> None:
        value = self._latest
        self._told_at = time.monotonic()
        if _context.tell is not None and index == self._index:
            _context.tell("progress", index, value)
            self._told = value

    def _watch(self) -> None:
        while True:
            index = self._index
            time.sleep(PAUSE)
            if self._has_news(index):
                self._send(index)
                continue
            self._is_watched = False
            if not self._has_news(self._index):
                return
            self._is_watched = True  # it has said something this moment

    def _has_news(self, index: int) -> bool:
        return index == self._index == self._worker.running and self._told is not self._latest

    def _task_ends(self, task: Any) -> None:
        if self._told is not self._latest and getattr(task, "_index", 0) == self._index:
            self._send(self._index)


_outbox = _Outbox()
