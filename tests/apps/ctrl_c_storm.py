"""A program that is hit by Ctrl-C again and again, catches each, and goes on.

Its arguments: what it does meanwhile ("all": this and that), backend, how many times.  Exit status
0 if every Ctrl-C was noticed once, every call that it knows of has ended rightly, and the executor
still works.
"""

import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, as_completed
from typing import Any

from interrupted import PATIENCE, Storm

import unirun

WAYS: dict[str, Callable[..., None]] = {}
Futures = list[tuple[int, Any]]


def way(function: Callable[..., None]) -> Callable[..., None]:
    WAYS[function.__name__] = function
    return function


def double(x: int) -> int:
    return 2 * x


def submit(executor: Any, futures: Futures) -> Any:
    number = len(futures)
    future = executor.submit(double, number)
    futures.append((number, future))
    return future


@way
def result(executor: Any, futures: Futures) -> None:
    submit(executor, futures).result()


@way
def only_submit(executor: Any, futures: Futures) -> None:
    if len(futures) % 50:
        submit(executor, futures)
    else:
        submit(executor, futures).result()  # lest there be more than can be done


@way
def wait(executor: Any, futures: Futures) -> None:
    unirun.wait([submit(executor, futures) for _ in range(3)], return_when=FIRST_COMPLETED)


@way
def completed(executor: Any, futures: Futures) -> None:
    for future in as_completed([submit(executor, futures) for _ in range(3)]):
        future.result()


@way
def mapped(executor: Any, futures: Futures) -> None:
    count = 0
    for number, value in enumerate(executor.map(double, range(200))):
        assert value == 2 * number
        count += 1
    assert count == 200


@way
def unordered(executor: Any, futures: Futures) -> None:
    found = sorted(executor.map(double, range(20), ordered=False, chunksize=1))
    assert found == [2 * number for number in range(20)]


@way
def killed(executor: Any, futures: Futures) -> None:
    future = executor.submit(double, 1)
    if not future.cancel() and executor._chooser.fixed == "process":
        future.kill(0)
    assert future.cancelled() or future.result() == 2


@way
def shut_down(executor: Any, futures: Futures) -> None:
    """Short-lived executors, one inside the other."""
    future = None
    try:
        with unirun.Executor(1, backend=executor._chooser.fixed) as inner:
            future = inner.submit(double, 1)
            future.result()
    finally:
        assert future is None or future.done()


def main(what: str, backend: str, times: int) -> None:
    storm, caught = Storm(signal.SIGINT, times), 0
    futures: Futures = []
    with unirun.Executor(2, backend=backend) as executor:
        assert executor.submit(double, 1).result() == 2
        storm.thread.start()
        # Not by `is_alive()`: Python up to 3.12 takes a thread for ended when Ctrl-C hits that.
        while caught < times:
            try:
                storm.may_begin.set()
                while True:
                    for each in [what] if what in WAYS else WAYS:
                        WAYS[each](executor, futures)
            except KeyboardInterrupt:
                caught += 1
                storm.noticed.release()
        for number, future in futures:
            assert future.result(PATIENCE) == 2 * number
        assert list(executor.map(double, range(100))) == [2 * n for n in range(100)]
        until = time.monotonic() + PATIENCE  # a piece of a map that was left may be on its way
        while (stats := executor.stats()[backend]).pending or stats.running:
            assert time.monotonic() < until, stats
            time.sleep(0.001)
        assert not stats.crashed, stats


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
