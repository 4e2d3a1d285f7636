"""What is left when executors have come and gone, and what a long-lived one gathers."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import unirun
from benchmarks import _census
from benchmarks._census import holdings
from benchmarks._faults import crash, double, double_async, hang, lock_and_put, longer
from benchmarks._workload import Figures, Row, Sizes, Workload
from benchmarks.lifecycle import descendants

KINDS = ("process", "thread", "coroutine", "inline")
WARM = 40
"""Rounds after which what is made once, and kept, is there: modules, arenas of the C library."""
MiB = 1 << 20

# -- executors ------------------------------------------------------------------------------------


def executors(contender: str, sizes: Sizes) -> Figures:
    """Open, use, kill in and close so many of each kind; what this process holds then."""
    _census.require_proc()
    with _own_place_for_files():
        _use(sizes["warm"], sizes["length"])
        before = _census.take_when(lambda now: now.processes == 0)
        blocks = sys.getallocatedblocks()
        _use(sizes["executors"], sizes["length"])
        after = _census.take_when(lambda now: not any(now.over(before).values()))
        blocks = sys.getallocatedblocks() - blocks
    grown = after.own.memory - before.own.memory
    return {
        **after.over(before),
        "objects per executor": max(0.0, blocks / sizes["executors"] / len(KINDS)),
        "MiB": max(0.0, grown / MiB),
    }


def _use(count: int, length: int) -> None:
    for number in range(count):
        for kind in KINDS:
            _open_and_close(kind, number, length)


def _open_and_close(kind: str, number: int, length: int) -> None:
    executor = unirun.Executor(2, backend=kind, grace=0)
    fn: Any = double_async if kind == "coroutine" else double
    futures = [executor.submit(fn, n) for n in range(10)]
    assert [future.result() for future in futures] == [2 * n for n in range(10)]
    assert sum(executor.map(fn, range(20))) == 380
    if kind in ("process", "thread"):
        lock, queue = executor.Lock(), executor.Queue()
        executor.submit(lock_and_put, lock, queue).result()
        assert queue.get() == 1
        del lock, queue
    if kind == "process":
        _mishaps(executor, length)
    _end(executor, fn, number)


def _mishaps(executor: unirun.Executor, length: int) -> None:
    """A large payload, a crash, a kill and a time-out, one after the other."""
    assert len(executor.submit(longer, bytearray(length)).result()) == length + 1
    with suppress(unirun.WorkerCrashed):
        executor.submit(crash).result()
    with _started(executor) as (hanging, begun):
        assert begun
        hanging.kill()
    with suppress(unirun.TaskTimeout):
        executor.options(timeout=0.02).submit(hang, "").result()


@contextmanager
def _started(executor: unirun.Executor) -> Iterator[tuple[Any, bytes]]:
    """A call that runs and does not end by itself."""
    with tempfile.TemporaryDirectory() as place:
        fifo = f"{place}/begun"
        os.mkfifo(fifo)
        future = executor.submit(hang, fifo)
        with Path(fifo).open("rb") as begun:
            yield future, begun.read()


def _end(executor: unirun.Executor, fn: Any, number: int) -> None:
    """In each of the ways there are, by turns; the last is to do nothing: it is dropped."""
    match number % 4:
        case 0:
            executor.shutdown()
        case 1:
            executor.shutdown(kill=True)
        case 2:
            with suppress(ZeroDivisionError), executor:
                executor.submit(fn, 1)
                raise ZeroDivisionError


@contextmanager
def _own_place_for_files() -> Iterator[None]:
    """Where nobody else makes temporary files."""
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    with tempfile.TemporaryDirectory() as place:
        os.environ["TMPDIR"], tempfile.tempdir = place, place
        try:
            yield
        finally:
            del os.environ["TMPDIR"]
            if before[0] is not None:
                os.environ["TMPDIR"] = before[0]
            tempfile.tempdir = before[1]


# -- calls ----------------------------------------------------------------------------------------


def calls(contender: str, sizes: Sizes) -> Figures:
    """How much everybody has grown after so many calls more, of all sorts."""
    _census.require_proc()
    backend = "thread" if contender == "unirun-thread" else "process"
    with unirun.Executor(2, backend=backend) as executor:
        for sort in _SORTS:
            sort(executor, sizes["warm"] // len(_SORTS))
        _plain(executor, sizes["warm"])
        before = _family()
        for sort in _SORTS:
            sort(executor, sizes["odd"] // len(_SORTS))
        _plain(executor, sizes["calls"])
        after = _family()
    grown = {pid: after[pid] - size for pid, size in before.items() if pid in after}
    own = grown.pop(os.getpid())
    workers = {"a worker, MiB": max(grown.values()) / MiB} if grown else {}
    return {"parent, MiB": max(0.0, own / MiB), **workers}


def _family() -> dict[int, int]:
    """Private bytes of this process, its zygote and its workers."""
    _census.take()
    return {pid: holdings(pid).memory for pid in {os.getpid(), *descendants(os.getpid())}}


def _gather(futures: list[Any]) -> None:
    for future in futures:
        future.exception()


def _plain(executor: unirun.Executor, count: int) -> None:
    for _ in range(count // 1000):
        _gather([executor.submit(double, n) for n in range(1000)])


def _lambdas(executor: unirun.Executor, count: int) -> None:
    """Each with a code of its own, so no two are known by the same number."""
    for number in range(count):
        _gather([executor.submit(eval(f"lambda: {number}"))])


def _closures(executor: unirun.Executor, count: int) -> None:
    for number in range(count):
        _gather([executor.submit(lambda number=number: number)])


def _views(executor: unirun.Executor, count: int) -> None:
    for number in range(count):
        _gather([executor.options(name=f"call {number}", timeout=60 + number).submit(double, 1)])


def _retried(executor: unirun.Executor, count: int) -> None:
    for number in range(count):
        _gather([executor.options(retries=2).submit(double, number)])


def _failures(executor: unirun.Executor, count: int) -> None:
    for _ in range(count):
        _gather([executor.submit(double, None)])


def _dropped_maps(executor: unirun.Executor, count: int) -> None:
    for _ in range(count // 50):
        results = executor.map(double, range(10**9))
        next(results)


def _timers(executor: unirun.Executor, count: int) -> None:
    for _ in range(count):
        timer = executor.Timer(3600, double, (1,))
        timer.start()
        timer.cancel()


_SORTS: tuple[Callable[[unirun.Executor, int], None], ...] = (
    *(_lambdas, _closures, _views, _retried),
    *(_failures, _dropped_maps, _timers),
)


WORKLOADS = (
    Workload(
        "leaks-executors",
        "what is left of 200 executors of each kind, used in every way, and closed",
        "",
        executors,
        (
            *(Row(name, "unirun", None, at_most=0) for name in ("descriptors", "threads")),
            *(Row(name, "unirun", None, at_most=0) for name in ("processes", "files, semaphores")),
            # The C library makes arenas for threads, up to a number of its own.
            Row("mappings", "unirun", None, at_most=16),
            Row("objects per executor", "unirun", None, at_most=1),
            Row("MiB", "unirun", None, at_most=4),
        ),
        sizes={"executors": 200, "warm": WARM, "length": 1 << 20},
        quick={"executors": 4, "warm": 4, "length": 1 << 20},
    ),
    Workload(
        "leaks-calls",
        "growth of a parent and its worker over a million calls, 70k of them odd ones",
        "",
        calls,
        (
            Row("parent, MiB", "unirun", None, at_most=2),
            Row("a worker, MiB", "unirun", None, at_most=2),
            Row("parent, MiB", "unirun-thread", None, at_most=2),
        ),
        sizes={"calls": 1_000_000, "warm": 42_000, "odd": 70_000},
        quick={"calls": 1000, "warm": 1000, "odd": 70},
    ),
)
