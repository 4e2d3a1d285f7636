"""Barriers keep every promise of `threading`'s, whoever shares them.

What `test_sync.py` tells of their use is not told again here.
"""

import gc
import sys
import threading
import time
import weakref
from typing import Any

import pytest
from parties import PATIENCE, Mapping, soon, wait_until

Broken = threading.BrokenBarrierError


def test_a_barrier_can_be_shown_referred_to_and_dropped(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", 3)
    assert "Barrier" in repr(barrier)
    barrier.abort()
    assert "Barrier" in repr(barrier)
    reference = weakref.ref(barrier)
    assert reference() is barrier
    del barrier
    if reference() is not None:
        gc.collect()
    assert reference() is None


def test_a_barrier_is_for_one_party_at_least(mapping: Mapping) -> None:
    with pytest.raises(TypeError):
        mapping.make("Barrier")
    with pytest.raises(TypeError):
        mapping.make("Barrier", 1, None, None, None)
    if mapping.shared or sys.version_info >= (3, 13):  # before, threading did not look
        for parties in (0, -1):
            with pytest.raises(ValueError, match="parties must be >"):
                mapping.make("Barrier", parties=parties)
    barrier = mapping.make("Barrier", parties=2, action=None, timeout=None)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (2, 0, False)
    assert issubclass(Broken, RuntimeError)


def test_nobody_is_a_round_ahead(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", mapping.size + 1)
    before, after = mapping.make("Queue"), mapping.make("Queue")
    others = [mapping.start(go_round, barrier, before, after, 10) for _ in range(mapping.size)]
    places = [go_round(barrier, before, after, 10), *(other.result() for other in others)]
    assert [sorted(round_) for round_ in zip(*places, strict=True)] == [
        list(range(mapping.size + 1))
    ] * 10
    assert (barrier.n_waiting, barrier.broken) == (0, False)


def go_round(barrier: Any, before: Any, after: Any, times: int) -> list[int]:
    places = []
    for turn in range(times):
        before.put(1)
        assert after.qsize() == turn * barrier.parties
        places.append(barrier.wait())
        after.put(1)
        assert before.qsize() == (turn + 1) * barrier.parties
        barrier.wait(PATIENCE)
    return places


def test_those_who_wait_are_counted(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", mapping.size + 1)
    others = []
    for number in range(mapping.size):
        assert barrier.n_waiting == number
        others.append(mapping.start(pass_it, barrier))
        wait_until(lambda number=number: barrier.n_waiting == number + 1)
    barrier.wait()
    assert [other.result() for other in others] == ["passed"] * mapping.size
    assert barrier.n_waiting == 0


def pass_it(barrier: Any, timeout: float | None = None) -> str:
    try:
        barrier.wait(timeout)
    except Broken:
        return "broken"
    return "passed"


class Count:
    """An action whose every run can be counted everywhere."""

    def __init__(self, runs: Any) -> None:
        self.runs = runs

    def __call__(self) -> None:
        self.runs.put(1)


def test_the_action_is_run_once_in_each_round(mapping: Mapping) -> None:
    runs = mapping.make("Queue")
    barrier = mapping.make("Barrier", mapping.size + 1, Count(runs), timeout=PATIENCE)
    others = [mapping.start(count_runs, barrier, runs) for _ in range(mapping.size)]
    counts = [count_runs(barrier, runs), *(other.result() for other in others)]
    assert counts == [[1, 2, 3]] * (mapping.size + 1)


def count_runs(barrier: Any, runs: Any) -> list[int]:
    counts = []
    for _ in range(3):
        barrier.wait()
        counts.append(runs.qsize())  # there is no next round without us
    return counts


class Fail:
    """An action that fails as long as it is told to."""

    def __init__(self, told: Any) -> None:
        self.told = told

    def __call__(self) -> None:
        if self.told.is_set():
            raise LookupError("the action fails")


def test_an_action_that_fails_breaks_the_barrier_until_it_is_reset(mapping: Mapping) -> None:
    told = mapping.make("Event")
    told.set()
    barrier = mapping.make("Barrier", 2, action=Fail(told))
    other = mapping.start(how_it_ends, barrier)
    assert sorted([how_it_ends(barrier), other.result()]) == ["BrokenBarrierError", "LookupError"]
    assert (barrier.broken, barrier.n_waiting) == (True, 0)
    assert mapping.call(how_it_ends, barrier) == "BrokenBarrierError"
    told.clear()
    barrier.reset()
    other = mapping.start(how_it_ends, barrier)
    assert [how_it_ends(barrier), other.result()] == ["passed", "passed"]


def how_it_ends(barrier: Any) -> str:
    try:
        barrier.wait(PATIENCE)
    except (LookupError, Broken) as exc:
        return type(exc).__name__
    return "passed"


def test_a_barrier_for_one_lets_it_pass_again_and_again(mapping: Mapping) -> None:
    told, runs = mapping.make("Event"), mapping.make("Queue")
    barrier = mapping.make("Barrier", 1)
    assert mapping.call(pass_alone, barrier) == [0] * 5
    counting = mapping.make("Barrier", 1, Count(runs), PATIENCE)
    assert [mapping.call(counting.wait) for _ in range(5)] == [0] * 5
    assert runs.qsize() == 5
    told.set()
    failing = mapping.make("Barrier", 1, Fail(told))
    assert mapping.call(how_it_ends, failing) == "LookupError"
    assert failing.broken


def pass_alone(barrier: Any) -> list[int]:
    return [soon(wait_again, barrier, timeout) for timeout in (None, 0, -1, 0.01, 5)]


def wait_again(barrier: Any, timeout: float | None) -> Any:
    """False if its time was over, which breaks it."""
    try:
        return barrier.wait(timeout)
    except Broken:
        barrier.reset()
        return False


def test_an_abort_breaks_it_for_all_until_a_reset(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", mapping.size + 1)
    others = [mapping.start(pass_it, barrier) for _ in range(mapping.size)]
    wait_until(lambda: barrier.n_waiting == mapping.size)
    assert barrier.abort() is None
    assert [other.result() for other in others] == ["broken"] * mapping.size
    assert (barrier.broken, barrier.n_waiting) == (True, 0)
    for timeout in (None, 0, 5):
        assert mapping.call(pass_it, barrier, timeout) == "broken"
    barrier.abort()
    assert barrier.broken
    assert barrier.reset() is None
    assert (barrier.broken, barrier.n_waiting) == (False, 0)
    assert all_pass(mapping, barrier)


def all_pass(mapping: Mapping, barrier: Any) -> bool:
    others = [mapping.start(pass_it, barrier) for _ in range(mapping.size)]
    return {pass_it(barrier), *(other.result() for other in others)} == {"passed"}


def test_a_reset_breaks_it_for_those_who_wait_only(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", mapping.size + 1)
    barrier.reset()
    assert all_pass(mapping, barrier)
    others = [mapping.start(pass_it, barrier) for _ in range(mapping.size)]
    wait_until(lambda: barrier.n_waiting == mapping.size)
    barrier.reset()
    assert [other.result() for other in others] == ["broken"] * mapping.size
    assert (barrier.broken, barrier.n_waiting) == (False, 0)
    assert all_pass(mapping, barrier)


def test_one_party_may_abort_while_the_others_are_in_the_next_round(mapping: Mapping) -> None:
    barrier, again = (mapping.make("Barrier", mapping.size) for _ in range(2))
    others = [mapping.start(pass_abort_meet_pass, barrier, again) for _ in range(mapping.size)]
    ends = sorted(other.result() for other in others)
    assert ends == ["aborted, passed"] + ["broken, passed"] * (mapping.size - 1)


def pass_abort_meet_pass(barrier: Any, again: Any) -> str:
    try:
        end = "passed"
        if barrier.wait(PATIENCE) == barrier.parties // 2:
            end = "aborted"
            barrier.abort()
        else:
            barrier.wait(PATIENCE)
    except Broken:  # who is slow finds the first round broken already
        end = "broken"
    if again.wait(PATIENCE) == 0:  # all have left it when it is reset,
        barrier.reset()
    again.wait(PATIENCE)  # and nobody comes before
    return f"{end}, {pass_it(barrier, PATIENCE)}"


def test_a_timeout_breaks_it_for_all(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", mapping.size + 1)
    others = [mapping.start(pass_it, barrier) for _ in range(mapping.size - 1)]
    wait_until(lambda: barrier.n_waiting == mapping.size - 1)
    assert mapping.call(break_in_time, barrier, 0.05)
    assert [other.result() for other in others] == ["broken"] * (mapping.size - 1)
    assert (barrier.broken, barrier.n_waiting) == (True, 0)


def break_in_time(barrier: Any, timeout: float | None = None) -> bool:
    began = time.monotonic()
    with pytest.raises(Broken):
        barrier.wait(timeout)
    return time.monotonic() - began >= 0.05


def test_the_timeout_it_was_made_with_is_that_of_a_wait_without_one(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", 2, timeout=0.05)
    assert mapping.call(break_in_time, barrier)
    barrier.reset()
    patient = mapping.start(pass_it, barrier, PATIENCE)
    wait_until(lambda: barrier.n_waiting == 1)
    with pytest.raises(Broken):  # a deadline of 0.05 s: not that of the patient one
        mapping.make("Barrier", 2, timeout=0.05).wait()
    assert barrier.wait() == 1
    assert patient.result() == "passed"


def test_a_barrier_that_is_broken_by_a_timeout_of_nothing_can_be_reset(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", 2)
    for timeout in (0, -1, 0.0):
        while not barrier.broken:  # who does not reach a busy manager in time breaks nothing
            assert mapping.call(pass_it, barrier, timeout) == "broken"
        barrier.reset()
    other = mapping.start(pass_it, barrier)
    assert pass_it(barrier) == other.result() == "passed"
