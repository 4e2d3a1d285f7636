"""Conditions and events keep every promise of `threading`'s, whoever shares them.

What `test_locks.py` and `test_sync.py` tell of their use is not told again here.
"""

import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from parties import PATIENCE, Mapping, ProcessParty, number_waiting, soon, wait_until


@pytest.mark.parametrize("kind", ["Condition", "Event"])
def test_an_object_can_be_shown_referred_to_and_dropped(mapping: Mapping, kind: str) -> None:
    subject = mapping.make(kind)
    assert kind in repr(subject)
    reference = weakref.ref(subject)
    assert reference() is subject
    del subject
    if reference() is not None:
        gc.collect()
    assert reference() is None


# -- conditions -----------------------------------------------------------------------------------


def test_a_condition_has_an_rlock_of_its_own(mapping: Mapping) -> None:
    condition = mapping.make("Condition")
    assert condition.acquire() is True
    assert condition.acquire(blocking=False) is True
    assert condition.acquire(True, PATIENCE) is True
    with condition as acquired:
        assert acquired is True
        assert mapping.call(try_it, condition) is False
    for _ in range(3):
        condition.release()
    with pytest.raises(RuntimeError):
        condition.release()
    assert mapping.call(try_it, condition) is True


def try_it(lock: Any) -> bool:
    if not lock.acquire(False):
        return False
    lock.release()
    return True


def test_a_condition_uses_the_lock_it_was_given(mapping: Mapping) -> None:
    lock = mapping.make("Lock")
    condition = mapping.make("Condition", lock=lock)
    with condition:
        assert lock.locked()
        assert not lock.acquire(False)
        condition.notify()
    with lock:
        assert condition.acquire(False) is False
        condition.notify_all()
        assert condition.wait(0.01) is False
        assert lock.locked()
    assert not lock.locked()


def test_conditions_of_one_lock_are_notified_each_for_itself(mapping: Mapping) -> None:
    lock = mapping.make("Lock")
    one, other = mapping.make("Condition", lock), mapping.make("Condition", lock)
    log = mapping.make("Queue")
    waiters = [mapping.start(wait_and_log, *each) for each in ((one, log, 1), (other, log, 2))]
    all_wait(one, 1)
    all_wait(other, 1)
    for condition, name in ((other, 2), (one, 1)):
        with lock:
            condition.notify_all()
        assert log.get(timeout=PATIENCE) == (name, True)
        assert log.empty()
    for waiter in waiters:
        waiter.result()


def wait_and_log(condition: Any, log: Any, name: int, timeout: float | None = None) -> None:
    with condition:
        woken = condition.wait(timeout)
        log.put((name, woken))


def all_wait(subject: Any, number: int) -> None:
    wait_until(lambda: number_waiting(subject) == number)


@pytest.mark.parametrize("lock", [None, "Lock", "RLock"])
def test_a_condition_is_used_by_whoever_has_the_lock(mapping: Mapping, lock: str | None) -> None:
    condition = mapping.make("Condition", *([mapping.make(lock)] if lock else []))
    for method, says in (
        ("wait", "cannot wait on un-acquired lock"),
        ("notify", "cannot notify on un-acquired lock"),
        ("notify_all", "cannot notify on un-acquired lock"),
    ):
        with pytest.raises(RuntimeError, match=says):
            getattr(condition, method)()
        if lock != "Lock":  # a plain one, held by anybody, is everybody's
            with condition:
                assert mapping.call(how_it_fails, condition, method) == says


def how_it_fails(condition: Any, method: str) -> str:
    with pytest.raises(RuntimeError) as error:
        getattr(condition, method)()
    return str(error.value)


def test_as_many_are_woken_as_are_notified(mapping: Mapping) -> None:
    condition, log, size = mapping.make("Condition"), mapping.make("Queue"), mapping.size
    for _ in range(2):  # the second time to see that nothing is left of the first
        waiters = [mapping.start(wait_and_log, condition, log, n) for n in range(size)]
        all_wait(condition, size)
        with condition:
            condition.notify(0)
            condition.notify(n=size - 1)
            assert log.empty(), "they wait for the lock now"
        woken = [log.get(timeout=PATIENCE) for _ in range(size - 1)]
        assert number_waiting(condition) == 1
        assert log.empty()
        with condition:
            condition.notify(5)
        woken.append(log.get(timeout=PATIENCE))
        assert sorted(woken) == [(n, True) for n in range(size)]
        for waiter in waiters:
            waiter.result()


