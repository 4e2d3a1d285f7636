"""Owners by the public API: circles of waits, ends of tasks, deaths of those who are needed."""

import asyncio
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from parties import (
    PATIENCE,
    SERVED_BY,
    ThreadParty,
    be_served_by,
    number_waiting,
    wait_until,
)

import unirun
from unirun import DeadlockError, Executor, LockAbandoned

KINDS = ["Lock", "RLock", "Condition"]


@pytest.fixture(params=SERVED_BY)
def served_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    be_served_by(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def processes(served_by: str) -> Iterator[Executor]:
    with Executor(2, backend="process", grace=0, preload=(__name__,)) as executor:
        yield executor


@pytest.fixture(params=["process", "thread", "coroutine", "inline"])
def anywhere(request: pytest.FixtureRequest, processes: Executor) -> Iterator[Executor]:
    """An executor of each backend; what is shared lives with `processes`."""
    if request.param == "process":
        yield processes
    else:
        options = {"copy": False} if request.param == "inline" else {}
        with Executor(backend=request.param, **options) as executor:
            yield executor


@pytest.fixture
def seen() -> Iterator[list[str]]:
    """The texts of ResourceWarnings about locks."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
        texts += [str(each.message) for each in caught if each.category is ResourceWarning]


def is_free(lock: Any) -> bool:
    """Asked by another thread: this one may own it."""
    return bool(ThreadParty().start(take_and_release, lock).result())


def take_and_release(lock: Any) -> bool:
    if not lock.acquire(timeout=PATIENCE):
        return False
    lock.release()
    return True


def is_held(lock: Any) -> bool:
    return not ThreadParty().start(lock.acquire, False).result()


# -- circles --------------------------------------------------------------------------------------


def take_both(first: Any, second: Any, both_hold: Any, timeout: float = -1) -> Any:
    with first:
        both_hold.wait(PATIENCE)
        try:
            if not second.acquire(timeout=timeout):
                return False
        except DeadlockError as exc:
            return str(exc)
        second.release()
        return True


@pytest.mark.parametrize("kinds", [("Lock", "Lock"), ("Lock", "RLock"), ("Condition", "RLock")])
@pytest.mark.parametrize("where", ["worker", "thread"])
def test_one_of_a_circle_is_told_who_holds_what(
    processes: Executor, where: str, kinds: tuple[str, str]
) -> None:
    a, b = (getattr(processes, kind)() for kind in kinds)
    both = processes.Barrier(2)
    one = processes.submit(take_both, a, b, both)
    other = (
        processes.submit(take_both, b, a, both)
        if where == "worker"
        else ThreadParty().start(take_both, b, a, both)
    )
    outcomes = [one.result(), other.result()]
    assert True in outcomes, "the other one goes on"
    [text] = [outcome for outcome in outcomes if outcome is not True]
    assert "never have ended" in text
    assert "take_both' (thread 'MainThread' of process" in text
    assert text.count("holds") == text.count("waits for") == 2
    assert is_free(a)
    assert is_free(b)


def test_a_circle_of_three(processes: Executor) -> None:
    locks = [processes.Lock() for _ in range(3)]
    all_hold = processes.Barrier(3)
    calls = [
        processes.submit(take_both, locks[0], locks[1], all_hold),
        processes.submit(take_both, locks[1], locks[2], all_hold),
        ThreadParty().start(take_both, locks[2], locks[0], all_hold),
    ]
    outcomes = [call.result() for call in calls]
    assert outcomes.count(True) == 2
    assert [text.count("holds") for text in outcomes if text is not True] == [3]


def test_a_circle_with_a_timeout_ends_by_that(processes: Executor) -> None:
    a, b, both = processes.Lock(), processes.Lock(), processes.Barrier(2)
    one = processes.submit(take_both, a, b, both, 0.1)
    other = processes.submit(take_both, b, a, both)
    assert (one.result(), other.result()) == (False, True)


def test_who_waits_for_a_lock_of_its_own_may_be_helped(processes: Executor) -> None:
    lock = processes.Lock()
    call = processes.submit(take_twice, lock)
    wait_until(lambda: number_waiting(lock))
    lock.release()
    assert call.result()


def take_twice(lock: Any) -> bool:
    lock.acquire()
    with lock:
        return True


def test_who_comes_back_from_a_wait_gets_its_lock_and_the_other_is_refused(
    processes: Executor,
) -> None:
    condition, mine = processes.Condition(processes.Lock()), processes.Lock()
    waiting = processes.submit(wait_holding, mine, condition)
    wait_until(lambda: number_waiting(condition))
    with condition, pytest.raises(DeadlockError, match="wait_holding"), mine:
        pass
    assert waiting.result() is False
    assert is_free(mine)
    assert is_free(condition)


def wait_holding(mine: Any, condition: Any) -> Any:
    with mine, condition:
        return condition.wait(0.3)


# -- the end of a task ----------------------------------------------------------------------------


def leave(lock: Any, times: int, fails: bool) -> None:
    for _ in range(times):
        lock.acquire()
    if fails:
        raise LookupError


async def leave_async(lock: Any, times: int, fails: bool) -> None:
    await asyncio.sleep(0)
    leave(lock, times, fails)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_task_still_holds_is_released_and_warned_of_before_its_result_is_there(
    processes: Executor, anywhere: Executor, kind: str, fails: bool
) -> None:
    lock = getattr(processes, kind)()
    function = leave_async if "coroutine" in repr(anywhere) else leave
    call = anywhere.options(name="leaver")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error = call.submit(function, lock, 1 if kind == "Lock" else 2, fails).exception()
        texts = [str(each.message) for each in caught if each.category is ResourceWarning]
    assert isinstance(error, LookupError if fails else type(None))
    inner = lock._lock if kind == "Condition" else lock
    assert len(texts) == 1
    assert "task 'leaver' ended holding" in texts[0]
    assert inner.kind in texts[0]
    assert is_free(lock)
    assert not inner.abandoned


def test_a_task_that_releases_what_it_acquired_is_not_warned_of(
    processes: Executor, anywhere: Executor, seen: list[str]
) -> None:
    lock, rlock, condition = processes.Lock(), processes.RLock(), processes.Condition()
    function = use_well_async if "coroutine" in repr(anywhere) else use_well
    assert anywhere.submit(function, lock, rlock, condition).result() is False
    assert not seen


def use_well(lock: Any, rlock: Any, condition: Any) -> Any:
    with lock, rlock, rlock, condition:
        return condition.wait(0.01)


async def use_well_async(*locks: Any) -> Any:
    return use_well(*locks)


def test_what_was_acquired_before_the_task_is_not_the_tasks(
    processes: Executor, seen: list[str]
) -> None:
    lock, rlock = processes.Lock(), processes.RLock()
    with Executor(backend="inline", copy=False) as inline, lock, rlock:
        inline.submit(leave, rlock, 1, False).result()
        assert is_held(rlock), "one level was the task's, not both"
        assert is_held(lock)
    assert is_free(rlock)


def test_a_call_inside_a_task_settles_what_is_its_own(processes: Executor) -> None:
    outer, inner = processes.Lock(), processes.Lock()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call = processes.options(name="outer").submit(nest_calls, outer, inner)
        assert call.result() == (True, False)
        texts = [str(each.message) for each in caught if each.category is ResourceWarning]
    assert [text.split(" ended")[0] for text in texts] == ["task 'inner'", "task 'outer'"]
    assert is_free(outer)


def nest_calls(outer: Any, inner: Any) -> tuple[bool, bool]:
    outer.acquire()
    with Executor(backend="inline", copy=False) as inline:
        inline.options(name="inner").submit(leave, inner, 1, False).result()
        return outer.locked(), inner.locked()


def test_what_somebody_else_released_and_holds_now_is_left_alone(
    processes: Executor, seen: list[str]
) -> None:
    lock, go = processes.Lock(), processes.Event()
    call = processes.submit(acquire_and_wait, lock, go)
    wait_until(lock.locked)
    lock.release()
    lock.acquire()
    go.set()
    call.result()
    assert is_held(lock)
    lock.release()


def acquire_and_wait(lock: Any, go: Any) -> bool:
    lock.acquire()
    return bool(go.wait(PATIENCE))


def test_coroutines_that_share_a_thread_own_apart(processes: Executor) -> None:
    kept, left, go = processes.Lock(), processes.Lock(), threading.Event()
    with Executor(backend="coroutine") as loop:
        first = loop.submit(keep_until, kept, go)
        wait_until(kept.locked)
        with pytest.warns(ResourceWarning, match="leave_async"):
            loop.submit(leave_async, left, 1, False).result()
        assert is_held(kept)
        go.set()
        first.result()
    assert is_free(kept)
    assert is_free(left)


async def keep_until(lock: Any, go: Any) -> None:
    with lock:
        assert await asyncio.to_thread(go.wait, PATIENCE)


def test_a_coroutine_that_is_killed_leaves_nothing(processes: Executor) -> None:
    lock = processes.Lock()
    with Executor(backend="coroutine") as loop:
        call = loop.submit(acquire_and_sleep, lock)
        wait_until(lock.locked)
        with pytest.warns(ResourceWarning, match="acquire_and_sleep"):
            assert kill_and_wait(call)
    assert is_free(lock)


def kill_and_wait(call: Any) -> bool:
    killed = call.kill()
    wait_until(call.done)
    return bool(killed)


async def acquire_and_sleep(lock: Any) -> None:
    lock.acquire()
    await asyncio.sleep(PATIENCE)


@pytest.mark.parametrize("where", ["process", "thread"])
def test_a_warning_made_an_error_goes_where_errors_of_finalizers_go(
    processes: Executor, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    lock = processes.Lock()
    with Executor(1, backend="thread") as threads, warnings.catch_warnings():
        warnings.simplefilter("error")
        executor = processes if where == "process" else threads
        assert executor.submit(leave, lock, 1, False).result() is None
        assert executor.submit(leave, lock, 1, False).result() is None
    assert [each.exc_type for each in told] == [ResourceWarning] * 2
    assert is_free(lock)


def test_a_task_that_used_no_shared_lock_has_nothing_to_settle(processes: Executor) -> None:
    assert processes.submit(has_hook).result() is False


def has_hook() -> bool:
    from unirun import _context

    return _context.at_task_end is not None


# -- abandoned locks ------------------------------------------------------------------------------


def hold_and_die(lock: Any, when: Any) -> None:
    with lock:
        when.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_who_asks_to_be_told_is_not_given_an_abandoned_lock(processes: Executor, kind: str) -> None:
    lock = getattr(processes, kind)(on_abandoned="raise")
    now = processes.Event()
    victim = processes.submit(hold_and_die, lock, now)
    wait_until(lock.locked)
    waiters = [
        ThreadParty().start(lock.acquire),
        ThreadParty().start(lock.acquire, True, PATIENCE),
        processes.submit(lock.acquire),
    ]
    wait_until(lambda: number_waiting(lock) == 3)
    now.set()
    assert isinstance(victim.exception(), unirun.WorkerCrashed)
    for waiter in waiters:
        with pytest.raises(LockAbandoned, match=r"half done; repair that"):
            waiter.result()
    with pytest.raises(LockAbandoned):
        lock.acquire(False)
    assert lock.acquire(on_abandoned="flag")
    assert lock.abandoned
    lock.release()
    with lock:
        assert not lock.abandoned


def test_a_wait_on_a_condition_ends_without_an_abandoned_lock(processes: Executor) -> None:
    lock, now = processes.Lock(on_abandoned="raise"), processes.Event()
    condition = processes.Condition(lock)
    waiter = ThreadParty().start(wait_with, condition)
    wait_until(lambda: number_waiting(condition))
    victim = processes.submit(notify_and_die, condition, now)
    wait_until(lambda: number_waiting(lock))
    now.set()
    assert isinstance(victim.exception(), unirun.WorkerCrashed)
    with pytest.raises(LockAbandoned):  # and no RuntimeError of the `with`
        waiter.result()
    assert lock.acquire(on_abandoned="flag")
    assert is_held(lock)
    lock.release()


def wait_with(condition: Any) -> None:
    with condition:
        condition.wait(PATIENCE)


def notify_and_die(condition: Any, when: Any) -> None:
    with condition:
        condition.notify()
        when.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)


def test_flag_is_the_default_and_nothing_else_is_known(processes: Executor) -> None:
    with pytest.raises(ValueError, match="'flag' or 'raise'"):
        processes.Lock(on_abandoned="ignore")
    lock = processes.Lock()
    with pytest.raises(ValueError, match="'flag' or 'raise'"):
        lock.acquire(on_abandoned="ignore")
    assert not lock.locked()


def test_a_notification_of_one_who_was_killed_goes_to_the_next(processes: Executor) -> None:
    condition = processes.Condition()
    victim = processes.submit(wait_with, condition)
    wait_until(lambda: number_waiting(condition) == 1)
    survivor = processes.submit(condition_wait, condition)
    wait_until(lambda: number_waiting(condition) == 2)
    with condition:
        condition.notify()
        victim.kill()
        wait_until(victim.done)
    assert survivor.result() is True


def condition_wait(condition: Any) -> Any:
    with condition:
        return condition.wait(PATIENCE)
