"""Whoever holds or awaits a lock, a permit or a condition may die: the others go on."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults import Lines, Stage, hold, kill_each, staged, stay, take
from parties import PATIENCE

pytestmark = pytest.mark.leaks("what belongs to a worker that is replaced")

LOCKS = ("Lock", "RLock")
SEMAPHORES = ("Semaphore", "BoundedSemaphore")
HELD = (*LOCKS, *SEMAPHORES, "Condition")


@pytest.fixture(scope="module", autouse=True)
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("lines"), __name__) as stage:
        yield stage


def hold_twice(tell: Callable[[], None], held: Any) -> None:
    with held, held:
        tell()
        stay()


def wait_for(tell: Callable[[], None], held: Any) -> None:
    tell()
    held.acquire()
    raise AssertionError("it got what it should have waited for")


def is_free_once(held: Any) -> bool:
    """Whether exactly one can have it now; asked by another process, who owns nothing of it."""
    got = [held.acquire(blocking=False), held.acquire(blocking=False)]
    for _ in filter(None, got):
        held.release()
    return got == [True, False]


@pytest.mark.scenario(68, "a holder dies: the next has what it held, and sees that it died")
@kill_each(*HELD, times_out=True)
def test_what_a_dead_holder_held_goes_to_the_next(stage: Stage, kind: str, death: str) -> None:
    held = stage.make(kind)
    victim = stage.victim(death, hold, held)
    taken = stage.survivors(take, held)
    victim.die()
    expected = [False, False, True] if kind in LOCKS else [None] * 3
    assert sorted(taken(), key=bool) == expected, "the first one after it sees that it died"
    assert take(held) is expected[0]
    if kind in ("Lock", *SEMAPHORES):
        assert stage.executor.submit(is_free_once, held).result()


@kill_each("RLock", "Condition")
def test_however_often_a_dead_holder_had_acquired_it(stage: Stage, kind: str, death: str) -> None:
    held = stage.make(kind)
    victim = stage.victim(death, hold_twice, held)
    taken = stage.survivors(take, held)
    victim.die()
    taken()
    assert held.acquire(timeout=PATIENCE)
    held.release()


@pytest.mark.scenario(68, "a waiter dies: it is passed over, and time-outs of others hold")
@kill_each(*HELD, times_out=True)
def test_whoever_died_waiting_is_passed_over(stage: Stage, kind: str, death: str) -> None:
    held = stage.make(kind)
    assert held.acquire()
    victim = stage.victim(death, wait_for, held).falls_asleep()
    taken = stage.survivors(take, held)
    victim.die()
    held.release()
    assert not any(taken()), "it was never held by who died"
    assert not take(held)
    if kind in ("Lock", *SEMAPHORES):
        assert stage.executor.submit(is_free_once, held).result()


@kill_each(*SEMAPHORES)
def test_every_permit_of_the_dead_comes_back(stage: Stage, kind: str, death: str) -> None:
    permits = stage.make(kind, 3)
    victim = stage.victim(death, hold_twice, permits)
    victim.die()
    assert [permits.acquire(timeout=PATIENCE) for _ in range(3)] == [True] * 3
    assert permits.acquire(blocking=False) is False
    permits.release(3)
    if kind == "BoundedSemaphore":
        with pytest.raises(ValueError, match="released too many times"):
            permits.release()


# -- conditions -----------------------------------------------------------------------------------


def wait_on(tell: Callable[[], None], condition: Any) -> None:
    with condition:
        tell()
        condition.wait()
        raise AssertionError("nobody notified it")


def await_notice(lines: Lines, condition: Any) -> tuple[bool, bool]:
    """Whether it was notified, and whether it then found the lock abandoned."""
    with condition:
        lines.tell()
        notified = condition.wait(PATIENCE)
        return notified, condition._lock.abandoned


def notify_and_hold(tell: Callable[[], None], condition: Any) -> None:
    with condition:
        condition.notify_all()
        tell()
        stay()


@pytest.mark.scenario(68, "notify reaches the living")
@kill_each(*LOCKS, times_out=True)
def test_the_dead_take_no_notice_away_from_the_living(stage: Stage, kind: str, death: str) -> None:
    condition = stage.make("Condition", stage.make(kind))
    victim = stage.victim(death, wait_on, condition)
    with condition:
        pass  # it told while it held the lock: it has begun to wait
    noticed = stage.survivors(await_notice, stage.lines, condition)
    for _ in range(3):
        stage.told()
    victim.die()
    with condition:
        condition.notify(3)
    assert noticed() == [(True, False)] * 3


@kill_each(*LOCKS)
def test_notice_given_before_death_holds(stage: Stage, kind: str, death: str) -> None:
    condition = stage.make("Condition", stage.make(kind))
    noticed = stage.survivors(await_notice, stage.lines, condition)
    for _ in range(3):
        stage.told()
    victim = stage.victim(death, notify_and_hold, condition)
    victim.die()
    assert sorted(noticed()) == [(True, False), (True, False), (True, True)]
