"""Maps of tiny items whose worker dies, is killed, stalls or forks in the midst of a chunk."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from process.line import PATIENCE, Line

from unirun import Executor, TaskKilled, WorkerCrashed

Pool = Callable[..., Executor]
ITEMS = 600


def as_number(n: int) -> int:
    return n


def as_float(n: int) -> float:
    return n / 2


def as_text(n: int) -> str:
    return f"text {n}"


def as_anything(n: int) -> Any:
    return (n, str(n), None, n / 2, [n], 1 << 100, True)[n % 7]


def as_number_at_first(n: int) -> Any:
    return n if n < ITEMS // 4 else [n]


def as_large_text(n: int) -> str:
    return str(n) * 100_000 if n % 50 == 0 else str(n)


FORMS = (as_number, as_float, as_text, as_anything, as_number_at_first, as_large_text)
SIZES = (ITEMS, "auto", 7)


def logged(path: str, make: Callable[[int], Any], fatal: int, n: int) -> Any:
    """Notes that it began; dies at one of the items."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{n}\n".encode())
    os.close(fd)
    if n == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(n)


def begun(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", FORMS)
def test_a_crash_costs_one_item_and_runs_none_twice(
    pool: Pool, tmp_path: Path, make: Callable[[int], Any], size: Any
) -> None:
    """Whatever the outcomes are kept as, and though nothing of them had been sent."""
    path, fatal = tmp_path / "begun", ITEMS * 2 // 3
    work = partial(logged, str(path), make, fatal)
    results = list(
        pool().map(work, range(ITEMS), chunksize=size, errors="return", timeout=PATIENCE)
    )
    assert isinstance(results.pop(fatal), WorkerCrashed)
    assert results == [make(n) for n in range(ITEMS) if n != fatal]
    assert begun(path) == Counter(range(ITEMS))


@pytest.mark.parametrize("fatal", [0, 1, ITEMS - 1])
def test_a_crash_at_either_end_of_a_chunk_costs_one_item(
    pool: Pool, tmp_path: Path, fatal: int
) -> None:
    path = tmp_path / "begun"
    work = partial(logged, str(path), as_number, fatal)
    results = list(
        pool(1).map(work, range(ITEMS), chunksize=ITEMS, errors="return", timeout=PATIENCE)
    )
    assert [n for n, each in enumerate(results) if each != n] == [fatal]
    assert isinstance(results[fatal], WorkerCrashed)
    assert begun(path) == Counter(range(ITEMS))


def die_at_some(path: str, n: int) -> int:
    return logged(path, as_number, n if n % 100 == 50 else -1, n)


def test_each_crash_has_its_own_victim(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "begun"
    work = partial(die_at_some, str(path))
    results = list(pool().map(work, range(ITEMS), errors="return", timeout=3 * PATIENCE))
    crashed = [n for n, each in enumerate(results) if isinstance(each, WorkerCrashed)]
    assert crashed == list(range(50, ITEMS, 100))
    assert begun(path) == Counter(range(ITEMS))


def stall(path: str, line: Line, gate: Line, at: int, n: int) -> int:
    logged(path, as_number, -1, n)
    if n == at:
        line.send(n)
        gate.wait()
    return n


@pytest.mark.parametrize("kill", [Executor.kill_workers, Executor.terminate_workers])
def test_a_kill_costs_the_item_that_runs(
    pool: Pool, line: Callable[[], Line], tmp_path: Path, kill: Callable[[Executor], None]
) -> None:
    path, stalled, gate, executor = tmp_path / "begun", line(), line(), pool(1)
    work = partial(stall, str(path), stalled, gate, 40)
    results = executor.map(work, range(100), chunksize=100, errors="return", timeout=PATIENCE)
    stalled.wait()
    kill(executor)
    found = list(results)
    assert isinstance(found.pop(40), TaskKilled)
    assert found == [n for n in range(100) if n != 40]
    assert begun(path) == Counter(range(100))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_slow_item_holds_up_nothing_before_it(
    pool: Pool, line: Callable[[], Line], tmp_path: Path, ordered: bool
) -> None:
    """Results are there though their chunk is not done, and nothing of it was sent."""
    stalled, gate = line(), line()
    work = partial(stall, str(tmp_path / "begun"), stalled, gate, 40)
    results = pool(1).map(work, range(100), chunksize=100, ordered=ordered, timeout=PATIENCE)
    assert [next(results) for _ in range(40)] == list(range(40))
    gate.send()
    assert list(results) == list(range(40, 100))


@pytest.mark.scenario(39, "a time-out of the whole map: what was there is given")
def test_a_time_out_of_the_map_leaves_what_was_there(
    pool: Pool, line: Callable[[], Line], tmp_path: Path
) -> None:
    stalled, gate, executor = line(), line(), pool(1)
    assert executor.submit(as_number, 1).result(PATIENCE) == 1
    work = partial(stall, str(tmp_path / "begun"), stalled, gate, 3)
    results = executor.map(work, range(10), chunksize=10, timeout=2)
    stalled.wait()
    found = [next(results) for _ in range(3)]
    with pytest.raises(TimeoutError):
        next(results)
    gate.send()
    assert (found, list(results)) == ([0, 1, 2], [])


def fork_at(at: int, leave: bool, n: int) -> int:
    if n == at and os.fork() == 0:
        if leave:
            raise SystemExit(3)
        return -1  # into the loop of a process that is not the worker
    if n == at:
        assert os.waitstatus_to_exitcode(os.wait()[1]) == (3 if leave else 0)
    return n


@pytest.mark.parametrize("leave", [True, False])
@pytest.mark.parametrize("at", [0, 50])
def test_a_child_that_an_item_forks_runs_no_other_item(pool: Pool, at: int, leave: bool) -> None:
    """Nor does it write into what the worker shares with the pool."""
    work = partial(fork_at, at, leave)
    results = pool(1).map(work, range(100), chunksize=100, timeout=PATIENCE)
    assert list(results) == list(range(100))


def refuse_to_load(*_: object) -> None:
    raise LookupError("not here")


class Unloadable:
    def __reduce__(self) -> Any:
        return refuse_to_load, ()


@pytest.mark.parametrize("size", [1, 20])
def test_an_item_that_cannot_be_unpickled_spoils_no_other(pool: Pool, size: int) -> None:
    items = [*range(10), Unloadable(), *range(10)]
    results = list(pool(1).map(as_number, items, chunksize=size, errors="return", timeout=PATIENCE))
    assert "LookupError" in str(results.pop(10))
    assert results == [*range(10), *range(10)]


def make_unloadable_at(at: int, n: int) -> Any:
    return Unloadable() if n == at else n


@pytest.mark.parametrize("size", [1, 20])
def test_a_result_that_cannot_be_unpickled_spoils_no_other(pool: Pool, size: int) -> None:
    work = partial(make_unloadable_at, 7)
    results = list(pool(1).map(work, range(20), chunksize=size, errors="return", timeout=PATIENCE))
    assert "LookupError" in str(results.pop(7))
    assert results == [n for n in range(20) if n != 7]


@pytest.mark.parametrize("size", ["auto", 100_000])
def test_a_chunk_may_be_larger_than_the_memory_for_its_outcomes(pool: Pool, size: Any) -> None:
    executor = pool()
    count = 150_000
    assert list(executor.map(as_number, range(count), chunksize=size)) == list(range(count))
    assert list(executor.map(as_text, range(count), chunksize=size)) == [
        as_text(n) for n in range(count)
    ]


def test_results_that_are_read_late_are_what_they_were(pool: Pool) -> None:
    """Though the workers have gone on meanwhile, with other maps too."""
    executor = pool()
    late = [executor.map(as_number, range(k, k + 50_000), chunksize=10_000) for k in range(5)]
    assert list(executor.map(as_float, range(200_000))) == [n / 2 for n in range(200_000)]
    assert [list(each) for each in late] == [list(range(k, k + 50_000)) for k in range(5)]


def test_maps_that_are_dropped_give_back_the_memory_they_held(pool: Pool) -> None:
    """Others are as right after them as before."""
    executor = pool()
    for _ in range(20):
        results = executor.map(as_number, range(100_000), chunksize=10_000)
        assert next(results) == 0
        del results
    assert list(executor.map(as_number, range(100_000))) == list(range(100_000))


def test_several_threads_may_read_from_one_map(pool: Pool) -> None:
    """Each result is read once."""
    results = pool().map(as_number, range(50_000), timeout=PATIENCE)
    found: list[list[int]] = [[] for _ in range(4)]
    readers = [threading.Thread(target=each.extend, args=(results,)) for each in found]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(PATIENCE)
    assert Counter(n for each in found for n in each) == Counter(range(50_000))
