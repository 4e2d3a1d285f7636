"""What a function is mapped over: the arguments of the command line, and the lines of stdin.

    INPUT ... ──┐
                ├──> reader thread ──slots──> events
    stdin ──────┘

The reader has a thread of its own, so that results are written while stdin is quiet, and takes a
slot for each input, so that an endless stdin is read no faster than results are taken.
"""

from __future__ import annotations

import json
import os
import queue
import select
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from unirun.cli.status import WrongUse

__all__ = ["STDIN", "End", "Input", "Reader", "lines"]

STDIN = "-"
_READ_SIZE = 1 << 16


@dataclass(frozen=True, slots=True)
class Input:
    """One input: how reports show it, and the call it makes, or the reason why it makes none."""

    index: int
    shown: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class End:
    """There are no more inputs; `error` tells if that is because they cannot be read."""

    error: Exception | None = None


class Reader:
    """Puts an Input for each text into `events`, then an End.

    Args:
        texts: the inputs; "-" stands for the lines of `stdin`.
        stdin: the descriptor to read, owned by the caller.
        is_json: a text is a JSON value: a list of arguments, a dict of keywords, or one argument.
        slots: how many inputs are ahead of `release()` at most.
    """

    def __init__(
        self, texts: Sequence[str], stdin: int | None, *, is_json: bool, slots: int
    ) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._texts = texts
        self._stdin = stdin
        self._is_json = is_json
        self._slots = threading.Semaphore(slots)
        self._stopped = False
        self._stop, self._stopper = os.pipe()  # ours; closed by `stop`, when the thread has ended
        self._thread = threading.Thread(target=self._run, name="unirun-inputs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def release(self) -> None:
        """One input is done with."""
        self._slots.release()

    def stop(self) -> None:
        """Read no more; returns when the thread has ended."""
        self._stopped = True
        self._slots.release()
        os.write(self._stopper, b"\0")
        self._thread.join()
        os.close(self._stop)
        os.close(self._stopper)

    def _run(self) -> None:
        try:
            for index, text in enumerate(self._all_texts()):
                self._slots.acquire()
                if self._stopped:
                    return
                self.events.put(self._input(index, text))
        except OSError as exc:
            error = WrongUse(f"standard input cannot be read: {exc.strerror}")
            self.events.put(End(error))
        else:
            self.events.put(End())

    def _all_texts(self) -> Iterator[str]:
        for text in self._texts:
            if text != STDIN:
                yield text
                continue
            assert self._stdin is not None
            for line in lines(self._stdin, self._stop):
                # Whatever bytes a file name has, the function can have them back: os.fsencode.
                decoded = line.removesuffix(b"\r").decode("utf-8", "surrogateescape")
                if decoded.strip() or not self._is_json:
                    yield decoded

    def _input(self, index: int, text: str) -> Input:
        if not self._is_json:
            return Input(index, text, (text,))
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as exc:
            return Input(index, text, error=ValueError(f"cannot read the input as JSON: {exc}"))
        if isinstance(value, dict):
            return Input(index, value, (), value)
        return Input(index, value, tuple(value) if isinstance(value, list) else (value,))


def _refuse(constant: str) -> Any:
    """Python reads NaN and Infinity, which JSON does not have; nor could a report show them."""
    raise ValueError(f"{constant} is not JSON")


def lines(fd: int, stop: int) -> Iterator[bytes]:
    """The lines of `fd` as they come, without their ends; until `stop` becomes readable."""
    buffer = bytearray()
    while True:
        # Not a plain read: a thread that is blocked in one could not be ended.
        if stop in select.select([fd, stop], [], [])[0]:
            return
        data = os.read(fd, _READ_SIZE)
        if not data:
            break
        seen = len(buffer)
        buffer += data
        end = buffer.rfind(b"\n", seen)
        if end >= 0:
            whole = bytes(buffer[:end])
            del buffer[: end + 1]
            yield from whole.split(b"\n")
    if buffer:
        yield bytes(buffer)
