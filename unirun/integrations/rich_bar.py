"""Progress of maps as bars of rich: all that are open in one live display, a line for each."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from unirun import _reports
from unirun._line import told
from unirun._terminal import clean, size_of

__all__ = ["make"]

PAUSE = 0.1
"""Seconds between two drawings."""


def make(label: str, in_notebook: bool) -> RichBar:
    """A bar that has not begun; rich sees by itself whether it is in a notebook."""
    return RichBar(label)


class _Display:
    """What is drawn while any bar is open: a program can have one such display at a time."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=_one_line()),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[running]}", markup=False, table_column=_one_line()),
            console=Console(stderr=True),
            auto_refresh=False,  # a thread of its own could be in the middle of that at a fork
        )
        self.order: list[TaskID] = []

    def refresh(self) -> None:
        """As wide as the terminal is now: rich asks standard input first, which may be another."""
        console = self.progress.console
        if console.is_terminal and not console.is_jupyter:
            console.size = ConsoleDimensions(*size_of(sys.stderr))
        self.progress.refresh()


def _one_line() -> Column:
    return Column(no_wrap=True, overflow="ellipsis")


# Guards _display, and the order in it. Nothing is drawn while it is held.
_lock = threading.Lock()
_display: _Display | None = None


class RichBar:
    """The bar that began first stays to be seen; one of a map inside of that does not."""

    def __init__(self, label: str) -> None:
        self._label = clean(label)
        self._next = 0.0
        self._display: _Display | None = None
        self._task = TaskID(0)

    def start(self, total: int | None) -> None:
        global _display
        with _lock:
            if _display is None:
                _display = _Display()
            self._display = display = _display
            self._task = display.progress.add_task(self._label, total=total, running="")
            display.order.append(self._task)
        display.refresh()
        display.progress.start()
        display.refresh()

    def update(self, done: int, running: Sequence[_reports.Progress] = ()) -> None:
        assert self._display is not None
        progress, now = self._display.progress, time.monotonic()
        parts = sum(each.fraction or 0.0 for each in running)
        progress.update(self._task, completed=done + parts, running=told(running))
        if now >= self._next:
            self._next = now + PAUSE
            self._display.refresh()

    def close(self) -> None:
        global _display
        with _lock:
            display, self._display = self._display, None
            if display is None:
                return
            is_first = display.order[:1] == [self._task]
            display.order.remove(self._task)
            is_last = not display.order
            if is_last and _display is display:
                _display = None
        progress = display.progress
        progress.update(self._task, running="")
        if is_last:
            display.refresh()
            progress.stop()
            return
        if is_first:
            progress.print(progress.make_tasks_table([_task(progress, self._task)]))
        progress.remove_task(self._task)
        display.refresh()


def _task(progress: Progress, number: TaskID) -> Any:
    return next(each for each in progress.tasks if each.id == number)


def _forget_in_forked_child() -> None:
    """The display is the parent's."""
    global _lock, _display
    _lock, _display = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
