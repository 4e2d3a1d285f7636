"""Locks and semaphores keep every promise of `threading`'s, whoever shares them.

What `test_locks.py` tells of their use is not told again here: these are the edges.
"""

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from parties import PATIENCE, Mapping, soon

LOCKS = ["Lock", "RLock"]
SEMAPHORES = ["Semaphore", "BoundedSemaphore"]


def stay(let_go: Any) -> None:
    """What a thread holds in a manager is released when the thread ends: do not end yet."""
    assert let_go.wait(PATIENCE)


# -- what one party sees of every lock ------------------------------------------------------------


def every_spelling_of_acquire_is_known(lock: Any) -> None:
    for args, kwargs in (
        ((), {}),
        ((True,), {}),
        ((False,), {}),
        ((0,), {}),
        ((1, -1), {}),
        ((True, 5), {}),
        ((True, 0), {}),
        ((False, -1), {}),
        ((), {"blocking": False}),
        ((), {"blocking": True, "timeout": 0.1}),
        ((), {"timeout": -1}),
        ((), {"timeout": 0}),
        ((), {"timeout": threading.TIMEOUT_MAX}),
    ):
        assert soon(lock.acquire, *args, **kwargs) is True
        assert lock.release() is None


def acquire_refuses_what_makes_no_sense(lock: Any) -> None:
    for error, args in (
        (ValueError, (False, 1)),
        (ValueError, (False, 0)),
        (ValueError, (True, -100)),
        (ValueError, (True, -0.5)),
        (ValueError, (True, float("nan"))),
        (OverflowError, (True, 1e100)),
        (OverflowError, (True, float("inf"))),
        (OverflowError, (True, threading.TIMEOUT_MAX + 1)),
        (TypeError, (True, "1")),
        (TypeError, (True, None)),
        (TypeError, (True, 1, 1)),
    ):
        with pytest.raises(error):
            lock.acquire(*args)
    with pytest.raises(TypeError):
        lock.acquire(wait=True)
    with pytest.raises(RuntimeError):
        lock.release()  # none of that acquired it


def a_release_too_many_is_an_error(lock: Any) -> None:
    with pytest.raises(RuntimeError):
        lock.release()
    assert lock.acquire()
    lock.release()
    with pytest.raises(RuntimeError):
        lock.release()
    assert lock.acquire(False), "and does no harm"
    lock.release()


def with_releases_however_it_is_left(lock: Any) -> None:
    with lock as acquired:
        assert acquired is True
    with pytest.raises(LookupError), lock:
        raise LookupError
    for _ in range(2):
        with lock:
            continue
    with pytest.raises(RuntimeError):
        lock.release()


@pytest.mark.parametrize("kind", LOCKS)
@pytest.mark.parametrize(
    "body",
    [
        every_spelling_of_acquire_is_known,
        acquire_refuses_what_makes_no_sense,
        a_release_too_many_is_an_error,
        with_releases_however_it_is_left,
    ],
)
def test_a_lock_alone(mapping: Mapping, kind: str, body: Callable[..., None]) -> None:
    lock = mapping.make(kind)
    mapping.call(body, lock)
    assert lock.acquire(False), "it is free after all that"


@pytest.mark.parametrize("kind", LOCKS)
def test_a_held_lock_can_be_shown_referred_to_and_dropped(mapping: Mapping, kind: str) -> None:
    lock = mapping.make(kind)
    assert kind.lower() in repr(lock).lower()
    lock.acquire()
    assert kind.lower() in repr(lock).lower()
    reference = weakref.ref(lock)
    assert reference() is lock
    del lock
    if reference() is not None:
        gc.collect()
    assert reference() is None


def test_a_lock_takes_no_positional_arguments(mapping: Mapping) -> None:
    with pytest.raises(TypeError):
        mapping.make("Lock", 1)


# -- locks between several ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOCKS)
def test_whoever_asks_for_a_held_lock_waits_for_its_release(mapping: Mapping, kind: str) -> None:
    lock, log = mapping.make(kind), mapping.make("Queue")
    lock.acquire()
    others = [mapping.start(take_and_log, lock, log) for _ in range(mapping.size)]
    assert [log.get(timeout=PATIENCE) for _ in others] == ["asks"] * mapping.size
    log.put("released")
    lock.release()
    for other in others:
        other.result()
    assert log.get() == "released", "nobody had it before"
    assert [log.get() for _ in others] == ["has it"] * mapping.size
    assert lock.acquire(False)


def take_and_log(lock: Any, log: Any) -> None:
    log.put("asks")
    lock.acquire()
    log.put("has it")
    lock.release()


@pytest.mark.parametrize("kind", LOCKS)
def test_a_timeout_is_waited_for_and_leaves_the_lock_as_it_was(mapping: Mapping, kind: str) -> None:
    lock = mapping.make(kind)
    lock.acquire()
    acquired, waited = mapping.call(wait_in_vain, lock, 0.05)
    assert not acquired
    assert waited >= 0.05
    lock.release()
    mapping.call(every_spelling_of_acquire_is_known, lock)


