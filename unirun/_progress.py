"""Progress of a map: a callable of the user's, or one line on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, TextIO
else:
    Protocol = object  # `typing` takes 3 ms to import

__all__ = ["Line", "Progress", "make_progress"]


class Progress(Protocol):
    def start(self, total: int | None) -> None: ...
    def update(self, done: int) -> None: ...
    def close(self) -> None: ...


class Line:
    """A bar on one line of `stream`, redrawn at most ten times a second.

    Writes nothing unless the stream is a terminal or `always` is set.
    """

    WIDTH = 30

    def __init__(
        self, label: str = "", stream: TextIO | None = None, *, always: bool = False
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._label = f"{label} " if label else ""
        self._shown = always or bool(self._stream and self._stream.isatty())
        self._total: int | None = None
        self._done = 0
        self._started = self._drawn = time.monotonic()

    def start(self, total: int | None) -> None:
        self._total = total
        self._started = time.monotonic()
        self._draw()

    def update(self, done: int) -> None:
        self._done = done
        if time.monotonic() - self._drawn >= 0.1:
            self._draw()

    def close(self) -> None:
        self._draw()
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._shown:
            self._stream.write(f"\r{self._label}{self._text()}")
            self._stream.flush()

    def _text(self) -> str:
        seconds = time.monotonic() - self._started
        rate = self._done / seconds if seconds > 0 else 0.0
        if not self._total:
            return f"{self._done} [{seconds:.0f} s, {rate:.0f}/s]"
        filled = self.WIDTH * self._done // self._total
        bar = "#" * filled + "." * (self.WIDTH - filled)
        return f"{self._done}/{self._total} [{bar}] {seconds:.0f} s, {rate:.0f}/s"


class _Callable:
    def __init__(self, report: Callable[[int, int | None], object]) -> None:
        self._report = report
        self._total: int | None = None

    def start(self, total: int | None) -> None:
        self._total = total

    def update(self, done: int) -> None:
        self._report(done, self._total)

    def close(self) -> None:
        """The last update has told everything."""


def make_progress(
    wish: bool | Callable[[int, int | None], object] | None, label: str
) -> Progress | None:
    """None or False: none. True: a line on stderr. A callable gets (done, total or None)."""
    if wish is None or wish is False:
        return None
    if wish is True:
        return Line(label)
    if not callable(wish):
        raise TypeError(f"progress must be a bool or a callable, not {wish!r}")
    return _Callable(wish)
