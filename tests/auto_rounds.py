"""Calls of `kind="auto"`, again and again, until what has to happen some time has happened."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unirun import _profile

WITHIN = 30.0  # seconds that what has to happen some time may take on a busy machine


def rounds(executor: Any, fn: Callable[..., Any], *args: Any) -> Iterator[list[Any]]:
    """The results of eight calls at a time, again and again, for as long as a test may wait."""
    end = time.monotonic() + WITHIN
    while time.monotonic() < end:
        futures = [executor.submit(fn, *args) for _ in range(8)]
        yield [future.result(WITHIN) for future in futures]
    pytest.fail(f"nothing came of it: {_profile.figures(fn)}")


def until_inline(executor: Any, fn: Callable[..., Any]) -> None:
    """Until such calls are run at once, in the caller."""
    for _ in rounds(executor, fn, 5):
        if executor.submit(fn, 5).info.backend == "inline":
            return