def wait_in_vain(lock: Any, timeout: float) -> tuple[bool, float]:
    began = time.monotonic()
    acquired = lock.acquire(timeout=timeout)
    return acquired, time.monotonic() - began


def test_the_longest_timeout_is_no_error_where_one_waits(mapping: Mapping) -> None:
    lock, log = mapping.make("Lock"), mapping.make("Queue")
    lock.acquire()
    other = mapping.start(wait_very_long, lock, log)
    assert log.get(timeout=PATIENCE) == "asks"
    lock.release()
    assert other.result() is True


def wait_very_long(lock: Any, log: Any) -> Any:
    log.put("asks")
    acquired = lock.acquire(timeout=threading.TIMEOUT_MAX)
    lock.release()
    return acquired


def test_a_lock_acquired_again_by_its_holder_waits_for_another_to_release_it(
    mapping: Mapping,
) -> None:
    lock, log = mapping.make("Lock"), mapping.make("Queue")
    other = mapping.start(acquire_twice, lock, log)
    assert log.get(timeout=PATIENCE) == "once"
    log.put("released")
    lock.release()
    other.result()
    assert [log.get() for _ in range(2)] == ["released", "twice"]
    assert lock.acquire(False)


def acquire_twice(lock: Any, log: Any) -> None:
    lock.acquire()
    log.put("once")
    lock.acquire()
    log.put("twice")
    lock.release()


def test_a_lock_released_by_another_can_be_acquired_by_both(mapping: Mapping) -> None:
    lock = mapping.make("Lock")
    for _ in range(3):
        lock.acquire()
        mapping.call(release, lock)
        assert not lock.locked()
        mapping.call(every_spelling_of_acquire_is_known, lock)
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        mapping.call(release, lock)


def release(lock: Any) -> None:
    lock.release()


def test_an_rlock_is_free_after_as_many_releases_as_acquires(mapping: Mapping) -> None:
    lock = mapping.make("RLock")
    for blocking in (True, False, True):
        assert lock.acquire(blocking) is True
    for _ in range(3):
        assert mapping.call(wait_in_vain, lock, 0)[0] is False
        lock.release()
    assert mapping.call(reenter, lock) == "free"
    assert mapping.call(reenter, lock) == "free"


def reenter(lock: Any) -> str:
    with lock:
        with lock, lock:
            assert soon(lock.acquire, timeout=0)
            lock.release()
        lock.acquire()
        lock.release()
    with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
        lock.release()
    return "free"


def test_an_rlock_is_released_by_its_holder_only(mapping: Mapping) -> None:
    lock, held, let_go = mapping.make("RLock"), mapping.make("Queue"), mapping.make("Event")
    holder = mapping.start(hold, lock, held, let_go)
    assert held.get(timeout=PATIENCE) == "held"
    with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
        lock.release()
    assert lock.acquire(False) is False, "that released nothing"
    let_go.set()
    holder.result()
    assert lock.acquire(timeout=PATIENCE) is True


def hold(lock: Any, held: Any, let_go: Any) -> None:
    with lock, lock:
        held.put("held")
        stay(let_go)


# -- semaphores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SEMAPHORES)
def test_a_semaphore_begins_with_its_value(mapping: Mapping, kind: str) -> None:
    for bad in (-1, -sys.maxsize):
        with pytest.raises(ValueError, match="semaphore initial value must be >= 0"):
            mapping.make(kind, value=bad)
    assert count_permits(mapping.make(kind)) == 1
    assert count_permits(mapping.make(kind, 0)) == 0
    assert count_permits(mapping.make(kind, value=3)) == 3
    with pytest.raises(TypeError):
        mapping.make(kind, 1, 2)


def count_permits(semaphore: Any) -> int:
    permits = 0
    while semaphore.acquire(blocking=False):
        permits += 1
    return permits


def every_spelling_of_a_semaphore_is_known(semaphore: Any) -> None:
    """Of one with two permits."""
    for args, kwargs in (
        ((), {}),
        ((True,), {}),
        ((False,), {}),
        ((True, None), {}),
        ((False, None), {}),
        ((True, 0), {}),
        ((True, -5), {}),
        ((), {"timeout": 0.005}),
        ((), {"blocking": True, "timeout": 5}),
    ):
        assert soon(semaphore.acquire, *args, **kwargs) is True
        assert semaphore.release() is None
    assert semaphore.acquire()
    assert semaphore.acquire()
    for args, kwargs in (
        ((False,), {}),
        ((), {"blocking": 0}),
        ((), {"timeout": 0}),
        ((), {"timeout": 0.005}),
        ((True, -5), {}),
    ):
        assert semaphore.acquire(*args, **kwargs) is False
    assert semaphore.release(2) is None


