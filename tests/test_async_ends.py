"""Coroutines that wait for a queue and are cancelled, dropped or killed: nothing is lost.

Each body of test runs an event loop of its own, see loops.py and parties.py.
"""

import asyncio
import os
import queue
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from loops import run, settled, waiting
from parties import PATIENCE, Mapping, ProcessParty, tell, wait_until
from test_async_queues import MANY, take_some_async, they_wait_for_one_another

from unirun._async_queues import Watch
from unirun._errors import ManagerLost
from unirun._manager import Manager
from unirun.sync import make_shared, make_thread

# -- who gives up ---------------------------------------------------------------------------------


async def cancel_at_any_moment(q: Any, back: Any) -> int:
    """Cancel getters before, while and after there is an item; count what they got."""
    got = 0
    for number in range(MANY):
        getter = asyncio.create_task(q.aget())
        await back.aput("one, please")
        for _ in range(number % 7):
            await asyncio.sleep(0)
        getter.cancel()
        try:
            await getter
            got += 1
        except asyncio.CancelledError:
            continue
    return got


def test_who_is_cancelled_loses_nothing(mapping: Mapping) -> None:
    q, back = mapping.make("Queue"), mapping.make("Queue")
    call = mapping.start(run, cancel_at_any_moment, q, back)
    for number in range(MANY):
        back.get(timeout=PATIENCE)
        q.put(number)
    got = call.result()
    assert got + q.qsize() == MANY
    for _ in range(MANY - got):
        q.get_nowait()


async def cancel_as_the_item_arrives(q: Any) -> None:
    first, second = await waiting(q, 2)
    q.put("item")
    first.cancel()
    assert await second == "item"
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()


def test_the_next_in_line_gets_what_was_meant_for_who_was_cancelled(mapping: Mapping) -> None:
    mapping.call(run, cancel_as_the_item_arrives, mapping.make("Queue"))


async def cancel_with_a_thread_in_line(q: Any, take: Callable[[Any], Any]) -> Any:
    [getter] = await waiting(q)
    with concurrent_getter(q, take) as result:
        q.put("item")
        getter.cancel()
        try:
            q.put(await getter)
        except asyncio.CancelledError:
            pass
        return await asyncio.to_thread(result)


class concurrent_getter:
    """A thread that waits for an item."""

    def __init__(self, q: Any, take: Callable[[Any], Any]) -> None:
        self._got: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._got.append(take(q)))

    def __enter__(self) -> Callable[[], Any]:
        self._thread.start()
        return self._result

    def _result(self) -> Any:
        self._thread.join(PATIENCE)
        return self._got[0]

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)


def take_one(q: Any) -> Any:
    return q.get(timeout=PATIENCE)


def test_a_thread_gets_what_was_meant_for_who_was_cancelled(mapping: Mapping) -> None:
    for _ in range(20):
        q = mapping.make("Queue")
        assert mapping.call(run, cancel_with_a_thread_in_line, q, take_one) == "item"


def test_a_cancelled_coroutine_hands_its_chance_on() -> None:
    condition = threading.Condition()
    watch = Watch(condition, lambda: int(waits.is_set()))
    watch._watched_in = os.getpid()  # it is us who do what its thread does
    waits, notified = threading.Event(), queue.SimpleQueue[bool]()

    def wait_too() -> None:
        with condition:
            waits.set()
            notified.put(condition.wait(PATIENCE))

    async def body() -> None:
        told = asyncio.create_task(watch.wait(None))
        await settled()
        thread.start()
        waits.wait(PATIENCE)
        with condition:  # so it waits now
            watch._wake()  # the one chance is for the coroutine
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)

    thread = threading.Thread(target=wait_too)
    run(body)
    assert notified.get(timeout=PATIENCE)
    thread.join()


async def cancel_a_put(q: Any) -> None:
    await q.aput(1)
    putter = asyncio.create_task(q.aput(2))
    await settled()
    putter.cancel()
    await asyncio.gather(putter, return_exceptions=True)
    assert q.get_nowait() == 1
    assert q.empty()


def test_a_cancelled_put_puts_nothing(mapping: Mapping) -> None:
    mapping.call(run, cancel_a_put, mapping.make("Queue", 1))


async def time_out(q: Any) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(q.aget(), 0.02)


