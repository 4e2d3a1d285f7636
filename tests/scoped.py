"""What the tests of scopes run in them, and the executors they run it on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import unirun
from unirun import Executor

PATIENCE = 20
BACKENDS = ("thread", "process", "inline")


@contextmanager
def one_of_each() -> Iterator[dict[str, Executor]]:
    """For tests that kill nothing; with all the threads and processes they will have."""
    with (
        Executor(4, backend="thread") as thread,
        Executor(1, backend="process") as process,
        Executor(backend="inline", strict=False) as inline,
    ):
        for made in (thread, process):
            with made.scope() as scope:
                futures = [scope.submit(nap) for _ in range(4)]
                futures[0].add_done_callback(lambda _: None)
                scope.options(retries=1, limit=1).submit(double, 1)
                scope.options(retries=1, limit=1).submit(double, 1)
        thread.options(timeout=PATIENCE).submit(double, 1).result(PATIENCE)
        yield {"thread": thread, "process": process, "inline": inline}


def nap() -> None:
    time.sleep(0.05)


def double(x: int) -> int:
    return 2 * x


def fail(text: str) -> None:
    raise ValueError(text)


def wait_long() -> str:
    """Until it is killed, or sees that it is not wanted."""
    task = unirun.current_task()
    assert task is not None
    task.sleep(PATIENCE)
    return "too late"