def test_all_are_woken_when_all_are_notified_and_may_wait_again(mapping: Mapping) -> None:
    condition, log, size = mapping.make("Condition"), mapping.make("Queue"), mapping.size
    waiters = [mapping.start(wait_twice, condition, log, n) for n in range(size)]
    for times in (1, 2):
        all_wait(condition, size)
        with condition:
            condition.notify_all()
        woken = [log.get(timeout=PATIENCE) for _ in range(size)]
        assert sorted(woken) == [(n, times) for n in range(size)]
    for waiter in waiters:
        waiter.result()


def wait_twice(condition: Any, log: Any, name: int) -> None:
    for times in (1, 2):
        with condition:
            assert condition.wait() is True
            log.put((name, times))


def test_nobody_is_woken_by_an_earlier_notify(mapping: Mapping) -> None:
    condition = mapping.make("Condition")
    with condition:
        condition.notify(3)
        condition.notify_all()
        assert condition.wait(0.01) is False
    assert mapping.call(wait_in_vain, condition, 0.05) == (False, True)


def wait_in_vain(condition: Any, timeout: float) -> tuple[bool, bool]:
    """Whether it was notified, and whether the time is really over."""
    with condition:
        began = time.monotonic()
        notified = condition.wait(timeout)
        over = time.monotonic() - began >= timeout
        condition.notify()  # we have the lock again
    return notified, over


def test_a_waiter_that_timed_out_is_not_counted_by_notify(mapping: Mapping) -> None:
    condition, log = mapping.make("Condition"), mapping.make("Queue")
    assert mapping.call(wait_in_vain, condition, 0.01)[0] is False
    waiter = mapping.start(wait_and_log, condition, log, 1)
    all_wait(condition, 1)
    with condition:
        condition.notify()
    assert log.get(timeout=PATIENCE) == (1, True)
    waiter.result()


def test_a_wait_that_raises_while_it_has_the_lock_keeps_it(mapping: Mapping) -> None:
    condition = mapping.make("Condition")
    mapping.call(predicate_that_fails, condition)
    assert mapping.call(try_it, condition)


