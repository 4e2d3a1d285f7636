"""A terminal for one who looks: what is drawn, which keys are hit; and as it was, afterwards.

What it changes it restores whatever happens: at an exception, at Ctrl-C, at SIGTERM, and while
Ctrl-Z has stopped us.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterable
from types import FrameType
from typing import Any, Self

from unirun._terminal import size_of
from unirun.cli.status import WrongUse

__all__ = ["Screen"]

ENTER = "\x1b[?1049h\x1b[?25l"  # another screen, no cursor
LEAVE = "\x1b[?25h\x1b[?1049l"
STYLES = {"bold": "1", "dim": "2", "reverse": "7", "selected": "7;1"}
KEYS = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1b[F": "end",
}
# A key as terminals send it: a letter, or Escape and what belongs to it.
_KEY = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O[@-~])?|.", re.DOTALL)


class Screen:
    """Used as a context, by the main thread."""

    def __init__(self) -> None:
        if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
            raise WrongUse("this is no terminal; use --once for one look")
        if os.environ.get("TERM", "dumb") == "dumb":
            raise WrongUse("this terminal cannot draw (TERM=dumb); use --once for one look")
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        # Written by signal handlers, so that a wait ends; ours, and closed at the end.
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: Any = termios.tcgetattr(self._in)
        self._handlers: dict[int, Any] = {}
        self._typed = ""

    def __enter__(self) -> Self:
        for number, handler in (
            (signal.SIGWINCH, self._resized),
            (signal.SIGTSTP, self._stopped),
            (signal.SIGTERM, self._terminated),
            (signal.SIGHUP, self._terminated),
        ):
            self._handlers[number] = signal.signal(number, handler)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._give_back()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            os.close(self._woken)
            os.close(self._wake)

    def _take(self) -> None:
        tty.setcbreak(self._in, termios.TCSANOW)
        self._write(ENTER)

    def _give_back(self) -> None:
        try:
            self._write(f"\x1b[0m{LEAVE}")
        finally:
            termios.tcsetattr(self._in, termios.TCSANOW, self._before)

    def _resized(self, *_: object) -> None:
        self._rouse()

    def _rouse(self) -> None:
        try:
            os.write(self._wake, b".")
        except BlockingIOError:
            return  # it will wake up anyway

    def _stopped(self, number: int, frame: FrameType | None) -> None:
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # and here we go on, some time
        signal.signal(number, self._stopped)
        self._take()
        self._rouse()

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    # -- drawing ----------------------------------------------------------------------------------

    def size(self) -> tuple[int, int]:
        """Columns and lines; without the last column, where terminals differ."""
        columns, lines = size_of(sys.stdout)
        return columns - 1, lines

    def draw(self, lines: Iterable[tuple[str, str]]) -> None:
        """Text, which fits, and style; what is not drawn upon is empty."""
        height = self.size()[1]
        parts = []
        for text, style in list(lines)[:height]:
            code = STYLES.get(style)
            shown = text if code is None else f"\x1b[{code}m{text}\x1b[0m"
            parts.append(f"{shown}\x1b[K")
        self._write("\x1b[H" + "\r\n".join(parts) + "\x1b[0J")

    def _write(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "replace"))
        while data:
            data = data[os.write(self._out, data) :]

    # -- keys -------------------------------------------------------------------------------------

    def key(self, seconds: float) -> str | None:
        """The next key, as a letter or a name in KEYS; None if there is none in that time, or the
        size has changed. Raises EOFError when the terminal is gone."""
        if not self._typed:
            ready, _, _ = select.select([self._in, self._woken], [], [], max(0.0, seconds))
            if self._woken in ready:
                os.read(self._woken, 1 << 10)
            if self._in in ready:
                self._typed += self._read()
        return self._next_key()

    def _read(self) -> str:
        data = os.read(self._in, 1 << 10)
        if not data:
            raise EOFError
        return data.decode("utf-8", "replace")

    def _next_key(self) -> str | None:
        if not self._typed:
            return None
        key = _KEY.match(self._typed)
        assert key is not None
        self._typed = self._typed[key.end() :]
        if key[0] == "\x1b":
            return "escape"
        return KEYS.get(key[0]) if key[0][0] == "\x1b" else key[0]
