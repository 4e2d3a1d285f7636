"""The contenders: each pool behind the same few methods, each opened by its name.

An adapter adds no call of its own per task: the loops that are timed use the pool's own methods.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from benchmarks._tasks import pid_after

OURS = ("unirun", "unirun-thread")
PROCESS_POOLS = ("ppe-fork", "ppe-spawn", "ppe-forkserver", "mp-pool", "loky", "pebble")
SHARERS = ("manager", "mp", "stdlib")
"""Not pools: multiprocessing.Manager(), its own objects, and those of threading and queue."""
IN_LOOPS = ("wrap_future", "wrap_future-thread", "asyncio")
"""What asyncio itself does: with our futures, and with coroutines."""
PEERS = (*PROCESS_POOLS, "tpe", "bare-fork", *SHARERS, *IN_LOOPS)
PACKAGES = {"loky": "loky", "pebble": "pebble"}

Function = Callable[..., Any]


class Absent(Exception):
    """What was to be measured does not exist here; the text says what."""


class Pool:
    """An executor of the standard library's shape: ours, its own, loky."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def gather(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        """Submit one by one, then take each result."""
        submit = self.raw.submit
        futures = [submit(fn, item) for item in items]
        return [future.result() for future in futures]

    def call(self, fn: Function, *args: Any) -> Any:
        return self.raw.submit(fn, *args).result()

    def begin(self, fn: Function, *args: Any) -> Any:
        return self.raw.submit(fn, *args)

    def kill(self, future: Any) -> None:
        future.kill()

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return list(self.raw.map(fn, items))

    def close(self) -> None:
        self.raw.shutdown(wait=True)


class Ours(Pool):
    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return list(self.raw.map(fn, items, chunksize="auto"))


class MultiprocessingPool(Pool):
    def gather(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        apply_async = self.raw.apply_async
        results = [apply_async(fn, (item,)) for item in items]
        return [result.get() for result in results]

    def call(self, fn: Function, *args: Any) -> Any:
        return self.raw.apply_async(fn, args).get()

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        found: list[Any] = self.raw.map(fn, items)
        return found

    def close(self) -> None:
        self.raw.close()
        self.raw.join()


class PebblePool(Pool):
    def gather(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        schedule = self.raw.schedule
        futures = [schedule(fn, args=(item,)) for item in items]
        return [future.result() for future in futures]

    def call(self, fn: Function, *args: Any) -> Any:
        return self.raw.schedule(fn, args=args).result()

    def begin(self, fn: Function, *args: Any) -> Any:
        return self.raw.schedule(fn, args=args)

    def kill(self, future: Any) -> None:
        future.cancel()

    def close(self) -> None:
        self.raw.close()
        self.raw.join()


def is_installed(name: str) -> bool:
    return name not in PACKAGES or find_spec(PACKAGES[name]) is not None


@contextmanager
def open_pool(name: str, workers: int) -> Iterator[Pool]:
    """The contender called `name`, with all its workers up."""
    pool = _make(name, workers)
    try:
        pool.gather(pid_after, [0.02] * 2 * workers)
        yield pool
    finally:
        pool.close()


def _make(name: str, workers: int) -> Pool:
    if name in OURS:
        return Ours(_our_executor(name, workers))
    if name == "mp-pool":
        return MultiprocessingPool(multiprocessing.get_context("fork").Pool(workers))
    if name == "pebble":
        import pebble

        return PebblePool(pebble.ProcessPool(max_workers=workers))
    return Pool(_executor(name, workers))


def _executor(name: str, workers: int) -> Any:
    if name == "loky":
        import loky

        return loky.ProcessPoolExecutor(workers)
    import concurrent.futures

    if name == "tpe":
        return concurrent.futures.ThreadPoolExecutor(workers)
    method = multiprocessing.get_context(name.removeprefix("ppe-"))
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=method)


def _our_executor(name: str, workers: int) -> Any:
    import unirun

    return unirun.Executor(workers, backend="thread" if name == "unirun-thread" else "process")
