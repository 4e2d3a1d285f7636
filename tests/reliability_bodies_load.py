"""What the calls of tests/reliability/test_{leaks,load,figures}.py do; workers import this."""

from __future__ import annotations

import gc
import os
import time
from typing import Any


def double(number: int) -> int:
    return 2 * number


def fail(number: int) -> None:
    raise ValueError(number)


def pid(number: int = 0) -> int:
    return os.getpid()


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def leave_a_cycle(size: int) -> None:
    """Two objects, as the collector counts, and as many bytes as are wanted."""
    cycle: list[Any] = [bytearray(b"x") * size]
    cycle.append(cycle)


def private_bytes() -> int:
    """Of this process; what it has in common with others does not count."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - a worker need not import pathlib
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def functions_known() -> tuple[int, int]:
    """How many functions this worker knows, and of how many it knows that they are short."""
    found = [each for each in gc.get_objects() if type(each).__name__ == "Worker"]
    [worker] = [each for each in found if hasattr(each, "_functions")]
    return len(worker._functions), len(worker._short)


def meet(barrier: Any) -> int:
    barrier.wait(30)
    return os.getpid()


class Slow:
    """Takes its time to be pickled, and back."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> Any:
        time.sleep(self.seconds)
        return Slow, (self.seconds,)


def double_or_hang(number: int) -> int:
    """Known to be short, so that others are sent along with one that is not."""
    if number < 0:
        time.sleep(60)
    return 2 * number
