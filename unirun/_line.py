"""Progress as plain text: one line of a terminal, redrawn; or whole lines now and then in a log.

All bars that are open share the line: a map whose function maps, or maps of several threads, would
overwrite each other else.  What was there is overwritten with spaces, so that no terminal is too
simple for it.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref

from unirun._terminal import clean, cut, is_terminal, size_of, width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from unirun._reports import Progress

__all__ = ["Line", "told"]

WIDTH, NARROW = 30, 10
"""Characters of a bar, and of one in a narrow place."""
PAUSE = 0.1
"""Seconds between two drawings on a terminal."""
LOG_PAUSE = 10.0
"""Seconds between two lines where there is none."""
MOST_TOLD = 3


def told(running: Sequence[Progress]) -> str:
    """How far the items are that run, in short."""
    shown = ", ".join(clean(str(each)) for each in running[:MOST_TOLD])
    more = len(running) - MOST_TOLD
    return f"{shown} +{more}" if more > 0 else shown


class _Screen:
    """One stream, and the lines that are open on it."""

    def __init__(self, stream: TextIO, is_seen: bool) -> None:
        self.stream = stream
        self.is_seen = is_seen  # somebody looks at it: a terminal, or a notebook
        # Guards the two below. Nothing is written while it is held.
        self._lock = threading.Lock()
        self._lines: list[Line] = []
        self._used = 0  # columns that are drawn upon
        self._next = 0.0

    def open(self, line: Line) -> None:
        with self._lock:
            self._lines.append(line)

    def draw(self, *, now: bool = False) -> None:
        """What is to be seen of all that are open; not too often, unless it has to be `now`."""
        with self._lock:
            moment = time.monotonic()
            if not now and moment < self._next:
                return
            self._next = moment + PAUSE
            text = self._drawn(self._texts())
        self._write(text)

    def clear(self) -> None:
        """Leave the line empty, for somebody else to write there."""
        with self._lock:
            self._next = 0.0
            text = self._drawn("") + "\r"
        self._write(text)

    def close(self, line: Line) -> None:
        """One that stands first stays to be seen; one of a map inside of that does not."""
        with self._lock:
            is_first = self._lines[:1] == [line]
            self._lines = [each for each in self._lines if each is not line]
            text = ""
            if is_first or not self.is_seen:
                text = self._drawn(line.text(self._columns())) + "\n"
                self._used = 0
            if self._lines or not is_first:
                text += self._drawn(self._texts())
        self._write(text)

    def _columns(self) -> int:
        return size_of(self.stream)[0] - 1  # with the last, some terminals go to the next line

    def _texts(self) -> str:
        columns = self._columns()
        texts = [line.text(columns) for line in self._lines]
        if sum(map(width, texts)) + 3 * len(texts) > columns:
            texts = [line.text(NARROW) for line in self._lines]
        return cut(" | ".join(texts), columns)

    def _drawn(self, text: str) -> str:
        used, self._used = self._used, width(text)
        used = min(used, self._columns())  # it was made narrower: the rest has been wrapped
        return f"\r{text}{' ' * (used - self._used)}"

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            return  # nobody looks at it any more: no reason for the work to end


class _Log(_Screen):
    """A stream that nobody looks at: whole lines, and few."""

    def draw(self, *, now: bool = False) -> None:
        return

    def clear(self) -> None:
        return

    def write_line(self, line: Line) -> None:
        self._write(line.text(80) + "\n")

    def close(self, line: Line) -> None:
        self.write_line(line)


_screens: weakref.WeakKeyDictionary[TextIO, _Screen] = weakref.WeakKeyDictionary()
_finding = threading.Lock()


def _screen_of(stream: TextIO, is_seen: bool) -> _Screen:
    if not is_seen:
        return _Log(stream, False)
    with _finding:
        try:
            return _screens.setdefault(stream, _Screen(stream, True))
        except TypeError:  # no weak references to it
            return _Screen(stream, True)


class Line:
    """A bar on one line of `stream`, redrawn at most ten times a second.

    Where that is no terminal, a line is written every ten seconds, and one at the end.
    """

    def __init__(
        self, label: str = "", stream: TextIO | None = None, *, is_seen: bool | None = None
    ) -> None:
        stream = sys.stderr if stream is None else stream
        self._label = f"{clean(label)} " if label else ""
        self._screen = _screen_of(stream, is_terminal(stream) if is_seen is None else is_seen)
        self._total: int | None = None
        self._done = 0
        self._running: Sequence[Progress] = ()
        self._started = self._logged = time.monotonic()

    def start(self, total: int | None) -> None:
        self._total = total
        self._started = self._logged = time.monotonic()
        self._screen.open(self)
        self._screen.draw(now=True)

    def update(self, done: int, running: Sequence[Progress] = ()) -> None:
        self._done, self._running = done, running
        if isinstance(self._screen, _Log):
            if time.monotonic() - self._logged >= LOG_PAUSE:
                self._logged = time.monotonic()
                self._screen.write_line(self)
        else:
            self._screen.draw()

    def clear(self) -> None:
        """Leave the line to somebody else until the next update."""
        self._screen.clear()

    def close(self) -> None:
        self._running = ()
        self._screen.close(self)

    def text(self, columns: int) -> str:
        """As it is to be seen in about so many columns."""
        seconds = time.monotonic() - self._started
        rate = self._done / seconds if seconds > 0 else 0.0
        pace = f"{seconds:.0f} s, {rate:.0f}/s" if rate >= 2 else f"{seconds:.0f} s, {rate:.1f}/s"
        what = f", {told(self._running)}" if self._running else ""
        if not self._total:
            return f"{self._label}{self._done} [{pace}]{what}"
        size = WIDTH if columns > 2 * WIDTH else NARROW
        parts = sum(each.fraction or 0.0 for each in self._running)
        full = min(size, int(size * (self._done + parts) / self._total))
        bar = "#" * full + "." * (size - full)
        return f"{self._label}{self._done}/{self._total} [{bar}] {pace}{what}"