def a_semaphore_refuses_what_makes_no_sense(semaphore: Any) -> None:
    for timeout in (1.0, 0, -1):
        with pytest.raises(ValueError, match="can't specify timeout for non-blocking acquire"):
            semaphore.acquire(False, timeout)
    for n in (0, -1):
        with pytest.raises(ValueError, match="n must be one or more"):
            semaphore.release(n)
    with pytest.raises(TypeError):
        semaphore.release(1, 2)
    with pytest.raises(TypeError):
        semaphore.acquire(True, 1, 2)
    assert count_permits(semaphore) == 2, "and nothing has changed"
    semaphore.release(n=2)


def with_takes_and_gives_back_a_permit(semaphore: Any) -> None:
    with semaphore as acquired:
        assert acquired is True
        with semaphore:
            assert not semaphore.acquire(False)
        with pytest.raises(LookupError), semaphore:
            raise LookupError
        assert count_permits(semaphore) == 1
        semaphore.release()
    assert count_permits(semaphore) == 2
    semaphore.release(2)


@pytest.mark.parametrize("kind", SEMAPHORES)
@pytest.mark.parametrize(
    "body",
    [
        every_spelling_of_a_semaphore_is_known,
        a_semaphore_refuses_what_makes_no_sense,
        with_takes_and_gives_back_a_permit,
    ],
)
def test_a_semaphore_alone(mapping: Mapping, kind: str, body: Callable[..., None]) -> None:
    semaphore = mapping.make(kind, 2)
    mapping.call(body, semaphore)
    assert count_permits(semaphore) == 2
    assert kind in repr(semaphore)


@pytest.mark.parametrize("kind", SEMAPHORES)
def test_each_release_lets_one_of_those_who_wait_go_on(mapping: Mapping, kind: str) -> None:
    size = mapping.size
    semaphore, log, let_go = mapping.make(kind, size), mapping.make("Queue"), mapping.make("Event")
    for _ in range(size):
        semaphore.acquire()
    others = [mapping.start(acquire_and_log, semaphore, log, 2, let_go) for _ in range(size)]
    for number in (1, size - 1, size):  # in one release, and one by one
        semaphore.release(number) if number < size else [semaphore.release() for _ in range(size)]
        assert [log.get(timeout=PATIENCE) for _ in range(number)] == [True] * number
        assert semaphore.acquire(False) is False
        assert log.empty()
    let_go.set()
    for other in others:
        other.result()


def acquire_and_log(semaphore: Any, log: Any, times: int, let_go: Any) -> None:
    for _ in range(times):
        log.put(semaphore.acquire())
    stay(let_go)


@pytest.mark.parametrize("kind", SEMAPHORES)
def test_no_more_get_a_permit_than_there_are(mapping: Mapping, kind: str) -> None:
    semaphore, log, let_go = mapping.make(kind, 4), mapping.make("Queue"), mapping.make("Event")
    semaphore.acquire()
    others = [mapping.start(try_and_log, semaphore, log, let_go) for _ in range(mapping.size)]
    tries = [log.get(timeout=PATIENCE) for _ in range(2 * mapping.size)]
    assert sorted(tries) == [False] * (len(tries) - 3) + [True] * 3
    let_go.set()
    for other in others:
        other.result()


def try_and_log(semaphore: Any, log: Any, let_go: Any) -> None:
    log.put(semaphore.acquire(False))
    log.put(semaphore.acquire(False))
    stay(let_go)


def test_a_semaphore_that_signals_goes_from_one_to_the_other(mapping: Mapping) -> None:
    there, back = mapping.make("Semaphore", 0), mapping.make("Semaphore", 0)
    other = mapping.start(answer, there, back, 20)
    for _ in range(20):
        there.release()
        assert back.acquire(timeout=PATIENCE)
    other.result()
    assert not there.acquire(False)
    assert not back.acquire(False)


def answer(there: Any, back: Any, times: int) -> None:
    for _ in range(times):
        assert there.acquire(True, PATIENCE)
        back.release()


def test_an_unbounded_semaphore_may_grow_and_a_bounded_one_not(mapping: Mapping) -> None:
    semaphore, bounded = mapping.make("Semaphore", 1), mapping.make("BoundedSemaphore", 2)
    mapping.call(release, semaphore)
    semaphore.release(3)
    assert count_permits(semaphore) == 5
    bounded.acquire()
    for number in (2, 3):
        with pytest.raises(ValueError, match="Semaphore released too many times"):
            bounded.release(number)
    assert count_permits(bounded) == 1, "a release too many releases none"
    bounded.release(2)
    with pytest.raises(ValueError, match="Semaphore released too many times"):
        mapping.call(release, bounded)


@pytest.mark.parametrize("kind", SEMAPHORES)
def test_the_timeout_of_a_semaphore_is_waited_for(mapping: Mapping, kind: str) -> None:
    acquired, waited = mapping.call(wait_in_vain, mapping.make(kind, 0), 0.05)
    assert not acquired
    assert waited >= 0.05
