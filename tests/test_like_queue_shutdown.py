"""`shutdown()` is that of Python 3.13's queues, on every Python, whoever shares them."""

import queue
from collections.abc import Callable
from typing import Any

import pytest
from parties import PATIENCE, Mapping, number_waiting, wait_until

from unirun.sync import ShutDown

QUEUES = ["Queue", "LifoQueue", "PriorityQueue"]
IMMEDIATE = pytest.mark.parametrize("immediate", [False, True])
WAITING = pytest.mark.parametrize(
    ("kind", "immediate"),
    [("Queue", False), ("Queue", True), ("LifoQueue", True), ("PriorityQueue", False)],
)


def end_of(function: Callable[..., Any], *args: Any) -> Any:
    """What it returns, or the name of what it raises."""
    try:
        return function(*args)
    except Exception as exc:  # whatever it is, it is the answer
        return type(exc).__name__


def put(q: Any, *args: Any) -> Any:
    return end_of(q.put, *args)


def get(q: Any, *args: Any) -> Any:
    return end_of(q.get, *args)


def join(q: Any) -> Any:
    return end_of(q.join)


def all_wait(q: Any, number: int) -> None:
    wait_until(lambda: number_waiting(q) == number)


def test_what_a_shut_down_queue_raises_is_no_full_and_no_empty() -> None:
    assert issubclass(ShutDown, Exception)
    assert not issubclass(ShutDown, queue.Full | queue.Empty)
    assert getattr(queue, "ShutDown", ShutDown) is ShutDown, "the original's, where there is one"


# -- what one party sees --------------------------------------------------------------------------


def an_empty_one_neither_takes_nor_gives(q: Any) -> None:
    assert q.is_shutdown is False
    assert q.shutdown() is None
    assert q.is_shutdown is True
    for args in ((), (True,), (False,), (True, 5), (True, 0), (True, -1), (False, -1)):
        assert put(q, "item", *args) == "ShutDown"
        assert get(q, *args) == "ShutDown"
    assert end_of(q.put_nowait, "item") == "ShutDown"
    assert end_of(q.get_nowait) == "ShutDown"
    assert (q.qsize(), q.empty(), q.full(), q.unfinished_tasks) == (0, True, False, 0)
    q.join()


def what_it_has_can_still_be_got(q: Any) -> None:
    q.put("L")
    q.put_nowait("O")
    q.shutdown(immediate=False)
    assert (q.qsize(), q.full(), q.unfinished_tasks) == (2, True, 2)
    assert put(q, "E") == put(q, "E", False) == put(q, "E", True, 1.0) == "ShutDown"
    found = []
    for args in ((), (True, 1.0)):
        found.append(q.get(*args))
        q.task_done()
    assert sorted(found) == ["L", "O"]
    q.join()
    assert get(q) == get(q, False) == get(q, True, 1.0) == "ShutDown"
    assert end_of(q.task_done) == "ValueError"


def an_immediate_one_has_nothing_any_more(q: Any) -> None:
    q.put("L")
    q.put_nowait("O")
    q.shutdown(True)
    assert (q.qsize(), q.empty(), q.full(), q.unfinished_tasks) == (0, True, False, 0)
    assert put(q, "E") == put(q, "E", False) == get(q) == get(q, False) == "ShutDown"
    assert end_of(q.task_done) == "ValueError"
    q.join()


def a_shutdown_may_be_repeated_and_become_immediate(q: Any) -> None:
    q.put(1)
    q.put(2)
    q.shutdown()
    q.shutdown()
    assert q.get() in (1, 2)
    q.shutdown(immediate=True)
    assert q.is_shutdown
    assert get(q, False) == "ShutDown"
    assert q.unfinished_tasks == 1, "of the one that was got"
    q.shutdown(immediate=False)
    assert q.is_shutdown
    assert get(q, False) == "ShutDown"
    q.task_done()
    q.join()


@pytest.mark.parametrize("kind", QUEUES)
@pytest.mark.parametrize(
    "body",
    [
        an_empty_one_neither_takes_nor_gives,
        what_it_has_can_still_be_got,
        an_immediate_one_has_nothing_any_more,
        a_shutdown_may_be_repeated_and_become_immediate,
    ],
)
def test_a_queue_that_is_shut_down(
    mapping: Mapping, kind: str, body: Callable[[Any], None]
) -> None:
    q = mapping.make(kind, 2)
    mapping.call(body, q)
    assert q.is_shutdown
    assert put(q, 1) == get(q) == "ShutDown", "for all"


# -- who waits ------------------------------------------------------------------------------------


@WAITING
def test_whoever_waits_for_an_item_hears_of_it(
    mapping: Mapping, kind: str, immediate: bool
) -> None:
    q = mapping.make(kind)
    getters = [mapping.start(get, q, *args) for args in ((), (True, PATIENCE), (True, None))]
    all_wait(q, 3)
    q.shutdown(immediate)
    assert [getter.result() for getter in getters] == ["ShutDown"] * 3


