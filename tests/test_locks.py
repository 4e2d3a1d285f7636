"""Shared locks, conditions and semaphores behave as those of `threading` do, and outlive owners."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from parties import (
    PATIENCE,
    Mapping,
    ProcessParty,
    ThreadParty,
    ask_and_stay,
    tell,
)

LOCKS = ["Lock", "RLock", "Condition"]


# -- locks ----------------------------------------------------------------------------------------


def a_lock_is_acquired_and_released(lock: Any) -> None:
    assert lock.acquire() is True
    lock.release()
    assert lock.acquire(False) is True
    lock.release()
    assert lock.acquire(timeout=PATIENCE) is True
    lock.release()
    with lock as acquired:
        assert acquired is True
    with pytest.raises(RuntimeError):
        lock.release()


def arguments_without_sense_are_value_errors(lock: Any) -> None:
    with pytest.raises(ValueError, match="non-blocking"):
        lock.acquire(False, 1)
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(timeout=-2)
    with pytest.raises(OverflowError):
        lock.acquire(timeout=threading.TIMEOUT_MAX * 2)
    assert lock.acquire(False), "and it was not acquired by that"
    lock.release()


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.parametrize(
    "body", [a_lock_is_acquired_and_released, arguments_without_sense_are_value_errors]
)
def test_every_lock(mapping: Mapping, kind: str, body: Callable[..., None]) -> None:
    mapping.call(body, mapping.make(kind))


@pytest.mark.parametrize("kind", LOCKS)
def test_a_held_lock_is_not_acquired_by_another(mapping: Mapping, kind: str) -> None:
    lock = mapping.make(kind)
    with lock:
        assert mapping.call(try_all_ways, lock) == [False, False, False]
    assert mapping.call(take_and_release, lock) is True


def try_all_ways(lock: Any) -> list[bool]:
    return [lock.acquire(False), lock.acquire(timeout=0.01), lock.acquire(timeout=0)]


def take_and_release(lock: Any) -> bool:
    with lock:
        return True


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Condition", "Semaphore"])
def test_one_at_a_time_is_inside(mapping: Mapping, kind: str) -> None:
    lock, inside = mapping.make(kind), mapping.make("BoundedSemaphore", 1)
    others = [mapping.start(go_inside, lock, inside, 50) for _ in range(2)]
    assert go_inside(lock, inside, 50) == 50
    assert [other.result() for other in others] == [50, 50]


def go_inside(lock: Any, inside: Any, times: int) -> int:
    for _ in range(times):
        with lock:
            assert inside.acquire(False), "somebody else is inside"
            inside.release()
    return times


def test_a_lock_may_be_released_by_another(mapping: Mapping) -> None:
    lock = mapping.make("Lock")
    assert not lock.locked()
    lock.acquire()
    assert lock.locked()
    mapping.call(type(lock).release, lock)
    assert not lock.locked()


def test_an_rlock_belongs_to_its_owner(mapping: Mapping) -> None:
    lock = mapping.make("RLock")
    with lock, lock:
        assert lock.acquire(False)
        lock.release()
        assert mapping.call(fail_to_release, lock) == "cannot release un-acquired lock"
        assert mapping.call(try_all_ways, lock) == [False, False, False]
    assert mapping.call(take_and_release, lock)


def fail_to_release(lock: Any) -> str:
    with pytest.raises(RuntimeError) as error:
        lock.release()
    return str(error.value)


# -- conditions -----------------------------------------------------------------------------------


def a_condition_needs_its_lock(condition: Any) -> None:
    for call in (condition.wait, condition.notify, condition.notify_all, condition.release):
        with pytest.raises(RuntimeError):
            call()
    with condition:
        assert condition.wait(0.01) is False
        assert condition.wait(0) is False
        assert condition.wait(-1) is False
        assert condition.wait_for(lambda: False, timeout=0.01) is False
        assert condition.wait_for(lambda: "yes") == "yes"
        condition.notify(3)
        condition.notify_all()


@pytest.mark.parametrize("lock", [None, "Lock", "RLock"])
def test_a_condition(mapping: Mapping, lock: str | None) -> None:
    condition = mapping.make("Condition", *([mapping.make(lock)] if lock else []))
    mapping.call(a_condition_needs_its_lock, condition)


@pytest.mark.parametrize("lock", [None, "Lock"])
def test_whoever_waits_is_notified(mapping: Mapping, lock: str | None) -> None:
    condition = mapping.make("Condition", *([mapping.make(lock)] if lock else []))
    waiting, woken = mapping.make("Queue"), mapping.make("Queue")
    waiters = [mapping.start(wait_once, condition, waiting, woken) for _ in range(3)]
    for _ in range(3):
        waiting.get(timeout=PATIENCE)
    with condition:  # which they release only in `wait`
        condition.notify()
        assert woken.empty()
    assert woken.get(timeout=PATIENCE) is True
    with condition:
        condition.notify_all()
    assert [woken.get(timeout=PATIENCE) for _ in range(2)] == [True, True]
    for waiter in waiters:
        waiter.result()


def wait_once(condition: Any, waiting: Any, woken: Any) -> None:
    with condition:
        waiting.put(1)
        woken.put(condition.wait(PATIENCE))


def test_a_wait_gives_up_every_level_and_takes_them_again(mapping: Mapping) -> None:
    condition = mapping.make("Condition")
    with condition, condition:
        other = mapping.start(notify_once, condition)
        assert condition.wait(PATIENCE) is True
        assert mapping.call(try_all_ways, condition) == [False, False, False]
    other.result()
    assert mapping.call(take_and_release, condition)


def notify_once(condition: Any) -> None:
    with condition:
        condition.notify()


# -- semaphores -----------------------------------------------------------------------------------


def a_semaphore_counts(semaphore: Any) -> None:
    assert semaphore.acquire() is True
    with semaphore:
        assert semaphore.acquire(False) is False
        assert semaphore.acquire(timeout=0.01) is False
        assert semaphore.acquire(True, 0) is False
    semaphore.release()
    with pytest.raises(ValueError, match="non-blocking"):
        semaphore.acquire(False, 1)
    with pytest.raises(ValueError, match="n must be one or more"):
        semaphore.release(0)


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_a_semaphore(mapping: Mapping, kind: str) -> None:
    mapping.call(a_semaphore_counts, mapping.make(kind, 2))
    with pytest.raises(ValueError, match="initial value must be >= 0"):
        mapping.make(kind, -1)


def test_only_a_bounded_semaphore_has_a_bound(mapping: Mapping) -> None:
    semaphore, bounded = mapping.make("Semaphore", 0), mapping.make("BoundedSemaphore")
    semaphore.release(2)
    assert [mapping.call(take_permit, semaphore) for _ in range(3)] == [True, True, False]
    with pytest.raises(ValueError, match="released too many times"):
        bounded.release()


def take_permit(semaphore: Any) -> Any:
    return semaphore.acquire(False)


# -- the death of an owner ------------------------------------------------------------------------


def hold_and_stay(*locks: Any) -> None:
    for lock in locks:
        lock.acquire()
    tell("held")
    signal.pause()


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_lock_of_a_killed_owner_is_released_and_says_so(
    make: Callable[..., Any], party: ProcessParty, kind: str
) -> None:
    lock = make(kind)
    party.start(hold_and_stay, lock, *([lock] if kind == "RLock" else []))
    party.result()
    waiter = ThreadParty().start(acquire_and_look, lock)
    party.kill()
    assert waiter.result() == (True, True)
    with lock:
        assert not lock.abandoned, "its owner has released it since"


def acquire_and_look(lock: Any) -> tuple[bool, bool]:
    acquired = lock.acquire(timeout=PATIENCE)
    abandoned = lock.abandoned
    lock.release()
    return acquired, abandoned


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_permits_of_a_killed_owner_come_back(
    make: Callable[..., Any], party: ProcessParty, kind: str
) -> None:
    semaphore = make(kind, 2)
    party.start(hold_and_stay, semaphore, semaphore)
    party.result()
    waiter = ThreadParty().start(semaphore.acquire, True, PATIENCE)
    party.kill()
    assert waiter.result() is True


def test_a_condition_whose_notifier_is_killed_can_be_taken(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    condition = make("Condition")
    condition.acquire()
    party.start(ask_and_stay, condition._lock, "acquire")
    party.result()
    condition.notify()
    condition.release()  # the party has it now
    waiter = ThreadParty().start(take_and_release, condition)
    party.kill()
    assert waiter.result()


def test_a_killed_waiter_is_not_notified_in_place_of_the_living(
    make: Callable[..., Any], party: ProcessParty, processes: list[ProcessParty]
) -> None:
    condition, waiting, woken = make("Condition"), make("Queue"), make("Queue")
    party.start(wait_once, condition, waiting, woken)
    waiting.get(timeout=PATIENCE)
    other = processes[0].start(wait_once, condition, waiting, woken)
    waiting.get(timeout=PATIENCE)
    with condition:
        pass  # both wait by now
    party.kill()
    processes[1].start(type(woken).qsize, woken).result()  # the death was served before this
    with condition:
        condition.notify()
    assert woken.get(timeout=PATIENCE) is True
    other.result()


def test_a_lock_of_a_thread_that_ended_is_released(make: Callable[..., Any]) -> None:
    lock = make("Lock")
    ThreadParty().start(lock.acquire).result()
    assert acquire_and_look(lock) == (True, True)


def test_what_a_fork_does_not_release_is_not_released_for_its_parent(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    lock = make("Lock")
    party.start(hold_and_fork, lock).result()
    assert lock.locked()
    assert not lock.acquire(timeout=0.01)
    party.kill()
    assert acquire_and_look(lock) == (True, True)


def hold_and_fork(lock: Any) -> None:
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        os._exit(lock.locked() is not True)
    assert os.waitpid(pid, 0)[1] == 0


def test_an_interrupted_wait_has_the_lock_when_it_leaves(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    condition = make("Condition")
    assert party.start(interrupted_wait, condition).result() == "interrupted"
    assert take_and_release(condition)


def interrupted_wait(condition: Any) -> str:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with condition, condition:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            condition.wait()
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        signal.signal(signal.SIGALRM, before)
    return "woken"


def test_a_condition_takes_only_a_shared_lock(make: Callable[..., Any]) -> None:
    for lock in (threading.Lock(), make("Event")):
        with pytest.raises(TypeError, match="the lock of a shared Condition"):
            make("Condition", lock)
