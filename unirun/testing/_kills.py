"""Promises about ending a call by force, or saying that it cannot be done."""

from __future__ import annotations

import concurrent.futures
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from unirun import Executor, NotKillable, TaskKilled, UnsupportedByBackend
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE, Gate
from unirun.testing._suite import Suite, lacks, needs


class KillTests(Suite):
    @needs("killable")
    def test_a_running_call_can_be_killed(self, executor: Executor, gate: Gate) -> None:
        """Its body has ended when `kill` returns True."""
        future = executor.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        assert future.kill(grace=0) is True
        assert arrival.is_gone()
        assert (future.cancelled(), future.done(), future.running()) == (True, True, False)

    @needs("killable")
    def test_a_killed_call_raises_task_killed(self, executor: Executor, gate: Gate) -> None:
        """A CancelledError, so that existing handlers work; it names the call."""
        future = executor.options(name="the victim").submit(subjects.hold, gate.address)
        gate.arrival()
        future.kill(grace=0)
        with pytest.raises(TaskKilled, match="the victim was killed") as caught:
            future.result(0)
        assert isinstance(caught.value, CancelledError)
        with pytest.raises(TaskKilled):
            future.exception(0)

    @needs("killable")
    def test_who_waits_for_a_killed_call_is_woken(self, executor: Executor, gate: Gate) -> None:
        """In `result()`, in `concurrent.futures.wait`, and by callbacks."""
        future = executor.submit(subjects.hold, gate.address)
        gate.arrival()
        heard: list[bool] = []
        future.add_done_callback(lambda f: heard.append(f.cancelled()))
        waiter = threading.Thread(target=lambda: heard.append(_is_killed(future)))
        waiter.start()
        future.kill(grace=0)
        assert concurrent.futures.wait([future], PATIENCE).done == {future}
        waiter.join(PATIENCE)
        executor.shutdown()  # callbacks have run by then
        assert heard == [True, True]

    @needs("killable")
    def test_the_place_of_a_killed_call_is_free_at_once(self, single: Executor, gate: Gate) -> None:
        """The next call runs."""
        for _ in range(3):
            future = single.submit(subjects.hold, gate.address)
            waiting = single.submit(subjects.square, 7)
            gate.arrival()
            future.kill(grace=0)
            assert waiting.result(PATIENCE) == 49

    @needs("killable")
    def test_a_kill_harms_no_other_call(self, executor: Executor, gate: Gate) -> None:
        """Neither the one beside it nor those that wait."""
        victim = executor.submit(subjects.hold, gate.address)
        gate.arrival()
        beside = executor.submit(subjects.hold, gate.address, "beside")
        arrival = gate.arrival()
        waiting = [executor.submit(subjects.square, n) for n in range(5)]
        victim.kill(grace=0)
        assert [future.result(PATIENCE) for future in waiting] == [0, 1, 4, 9, 16]
        assert arrival.is_there()
        arrival.release()
        assert beside.result(PATIENCE) == "beside"

    @needs("killable")
    def test_a_kill_asks_before_it_forces(self, executor: Executor, gate: Gate) -> None:
        """A body that can be ended politely does not cost the grace."""
        future = executor.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        assert future.kill(grace=10 * PATIENCE) is True
        assert arrival.is_gone()

    @needs("killable")
    def test_many_may_kill_one_call(self, executor: Executor, gate: Gate) -> None:
        """Each of them is told True."""
        future = executor.submit(subjects.hold, gate.address)
        gate.arrival()
        told: list[bool] = []
        threads = [
            threading.Thread(target=lambda: told.append(future.kill(grace=0))) for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert told == [True] * 5
        assert future.kill() is True
        assert self.still_works(executor)

    @needs("killable")
    def test_a_kill_racing_with_the_result_has_one_winner(
        self, executor: Executor, gate: Gate
    ) -> None:
        """`kill()` is False exactly where there is a result."""
        for n in range(10):
            future = executor.submit(subjects.hold, gate.address, n)
            gate.arrival().release()
            if future.kill(grace=0):
                assert _is_killed(future)
            else:
                assert future.result(0) == n
        assert self.still_works(executor)

    @needs("killable")
    def test_a_call_with_retries_can_be_killed(self, executor: Executor, gate: Gate) -> None:
        """In its first attempt; there is no second."""
        future = executor.options(retries=3).submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        assert future.kill(grace=0) is True
        assert arrival.is_gone()
        assert _is_killed(future)
        assert self.still_works(executor)
        assert gate.is_empty()

    @needs("cooperative")
    def test_killing_a_waiting_call_cancels_it(
        self, single: Executor, gate: Gate, tmp_path: Path
    ) -> None:
        """On every backend; it never runs."""
        first = single.submit(subjects.hold, gate.address, "first")
        second = single.submit(subjects.note, str(tmp_path / "ran"))
        gate.arrival()
        assert second.kill() is True
        assert second.cancelled()
        gate.open()
        assert first.result(PATIENCE) == "first"
        assert single.submit(subjects.square, 2).result(PATIENCE) == 4
        assert not (tmp_path / "ran").exists()

    def test_a_finished_call_cannot_be_killed(self, executor: Executor) -> None:
        """`kill()` is False, and the result stays."""
        future = executor.submit(subjects.square, 7)
        future.result(PATIENCE)
        assert future.kill() is False
        assert future.result(0) == 49

    @needs("cooperative")
    @lacks("killable")
    def test_a_running_call_that_cannot_be_killed_says_what_can(
        self, executor: Executor, gate: Gate
    ) -> None:
        """NotKillable names kind='isolated'; the call goes on."""
        future = executor.submit(subjects.hold, gate.address, "went on")
        arrival = gate.arrival()
        with pytest.raises(NotKillable, match="kind='isolated'") as caught:
            future.kill()
        assert isinstance(caught.value, UnsupportedByBackend)
        assert isinstance(caught.value, RuntimeError)
        assert future.running()
        arrival.release()
        assert future.result(PATIENCE) == "went on"

    # -- all workers ------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["kill_workers", "terminate_workers"])
    @needs("killable")
    def test_all_workers_can_be_ended(self, executor: Executor, gate: Gate, method: str) -> None:
        """What runs is killed; what waits runs in new workers; the executor goes on."""
        running = [executor.submit(subjects.hold, gate.address) for _ in range(2)]
        arrivals = gate.arrivals(2)
        waiting = [executor.submit(subjects.square, n) for n in range(4)]
        getattr(executor, method)()
        assert [future.result(PATIENCE) for future in waiting] == [0, 1, 4, 9]
        assert all(_is_killed(future) for future in running)
        assert all(arrival.is_gone() for arrival in arrivals)

    @pytest.mark.parametrize("method", ["kill_workers", "terminate_workers"])
    @lacks("killable")
    def test_workers_that_cannot_be_ended_say_so(self, executor: Executor, method: str) -> None:
        """UnsupportedByBackend; nothing happens."""
        executor.submit(subjects.square, 2).result(PATIENCE)
        with pytest.raises(UnsupportedByBackend, match="workers"):
            getattr(executor, method)()
        assert self.still_works(executor)


def _is_killed(future: concurrent.futures.Future[object]) -> bool:
    try:
        future.result(PATIENCE)
    except TaskKilled:
        return future.cancelled()
    return False
