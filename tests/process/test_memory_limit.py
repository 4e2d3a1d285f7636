"""`memory=` ends a call that takes too much, `max_worker_rss=` replaces a worker that kept it."""

import concurrent.futures
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process import bodies, mishaps, watch
from process.line import PATIENCE, Line
from process.mishaps import MIB

import unirun
from unirun import Retry, TaskMemoryExceeded
from unirun.backends.process import memory, system

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]


def excess_of(future: "unirun.Future[object]") -> TaskMemoryExceeded:
    error = future.exception(PATIENCE)
    assert isinstance(error, TaskMemoryExceeded)
    return error


# -- a limit for a call ---------------------------------------------------------------------------


@pytest.mark.parametrize("hog", [mishaps.hog, mishaps.hog_step_by_step])
def test_a_call_that_takes_too_much_is_killed_and_its_neighbour_goes_on(
    pool: Pool, line: Lines, method: str, hog: Callable[..., None]
) -> None:
    executor, ready, go = pool(2, method), line(), line()
    neighbour = executor.submit(bodies.wait_for, go, ready)
    other = int(ready.wait())
    error = excess_of(executor.options(memory="150MiB").submit(hog, 400 * MIB))
    assert isinstance(error, MemoryError)
    assert error.limit == 150 * MIB
    assert error.used > error.limit
    assert error.task == f"process.mishaps.{hog.__name__}"
    assert error.pid != other
    watch.until_gone(error.pid)
    go.send()
    assert neighbour.result(PATIENCE) == other
    stats = executor.stats()["process"]
    assert (stats.killed, stats.crashed) == (1, 0)
    assert executor.submit(bodies.double, 2).result(PATIENCE) == 4


def test_what_a_call_started_counts_and_dies_with_it(pool: Pool, line: Lines) -> None:
    executor, ready = pool(1), line()
    future = executor.options(memory=150 * MIB).submit(mishaps.hog_in_a_child, 400 * MIB, ready)
    child = int(ready.wait())
    error = excess_of(future)
    assert error.pid != child
    watch.until_gone(child, error.pid)


def test_a_call_within_its_limit_goes_on(pool: Pool) -> None:
    view = pool(1).options(memory=300 * MIB)
    futures = [view.submit(mishaps.use_and_return, 100 * MIB, number) for number in range(5)]
    assert [future.result(PATIENCE) for future in futures] == list(range(5))


@pytest.mark.skipif("proc" not in system.HERE, reason="psutil does not tell shared memory apart")
def test_shared_memory_is_not_held_against_a_call(pool: Pool) -> None:
    view = pool(1).options(memory=150 * MIB)
    assert view.submit(mishaps.share, 300 * MIB).result(PATIENCE) == 300 * MIB


