"""Progress of a map as a bar of tqdm: on a terminal, or a widget of a notebook."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from tqdm.std import tqdm

from unirun._line import told
from unirun._reports import Progress

__all__ = ["make"]

PAUSE = 0.1
"""Seconds between two drawings."""


def make(label: str, in_notebook: bool) -> TqdmBar:
    """A bar that has not begun."""
    if in_notebook and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm_notebook

        return TqdmBar(_without_thread(tqdm_notebook), label)
    return TqdmBar(_without_thread(tqdm), label)


def _without_thread(kind: Any) -> Any:
    """That kind of bar, among those of the program, but without the thread and the semaphore of
    multiprocessing that tqdm makes for all its bars, unless the program has made them."""
    made: Any = type("tqdm", (kind,), {"monitor_interval": 0})
    if not hasattr(tqdm, "_lock"):
        made.set_lock(_lock)
    return made


_lock = threading.RLock()


class TqdmBar:
    """tqdm gives each bar that is open a line of its own, and keeps the outermost."""

    def __init__(self, kind: Any, label: str) -> None:
        self._kind = kind
        self._label = label
        self._bar: Any = None
        self._shown = ""
        self._next = 0.0

    def start(self, total: int | None) -> None:
        with self._kind.get_lock():
            self._bar = self._kind(
                total=total,
                desc=self._label or None,
                file=sys.stderr,
                leave=None,
                dynamic_ncols=True,
                mininterval=PAUSE,
            )

    def update(self, done: int, running: Sequence[Progress] = ()) -> None:
        bar, text, now = self._bar, told(running), time.monotonic()
        with self._kind.get_lock():
            if now < self._next:
                bar.update(done - bar.n)
                return
            self._next = now + PAUSE
            if text != self._shown:
                self._shown = text
                bar.set_postfix_str(text, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

    def clear(self) -> None:
        """Leave the line to somebody else until the next update."""
        self._bar.clear()

    def close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            with self._kind.get_lock():  # tqdm looks at its line before it takes it
                bar.set_postfix_str("", refresh=False)
                others = [each for each in self._kind._instances if each is not bar]
                if others and not bar.pos and not bar.gui:
                    self._close_first(bar, others)
                else:
                    bar.close()

    def _close_first(self, bar: Any, others: list[Any]) -> None:
        """Write it above those that go on, and move these up; tqdm would leave them in between."""
        text, bar.leave = str(bar), False
        bar.close()
        for each in sorted(others, key=lambda each: getattr(each, "pos", 0)):
            if getattr(each, "pos", 0) > 0:
                each.clear(nolock=True)
                each.pos -= 1
        self._kind.write(text, file=sys.stderr)


def _forget_lock_in_forked_child() -> None:
    """Another thread of the parent may hold it."""
    _lock._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock_in_forked_child)
