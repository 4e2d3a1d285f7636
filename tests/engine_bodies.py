"""Functions that tell things while they run on an engine; its workers import them."""

import logging
import os
import sys
import time
import warnings
from contextvars import ContextVar
from typing import Any

import unirun

colour: ContextVar[str] = ContextVar("colour", default="none")


def facts() -> dict[str, Any]:
    task = unirun.current_task()
    assert task is not None
    names = ("name", "id", "attempt", "kind", "backend", "worker", "deadline", "seed", "parent")
    told = {name: getattr(task, name) for name in names}
    return {**told, "pid": os.getpid(), "random": task.random.random(), "colour": colour.get()}


def paint() -> str:
    colour.set("black")
    return colour.get()


def second_time(path: str) -> int:
    task = unirun.current_task()
    assert task is not None
    if task.attempt == 1:
        raise OSError("the first time")
    return task.attempt


def log(level: int, text: str) -> None:
    logging.getLogger("seen.here").log(level, text)


def warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=1)


def say(lines: int) -> int:
    for number in range(lines):
        sys.stdout.write(f"line {number}\n")
    sys.stderr.write("an aside\n")
    return lines


def halfway(gate: tuple[str, int]) -> None:
    from dask_bodies import attempt_at

    task = unirun.current_task()
    assert task is not None
    task.report(1, 2, "half")
    attempt_at(gate, os.devnull)
    task.report(2, 2, "whole")


def both() -> tuple[dict[str, Any], dict[str, Any]]:
    """What this call knows of itself, and what one knows that it submits."""
    return facts(), unirun.submit(facts).result(30)


def both_by(executor: unirun.Executor) -> tuple[dict[str, Any], dict[str, Any]]:
    return facts(), executor.submit(facts).result(30)


def report(done: int, total: int) -> None:
    task = unirun.current_task()
    assert task is not None
    task.report(done, total)


def fail(number: int, of: str = "") -> None:
    raise ValueError(f"{number} of {of}")


def until_cancelled() -> str:
    task = unirun.current_task()
    assert task is not None
    end = time.monotonic() + 30
    while not task.cancelled and time.monotonic() < end:
        time.sleep(0.01)
    return "cancelled" if task.cancelled else "not"


def busy(seconds: float) -> int:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return os.getpid()
