"""What only objects in a manager have: they travel, and what they hold travels too."""

import copy
import enum
import pickle
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from parties import PATIENCE, ProcessParty

from unirun._errors import DeserializationError, SerializationError
from unirun._manager import Manager
from unirun.sync import (
    ShutDown,
    make_thread,
    shared_objects,
    thread_objects,
)

FOREVER = {"timeout": PATIENCE}


def echo_one(q: Any, out: Any) -> None:
    out.put(q.get(**FOREVER))


def take_all(q: Any) -> list[Any]:
    return list(q)


def fail() -> None:
    raise LookupError("the action fails")


def test_an_object_that_comes_home_is_the_same(
    make: Callable[..., Any], processes: list[ProcessParty]
) -> None:
    q, other = make("Queue"), make("Queue")
    assert pickle.loads(pickle.dumps(q)) is q
    assert copy.deepcopy([q])[0] is q
    q.put({"inside": [other]})
    assert q.get()["inside"][0] is other
    assert processes[0].start(pass_on, q, other).result() is other
    assert q.get(**FOREVER) is other


def pass_on(q: Any, other: Any) -> Any:
    q.put(other)
    assert pickle.loads(pickle.dumps(other)) is other
    return other


def test_a_queue_travels_from_worker_to_worker(
    make: Callable[..., Any], processes: list[ProcessParty]
) -> None:
    post, private = make("Queue"), make("Queue")
    sender = processes[0].start(post_it, post, private)
    receiver = processes[1].start(read_it, post)
    sender.result()
    assert receiver.result() == "for your eyes only"


def post_it(post: Any, private: Any) -> None:
    private.put("for your eyes only")
    post.put([private])


def read_it(post: Any) -> Any:
    return post.get(**FOREVER)[0].get(**FOREVER)


def test_what_is_put_is_a_copy(make: Callable[..., Any]) -> None:
    q, item = make("Queue"), [1]
    q.put(item)
    item.append(2)
    assert q.get() == [1]


def test_an_item_that_cannot_be_pickled_is_refused_at_put(make: Callable[..., Any]) -> None:
    q = make("Queue")
    for put in (q.put, q.put_nowait, lambda item: q.put_many([1, item])):
        with pytest.raises(SerializationError, match="queue item cannot be pickled"):
            put({"a lock": threading.Lock()})
    assert q.empty()
    with pytest.raises(SerializationError, match="barrier action"):
        make("Barrier", 2, threading.Lock().acquire)


def test_lambdas_and_classes_of_main_can_be_put(
    make: Callable[..., Any], processes: list[ProcessParty]
) -> None:
    q = make("Queue")
    q.put(lambda x: x + 1)
    assert processes[0].start(call_item, q, 1).result() == 2


def call_item(q: Any, x: int) -> Any:
    return q.get(**FOREVER)(x)


class Unloadable:
    def __reduce__(self) -> Any:
        return fail, ()


def test_an_item_that_cannot_be_unpickled_is_an_error_of_that_get_only(
    make: Callable[..., Any],
) -> None:
    q = make("Queue")
    q.put(Unloadable())
    q.put("next")
    with pytest.raises(DeserializationError, match="LookupError: the action fails"):
        q.get()
    assert q.get() == "next"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Job(NamedTuple):
    level: int
    name: str


class Backwards(int):
    def __lt__(self, other: object) -> bool:
        return not int(self) < int(other)  # type: ignore[call-overload]


def test_priorities_may_be_enumerations_named_tuples_and_lead_anything(
    make: Callable[..., Any],
) -> None:
    q = make("PriorityQueue")
    q.put((Level.HIGH, {"not": "comparable"}))
    q.put((Level.LOW, {"first": 1}))
    q.put((Level.LOW, {"second": 2}))
    q.put(Job(0, "job"))
    assert q.get() == Job(0, "job")
    assert [q.get()[1] for _ in range(3)] == [{"first": 1}, {"second": 2}, {"not": "comparable"}]


@pytest.mark.parametrize("item", [None, {}, [1], (), ({}, 1), (None, 1), object(), Backwards(1)])
def test_what_has_no_priority_is_a_type_error(make: Callable[..., Any], item: Any) -> None:
    q = make("PriorityQueue")
    if item == ():
        q.put(item)  # it can be compared with any other tuple
        return
    with pytest.raises(TypeError, match="is no priority in a shared queue"):
        q.put(item)
    assert q.empty()


def test_large_items_pass(make: Callable[..., Any], processes: list[ProcessParty]) -> None:
    q, back = make("Queue"), make("Queue")
    data = bytes(range(256)) * (1 << 14)  # 4 MiB, more than any socket holds
    echo = processes[0].start(echo_one, q, back)
    q.put(data)
    assert back.get(**FOREVER) == data
    echo.result()


def test_a_batch_of_many_frames_arrives_whole(
    make: Callable[..., Any], processes: list[ProcessParty], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unirun._shared_queues.BATCH", 100)
    q = make("Queue")
    q.put_many(str(number) for number in range(50))
    q.shutdown()
    assert processes[0].start(take_all, q).result() == [str(number) for number in range(50)]


def test_unknown_kinds_and_wrong_arguments_are_type_errors(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="unknown kind of shared object 'Que'"):
        make("Que")
    with pytest.raises(TypeError, match="unknown kind"):
        make_thread("Que")
    for wrong in (lambda: make("Queue", "many"), lambda: make("Event", 1), lambda: make("Barrier")):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="parties must be >= 1"):
        make("Barrier", 0)


def test_a_handle_says_what_it_is(make: Callable[..., Any], manager: Manager) -> None:
    assert "shared Queue" in repr(make("Queue"))
    assert str(manager.address) in repr(make("Event"))


def test_the_thread_mapping_is_the_standard_library() -> None:
    assert isinstance(make_thread("Lock"), type(threading.Lock()))
    assert isinstance(make_thread("RLock"), type(threading.RLock()))
    for kind in ("Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier", "local"):
        assert thread_objects[kind] is getattr(threading, kind)
    for kind in ("Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"):
        assert isinstance(make_thread(kind), getattr(queue, kind))
    if sys.version_info >= (3, 13):
        assert ShutDown is queue.ShutDown
    assert set(shared_objects) <= set(thread_objects)
