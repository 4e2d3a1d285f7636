"""Executors of `concurrent.futures` that others wrote, as backends: `backend="futures:..."`."""

import concurrent.futures
import os
import threading
import time
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import engine_bodies as bodies
import pytest

from unirun import (
    BackendUnavailable,
    CallEvent,
    Executor,
    NotKillable,
    TaskTimeout,
    UnknownBackend,
    UnsupportedByBackend,
)
from unirun.testing import PATIENCE, BackendTests, Gate, needs
from unirun.testing import _subjects as subjects

PROCESSES = "futures:concurrent.futures:ProcessPoolExecutor"
THREADS = "futures:concurrent.futures:ThreadPoolExecutor"
made: list[concurrent.futures.Executor] = []


def two_threads() -> concurrent.futures.Executor:
    """A factory that takes no number of workers."""
    made.append(concurrent.futures.ThreadPoolExecutor(2))
    return made[-1]


@pytest.mark.engines
class TestThreads(BackendTests):
    backend = THREADS


class Elsewhere(BackendTests):
    """What an engine with processes promises otherwise: nothing reaches a body that runs."""

    @needs("cooperative")
    def test_a_running_call_can_see_that_it_was_cancelled(
        self, common: Executor, gate: Gate
    ) -> None:
        """It cannot: there is no way from here to there."""
        future = common.submit(subjects.hold, gate.address, "went on")
        gate.arrival()
        assert future.cancel() is False
        gate.last.release()
        assert future.result(PATIENCE) == "went on"

    @needs("cooperative")
    def test_a_cancelled_call_that_sleeps_wakes_and_stops(
        self, common: Executor, gate: Gate
    ) -> None:
        """It does not, as above."""
        self.test_a_running_call_can_see_that_it_was_cancelled(common, gate)

    def test_an_executor_as_result_or_a_future_as_argument_is_a_clear_error(
        self, common: Executor
    ) -> None:
        """An executor is of no use in another process, which says so."""
        error = common.submit(subjects.same, common).exception(PATIENCE)
        assert isinstance(error, TypeError)
        assert "make another one here" in str(error)
        done = common.submit(subjects.square, 2)
        error = common.submit(subjects.same, [done]).exception(PATIENCE)
        assert isinstance(error, TypeError)
        assert "a Future cannot be pickled; send its result() instead" in str(error)


@pytest.mark.engines
class TestProcesses(Elsewhere):
    backend = PROCESSES


@pytest.mark.engines
class TestLoky(Elsewhere):
    backend = "futures:loky:ProcessPoolExecutor"

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def is_there() -> None:
        pytest.importorskip("loky")

    @classmethod
    def setup_class(cls) -> None:
        pytest.importorskip("loky")
        super().setup_class()


# -- names ----------------------------------------------------------------------------------------

WRONG = [
    ("futures:json", UnknownBackend, "names no executor"),
    ("futures:json:no_such", UnknownBackend, "has no callable 'no_such'"),
    ("futures:no_such_module_at_all:f", BackendUnavailable, "needs 'no_such_module_at_all'"),
]


@pytest.mark.parametrize(("name", "kind", "text"), WRONG, ids=[name for name, *_ in WRONG])
def test_a_name_that_leads_nowhere_is_one_clear_error(
    name: str, kind: type[Exception], text: str
) -> None:
    with Executor(backend=name) as executor, pytest.raises(kind, match=text):
        executor.submit(divmod, 7, 2)


def test_a_factory_makes_what_it_likes_and_it_is_ended_with_us() -> None:
    with Executor(backend="futures:test_futures:two_threads") as executor:
        assert executor.submit(threading.get_ident).result(PATIENCE) != threading.get_ident()
        assert list(executor.map(subjects.square, range(5))) == [0, 1, 4, 9, 16]
    with pytest.raises(RuntimeError):
        made.pop().submit(len, "")


def test_what_such_an_engine_cannot_do_is_refused_before_anything_is_queued() -> None:
    with Executor(1, backend=THREADS) as executor:
        with pytest.raises(UnsupportedByBackend, match="memory"):
            executor.options(memory=1 << 30).submit(len, "")
        with pytest.raises(UnsupportedByBackend, match="resources"):
            executor.options(resources={"gpu": 1}).submit(len, "")
    executor = Executor(backend=THREADS, max_tasks_per_child=3)
    with executor, pytest.raises(UnsupportedByBackend, match="max_tasks_per_child"):
        executor.submit(len, "")


# -- calls ----------------------------------------------------------------------------------------


