"""stdin and stdout as the command line needs them: free of what functions print and read.

While a function may run, descriptor 1 leads to stderr and descriptor 0 to nowhere, in the worker
processes too; only we hold what they were.  So stdout has nothing but our lines, and no function,
nor a program it starts, swallows the inputs.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from unirun.cli.status import WrongUse

__all__ = ["private_stdin", "private_stdout", "write"]


@contextmanager
def private_stdout() -> Iterator[int]:
    """A descriptor for what stdout is; until the end, prints go to stderr."""
    if sys.__stdout__ is None:
        raise WrongUse("standard output is closed; open it, or send it to /dev/null")
    sys.stdout.flush()
    if sys.__stderr__ is None:
        _silence(2)
    ours = _duplicate(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield ours
    finally:
        os.dup2(ours, 1)
        os.close(ours)


@contextmanager
def private_stdin() -> Iterator[int]:
    """A descriptor for what stdin is; until the end, who reads stdin finds it empty."""
    if sys.__stdin__ is None:
        raise WrongUse("standard input is closed, so '-' has nothing to read")
    ours = _duplicate(0)
    try:
        _silence(0)
        yield ours
    finally:
        os.dup2(ours, 0)
        os.close(ours)


def _duplicate(fd: int) -> int:
    """Never 0, 1 or 2, also where one of these is closed: they have their meaning."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _silence(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != fd:
        os.dup2(null, fd)
        os.close(null)


def write(fd: int, data: bytes) -> None:
    """All of `data`; BrokenPipeError if nobody reads it, WrongUse if it cannot be written."""
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise WrongUse(f"the output cannot be written: {exc.strerror}") from exc