def abandon_a_loop(q: Any) -> None:
    """Stop a loop in which somebody waits, and never run it again."""
    loop = asyncio.new_event_loop()
    getter = loop.create_task(q.aget())
    loop.run_until_complete(settled())
    loop.close()
    getter._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what is tested


def test_who_waits_in_a_loop_that_is_closed_takes_nothing(mapping: Mapping) -> None:
    q = mapping.make("Queue")
    mapping.call(abandon_a_loop, q)
    q.put("item")
    assert mapping.call(run, q.aget, PATIENCE) == "item"


def test_no_thread_stays_for_a_loop_that_is_closed() -> None:
    q = make_thread("Queue")
    before = threading.active_count()
    abandon_a_loop(q)
    wait_until(lambda: threading.active_count() == before)


def test_one_queue_serves_several_loops(mapping: Mapping) -> None:
    q = mapping.make("Queue")
    calls = [mapping.start(run, take_some_async, q, 10) for _ in range(mapping.size)]
    q.put_many(range(10 * mapping.size))
    got = sorted(item for call in calls for item in call.result())
    assert got == [*range(10 * mapping.size)]


def test_no_thread_stays_when_nobody_waits() -> None:
    q = make_thread("Queue", 1)
    before = threading.active_count()
    run(they_wait_for_one_another, q)
    run(time_out, q)
    wait_until(lambda: threading.active_count() == before)
    run(they_wait_for_one_another, q)  # and another comes when somebody waits again
    wait_until(lambda: threading.active_count() == before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_watches_for_itself() -> None:
    q = make_thread("Queue")
    run(time_out, q)  # its thread is still there
    pid = os.fork()
    if not pid:
        timer = threading.Timer(0.05, q.put, ["item"])
        timer.daemon = True
        timer.start()
        os._exit(0 if run(q.aget) == "item" else 1)
    assert os.waitpid(pid, 0)[1] == 0


# -- deaths ---------------------------------------------------------------------------------------


async def wait_to_be_killed(q: Any) -> None:
    await waiting(q, 2)
    tell("waiting")
    await asyncio.sleep(PATIENCE)


def test_what_a_killed_loop_waited_for_goes_to_others(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    assert party.start(run, wait_to_be_killed, q).result() == "waiting"
    party.kill()
    q.put(1)
    q.put(2)
    assert run(take_some_async, q, 2) == [1, 2]


async def stop_before_an_item_is_taken(q: Any) -> None:
    """Stand still with an item on its way to us."""
    await waiting(q)
    tell("waiting")
    signal.pause()  # the loop is to stand still


def test_an_item_on_its_way_to_a_killed_loop_comes_back(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    assert party.start(run, stop_before_an_item_is_taken, q).result() == "waiting"
    q.put("item")
    wait_until(q.empty)  # it has been handed out
    party.kill()
    assert run(q.aget, PATIENCE) == "item"


def test_who_waits_learns_that_the_manager_is_gone() -> None:
    manager = Manager()
    q = make_shared(manager, "Queue")

    async def outlive_the_manager() -> None:
        getters = await waiting(q, 3)
        await asyncio.to_thread(manager.close)
        for outcome in await asyncio.gather(*getters, return_exceptions=True):
            assert isinstance(outcome, ManagerLost)
        with pytest.raises(ManagerLost):
            await q.aget()

    run(outlive_the_manager)


async def travel(q: Any) -> Any:
    inner = await q.aget(PATIENCE)
    await inner.aput([inner])
    return inner


def test_handles_travel_through_coroutines(
    make: Callable[..., Any], processes: list[ProcessParty]
) -> None:
    q, inner = make("Queue"), make("Queue", 1)
    inner.put("in the way")
    call = processes[0].start(run, travel, q)
    run(q.aput, inner)
    assert inner.get(timeout=PATIENCE) == "in the way"
    assert inner.get(timeout=PATIENCE)[0] is inner
    assert call.result() is inner


def test_large_items_pass(mapping: Mapping) -> None:
    q = mapping.make("Queue", 1)
    item = os.urandom(1 << 22)
    call = mapping.start(run, get_and_join, q)
    run(q.aput, item)
    run(q.aput, item)
    assert call.result() == [item, item]


async def get_and_join(q: Any) -> list[Any]:
    return [await q.aget(PATIENCE) for _ in range(2)]
