"""A terminal for tests: a real one (a pty), and what would be seen on its screen."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import threading
import time
from collections.abc import Callable
from typing import Any, Self

PATIENCE = 20.0  # seconds

_CUT = re.compile(rb"(\x1b(\[[?\d;]*)?|[\xc0-\xff][\x80-\xbf]*)$")  # perhaps not all of it
_SEQUENCE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")


class Screen:
    """Of those escape sequences that are used here, and of the characters between them."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.height = columns, lines
        self.rows: list[list[str]] = [[]]
        self.top = self.row = self.column = 0
        self.alternate = False
        self.cursor = True

    def feed(self, text: str) -> None:
        while text:
            if match := _SEQUENCE.match(text):
                self._obey(match[1], match[2], match[3])
                text = text[match.end() :]
                continue
            self._put(text[0])
            text = text[1:]

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._down(1)
        elif character == "\x1b":
            raise AssertionError("a sequence that this screen does not know")
        else:
            wide = 2 if len(character.encode()) == 3 and character > "\u2e80" else 1
            if self.column + wide > self.columns:
                self._down(1)
                self.column = 0
            row = self.rows[self.row]
            row += " " * (self.column + wide - len(row))
            row[self.column : self.column + wide] = [character] + [""] * (wide - 1)
            self.column += wide

    def _down(self, count: int) -> None:
        self.row += count
        while len(self.rows) <= self.row:
            self.rows.append([])

    def _obey(self, private: str, numbers: str, letter: str) -> None:
        number = int(numbers.split(";")[0]) if numbers.split(";")[0] else 0
        if private:
            if number == 25:
                self.cursor = letter == "h"
            elif number == 1049:
                self.alternate = letter == "h"
                self.rows, self.row, self.column = [[]], 0, 0
        elif letter == "A":
            self.row = max(0, self.row - max(1, number))
        elif letter == "B":
            self._down(max(1, number))
        elif letter == "H":
            self.row = self.column = 0
        elif letter == "K":
            row = self.rows[self.row]
            del row[0 if number == 2 else self.column :]
        elif letter == "J":
            del self.rows[self.row][self.column :]
            del self.rows[self.row + 1 :]
        else:
            assert letter == "m", letter

    @property
    def shown(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.rows]


class Terminal:
    """Both ends of a pty; what is written there is read all the time."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self._master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.text = ""
        self._screen = Screen(columns, lines)
        self._changed = threading.Condition()
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if hasattr(self, "_screen"):
            self._screen.columns, self._screen.height = columns, lines

    def _read(self) -> None:
        rest = b""
        while True:
            ready, _, _ = select.select([self._master, self._stop], [], [])
            if self._master in ready:
                try:
                    data = rest + os.read(self._master, 1 << 16)
                except OSError:  # how Linux says that nobody has the other end
                    return
                cut = _CUT.search(data)
                whole = len(data) if cut is None else cut.start()
                text = data[:whole].decode()
                rest = data[whole:]
                with self._changed:
                    self.text += text
                    self._screen.feed(text)
                    self._changed.notify_all()
            elif self._stop in ready:
                return

    def stream(self) -> Any:
        """A text stream that writes there; whoever has it closes it."""
        return os.fdopen(os.dup(self.slave), "w", encoding="utf-8", buffering=1)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    @property
    def shown(self) -> list[str]:
        with self._changed:
            return self._screen.shown

    @property
    def screen(self) -> Screen:
        return self._screen

    def until(self, seen: str | Callable[[], bool]) -> list[str]:
        """Wait for that text on the screen, or for that to be true; what is shown then."""
        end = time.monotonic() + PATIENCE
        found = seen if callable(seen) else lambda: any(seen in row for row in self._screen.shown)
        with self._changed:
            while not found():
                left = end - time.monotonic()
                shown = "\n".join(self._screen.shown)
                assert left > 0, (
                    f"{seen!r} did not come; there is:\n{shown}\nof {self.text[-500:]!r}"
                )
                self._changed.wait(min(left, 0.1))
            return self._screen.shown

    def drained(self) -> list[str]:
        """What is shown once all that was written so far has arrived."""
        mark = "\x1b[4242m"  # which no terminal obeys
        os.write(self.slave, mark.encode())
        with self._changed:
            assert self._changed.wait_for(lambda: mark in self.text, PATIENCE)
            self.text = self.text.replace(mark, "")
            return self._screen.shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.write(self._stopped, b".")
        self._thread.join()
        for fd in (self._master, self.slave, self._stop, self._stopped):
            os.close(fd)