def test_what_was_loaded_before_the_workers_is_not_held_against_a_call(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_to_load.py").write_text(f"held = b'x' * {200 * MIB}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    executor = pool(1, preload=["heavy_to_load"], max_worker_rss=150 * MIB)
    view = executor.options(memory=150 * MIB)
    pids = {view.submit(mishaps.nap, 0.1).result(PATIENCE) for _ in range(5)}
    assert len(pids) == 1
    assert executor.submit(bodies.loaded, "heavy_to_load").result(PATIENCE)


def test_large_arrays_that_come_and_go_are_not_held_against_a_call(pool: Pool) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.ones(300 * MIB // 8)
    view = pool(1).options(memory=150 * MIB)
    assert view.submit(bodies.hand_back, array).result(PATIENCE).sum() == array.sum()


def test_a_limit_is_for_its_call_only(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(1), line(), line()
    assert executor.options(memory=150 * MIB).submit(bodies.double, 1).result(PATIENCE) == 2
    executor.submit(mishaps.keep, 300 * MIB).result(PATIENCE)
    free = executor.submit(bodies.wait_for, go, ready)
    ready.wait()
    go.send()
    assert free.result(PATIENCE)


def test_a_call_that_took_too_much_is_not_run_again(pool: Pool) -> None:
    view = pool(1).options(memory=150 * MIB, retries=Retry(5, crashes=5, backoff=0))
    excess_of(view.submit(mishaps.hog, 400 * MIB))


def test_a_limit_holds_for_each_item_of_a_map(pool: Pool) -> None:
    view = pool(2).options(memory=200 * MIB)
    sizes = [MIB, 500 * MIB, MIB, MIB]
    results = list(
        view.map(mishaps.hog_or_return, sizes, [450 * MIB] * 4, errors="return", timeout=PATIENCE)
    )
    assert isinstance(results.pop(1), TaskMemoryExceeded)
    assert results == [MIB] * 3


def test_a_call_with_a_limit_can_be_killed_and_time_out(pool: Pool, line: Lines) -> None:
    executor, ready = pool(1), line()
    killed = executor.options(memory=1 << 40).submit(bodies.sleep, ready)
    ready.wait()
    assert killed.kill()
    assert killed.cancelled()
    late = executor.options(memory=1 << 40, timeout=0.1).submit(bodies.sleep, ready)
    assert isinstance(late.exception(PATIENCE), unirun.TaskTimeout)


def test_where_it_cannot_be_limited_it_is_refused() -> None:
    with (
        unirun.Executor(1, backend="thread") as executor,
        pytest.raises(unirun.UnsupportedByBackend, match="memory"),
    ):
        executor.options(memory="1GiB").submit(bodies.double, 1)


# -- workers that have grown ----------------------------------------------------------------------


def test_a_worker_that_has_grown_is_replaced_after_its_call(pool: Pool, method: str) -> None:
    executor = pool(1, method, max_worker_rss="150MiB")
    first = executor.submit(mishaps.keep, MIB).result(PATIENCE)
    assert executor.submit(mishaps.keep, 200 * MIB).result(PATIENCE) == first
    assert executor.submit(mishaps.keep, MIB).result(PATIENCE) != first
    watch.until_gone(first)
    stats = executor.stats()["process"]
    assert (stats.killed, stats.crashed) == (0, 0)


def test_a_worker_that_has_not_grown_is_kept(pool: Pool) -> None:
    executor = pool(1, max_worker_rss="300MiB")
    calls = [executor.submit(mishaps.use_and_return, MIB, number) for number in range(200)]
    assert [call.result(PATIENCE) for call in calls] == list(range(200))
    pids = {executor.submit(bodies.pid).result(PATIENCE) for _ in range(20)}
    assert len(pids) == 1


def test_no_call_is_lost_while_workers_are_replaced(pool: Pool) -> None:
    executor = pool(2, max_worker_rss="100MiB")
    calls = [executor.submit(mishaps.keep, 10 * MIB) for _ in range(60)]
    quick = [executor.submit(bodies.double, number) for number in range(2000)]
    assert [call.result(2 * PATIENCE) for call in quick] == [2 * n for n in range(2000)]
    pids = [call.result(PATIENCE) for call in calls]
    assert len(set(pids)) > 4
    assert max(map(pids.count, pids)) < 20
    stats = executor.stats()["process"]
    assert (stats.finished, stats.killed, stats.crashed) == (2060, 0, 0)


def test_a_limit_below_what_any_worker_needs_gives_each_call_its_own(pool: Pool) -> None:
    executor = pool(2, max_worker_rss=1)
    calls = [executor.submit(bodies.pid) for _ in range(6)]
    assert len({call.result(PATIENCE) for call in calls}) == 6


def test_the_limit_may_come_from_the_environment(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIRUN_MAX_WORKER_RSS", "1")
    executor = pool(1)
    assert executor.submit(bodies.pid).result(PATIENCE) != executor.submit(bodies.pid).result(
        PATIENCE
    )


def test_a_limit_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="max_worker_rss must be a number of bytes"):
        unirun.Executor(max_worker_rss="2G")


def test_waiting_calls_survive_the_replacement(pool: Pool) -> None:
    executor = pool(1, max_worker_rss="100MiB")
    futures = [executor.submit(mishaps.keep, 150 * MIB) for _ in range(4)]
    done, _ = concurrent.futures.wait(futures, PATIENCE)
    assert len(done) == 4
    assert len({future.result() for future in futures}) == 4


def test_a_worker_that_was_found_small_is_looked_at_when_it_grows(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked from a large parent, it seems large from the beginning, and looking takes long."""
    exactly = memory.exactly

    def slowly(pid: int) -> Any:
        time.sleep(0.05)  # so it is trusted for half a second
        return exactly(pid)

    monkeypatch.setattr(memory, "exactly", slowly)
    ballast = b"x" * (160 * MIB)
    executor = pool(1, "fork", max_worker_rss="150MiB")
    first = executor.submit(mishaps.keep, MIB).result(PATIENCE)
    assert executor.submit(mishaps.keep, MIB).result(PATIENCE) == first
    assert executor.submit(mishaps.keep, 200 * MIB).result(PATIENCE) == first
    assert executor.submit(mishaps.keep, MIB).result(PATIENCE) != first
    assert len(ballast) == 160 * MIB
