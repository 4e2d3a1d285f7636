"""How long a shared object lives: as long as a handle on it does, wherever that is, or is going.

See lingering.py; what has to do with other processes is in test_lifetimes_far.py, and what travels
in calls in test_lifetimes_of_calls.py.
"""

import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lingering import linger_for, outlasting
from parties import PATIENCE, wait_until

from unirun import ManagerLost, _handles, _references
from unirun._links import MARK
from unirun._manager import Manager
from unirun.sync import make_shared

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    linger_for(0.1, monkeypatch)


@pytest.fixture
def outlast() -> Iterator[Callable[[], None]]:
    with outlasting() as wait:
        yield wait


# -- in the process where it lives ----------------------------------------------------------------


def test_an_object_that_never_left_is_freed_with_its_last_handle(
    make: Make, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_references, "LINGER", 1e6)
    kept = make("Lock")
    objects = [make("Queue"), make("Event"), make("Barrier", 2), make("Condition"), make("Dict")]
    assert manager.objects == 8  # a condition and a dict have locks
    objects.clear()
    wait_until(lambda: manager.objects == 1)
    assert kept.acquire()
    assert "1 objects" in repr(manager)


def test_an_object_that_was_pickled_lingers(
    make: Make, manager: Manager, outlast: Callable[[], None]
) -> None:
    data = pickle.dumps(make("Queue"))
    again = pickle.loads(data)
    outlast()
    again.put(1)
    assert again.get() == 1
    del again
    wait_until(lambda: manager.objects == 0)


def test_a_freed_object_says_so(make: Make, manager: Manager) -> None:
    data = pickle.dumps(make("Queue"))
    wait_until(lambda: manager.objects == 0)
    with pytest.raises(ManagerLost, match="no such Queue any more, since nobody referred to it"):
        pickle.loads(data).qsize()


def test_ids_are_never_used_again(make: Make, manager: Manager) -> None:
    names = set()
    for _ in range(50):
        names.add(make("Event")._name)
    assert len(names) == 50
    wait_until(lambda: manager.objects == 0)


def test_a_lock_that_is_held_goes_with_its_last_handle(make: Make, manager: Manager) -> None:
    assert make("Lock").acquire()
    wait_until(lambda: manager.objects == 0)
    assert make("Lock").acquire()


def test_who_waits_keeps_the_object(
    make: Make, manager: Manager, outlast: Callable[[], None]
) -> None:
    got: list[Any] = []
    queue = make("Queue")
    pickle.dumps(queue)
    waiting = threading.Thread(target=lambda queue=queue: got.append(queue.get()))
    waiting.start()
    name = queue._name
    del queue
    outlast()
    assert manager.objects == 1
    another = _handles._handles[name]
    another.put("x")  # type: ignore[attr-defined]
    waiting.join(PATIENCE)
    assert got == ["x"]


def test_a_condition_keeps_its_lock(make: Make, outlast: Callable[[], None]) -> None:
    condition = pickle.loads(pickle.dumps(make("Condition", make("Lock"))))
    outlast()
    with condition:
        condition.notify_all()


def test_a_finalizer_may_drop_handles_whatever_is_locked(make: Make, manager: Manager) -> None:
    """The collector runs in the middle of calls to the manager, under its lock and ours."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.object = make("Event")

    before = gc.get_threshold()
    queue = make("Queue")
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(300):
            Cycle()
            queue.put(1)
            assert queue.get() == 1
            pickle.loads(pickle.dumps(queue))
    finally:
        gc.set_threshold(*before)
    gc.collect()
    wait_until(lambda: manager.objects == 1)


def test_a_manager_ends_with_its_last_handle_though_objects_hold_one_another() -> None:
    manager = Manager()
    one, other = make_shared(manager, "Queue"), make_shared(manager, "Queue")
    one.put(other)
    other.put(one)
    gone = weakref.ref(manager)
    host = manager._host
    del manager, one, other
    gc.collect()
    assert gone() is None
    host.join()


# -- contents ------------------------------------------------------------------------------------


def test_a_handle_in_a_queue_keeps_its_object(
    make: Make, manager: Manager, outlast: Callable[[], None]
) -> None:
    inner, outer = make("Queue"), make("Queue")
    inner.put("still here")
    outer.put({"deep": [inner]})
    del inner
    outlast()
    assert manager.objects == 2
    inner = outer.get()["deep"][0]
    assert manager.objects == 2
    outlast()
    assert inner.get() == "still here"
    del inner
    wait_until(lambda: manager.objects == 1)


@pytest.mark.parametrize("kind", ["SimpleQueue", "LifoQueue", "Value", "List", "Dict"])
def test_a_handle_in_any_container_keeps_its_object(
    make: Make, manager: Manager, outlast: Callable[[], None], kind: str
) -> None:
    outer = make(kind) if kind != "Value" else make(kind, None)
    number = manager.objects
    event = make("Event")
    if kind == "Value":
        outer.value = event
    elif kind == "List":
        outer.append(event)
    elif kind == "Dict":
        outer["key"] = event
    else:
        outer.put(event)
    del event
    outlast()
    assert manager.objects == number + 1
    if kind == "Value":
        outer.value.set()
        outer.value = None
    elif kind == "List":
        outer[0].set()
        outer.pop()
    elif kind == "Dict":
        outer["key"].set()
        del outer["key"]
    else:
        outer.get().set()
    wait_until(lambda: manager.objects == number)


def test_many_at_once_keep_their_objects(
    make: Make, manager: Manager, outlast: Callable[[], None]
) -> None:
    outer = make("Queue")
    outer.put_many((number, make("Event")) for number in range(20))
    outlast()
    assert manager.objects == 21
    taken = outer.get_many(20)
    assert [number for number, _ in taken] == list(range(20))
    outlast()
    for _, event in taken:
        event.set()
    del taken, event
    wait_until(lambda: manager.objects == 1)


def test_an_emptied_or_dropped_queue_lets_go_of_what_was_in_it(
    make: Make, manager: Manager
) -> None:
    one, other = make("Queue"), make("Queue")
    one.put(make("Event"))
    other.put(make("Event"))
    one.shutdown(immediate=True)
    wait_until(lambda: manager.objects == 3)
    del other
    wait_until(lambda: manager.objects == 1)


def test_the_action_of_a_barrier_keeps_its_objects(
    make: Make, manager: Manager, outlast: Callable[[], None]
) -> None:
    event = make("Event")
    barrier = make("Barrier", 1, event.set)
    del event
    outlast()
    assert barrier.wait() == 0
    assert manager.objects == 2
    del barrier
    wait_until(lambda: manager.objects == 0)


def test_an_object_in_itself_does_not_keep_itself(make: Make, manager: Manager) -> None:
    queue = make("Queue")
    queue.put(queue)
    del queue
    wait_until(lambda: manager.objects == 0)


def test_an_object_of_another_manager_is_kept_too(make: Make, outlast: Callable[[], None]) -> None:
    other = Manager()
    outer = make("Queue")
    outer.put(make_shared(other, "Event"))
    outlast()
    assert other.objects == 1
    outer.get().set()
    wait_until(lambda: other.objects == 0)
    other.close()


def test_bytes_that_look_like_contents_are_left_alone(make: Make) -> None:
    queue = make("PriorityQueue")
    event = make("Event")
    for end in (b"\xff" * 9, b"", b"\0\0\0\0"):
        queue.put((MARK + end, event))
        assert queue.get() == (MARK + end, event)
