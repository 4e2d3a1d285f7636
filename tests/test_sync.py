"""Shared objects behave as those of `threading` and `queue` do, wherever they live.

One body of test for every mapping: threads use the standard library's objects, "home" the owner's
handles from threads, "processes" the same handles from real processes.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from parties import PATIENCE, Mapping, soon

from unirun.sync import (
    ShutDown,
)

FOREVER = {"timeout": PATIENCE}


def kind_of(q: Any) -> str:
    return getattr(q, "kind", type(q).__name__)


# -- queues: what one party sees ------------------------------------------------------------------


def puts_come_out_in_order(q: Any) -> None:
    for item in (3, 1, 2):
        q.put(item)
    assert q.qsize() == 3
    order = {"LifoQueue": [2, 1, 3], "PriorityQueue": [1, 2, 3]}
    assert [q.get() for _ in range(3)] == order.get(kind_of(q), [3, 1, 2])
    assert q.empty()


def an_empty_queue_raises_empty(q: Any) -> None:
    for get in (q.get_nowait, lambda: q.get(block=False), lambda: q.get(timeout=0.01)):
        with pytest.raises(queue.Empty):
            get()
    with pytest.raises(queue.Empty):
        q.get(True, 0)
    with pytest.raises(queue.Empty):
        q.get(False, -1)  # looked at only where one waits


def a_negative_timeout_is_refused_where_the_original_does(q: Any) -> None:
    q.put(1, timeout=-1) if kind_of(q) == "SimpleQueue" else q.put(1)
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        q.get(timeout=-1)  # an item or none
    assert q.get() == 1
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        q.get(timeout=-1)


@pytest.mark.parametrize("kind", ["Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"])
@pytest.mark.parametrize(
    "body",
    [
        puts_come_out_in_order,
        an_empty_queue_raises_empty,
        a_negative_timeout_is_refused_where_the_original_does,
    ],
)
def test_every_queue(mapping: Mapping, kind: str, body: Callable[..., None]) -> None:
    mapping.call(body, mapping.make(kind))


def a_full_queue_raises_full(q: Any) -> None:
    assert not q.full()
    q.put(1)
    assert not q.full()
    q.put_nowait(2)
    assert q.full()
    for put in (q.put_nowait, lambda x: q.put(x, False), lambda x: q.put(x, timeout=0.01)):
        with pytest.raises(queue.Full):
            put(3)
    with pytest.raises(queue.Full):
        q.put(3, True, 0)
    assert q.qsize() == 2


def a_bounded_queue_refuses_a_negative_timeout(q: Any) -> None:
    with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
        q.put(1, timeout=-1)
    assert q.empty()


def tasks_are_counted(q: Any) -> None:
    q.join()
    q.put("a")
    q.put("b")
    assert q.unfinished_tasks == 2
    q.get()
    q.task_done()
    q.task_done()  # one per item put, got or not
    with pytest.raises(ValueError, match="called too many times"):
        q.task_done()
    q.join()


def a_shut_down_queue_refuses_puts_and_gives_what_it_has(q: Any) -> None:
    q.put(1)
    assert not q.is_shutdown
    q.shutdown()
    q.shutdown()
    assert q.is_shutdown
    for put in (q.put, q.put_nowait, lambda x: q.put(x, timeout=1), lambda x: q.put(x, timeout=-1)):
        with pytest.raises(ShutDown):
            put(2)
    assert q.get() == 1
    for get in (q.get, q.get_nowait, lambda: q.get(timeout=1), lambda: q.get(timeout=-1)):
        with pytest.raises(ShutDown):
            get()


def an_immediate_shutdown_empties_and_completes(q: Any) -> None:
    q.put(1)
    q.put(2)
    q.shutdown(immediate=True)
    assert q.empty()
    with pytest.raises(ShutDown):
        q.get()
    q.join()


def an_item_that_was_taken_stays_unfinished_after_an_immediate_shutdown(q: Any) -> None:
    q.put(1)
    q.put(2)
    q.get()
    q.shutdown(immediate=True)
    assert q.unfinished_tasks == 1
    q.task_done()
    q.join()


def iteration_ends_with_the_shutdown(q: Any) -> None:
    q.put(1)
    q.put(2)
    q.shutdown()
    assert list(q) == [1, 2]
    assert list(q) == []


def batches_work(q: Any) -> None:
    q.put_many([])
    q.put_many([1, 2], timeout=1)
    assert q.get_many(5) == [1, 2]
    with pytest.raises(queue.Empty):
        q.get_many(5, timeout=0.01)
    with pytest.raises(queue.Empty):
        q.get_many(5, block=False)
    with pytest.raises(ValueError, match="must be >= 1"):
        q.get_many(0)
    with pytest.raises(queue.Full) as full:
        q.put_many(iter([1, 2, 3]), block=False)
    assert full.value.accepted == 2  # type: ignore[attr-defined]
    assert q.get_many(1) == [1]
    q.shutdown()
    with pytest.raises(ShutDown) as shut:
        q.put_many([4])
    assert shut.value.accepted == 0  # type: ignore[attr-defined]
    assert q.get_many(9) == [2]
    with pytest.raises(ShutDown):
        q.get_many(9)


@pytest.mark.parametrize(
    "body",
    [
        a_full_queue_raises_full,
        a_bounded_queue_refuses_a_negative_timeout,
        tasks_are_counted,
        a_shut_down_queue_refuses_puts_and_gives_what_it_has,
        an_immediate_shutdown_empties_and_completes,
        an_item_that_was_taken_stays_unfinished_after_an_immediate_shutdown,
        iteration_ends_with_the_shutdown,
        batches_work,
    ],
)
def test_a_bounded_queue(mapping: Mapping, body: Callable[..., None]) -> None:
    q = mapping.make("Queue", maxsize=2)
    assert q.maxsize == 2
    mapping.call(body, q)


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_queue_without_a_limit_is_never_full(mapping: Mapping, maxsize: int) -> None:
    q = mapping.make("Queue", maxsize)
    q.put(1, timeout=-1)  # not looked at
    q.put_many(range(100), block=False)
    assert not q.full()
    assert q.qsize() == 101


def test_priorities_compare_as_the_original_compares_them(mapping: Mapping) -> None:
    q = mapping.make("PriorityQueue")
    items = [(2, "b"), (1, "z"), (1, "a"), (1,), (1.5, "x")]
    q.put_many(items)
    assert q.get_many(9) == sorted(items)
    q.put((1, "a"))
    with pytest.raises(TypeError):
        q.put((1, 2))
    assert kind_of(q) == "PriorityQueue"


# -- queues: what several see ---------------------------------------------------------------------


def test_a_get_waits_for_a_put(mapping: Mapping) -> None:
    q, out = mapping.make("Queue"), mapping.make("Queue")
    echo = mapping.start(echo_one, q, out)
    q.put({"an": ["item"]})
    assert out.get(**FOREVER) == {"an": ["item"]}
    echo.result()


def echo_one(q: Any, out: Any) -> None:
    out.put(q.get(**FOREVER))


def test_a_put_waits_for_room(mapping: Mapping) -> None:
    q = mapping.make("Queue", 1)
    q.put(0)
    putter = mapping.start(put_range, q, 1, 4)
    assert [q.get(**FOREVER) for _ in range(4)] == [0, 1, 2, 3]
    putter.result()
    assert q.empty()


def put_range(q: Any, start: int, stop: int) -> None:
    for item in range(start, stop):
        q.put(item, **FOREVER)


def test_a_batch_larger_than_the_queue_passes_through_it(mapping: Mapping) -> None:
    q = mapping.make("Queue", 2)
    putter = mapping.start(put_batch, q, 20)
    items: list[int] = []
    while len(items) < 20:
        items += q.get_many(7, **FOREVER)
    assert items == list(range(20))
    putter.result()


def put_batch(q: Any, number: int) -> None:
    q.put_many(range(number), **FOREVER)


def test_every_item_is_taken_once(mapping: Mapping) -> None:
    q = mapping.make("Queue", 5)
    takers = [mapping.start(take_all, q) for _ in range(2)]
    put_range(q, 0, 200)
    q.shutdown()
    taken = [taker.result() for taker in takers]
    assert sorted(taken[0] + taken[1]) == list(range(200))
    assert all(part == sorted(part) for part in taken), "each sees them in order"


def take_all(q: Any) -> list[Any]:
    return list(q)


def test_join_waits_for_the_last_task(mapping: Mapping) -> None:
    q = mapping.make("Queue")
    q.put_many(range(3))
    worker = mapping.start(work_off, q)
    q.join()
    assert q.unfinished_tasks == 0
    q.shutdown()
    assert worker.result() == 3


def work_off(q: Any) -> int:
    done = 0
    for _ in q:
        q.task_done()
        done += 1
    return done


@pytest.mark.parametrize("immediate", [False, True])
def test_a_shutdown_wakes_whoever_waits(mapping: Mapping, immediate: bool) -> None:
    empty, full = mapping.make("Queue"), mapping.make("Queue", 1)
    full.put(0)
    started = mapping.make("Barrier", 3)
    getter = mapping.start(get_shut_down, empty, started)
    putter = mapping.start(put_shut_down, full, started)
    started.wait(PATIENCE)
    empty.shutdown(immediate)
    full.shutdown(immediate)
    assert getter.result() == putter.result() == "ShutDown"


def get_shut_down(q: Any, started: Any) -> str:
    started.wait(PATIENCE)
    with pytest.raises(ShutDown):
        q.get(**FOREVER)
    return "ShutDown"


def put_shut_down(q: Any, started: Any) -> str:
    started.wait(PATIENCE)
    with pytest.raises(ShutDown):
        q.put(1, **FOREVER)
    return "ShutDown"


def test_an_immediate_shutdown_lets_a_join_go(mapping: Mapping) -> None:
    q, started = mapping.make("Queue"), mapping.make("Barrier", 2)
    q.put(1)
    joiner = mapping.start(join_it, q, started)
    started.wait(PATIENCE)
    q.shutdown(immediate=True)
    assert joiner.result() == "joined"


def join_it(q: Any, started: Any) -> str:
    started.wait(PATIENCE)
    q.join()
    return "joined"


# -- events ---------------------------------------------------------------------------------------


def an_event_is_a_flag(event: Any) -> None:
    assert event.is_set() is False
    for timeout in (0, 0.01, -1):
        assert event.wait(timeout) is False
    event.set()
    event.set()
    assert event.is_set() is True
    assert event.wait() is True
    assert soon(event.wait, 0) is True
    event.clear()
    assert event.wait(0.01) is False


def test_an_event(mapping: Mapping) -> None:
    mapping.call(an_event_is_a_flag, mapping.make("Event"))


def test_an_event_wakes_all_who_wait(mapping: Mapping) -> None:
    event = mapping.make("Event")
    waiters = [mapping.start(wait_for, event) for _ in range(2)]
    event.set()
    assert [waiter.result() for waiter in waiters] == [True, True]


def wait_for(event: Any) -> Any:
    return event.wait(PATIENCE)


def test_a_wait_too_long_for_the_system_is_refused_as_in_threading(mapping: Mapping) -> None:
    with pytest.raises(OverflowError):
        mapping.make("Event").wait(threading.TIMEOUT_MAX * 2)
    with pytest.raises(OverflowError):
        mapping.make("Queue").get(timeout=float("inf"))


# -- barriers -------------------------------------------------------------------------------------


def test_all_parties_pass_a_barrier_with_a_number_each(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", 3)
    others = [mapping.start(pass_often, barrier, 5) for _ in range(2)]
    numbers = [pass_often(barrier, 5), *(other.result() for other in others)]
    assert [set(round_) for round_ in zip(*numbers, strict=True)] == [{0, 1, 2}] * 5
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)


def pass_often(barrier: Any, times: int) -> list[int]:
    return [barrier.wait(PATIENCE) for _ in range(times)]


def a_barrier_for_one_lets_it_pass(barrier: Any) -> None:
    assert barrier.wait() == 0
    assert barrier.wait(timeout=PATIENCE) == 0


def test_a_barrier_for_one(mapping: Mapping) -> None:
    mapping.call(a_barrier_for_one_lets_it_pass, mapping.make("Barrier", 1))


def a_barrier_breaks_when_its_time_is_over(barrier: Any) -> None:
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()  # the time-out the barrier was made with
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(PATIENCE)
    barrier.reset()
    assert not barrier.broken
    for timeout in (0, -1):
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(timeout)
        barrier.reset()


def test_a_barrier_nobody_comes_to(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", 2, timeout=0.01)
    mapping.call(a_barrier_breaks_when_its_time_is_over, barrier)


@pytest.mark.parametrize("method", ["abort", "reset"])
def test_an_abort_or_reset_reaches_whoever_waits(mapping: Mapping, method: str) -> None:
    barrier, started = mapping.make("Barrier", 3), mapping.make("Barrier", 3)
    waiters = [mapping.start(meet_the_end, barrier, started) for _ in range(2)]
    started.wait(PATIENCE)
    while barrier.n_waiting < 2:
        assert not barrier.broken
    getattr(barrier, method)()
    assert [waiter.result() for waiter in waiters] == ["broken", "broken"]
    assert barrier.broken is (method == "abort")


def meet_the_end(barrier: Any, started: Any) -> str:
    started.wait(PATIENCE)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(PATIENCE)
    return "broken"


class PutOne:
    """An action; what it does can be seen everywhere."""

    def __init__(self, q: Any) -> None:
        self.q = q

    def __call__(self) -> None:
        self.q.put("action")


def test_one_party_runs_the_action_before_any_passes(mapping: Mapping) -> None:
    q = mapping.make("Queue")
    barrier = mapping.make("Barrier", 3, PutOne(q))
    others = [mapping.start(pass_and_look, barrier, q) for _ in range(2)]
    seen = [pass_and_look(barrier, q), *(other.result() for other in others)]
    assert sorted(number for number, _ in seen) == [0, 1, 2]
    assert [size for _, size in seen] == [1, 1, 1]


def pass_and_look(barrier: Any, q: Any) -> tuple[int, int]:
    return barrier.wait(PATIENCE), q.qsize()


def fail() -> None:
    raise LookupError("the action fails")


def test_an_action_that_fails_breaks_the_barrier(mapping: Mapping) -> None:
    barrier = mapping.make("Barrier", 2, action=fail)
    other = mapping.start(how_it_ends, barrier)
    assert sorted([how_it_ends(barrier), other.result()]) == ["BrokenBarrierError", "LookupError"]
    assert barrier.broken


def how_it_ends(barrier: Any) -> str:
    try:
        barrier.wait(PATIENCE)
    except (LookupError, threading.BrokenBarrierError) as exc:
        return type(exc).__name__
    return "passed"