@WAITING
def test_whoever_waits_for_room_hears_of_it_and_what_it_brings_is_not_put(
    mapping: Mapping, kind: str, immediate: bool
) -> None:
    q = mapping.make(kind, 1)
    q.put(0)
    putters = [mapping.start(put, q, *args) for args in ((1,), (2, True, PATIENCE), (3,))]
    all_wait(q, 3)
    q.shutdown(immediate)
    assert [putter.result() for putter in putters] == ["ShutDown"] * 3
    assert q.unfinished_tasks == q.qsize() == (0 if immediate else 1)
    assert get(q, False) == ("ShutDown" if immediate else 0)


@WAITING
def test_whoever_joins_goes_on_when_all_is_done(
    mapping: Mapping, kind: str, immediate: bool
) -> None:
    q = mapping.make(kind)
    q.put("Y")
    q.put("D")
    joiners = [mapping.start(join, q) for _ in range(2)]
    all_wait(q, 2)
    q.shutdown(immediate)
    if not immediate:
        assert mapping.call(get_and_finish, q) == 2
    assert [joiner.result() for joiner in joiners] == [None, None]
    assert q.unfinished_tasks == 0


def get_and_finish(q: Any) -> int:
    """How many items there were to the end."""
    finished = 0
    while get(q) != "ShutDown":
        q.task_done()
        finished += 1
    return finished


def test_a_join_waits_for_what_was_got_before_an_immediate_shutdown(mapping: Mapping) -> None:
    q, log = mapping.make("Queue"), mapping.make("Queue")
    q.put("got")
    q.put("never got")
    assert q.get() == "got"
    joiner = mapping.start(join_and_log, q, log)
    all_wait(q, 1)
    q.shutdown(immediate=True)
    log.put("done")
    q.task_done()
    joiner.result()
    assert [log.get(), log.get()] == ["done", "joined"]


def join_and_log(q: Any, log: Any) -> None:
    q.join()
    log.put("joined")


@pytest.mark.parametrize("kind", QUEUES)
def test_of_three_that_get_two_items_one_hears_of_the_shutdown(mapping: Mapping, kind: str) -> None:
    q, go = mapping.make(kind, 2), mapping.make("Event")
    getters = [mapping.start(get_when_told, q, go) for _ in range(3)]
    q.put("D")
    q.put("Y")
    q.shutdown()
    go.set()
    assert sorted(getter.result() for getter in getters) == ["D", "ShutDown", "Y"]


def get_when_told(q: Any, go: Any) -> Any:
    go.wait(PATIENCE)
    return get(q)


@IMMEDIATE
def test_a_putter_a_getter_and_a_joiner_at_once(mapping: Mapping, immediate: bool) -> None:
    """Each on the queue it has to wait for; one shut-down of each ends all waits."""
    full, empty, unfinished = (mapping.make("Queue", 1) for _ in range(3))
    full.put(1)
    unfinished.put(1)
    parties = [
        mapping.start(put, full, 2),
        mapping.start(get, empty),
        mapping.start(join, unfinished),
    ]
    for q in (full, empty, unfinished):
        all_wait(q, 1)
        q.shutdown(immediate)
    if not immediate:
        unfinished.task_done()
    assert [party.result() for party in parties] == ["ShutDown", "ShutDown", None]


@WAITING
def test_a_shutdown_in_full_run_ends_everybody_and_loses_nothing_it_should_not(
    mapping: Mapping, kind: str, immediate: bool
) -> None:
    q, started = mapping.make(kind, 10), mapping.make("Barrier", 3)
    consumers = [mapping.start(consume, q, started) for _ in range(2)]
    producer = mapping.start(produce, q)
    started.wait(PATIENCE)  # they have got something each
    while q.qsize() == 0:
        assert not q.is_shutdown
    q.shutdown(immediate)
    put_in = producer.result()
    got = [item for consumer in consumers for item in consumer.result()]
    assert len(got) == len(set(got)), "nothing is got twice"
    if immediate:
        assert set(got) <= set(put_in)
    else:
        assert sorted(got) == put_in
    q.join()
    assert (q.qsize(), q.unfinished_tasks) == (0, 0)


def produce(q: Any) -> list[int]:
    put_in: list[int] = []
    while put(q, len(put_in)) is None:
        put_in.append(len(put_in))
    return put_in


def consume(q: Any, started: Any) -> list[int]:
    got = [q.get()]
    q.task_done()
    started.wait(PATIENCE)
    while (item := get(q, True, PATIENCE)) != "ShutDown":
        got.append(item)
        q.task_done()
    return got
