"""Peers that are no `concurrent.futures.Executor`, behind the methods of `_peers.Pool`.

An adapter adds no call of its own per task: the loops that are timed use the pool's own methods.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

Function = Callable[..., Any]


class Absent(Exception):
    """What was to be measured does not exist here; the text says what."""


abandoned: list[Pool] = []
"""Pools that broke, and were left as they were."""


class Pool:
    """An executor of the standard library's shape: ours, its own, loky."""

    can_kill = False
    """Whether `kill` ends the body of a call that runs."""
    has_futures = True
    """Whether a call can be submitted without waiting for it."""
    ends_after_a_crash = True
    """Whether `close` returns though a worker has died."""

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

    def outcome(self, begun: Any, seconds: float) -> Any:
        """Of what `begin` returned; TimeoutError where there is none so soon."""
        return begun.result(seconds)

    def kill(self, future: Any) -> None:
        raise Absent("it cannot end a call that runs")

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return list(self.raw.map(fn, items))

    def close(self) -> None:
        self.raw.shutdown(wait=True)

    def leave(self) -> None:
        """It is broken: make an end of it, as far as that ends itself."""
        self.close()  # else the next one would be forked among the threads of this one


class Ours(Pool):
    can_kill = True

    def kill(self, future: Any) -> None:
        future.kill()

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return list(self.raw.map(fn, items, chunksize="auto"))


class Chunked(Pool):
    """ProcessPoolExecutor by somebody who knows that its own chunk size, one, is slow."""

    def __init__(self, raw: Any, workers: int) -> None:
        super().__init__(raw)
        self.workers = workers

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        size = math.ceil(len(items) / (4 * self.workers))  # as multiprocessing.Pool does
        return list(self.raw.map(fn, items, chunksize=size))


class MultiprocessingPool(Pool):
    ends_after_a_crash = False

    def gather(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        apply_async = self.raw.apply_async
        results = [apply_async(fn, (item,)) for item in items]
        return [result.get() for result in results]

    def call(self, fn: Function, *args: Any) -> Any:
        return self.raw.apply_async(fn, args).get()

    def begin(self, fn: Function, *args: Any) -> Any:
        return self.raw.apply_async(fn, args)

    def outcome(self, begun: Any, seconds: float) -> Any:
        try:
            return begun.get(seconds)
        except multiprocessing.TimeoutError as exc:  # no TimeoutError of Python's own
            raise TimeoutError from exc

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        found: list[Any] = self.raw.map(fn, items)
        return found

    def close(self) -> None:
        self.raw.close()
        self.raw.join()

    def leave(self) -> None:
        """Waits for nobody: what waits for a worker that has died never ends."""


class MpirePool(MultiprocessingPool):
    def close(self) -> None:
        self.raw.stop_and_join()


class PebblePool(Pool):
    can_kill = True

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

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return list(self.raw.map(fn, items).result())

    def close(self) -> None:
        self.raw.close()
        self.raw.join()


class JoblibPool(Pool):
    """`joblib.Parallel`, which is given all calls at once and bundles them as it sees fit."""

    has_futures = False

    def __init__(self, raw: Any) -> None:
        from joblib import delayed

        super().__init__(raw)
        self.delayed = delayed

    def gather(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        call = self.delayed(fn)
        found: list[Any] = self.raw(call(item) for item in items)
        return found

    map = gather

    def call(self, fn: Function, *args: Any) -> Any:
        return self.raw([self.delayed(fn)(*args)])[0]

    def begin(self, fn: Function, *args: Any) -> Any:
        raise Absent("joblib returns when all calls have ended")

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        self.raw.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True)


class DaskPool(Pool):
    """A client of a cluster of processes on this machine, without its web pages."""

    def gather(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        submit = self.raw.submit
        # Not pure: it would compute equal calls once.
        futures = [submit(fn, item, pure=False) for item in items]
        found: list[Any] = self.raw.gather(futures)
        return found

    def call(self, fn: Function, *args: Any) -> Any:
        return self.raw.submit(fn, *args, pure=False).result()

    def begin(self, fn: Function, *args: Any) -> Any:
        return self.raw.submit(fn, *args, pure=False)

    def outcome(self, begun: Any, seconds: float) -> Any:
        return begun.result(timeout=seconds)

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        futures = self.raw.map(fn, items, pure=False, batch_size=1000)
        found: list[Any] = self.raw.gather(futures)
        return found

    def close(self) -> None:
        self.raw.close()
        self.raw.cluster.close()


class RayPool(Pool):
    """Remote functions of a cluster on this machine; `raw` is the module."""

    can_kill = True

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self.known: dict[Function, Any] = {}

    def remote(self, fn: Function) -> Any:
        # No retries: a call that has killed its worker is not to do so again.
        return self.known.setdefault(fn, self.raw.remote(max_retries=0)(fn)).remote

    def gather(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        remote = self.remote(fn)
        found: list[Any] = self.raw.get([remote(item) for item in items])
        return found

    map = gather

    def call(self, fn: Function, *args: Any) -> Any:
        return self.raw.get(self.remote(fn)(*args))

    def begin(self, fn: Function, *args: Any) -> Any:
        return self.remote(fn)(*args)

    def outcome(self, begun: Any, seconds: float) -> Any:
        return self.raw.get(begun, timeout=seconds)

    def kill(self, future: Any) -> None:
        self.raw.cancel(future, force=True)

    def close(self) -> None:
        self.raw.shutdown()
