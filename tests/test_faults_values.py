"""Whoever changes a shared value may die: it is changed or it is not, and the others go on."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults import Stage, kill_each, staged, stay
from parties import PATIENCE

pytestmark = pytest.mark.leaks("what belongs to a worker that is replaced")

BEFORE: dict[str, Any] = {"Value": 7, "Dict": {"a": 1, "b": 2}, "List": [1, 2, 3]}


@pytest.fixture(scope="module", autouse=True)
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("lines"), __name__) as stage:
        yield stage


def content(shared: Any) -> Any:
    return shared.get() if hasattr(shared, "set") else shared.copy()


def tell_and_stay(tell: Callable[[], None], shared: Any) -> None:
    def change(value: Any) -> Any:
        tell()
        stay()

    shared.update(change)


def one_more(value: Any) -> Any:
    if isinstance(value, dict):
        return {**value, "a": value["a"] + 1}
    return [*value, 0] if isinstance(value, list) else value + 1


def update(shared: Any) -> None:
    shared.update(one_more)


@kill_each(*BEFORE)
def test_an_update_that_died_has_not_happened(stage: Stage, kind: str, death: str) -> None:
    shared = stage.make(kind, BEFORE[kind])
    victim = stage.victim(death, tell_and_stay, shared)
    updated = stage.survivors(update, shared)
    assert content(shared) == BEFORE[kind]
    victim.die()
    updated()
    expected = {"Value": 10, "Dict": {"a": 4, "b": 2}, "List": [1, 2, 3, 0, 0, 0]}
    assert content(shared) == expected[kind]


def change_for_ever(tell: Callable[[], None], shared: Any) -> None:
    tell()
    while True:
        shared.update(one_more)


@kill_each(*BEFORE)
def test_killed_between_updates_or_in_them_it_is_whole(stage: Stage, kind: str, death: str) -> None:
    shared = stage.make(kind, BEFORE[kind])
    victim = stage.victim(death, change_for_ever, shared)
    while content(shared) == BEFORE[kind]:
        update(shared)
    victim.die()
    before = content(shared)
    stage.survivors(update, shared)()
    after = one_more(one_more(one_more(before)))
    assert content(shared) == after


def hold_the_lock(tell: Callable[[], None], shared: Any) -> None:
    with shared.lock:
        update(shared)
        tell()
        stay()


def take_lock(shared: Any) -> bool:
    assert shared.lock.acquire(timeout=PATIENCE)
    abandoned: bool = shared.lock.abandoned
    shared.lock.release()
    return abandoned


@kill_each(*BEFORE)
def test_its_lock_goes_to_the_next_who_sees_that_it_was_abandoned(
    stage: Stage, kind: str, death: str
) -> None:
    shared = stage.make(kind, BEFORE[kind])
    victim = stage.victim(death, hold_the_lock, shared)
    taken = stage.survivors(take_lock, shared)
    victim.die()
    assert sorted(taken()) == [False, False, True]
    assert content(shared) == one_more(BEFORE[kind]), "what was done stays"


# -- forks -------------------------------------------------------------------------------------


def fork_while_holding(lock: Any, q: Any) -> tuple[bool, bool]:
    """What a child sees of a lock that its parent holds, and what it leaves when it ends."""
    ours, theirs = os.pipe()
    with lock:
        child = os.fork()
        if child == 0:
            free = lock.acquire(timeout=0.05)
            q.put("from the child")
            os.write(theirs, b"free" if free else b"held")
            os._exit(0)
        seen = os.read(ours, 4)
        os.waitpid(child, 0)
        os.close(ours)
        os.close(theirs)
        return seen == b"held", lock.locked()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_fork_of_a_holder_holds_nothing_and_takes_nothing_away(stage: Stage, kind: str) -> None:
    lock, q = stage.make(kind), stage.make("Queue")
    assert stage.executor.submit(fork_while_holding, lock, q).result() == (True, True)
    assert q.get(timeout=PATIENCE) == "from the child"
    assert lock.acquire(timeout=PATIENCE)
    assert not lock.abandoned
    lock.release()


def fork_and_die(tell: Callable[[], None], lock: Any) -> None:
    """A child outlives the holder: that must not keep the lock held."""
    with lock:
        if os.fork() == 0:
            os.setsid()  # the death of the parent is not meant for it
            stay()
        tell()
        stay()


@kill_each("Lock", "RLock")
def test_a_child_of_a_dead_holder_does_not_hold_for_it(stage: Stage, kind: str, death: str) -> None:
    lock = stage.make(kind)
    victim = stage.victim(death, fork_and_die, lock)
    victim.die()
    assert lock.acquire(timeout=PATIENCE)
    assert lock.abandoned
    lock.release()
