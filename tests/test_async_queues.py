"""Coroutines get from queues and put into them, wherever these live, and lose nothing.

Each body of test runs an event loop of its own, in a thread, in the owner's threads or in another
process, see parties.py.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from loops import run, waiting
from parties import PATIENCE, Mapping

from unirun.sync import ShutDown

KINDS = ["Queue", "LifoQueue", "PriorityQueue"]
MANY = 100


# -- what one loop sees ---------------------------------------------------------------------------


async def items_come_out_in_order(q: Any, expected: list[int]) -> None:
    for item in (3, 1, 2):
        await q.aput(item)
    assert [await q.aget() for _ in range(3)] == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("Queue", [3, 1, 2]), ("LifoQueue", [2, 1, 3]), ("PriorityQueue", [1, 2, 3])],
)
def test_items_come_out_in_order(mapping: Mapping, kind: str, expected: list[int]) -> None:
    mapping.call(run, items_come_out_in_order, mapping.make(kind), expected)


async def it_raises_as_get_and_put_do(q: Any) -> None:
    for seconds in (0, 0.01):
        with pytest.raises(queue.Empty):
            await q.aget(seconds)
    await q.aput(1, timeout=0)
    for seconds in (0, 0.01):
        with pytest.raises(queue.Full):
            await q.aput(2, seconds)
    for negative in (lambda: q.aget(-1), lambda: q.aput(2, -1)):
        with pytest.raises(ValueError, match="'timeout' must be a non-negative number"):
            await negative()
    assert await q.aget(0) == 1
    q.shutdown()
    for call in (q.aget, lambda: q.aget(1), lambda: q.aput(1), lambda: q.aget(-1)):
        with pytest.raises(ShutDown):
            await call()


@pytest.mark.parametrize("kind", KINDS)
def test_it_raises_as_get_and_put_do(mapping: Mapping, kind: str) -> None:
    mapping.call(run, it_raises_as_get_and_put_do, mapping.make(kind, 1))


def test_a_queue_without_limit_does_not_look_at_the_time_of_a_put(mapping: Mapping) -> None:
    q = mapping.make("Queue")
    mapping.call(run, q.aput, 1, -1)
    assert q.get() == 1


async def they_wait_for_one_another(q: Any) -> list[int]:
    async def put_all() -> None:
        for number in range(20):
            await q.aput(number)

    putting = asyncio.create_task(put_all())
    got = [await q.aget() for _ in range(20)]
    await putting
    return got


def test_getters_wait_for_putters_and_putters_for_room(mapping: Mapping) -> None:
    assert mapping.call(run, they_wait_for_one_another, mapping.make("Queue", 1)) == [*range(20)]


async def take_until_shutdown(q: Any) -> list[Any]:
    return [item async for item in q]


def test_iteration_ends_with_shutdown(mapping: Mapping) -> None:
    q = mapping.make("Queue", 2)
    call = mapping.start(run, take_until_shutdown, q)
    for number in range(20):
        q.put(number)
    q.shutdown()
    assert call.result() == [*range(20)]


async def whoever_waits_learns_of_shutdown(q: Any) -> None:
    getters = await waiting(q, 3)
    q.shutdown()
    for outcome in await asyncio.gather(*getters, return_exceptions=True):
        assert isinstance(outcome, ShutDown)


def test_whoever_waits_learns_of_shutdown(mapping: Mapping) -> None:
    mapping.call(run, whoever_waits_learns_of_shutdown, mapping.make("Queue"))


async def join_and_report(q: Any, reports: Any) -> None:
    await q.ajoin()
    reports.put("joined")


def test_join_waits_for_every_task(mapping: Mapping) -> None:
    q, reports = mapping.make("Queue"), mapping.make("Queue")
    mapping.call(run, join_and_report, q, reports)
    assert reports.get(timeout=PATIENCE) == "joined"
    for number in range(2):
        q.put(number)
    call = mapping.start(run, join_and_report, q, reports)
    for _ in range(2):
        assert reports.empty()
        q.get()
        q.task_done()
    call.result()
    assert reports.get(timeout=PATIENCE) == "joined"


async def one_after_another(q: Any, answers: Any) -> None:
    async for number in q:
        await answers.aput(number + 1)


def test_a_loop_talks_to_another_party(mapping: Mapping) -> None:
    q, answers = mapping.make("Queue"), mapping.make("Queue")
    call = mapping.start(run, one_after_another, q, answers)
    for number in range(20):
        q.put(number)
        assert answers.get(timeout=PATIENCE) == number + 1
    q.shutdown()
    call.result()


async def get_and_put(q: Any) -> None:
    await q.aput(await q.aget() + 1)


def test_a_shared_simple_queue_has_it_too(make: Callable[..., Any]) -> None:
    q = make("SimpleQueue")
    q.put(1)
    run(get_and_put, q)
    assert q.get() == 2


# -- many at a time -------------------------------------------------------------------------------


async def many_wait_at_once(q: Any) -> list[Any]:
    threads = threading.active_count()
    tasks = await waiting(q, MANY)
    assert threading.active_count() <= threads + 1
    # Nothing of the loop is used up: neither itself nor its threads.
    assert await asyncio.to_thread(lambda: "free") == "free"
    feeder = threading.Thread(target=lambda: [q.put(number) for number in range(MANY)])
    feeder.start()
    got = await asyncio.gather(*tasks)
    feeder.join()
    return got


def test_many_coroutines_wait_at_once_and_each_gets_one(mapping: Mapping) -> None:
    got = mapping.call(run, many_wait_at_once, mapping.make("Queue"))
    assert sorted(got) == [*range(MANY)]


async def others_run_meanwhile(q: Any) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    for number in range(20):
        await q.aput(number)
    for _ in range(20):
        await q.aget()
    counting.cancel()
    assert turns >= 40


def test_who_never_has_to_wait_leaves_the_others_their_turn(mapping: Mapping) -> None:
    mapping.call(run, others_run_meanwhile, mapping.make("Queue"))


def take_some(q: Any, number: int) -> list[Any]:
    return [q.get(timeout=PATIENCE) for _ in range(number)]


async def take_some_async(q: Any, number: int) -> list[Any]:
    return [await q.aget(PATIENCE) for _ in range(number)]


def test_threads_and_coroutines_share_what_there_is(mapping: Mapping) -> None:
    q = mapping.make("Queue", 5)
    calls = [
        mapping.start(take_some, q, MANY),
        mapping.start(run, take_some_async, q, MANY),
    ]
    q.put_many(range(2 * MANY), timeout=PATIENCE)
    one, other = (call.result() for call in calls)
    assert one == sorted(one)
    assert other == sorted(other)
    assert sorted(one + other) == [*range(2 * MANY)]
