"""Every name of a shared object is there, twice, and works in tasks of every backend."""

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from parties import PATIENCE

import unirun
from unirun import Executor
from unirun._shared_names import NAMES, SharedNames

CLASSES = {"Activity", "Timer"}  # which a program may subclass
SHARED = sorted(set(NAMES) - CLASSES)


@pytest.fixture(params=["inline", "thread", "process", "by kind"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    backend = None if request.param == "by kind" else request.param
    with Executor(1, backend=backend) as executor:
        yield executor


def test_all_names_are_there() -> None:
    assert set(NAMES) == {
        *("Activity", "Barrier", "BoundedSemaphore", "Condition", "Dict", "Event", "LifoQueue"),
        *("List", "Lock", "PriorityQueue", "Queue", "RLock", "Semaphore", "SimpleQueue", "Timer"),
        *("Value", "local"),
    }
    assert set(NAMES) <= set(unirun.__all__)
    assert set(NAMES) <= set(vars(SharedNames))


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_the_same_on_an_executor_and_in_the_package(name: str) -> None:
    of_executor = inspect.signature(getattr(SharedNames, name))
    parameters = list(of_executor.parameters.values())[1:]  # without self
    of_package = inspect.signature(getattr(unirun, name))
    assert [(p.name, p.kind, p.default) for p in of_package.parameters.values()] == [
        (p.name, p.kind, p.default) for p in parameters
    ]


def acquires(lock: Any) -> Any:
    with lock:
        twice = lock.acquire(blocking=False)
        if twice:
            lock.release()
        return twice


def condition_is_used(condition: Any) -> bool:
    with condition:
        condition.notify_all()
        return bool(condition.wait_for(lambda: True))


def passes_on(queue: Any) -> Any:
    queue.put("egg")
    return queue.get()


def event_is_set(event: Any) -> bool:
    event.set()
    return bool(event.wait(PATIENCE))


def attribute_is_kept(local: Any) -> Any:
    local.x = "egg"
    return local.x


USES: dict[str, tuple[tuple[Any, ...], Callable[[Any], Any], Any]] = {
    "Barrier": ((1,), lambda barrier: barrier.wait(PATIENCE), 0),
    "BoundedSemaphore": ((1,), acquires, False),
    "Condition": ((), condition_is_used, True),
    "Dict": (({"a": 1},), lambda shared: sorted(shared.items()), [("a", 1)]),
    "Event": ((), event_is_set, True),
    "LifoQueue": ((), passes_on, "egg"),
    "List": (([3, 4],), lambda shared: list(shared), [3, 4]),
    "Lock": ((), acquires, False),
    "PriorityQueue": ((), passes_on, "egg"),
    "Queue": ((), passes_on, "egg"),
    "RLock": ((), acquires, True),
    "Semaphore": ((2,), acquires, True),
    "SimpleQueue": ((), passes_on, "egg"),
    "Value": ((5,), lambda value: value.get(), 5),
    "local": ((), attribute_is_kept, "egg"),
}


def test_every_shared_object_has_a_use_here() -> None:
    assert sorted(USES) == SHARED


@pytest.mark.parametrize("name", SHARED)
def test_each_is_of_use_in_a_task(executor: Executor, name: str) -> None:
    args, use, expected = USES[name]
    shared = getattr(executor, name)(*args)
    assert executor.submit(use, shared).result(PATIENCE) == expected


def make_and_use(name: str) -> Any:
    args, use, _ = USES[name]
    return os.getpid(), use(getattr(unirun, name)(*args))


@pytest.mark.parametrize("name", SHARED)
def test_each_can_be_made_in_a_task(executor: Executor, name: str) -> None:
    pid, found = executor.submit(make_and_use, name).result(PATIENCE)
    assert found == USES[name][2]
    assert (pid == os.getpid()) is (executor._chooser.fixed != "process")


@pytest.mark.parametrize("name", SHARED)
def test_the_package_makes_them_by_the_current_executor(name: str) -> None:
    with Executor(backend="thread") as threads:
        there = type(getattr(threads, name)(*USES[name][0]))
        with threads:
            assert type(getattr(unirun, name)(*USES[name][0])) is there
    with Executor(backend="process") as processes:
        there = type(getattr(processes, name)(*USES[name][0]))
        with processes:
            assert type(getattr(unirun, name)(*USES[name][0])) is there


def test_on_threads_locks_are_those_of_threading() -> None:
    with Executor(backend="thread") as executor:
        for choice in ("flag", "raise"):
            assert type(executor.Lock(on_abandoned=choice)) is type(threading.Lock())
            assert type(executor.RLock(on_abandoned=choice)) is type(threading.RLock())
        names = ("Barrier", "BoundedSemaphore", "Condition", "Event", "Semaphore", "local")
        for name in names:
            made = getattr(executor, name)(*USES[name][0])
            assert type(made) is getattr(threading, name)
        lock = executor.Lock()
        assert executor.Condition(lock).acquire()
        assert lock.locked()


@pytest.mark.parametrize("name", ["Lock", "RLock"])
def test_what_to_do_with_an_abandoned_lock_is_one_of_two(executor: Executor, name: str) -> None:
    with pytest.raises(ValueError, match="'flag' or 'raise'"):
        getattr(executor, name)(on_abandoned="egg")
    with pytest.raises(TypeError):
        getattr(executor, name)("flag")


def test_a_dict_may_have_any_keys(executor: Executor) -> None:
    keys = {"kind": 1, "self": 2, "manager": 3, "what": 4}
    assert dict(executor.Dict(**keys).items()) == keys
    with executor:
        assert dict(unirun.Dict(**keys).items()) == keys


def test_a_condition_takes_a_lock_of_the_same_executor(executor: Executor) -> None:
    lock = executor.Lock()
    condition = executor.Condition(lock)
    assert executor.submit(condition_is_used, condition).result(PATIENCE) is True
    with condition:
        assert lock.locked()
