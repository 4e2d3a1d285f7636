"""What the test files about timers share: executors of every kind, and what threads report."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from unirun import Executor

LATER = 3600.0  # seconds that no test waits for


@pytest.fixture(params=["inline", "thread", "process", "by kind"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    backend = None if request.param == "by kind" else request.param
    with Executor(2, backend=backend) as executor:
        yield executor


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `threading.excepthook` is told."""
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    return told


@pytest.fixture
def threads() -> Iterator[Executor]:
    with Executor(2, backend="thread") as executor:
        yield executor


def put(queue: Any, *args: Any, **kwargs: Any) -> int:
    queue.put((args, kwargs))
    return os.getpid()
