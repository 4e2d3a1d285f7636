"""What the tests of activities have in common: targets, and how they are waited for."""

import os
import threading
import time
from typing import Any

import psutil
import pytest
from parties import PATIENCE

from unirun import Activity

KINDS = ("io", "isolated")  # a thread, a process

by_kind = pytest.mark.parametrize("kind", KINDS)


def ended(activity: Any) -> Any:
    activity.join(PATIENCE)
    assert not activity.is_alive()
    return activity


def run_to_end(activity: Any) -> Any:
    activity.start()
    return ended(activity)


def is_gone(pid: int) -> bool:
    """Whether that process ends soon."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def put(queue: Any, *args: Any, **kwargs: Any) -> None:
    queue.put((os.getpid(), args, kwargs))


def hang(begun: Any = None) -> None:
    if begun is not None:
        begun.set()
    threading.Event().wait()


def fail(text: str = "egg") -> None:
    raise LookupError(text)


def begin_and_wait(begun: Any, leave: Any) -> None:
    begun.set()
    assert leave.wait(PATIENCE)


class Counter(Activity):
    """Counts what comes, until None does."""

    def __init__(self, numbers: Any, totals: Any, **options: Any) -> None:
        super().__init__(**options)
        self.numbers = numbers
        self.totals = totals
        self.total = 0

    def run(self) -> None:
        while (number := self.numbers.get()) is not None:
            self.total += number
        self.totals.put(self.total)