def test_a_call_gets_bytes_and_no_more_than_the_engine_has_workers_for() -> None:
    with Gate() as gate, Executor(1, backend=THREADS) as executor:
        first = executor.submit(subjects.hold, gate.address, "first")
        later = [executor.submit(subjects.square, n) for n in range(3)]
        urgent = executor.options(priority=1).submit(time.monotonic_ns)
        arrival = gate.arrival()
        assert [call.running() for call in (first, *later)] == [True, False, False, False]
        assert later[1].cancel()
        with pytest.raises(NotKillable):
            first.kill()
        arrival.release()
        assert [later[0].result(PATIENCE), later[2].result(PATIENCE)] == [0, 4]
        assert urgent.result(PATIENCE)


def test_a_call_past_its_time_does_not_keep_its_place() -> None:
    with Gate() as gate, Executor(1, backend=THREADS) as executor:
        late = executor.options(timeout=0.1).submit(subjects.hold, gate.address)
        error = late.exception(PATIENCE)
        assert isinstance(error, TaskTimeout)
        assert error.abandoned is True
        assert executor.submit(subjects.square, 7).result(PATIENCE) == 49
        gate.open()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_an_engine_that_breaks_is_replaced_and_runs_nothing_twice(tmp_path: Path) -> None:
    path = str(tmp_path / "ran")
    with Executor(1, backend=PROCESSES) as executor:
        crashing = executor.submit(subjects.exit_now, 3)
        waiting = executor.submit(subjects.note, path)
        assert isinstance(crashing.exception(PATIENCE), concurrent.futures.BrokenExecutor)
        assert waiting.result(PATIENCE) == "."
        results = list(
            executor.map(
                subjects.exit_at,
                [path] * 9,
                [4] * 9,
                range(9),
                errors="return",
                chunksize=3,
                timeout=PATIENCE,
            )
        )
    assert [type(each) for each in results[3:6]] == [type(results[3])] * 3
    assert isinstance(results[3], concurrent.futures.BrokenExecutor)
    assert results[:3] + results[6:] == [0, 1, 2, 6, 7, 8]
    ran = [int(each) for each in Path(path).read_text()[1:].split(",") if each]
    assert sorted(ran) == [0, 1, 2, 3, 4, 6, 7, 8]


def test_a_call_knows_what_it_is_and_where() -> None:
    with Executor(1, backend=THREADS) as executor:
        told = executor.options(name="mine", kind="io").submit(subjects.identity).result(PATIENCE)
    assert (told["name"], told["kind"], told["backend"]) == ("mine", "io", THREADS)
    assert os.getpid()


# -- what travels with calls, and what is known of them -------------------------------------------


@pytest.fixture(scope="module", params=[THREADS, PROCESSES], ids=["threads", "processes"])
def engine(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with Executor(1, backend=request.param, seed=5) as executor:
        executor.submit(divmod, 7, 2).result(PATIENCE)
        yield executor


def test_what_travels_with_a_call_travels_to_such_an_engine(engine: Executor) -> None:
    def inside() -> Any:
        bodies.colour.set("green")
        future = engine.options(name="mine", kind="cpu").submit(bodies.facts)
        return future, future.result(PATIENCE)

    future, told = copy_context().run(inside)
    assert (told["name"], told["kind"], told["attempt"]) == ("mine", "cpu", 1)
    assert told["id"] == future.number
    assert told["backend"] == next(iter(engine.stats()))
    assert told["colour"] == "green"
    assert told["seed"] is not None
    assert told["parent"] is None
    assert (future.info.worker, future.info.pid) == (told["worker"], told["pid"])
    assert future.info.took is not None


def test_a_call_there_that_submits_is_the_parent_of_what_it_submits() -> None:
    with Executor(2, backend=THREADS) as executor:
        outer, inner = executor.submit(bodies.both_by, executor).result(PATIENCE)
    assert inner["parent"] == outer["id"]


def test_progress_is_known_where_the_engine_runs_in_this_process() -> None:
    with Executor(1, backend=THREADS) as executor:
        future = executor.submit(bodies.report, 3, 4)
        future.result(PATIENCE)
        assert str(future.progress) == "75%"


def test_a_failure_there_names_its_call_and_can_be_run_again_here(engine: Executor) -> None:
    future = engine.submit(bodies.fail, 3, of="four")
    error: Any = future.exception(PATIENCE)
    assert "(3, of='four'), attempt 1 in " in error.__notes__[0]
    with pytest.raises(ValueError, match="3 of four"):
        future.replay()


def test_events_tell_of_calls_on_such_an_engine_in_order() -> None:
    seen: list[CallEvent] = []
    with Executor(1, backend=PROCESSES) as executor, executor.on("all", seen.append):
        executor.submit(bodies.facts).result(PATIENCE)
    assert [event.what for event in seen] == ["submitted", "started", "finished"]
    assert len({event.call for event in seen}) == 1


def test_keeping_what_a_call_prints_there_is_refused(engine: Executor) -> None:
    with pytest.raises(UnsupportedByBackend, match="keep what a call prints"):
        engine.options(capture=True).submit(bodies.facts)
