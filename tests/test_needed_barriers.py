"""Shared barriers that a dead task was needed in, and those with more parties than can run."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from parties import PATIENCE, SERVED_BY, ThreadParty, be_served_by, process_parties, wait_until

from unirun import BarrierTooLarge, Executor, _crowding
from unirun._clock import Appointment


@pytest.fixture(params=SERVED_BY)
def served_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    be_served_by(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def processes(served_by: str) -> Iterator[Executor]:
    with Executor(2, backend="process", grace=0, preload=(__name__,)) as executor:
        yield executor


# -- barriers that are needed ---------------------------------------------------------------------


def meet(barrier: Any) -> Any:
    try:
        return barrier.wait(PATIENCE)
    except threading.BrokenBarrierError as exc:
        return type(exc)


def stay_with(barrier: Any, here: Any) -> None:
    here.set()
    signal.pause()


def crash_with(barrier: Any, here: Any) -> None:
    here.set()
    os._exit(3)


def hold_in_a_list(barriers: Any, here: Any) -> None:
    stay_with(*barriers, here)


DEATHS: dict[str, Callable[[Any], Any]] = {
    "kill()": lambda call: call.kill(),
    "timeout": lambda call: None,
    "crash": lambda call: None,
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_barrier_breaks_when_a_task_dies_that_was_handed_it(
    processes: Executor, death: str
) -> None:
    barrier, here = processes.Barrier(2), processes.Event()
    waiter = ThreadParty().start(meet, barrier)
    wait_until(lambda: barrier.n_waiting)
    view = processes.options(timeout=1.0 if death == "timeout" else None)
    function = crash_with if death == "crash" else stay_with
    call = view.submit(function, barrier, here)
    assert here.wait(PATIENCE)
    DEATHS[death](call)
    assert call.exception() is not None if death != "kill()" else call.cancelled() or True
    assert waiter.result() is threading.BrokenBarrierError
    assert meet(barrier) is threading.BrokenBarrierError, "who comes later would miss it, too"
    barrier.reset()
    calls = [processes.submit(meet, barrier) for _ in range(2)]
    assert sorted(call.result() for call in calls) == [0, 1]


def test_a_barrier_in_a_container_or_a_closure_is_needed_too(processes: Executor) -> None:
    here = processes.Event()
    for form in ("list", "closure"):
        barrier = processes.Barrier(2)
        call = (
            processes.submit(hold_in_a_list, [barrier], here)
            if form == "list"
            else processes.submit(lambda b=barrier: (b.wait(PATIENCE), stay_with(b, here)))
        )
        if form == "closure":
            assert meet(barrier) in (0, 1)
        assert here.wait(PATIENCE)
        call.kill()
        wait_until(lambda: barrier.broken)  # noqa: B023
        here.clear()


def test_a_task_that_ends_breaks_no_barrier(processes: Executor) -> None:
    barrier = processes.Barrier(2)
    assert processes.submit(is_broken, barrier).result() is False
    with pytest.raises(ZeroDivisionError):
        processes.submit(fail_with, barrier).result()
    here = processes.Event()
    stranger = processes.submit(stay_with, None, here)  # perhaps in the same worker
    assert here.wait(PATIENCE)
    stranger.kill()
    wait_until(stranger.done)
    processes.kill_workers()
    calls = [processes.submit(meet, barrier) for _ in range(2)]
    assert sorted(call.result() for call in calls) == [0, 1]


def test_a_thread_of_a_task_that_waited_breaks_nothing_at_its_end(processes: Executor) -> None:
    barrier = processes.Barrier(2)
    call = processes.submit(meet_in_thread, barrier)
    assert meet(barrier) + call.result() == 1
    assert processes.submit(is_broken, barrier).result() is False
    assert processes.submit(os.getpid).result()
    assert not barrier.broken


async def meet_in_thread(barrier: Any) -> Any:
    return await asyncio.to_thread(meet, barrier)


def is_broken(barrier: Any) -> bool:
    return bool(barrier.broken)


def fail_with(barrier: Any) -> float:
    return 1 / 0


def test_a_process_of_the_application_is_needed_only_while_it_waits(processes: Executor) -> None:
    barrier = processes.Barrier(2)
    with process_parties(1) as [party]:
        assert party.start(is_broken, barrier).result() is False
        party.kill()
        calls = [processes.submit(meet, barrier) for _ in range(2)]
        assert sorted(call.result() for call in calls) == [0, 1]


# -- barriers that are too large ------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_crowding, "PATIENCE", 0.1)


@pytest.mark.parametrize("who", ["process", "thread", "thread, hosted"])
@pytest.mark.usefixtures("impatient")
def test_a_barrier_of_more_parties_than_can_run_says_so(processes: Executor, who: str) -> None:
    with Executor(2, backend="thread") as threads:
        executor = processes if who == "process" else threads
        barrier = (threads if who == "thread" else processes).Barrier(3)
        for _ in range(2):
            calls = [executor.submit(barrier.wait) for _ in range(3)]
            for call in calls:
                with pytest.raises(BarrierTooLarge, match=r"of 3 parties .* all 2 workers"):
                    call.result(PATIENCE)
            barrier.reset()
        assert isinstance(call.exception(), threading.BrokenBarrierError)
        calls = [executor.submit(barrier.wait) for _ in range(2)]
        assert sorted([barrier.wait(PATIENCE), *(call.result() for call in calls)]) == [0, 1, 2]


def test_a_manager_in_a_process_of_its_own_asks_for_the_pools() -> None:
    with (
        Executor(2, backend="process", manager="process", preload=(__name__,)) as processes,
        Executor(2, backend="thread") as threads,
    ):
        for executor in (processes, threads):
            barrier = processes.Barrier(3)
            calls = [executor.submit(barrier.wait) for _ in range(3)]
            for call in calls:
                with pytest.raises(BarrierTooLarge, match=r"of 3 parties .* all 2 workers"):
                    call.result(PATIENCE)
            barrier.reset()
            calls = [executor.submit(barrier.wait) for _ in range(2)]
            assert sorted([barrier.wait(PATIENCE), *(call.result() for call in calls)]) == [0, 1, 2]


def test_a_barrier_that_a_pool_of_threads_can_serve_is_that_of_threading() -> None:
    with Executor(2, backend="thread") as threads:
        assert type(threads.Barrier(2)) is threading.Barrier
        large = threads.Barrier(3, None, 0.01)
        assert isinstance(large, threading.Barrier)
        with pytest.raises(threading.BrokenBarrierError) as error:
            large.wait()
        assert error.type is threading.BrokenBarrierError, "it timed out, as the original does"


class HandClock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def call_at(self, when: float, do: Callable[[], None]) -> Any:
        self.due.append(Appointment(do))
        return self.due[-1]

    def turn(self) -> None:
        due, self.due = self.due, []
        for appointment in due:
            appointment.keep()


class Gathering:
    key = "barrier"
    parties = 3

    def __init__(self) -> None:
        self.there: list[Any] = []
        self.reason = ""

    def standing(self) -> list[Any]:
        return list(self.there)

    def give_up(self, reason: str, standing: list[Any]) -> None:
        assert standing == self.there
        self.reason, self.there = reason, []


class Pool:
    name = "test"
    max_workers = 2

    def __init__(self) -> None:
        self.now = _crowding.Crew([1, 2], 0)

    def crew(self) -> _crowding.Crew:
        return self.now


def test_only_a_round_that_nobody_can_complete_is_given_up() -> None:
    clock, gathering, pool = HandClock(), Gathering(), Pool()
    _crowding.pools.add(pool)
    crowding = _crowding.Crowding(clock)  # type: ignore[arg-type]
    gathering.there = [1]
    crowding.noted(gathering)
    first = clock.due[0]
    gathering.there = [1, 2]
    crowding.noted(gathering)
    assert first.cancelled, "somebody has come"
    clock.turn()
    assert not gathering.reason, "no call waits: the last party may come from anywhere"
    pool.now = _crowding.Crew([1, 2, 3], 4)
    gathering.there = [1, "somebody else"]
    clock.turn()
    assert not gathering.reason, "a worker is free"
    gathering.there = [1, 2]
    clock.turn()
    assert "of 3 parties" in gathering.reason
    assert "4 calls wait" in gathering.reason
    clock.turn()
    assert not clock.due, "nobody stands there any more"
