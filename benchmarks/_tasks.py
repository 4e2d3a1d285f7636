"""The functions that calls run; every worker imports them, so this file imports next to nothing."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def nothing(n: int) -> int:
    return n


def pid_after(seconds: float) -> int:
    """Long enough, each worker of a pool gets one of them."""
    time.sleep(seconds)
    return os.getpid()


def modules() -> int:
    """How many this process has imported."""
    import sys

    return len(sys.modules)


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def burn(seconds: float) -> float:
    """Use so much processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def ends(data: Any) -> tuple[int, int, int]:
    """What proves that a payload arrived; reading all of it would measure the memory."""
    return len(data), int(data[0]), int(data[-1])


def echo(data: Any) -> Any:
    return data


def block(fifo: str) -> None:
    """Say that the call runs, then run until killed."""
    fd = os.open(fifo, os.O_WRONLY)
    os.write(fd, b".")
    os.close(fd)
    time.sleep(120)


def die(fifo: str) -> None:
    """Say that the call runs, then end as a segmentation fault or a lack of memory does."""
    fd = os.open(fifo, os.O_WRONLY)
    os.write(fd, b".")
    os.close(fd)
    os.kill(os.getpid(), 9)


def digest(path: str) -> tuple[int, int]:
    """Real work on one file: parse it, compress it."""
    import ast
    import zlib

    with open(path, "rb") as file:  # noqa: PTH123 - a worker need not import pathlib
        source = file.read()
    return len(ast.parse(source).body), len(zlib.compress(source))
