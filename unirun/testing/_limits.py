"""Promises about options: time-outs, deadlines, retries, priority; and about wrong ones."""

from __future__ import annotations

import functools
import gc
import operator
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from unirun import (
    Executor,
    QueueTimeout,
    Retry,
    TaskMemoryExceeded,
    TaskTimeout,
    UnsupportedByBackend,
)
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE, Gate, comes_true
from unirun.testing._suite import Suite, lacks, needs


class LimitTests(Suite):
    # -- a body that takes too long ----------------------------------------------------------------

    def test_a_call_that_runs_too_long_times_out(self, executor: Executor, gate: Gate) -> None:
        """TaskTimeout is a TimeoutError, names the call, and ends the future."""
        view = executor.options(timeout=0.1, name="the long one")
        future = view.submit(subjects.hold, gate.address)
        error = future.exception(PATIENCE)
        assert isinstance(error, TaskTimeout)
        assert isinstance(error, TimeoutError)
        assert "the long one ran longer than" in str(error)
        assert future.done()
        assert not future.cancelled()

    @needs("killable")
    def test_a_time_out_kills_the_body(self, gate: Gate) -> None:
        """It has no further effect once the future has ended."""
        executor = self.make_executor(grace=0)
        with self.ended(gate, executor):
            executor.submit(subjects.hold, gate.address)
            gate.arrival().release()  # the worker has all it needs
            future = executor.options(timeout=0.3).submit(subjects.hold, gate.address)
            arrival = gate.arrival()
            error = future.exception(PATIENCE)
            assert isinstance(error, TaskTimeout)
            assert error.abandoned is False
            assert arrival.is_gone()

    @lacks("killable")
    def test_a_time_out_abandons_a_body_that_cannot_be_killed(
        self, executor: Executor, gate: Gate
    ) -> None:
        """It runs on, its worker is replaced, and both are counted."""
        future = executor.options(timeout=0.1).submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        error = future.exception(PATIENCE)
        assert isinstance(error, TaskTimeout)
        assert error.abandoned is True
        assert arrival.is_there()
        assert self.stats(executor).abandoned == 1
        assert self.still_works(executor)

    def test_a_body_can_see_how_long_it_may_run(self, executor: Executor) -> None:
        """Its deadline is in `current_task()`."""
        about = executor.options(timeout=PATIENCE).submit(subjects.identity).result(PATIENCE)
        assert 0 < about["deadline"] - time.monotonic() <= PATIENCE

    @needs("cooperative")
    @lacks("killable")
    def test_a_body_past_its_time_can_see_it(self, executor: Executor, gate: Gate) -> None:
        """`current_task().cancelled` turns True by itself, so that it may stop."""
        executor.options(timeout=0.05).submit(subjects.meet_until_cancelled, gate.address)
        assert gate.arrival().is_gone()

    def test_a_call_within_its_time_is_left_alone(self, executor: Executor) -> None:
        """A limit costs nothing but the limit."""
        view = executor.options(timeout=PATIENCE, queue_timeout=PATIENCE)
        assert view.submit(subjects.square, 7).result(PATIENCE) == 49

    @needs("cooperative")
    def test_time_outs_run_from_the_start_of_the_body(self, single: Executor, gate: Gate) -> None:
        """Waiting for a worker does not count, and that worker's time-out frees it."""
        first = single.options(timeout=0.2).submit(subjects.hold, gate.address)
        second = single.options(timeout=0.15).submit(subjects.square, 7)
        assert isinstance(first.exception(PATIENCE), TaskTimeout)
        assert second.result(PATIENCE) == 49

    @needs("cooperative")
    def test_a_time_out_harms_no_other_call(self, executor: Executor, gate: Gate) -> None:
        """Neither one that runs beside it nor those that wait."""
        beside = executor.submit(subjects.hold, gate.address, "beside")
        arrival = gate.arrival()
        late = executor.options(timeout=0.1).submit(subjects.hold, gate.address)
        waiting = [executor.submit(subjects.square, n) for n in range(4)]
        assert isinstance(late.exception(PATIENCE), TaskTimeout)
        assert [future.result(PATIENCE) for future in waiting] == [0, 1, 4, 9]
        arrival.release()
        assert beside.result(PATIENCE) == "beside"

    def test_the_task_of_a_map_that_takes_too_long_is_one_outcome(
        self, executor: Executor, gate: Gate
    ) -> None:
        """Its neighbours have theirs."""
        hold_one = functools.partial(subjects.step, gate.address, 1, None)
        view = executor.options(timeout=0.3)
        results = list(view.map(hold_one, range(4), errors="return", timeout=PATIENCE))
        assert isinstance(results.pop(1), TaskTimeout)
        assert results == [0, 2, 3]

    # -- a call that waits too long ----------------------------------------------------------------

    @needs("cooperative")
    def test_a_call_that_waits_too_long_never_runs(
        self, single: Executor, gate: Gate, tmp_path: Path
    ) -> None:
        """QueueTimeout is a TaskTimeout; the call that runs is left alone."""
        running = single.submit(subjects.hold, gate.address, "ran")
        arrival = gate.arrival()
        late = single.options(queue_timeout=0.05).submit(subjects.note, str(tmp_path / "ran"))
        error = late.exception(PATIENCE)
        assert isinstance(error, QueueTimeout)
        assert isinstance(error, TaskTimeout)
        arrival.release()
        assert running.result(PATIENCE) == "ran"
        assert single.submit(subjects.square, 2).result(PATIENCE) == 4
        assert not (tmp_path / "ran").exists()

    @needs("cooperative")
    def test_a_queue_time_out_does_not_limit_the_body(self, executor: Executor, gate: Gate) -> None:
        """Once it has begun, it may take its time."""
        executor.submit(subjects.square, 2).result(PATIENCE)  # a worker is there
        running = executor.options(queue_timeout=0.1).submit(subjects.hold, gate.address, "ran")
        arrival = gate.arrival()
        other = executor.options(timeout=0.15).submit(subjects.hold, gate.address)
        assert isinstance(other.exception(PATIENCE), TaskTimeout)
        arrival.release()
        assert running.result(PATIENCE) == "ran"

    # -- deadlines --------------------------------------------------------------------------------

    def test_a_call_past_its_deadline_never_runs(self, executor: Executor, tmp_path: Path) -> None:
        """QueueTimeout, without an effect."""
        view = executor.options(deadline=time.monotonic() - 1)
        future = view.submit(subjects.note, str(tmp_path / "ran"))
        assert isinstance(future.exception(PATIENCE), QueueTimeout)
        assert self.still_works(executor)
        assert not (tmp_path / "ran").exists()

    def test_a_deadline_ends_a_call_that_runs(self, executor: Executor, gate: Gate) -> None:
        """As a time-out does."""
        executor.submit(divmod, 7, 2).result(PATIENCE)  # there are workers: it is not to wait long
        view = executor.options(deadline=time.monotonic() + 0.5)
        error = view.submit(subjects.hold, gate.address).exception(PATIENCE)
        assert isinstance(error, TaskTimeout)
        assert "past its deadline" in str(error)

    def test_nested_calls_inherit_the_deadline(self, executor: Executor) -> None:
        """A call made by a call must not outlive it."""
        deadline = time.monotonic() + PATIENCE
        mine, its = executor.options(deadline=deadline).submit(subjects.deadlines).result(PATIENCE)
        assert mine == its == deadline

    def test_a_time_out_is_the_deadline_of_nested_calls(self, executor: Executor) -> None:
        """Since the body must have ended by then."""
        mine, its = executor.options(timeout=PATIENCE).submit(subjects.deadlines).result(PATIENCE)
        assert mine is not None
        assert mine == its

    # -- retries ----------------------------------------------------------------------------------

    def test_a_call_that_fails_is_run_again(self, executor: Executor, tmp_path: Path) -> None:
        """Until it succeeds; `current_task().attempt` counts."""
        view = executor.options(retries=Retry(5, backoff=0))
        future = view.submit(subjects.succeed_at_attempt, str(tmp_path / "ran"), 3)
        assert future.result(PATIENCE) == 3
        assert (tmp_path / "ran").read_text() == "..."

    def test_retries_end(self, executor: Executor, tmp_path: Path) -> None:
        """After `times` more attempts the last exception stands, and says how many there were."""
        view = executor.options(retries=Retry(2, backoff=0))
        future = view.submit(subjects.succeed_at_attempt, str(tmp_path / "ran"), 99)
        error = future.exception(PATIENCE)
        assert isinstance(error, subjects.Refused)
        assert error.args == ("attempt 3",)
        assert "attempt 3 was the last" in error.__notes__[-1]
        assert (tmp_path / "ran").read_text() == "..."

    def test_a_number_of_retries_is_enough(self, executor: Executor, tmp_path: Path) -> None:
        """`retries=1` is short for `Retry(1)`."""
        view = executor.options(retries=1)
        future = view.submit(subjects.succeed_at_attempt, str(tmp_path / "ran"), 2)
        assert future.result(PATIENCE) == 2

    def test_only_the_chosen_exceptions_are_retried(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """Any other stands at once."""
        view = executor.options(retries=Retry(5, on=(KeyError,), backoff=0))
        future = view.submit(subjects.note_and_raise, str(tmp_path / "ran"), ValueError("no"))
        assert isinstance(future.exception(PATIENCE), ValueError)
        assert (tmp_path / "ran").read_text() == "."

    def test_without_retries_a_call_runs_once(self, executor: Executor, tmp_path: Path) -> None:
        """Retrying is never the default."""
        future = executor.submit(subjects.note_and_raise, str(tmp_path / "ran"), ValueError("no"))
        assert isinstance(future.exception(PATIENCE), ValueError)
        assert (tmp_path / "ran").read_text() == "."

    def test_the_items_of_a_map_are_retried_one_by_one(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """Each counts its own attempts."""
        view = executor.options(retries=Retry(5, backoff=0))
        paths = [str(tmp_path / str(n)) for n in range(4)]
        results = view.map(subjects.succeed_at_attempt, paths, [1, 3, 2, 1], timeout=PATIENCE)
        assert list(results) == [1, 3, 2, 1]

    def test_leaving_with_waits_for_retries(self, tmp_path: Path) -> None:
        """Attempts that are still to come included."""
        with self.make_executor() as executor:
            view = executor.options(retries=Retry(3, backoff=0.05, jitter=0))
            future = view.submit(subjects.succeed_at_attempt, str(tmp_path / "ran"), 3)
        assert future.done()
        assert future.result(PATIENCE) == 3

    def test_shutdown_can_cancel_the_attempts_to_come(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """`cancel_futures=True`: a call that pauses between two attempts is cancelled."""
        view = executor.options(retries=Retry(3, backoff=60, jitter=0))
        future = view.submit(subjects.note_and_raise, str(tmp_path / "ran"), ValueError("no"))
        assert subjects.appears(str(tmp_path / "ran"))
        executor.shutdown(cancel_futures=True)
        assert isinstance(_end(future), CancelledError | ValueError)
        assert (tmp_path / "ran").read_text() == "."

    @needs("cooperative")
    def test_a_call_that_waits_for_its_next_attempt_can_be_cancelled(
        self, single: Executor, gate: Gate, tmp_path: Path
    ) -> None:
        """It has begun, but what is left of it never runs."""
        path = tmp_path / "ran"
        view = single.options(retries=Retry(3, backoff=0))
        single.submit(subjects.hold, gate.address)
        future = view.submit(subjects.note_and_raise, str(path), ValueError("no"))
        held = single.submit(subjects.hold, gate.address, "held")
        gate.arrival().release()
        gate.arrival()  # the first attempt is over, and the second behind this call
        assert comes_true(lambda: self.stats(single).pending == 1)
        assert comes_true(future.cancel)
        with pytest.raises(CancelledError):
            future.result(0)
        gate.open()
        assert held.result(PATIENCE) == "held"
        assert single.submit(subjects.square, 2).result(PATIENCE) == 4
        assert path.read_text() == "."

    def test_a_call_that_pauses_between_two_attempts_can_be_cancelled(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        """At once."""
        view = executor.options(retries=Retry(3, backoff=60, jitter=0))
        failed = threading.Event()  # one that is asked to stop while it runs would be the last
        with executor.on("retried", lambda event: failed.set()):
            future = view.submit(subjects.note_and_raise, str(tmp_path / "ran"), ValueError("no"))
            assert failed.wait(PATIENCE)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(0)
        assert (tmp_path / "ran").read_text() == "."

    @needs("cooperative")
    def test_an_executor_that_is_dropped_finishes_its_retries(self, tmp_path: Path) -> None:
        """As it finishes all that was submitted."""
        executor = self.make_executor(1)
        view = executor.options(retries=Retry(3, backoff=0.02, jitter=0))
        future = view.submit(subjects.succeed_at_attempt, str(tmp_path / "ran"), 3)
        del executor, view
        gc.collect()
        assert future.result(PATIENCE) == 3

    # -- priority ---------------------------------------------------------------------------------

    @needs("priority", "cooperative")
    def test_higher_priority_goes_first(self, single: Executor, gate: Gate, tmp_path: Path) -> None:
        """Among equals, first come first served."""
        path = str(tmp_path / "order")
        single.submit(subjects.hold, gate.address)
        gate.arrival()
        wanted = [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)]
        futures = [
            single.options(priority=priority).submit(subjects.note, path, name)
            for name, priority in wanted
        ]
        gate.open()
        for future in futures:
            future.result(PATIENCE)
        assert Path(path).read_text() == "bdaec"

    @lacks("priority")
    def test_priority_is_refused_where_there_is_none(self, executor: Executor) -> None:
        """Before anything is queued, naming the backend and what to do."""
        with pytest.raises(UnsupportedByBackend, match="priority") as caught:
            executor.options(priority=3).submit(subjects.square, 2)
        assert caught.value.backend == self.engine.name
        assert caught.value.remedy

    # -- memory ------------------------------------------------------------------------------------

    @needs("memory")
    def test_a_call_that_takes_too_much_memory_is_killed(
        self, executor: Executor, gate: Gate
    ) -> None:
        """With a MemoryError that tells how much it took; its neighbour does not notice."""
        beside = executor.submit(subjects.hold, gate.address, "beside")
        arrival = gate.arrival()
        view = executor.options(memory="150MB", name="the hog")
        error = view.submit(subjects.hold, gate.address, Swelling(400 * 10**6)).exception(PATIENCE)
        assert isinstance(error, MemoryError)
        assert isinstance(error, TaskMemoryExceeded)
        assert (error.task, error.limit) == ("the hog", 150 * 10**6)
        assert error.used > error.limit
        arrival.release()
        assert beside.result(PATIENCE) == "beside"
        assert executor.submit(subjects.square, 2).result(PATIENCE) == 4

    @needs("memory")
    def test_a_call_within_its_memory_is_left_alone(self, executor: Executor) -> None:
        """However many there are."""
        view = executor.options(memory="2GiB")
        futures = [view.submit(subjects.square, n) for n in range(20)]
        assert [future.result(PATIENCE) for future in futures] == [n * n for n in range(20)]

    @lacks("memory")
    def test_a_memory_limit_is_refused_where_there_is_none(self, executor: Executor) -> None:
        """It is not ignored."""
        with pytest.raises(UnsupportedByBackend, match="memory"):
            executor.options(memory=1 << 30).submit(subjects.square, 2)

    @lacks("killable")
    def test_killable_is_refused_where_nothing_can_be_killed(self, executor: Executor) -> None:
        """It is a demand, not a hint."""
        with pytest.raises(UnsupportedByBackend, match="killable"):
            executor.options(killable=True).submit(subjects.square, 2)

    # -- the options themselves --------------------------------------------------------------------

    def test_options_leave_the_executor_as_it_is(self, executor: Executor) -> None:
        """They are a view; views add up."""
        view = executor.options(timeout=PATIENCE).options(name="both")
        about = view.submit(subjects.identity).result(PATIENCE)
        assert about["name"] == "both"
        assert about["deadline"] is not None
        assert executor.submit(subjects.identity).result(PATIENCE)["deadline"] is None

    def test_an_unknown_option_is_a_type_error_that_helps(self, executor: Executor) -> None:
        """It says what was probably meant."""
        with pytest.raises(TypeError, match=r"timeuot.*timeout"):
            executor.options(timeuot=5)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"timeout": -1},
            {"timeout": "soon"},
            {"queue_timeout": -0.5},
            {"deadline": "noon"},
            {"retries": -1},
            {"retries": "often"},
            {"priority": "high"},
            {"kind": "cpuu"},
            {"backend": "proces"},
        ],
    )
    def test_a_wrong_value_is_refused_where_it_is_written(
        self, executor: Executor, wrong: dict[str, Any]
    ) -> None:
        """A ValueError or TypeError that names the option."""
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            executor.options(**wrong).submit(subjects.square, 2)


class Swelling:
    """Is that many bytes where it is unpickled, and next to nothing before."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> Any:
        return operator.mul, (b"x", self.size)


def _end(future: Any) -> BaseException | None:
    try:
        error: BaseException | None = future.exception(PATIENCE)
    except CancelledError as exc:
        return exc
    return error