def predicate_that_fails(condition: Any) -> None:
    with condition, pytest.raises(ZeroDivisionError):
        condition.wait_for(lambda: 1 // 0)
    with condition:
        with pytest.raises(ZeroDivisionError):
            condition.wait_for(lambda: 1 // 0, timeout=1)
        condition.notify()  # it has the lock
    assert try_it(condition)


def test_wait_for_looks_after_each_notify_until_it_is_true(mapping: Mapping) -> None:
    condition, state, log = mapping.make("Condition"), mapping.make("Queue"), mapping.make("Queue")
    waiter = mapping.start(wait_for_items, condition, state, 4, log)
    for size in range(4):
        assert log.get(timeout=PATIENCE) == size
        with condition:
            state.put("one more")
            condition.notify()
    assert waiter.result() == (4, 4)


def wait_for_items(condition: Any, state: Any, number: int, log: Any) -> tuple[int, int]:
    def enough() -> int | None:
        size = state.qsize()
        log.put(size)
        return size if size == number else None

    with condition:
        return condition.wait_for(enough), state.qsize()


def wait_for_says_what_the_predicate_said(condition: Any) -> None:
    with condition:
        assert condition.wait_for(lambda: "at once") == "at once"
        assert condition.wait_for(lambda: "at once", timeout=0) == "at once"
        assert condition.wait_for(lambda: "at once", timeout=-1) == "at once"
        calls: list[int] = []
        assert condition.wait_for(lambda: calls.append(1), timeout=0) is None
        assert condition.wait_for(lambda: calls.append(1), timeout=-1) is None
        assert len(calls) == 4, "it waits once, however short its time"
        began = time.monotonic()
        assert condition.wait_for(list, timeout=0.05) == []
        assert time.monotonic() - began >= 0.05


def test_wait_for(mapping: Mapping) -> None:
    mapping.call(wait_for_says_what_the_predicate_said, mapping.make("Condition"))


def test_wait_for_lets_others_have_the_lock_even_if_it_has_no_time(mapping: Mapping) -> None:
    condition, log = mapping.make("Condition"), mapping.make("Queue")
    with condition:
        other = mapping.start(put_with_lock, condition, log)
        while not condition.wait_for(lambda: not log.empty(), timeout=0):
            continue
    assert other.result() == "had the lock"


def put_with_lock(lock: Any, log: Any) -> str:
    with lock:
        log.put("now")
    return "had the lock"


# -- events ---------------------------------------------------------------------------------------


def a_flag_stays_as_it_was_left(event: Any) -> None:
    for turns in (1, 2):
        for _ in range(turns):
            assert event.set() is None
            assert event.is_set() is True
            for timeout in (None, 0, -1, 0.01, threading.TIMEOUT_MAX):
                assert soon(event.wait, timeout) is True
            assert event.wait(timeout=5) is True
        for _ in range(turns):
            assert event.clear() is None
            assert event.is_set() is False
            for timeout in (0, 0.0, -1, 0.005):
                assert event.wait(timeout) is False


def test_an_event_alone(mapping: Mapping) -> None:
    event = mapping.make("Event")
    assert event.is_set() is False
    mapping.call(a_flag_stays_as_it_was_left, event)
    with pytest.raises(TypeError):
        mapping.make("Event", 1)
    with pytest.raises(TypeError):
        event.wait(1, 2)
    with pytest.raises(TypeError):
        event.wait("1")


def test_an_event_wakes_all_each_time_it_is_set(mapping: Mapping) -> None:
    event = mapping.make("Event")
    for _ in range(2):
        waiters = [mapping.start(wait_again, event) for _ in range(mapping.size)]
        all_wait(event, mapping.size)
        event.set()
        assert [waiter.result() for waiter in waiters] == [[True, True]] * mapping.size
        event.clear()


def wait_again(event: Any) -> list[bool]:
    return [event.wait(), event.wait()]


def test_a_pulse_wakes_all_who_wait_and_nobody_else(mapping: Mapping) -> None:
    event = mapping.make("Event")
    waiters = [mapping.start(wait_long, event) for _ in range(mapping.size)]
    all_wait(event, mapping.size)
    event.set()
    event.clear()
    assert [waiter.result() for waiter in waiters] == [True] * mapping.size
    assert mapping.call(wait_a_moment, event) == (False, True)


def wait_long(event: Any) -> Any:
    return event.wait(PATIENCE)


def wait_a_moment(event: Any) -> tuple[Any, bool]:
    began = time.monotonic()
    return event.wait(0.05), time.monotonic() - began >= 0.05


# -- signal handlers ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["home", "elsewhere"])
def test_a_signal_handler_may_set_an_event_and_put_into_a_simple_queue_at_any_time(
    make: Callable[..., Any], processes: list[ProcessParty], where: str
) -> None:
    event, q, log = make("Event"), make("Queue"), make("SimpleQueue")
    if where == "home":
        handled = handle_signals(event, q, log)
    else:
        handled = processes[0].start(handle_signals, event, q, log).result()
    assert handled > 0
    wait_until(lambda: log.qsize() == handled + 300)
    assert event.is_set()


def handle_signals(event: Any, q: Any, log: Any) -> int:
    """Use queues while signals come; returns how many came."""
    handled = 0

    def handler(*_: object) -> None:
        nonlocal handled
        handled += 1
        event.clear()
        event.set()
        log.put(handled)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(300):
            signal.setitimer(signal.ITIMER_REAL, 0.00001 * (1 + number % 30))
            q.put(number)
            log.put(number)
            assert q.get(timeout=PATIENCE) == number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return handled
