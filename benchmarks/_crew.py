"""Who shares objects between processes: ours, a manager's proxies, multiprocessing's own.

Each is a source of objects, by the names of `threading` and `queue`, and two worker processes that
use them. A run that takes too long, or fails, ends with all its processes.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks._sharing import PATIENCE, inherit, run

WORKERS = 2

Part = Callable[[tuple[Any, ...], int], int]
"""What one worker does: of the objects and the number of rounds; returns a proof."""
Build = Callable[[Any, str], tuple[Any, ...]]
"""Makes the objects of a workload from a source and a directory for files."""


class Crew:
    """Two workers and the objects they share, which are kept alive here."""

    def __init__(self, pool: Any, objects: tuple[Any, ...], travel: bool, directory: str) -> None:
        self.pool = pool
        self.objects = objects
        self.travel = travel
        self.directory = directory

    def run(self, parts: Sequence[Part], count: int, busy: bool) -> tuple[float, list[int]]:
        """Seconds from the first beginning to the last end, and what each part returned."""
        objects = self.objects if self.travel else None
        seats = range(len(parts)) if len(parts) > 1 else (None,)
        futures = [
            self.pool.submit(run, part, objects, self.directory, seat, count)
            for part, seat in zip(parts, seats, strict=True)
        ]
        (_burn if busy else _idle)(futures)
        found = [future.result() for future in futures if future.done()]  # raises what one raised
        if len(found) < len(futures):
            raise TimeoutError(f"{count} rounds did not end within {PATIENCE:g} s")
        starts, ends, told = zip(*found, strict=True)
        return max(ends) - min(starts), list(told)


def _idle(futures: list[Future[Any]]) -> None:
    """Wait until all are done or one has failed: the other may wait for it for ever."""
    wait(futures, PATIENCE, FIRST_EXCEPTION)


def _burn(futures: list[Future[Any]]) -> None:
    """Keep this thread in Python's own loop: no other of this process runs but by its leave."""
    end, total = time.monotonic() + PATIENCE, 0
    while not _are_settled(futures) and time.monotonic() < end:
        for n in range(10_000):  # less than a millisecond
            total += n


def _are_settled(futures: list[Future[Any]]) -> bool:
    done = [future for future in futures if future.done()]
    return len(done) == len(futures) or any(future.exception() for future in done)


@contextmanager
def open_crew(name: str, build: Build) -> Iterator[Crew]:
    """The contender called `name`, with the objects that `build` makes."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        for seat in range(WORKERS):
            os.mkfifo(f"{directory}/{seat}")
            # Held open, for reading too, so that what is in it stays in it.
            stack.callback(os.close, os.open(f"{directory}/{seat}", os.O_RDWR))
        source = stack.enter_context(open_source(name))
        objects = build(source, directory)
        pool = source if name == "unirun" else stack.enter_context(_peer_pool(name, objects))
        yield Crew(pool, objects, name != "mp", directory)


@contextmanager
def open_source(name: str) -> Iterator[Any]:
    """What has `Lock()`, `Queue()` and so on."""
    if name == "unirun":
        with our_executor("process") as executor:
            yield executor
    elif name == "manager":
        with multiprocessing.get_context("fork").Manager() as manager:
            yield manager
    else:
        yield multiprocessing.get_context("fork")


def new(source: Any, kind: str, *args: Any) -> Any:
    """A new object of that source: all of them use the names of `threading` and `queue`."""
    return getattr(source, kind)(*args)


@contextmanager
def our_executor(backend: str) -> Iterator[Any]:
    import unirun

    executor = unirun.Executor(max_workers=WORKERS, backend=backend)
    try:
        yield executor
    except BaseException:
        executor.shutdown(kill=True)
        raise
    executor.shutdown()


@contextmanager
def _peer_pool(name: str, objects: tuple[Any, ...]) -> Iterator[ProcessPoolExecutor]:
    """Workers that are forked at the first call; multiprocessing's own objects go with the fork."""
    given = (objects,) if name == "mp" else ((),)
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(WORKERS, context, initializer=inherit, initargs=given)
    try:
        yield pool
    except BaseException:
        for child in multiprocessing.active_children():  # the manager too: it is of no use now
            child.kill()
        raise
    finally:
        pool.shutdown()
