"""Shared objects when a participant is killed, interrupted or stopped, and when their owner is."""

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parties import (
    PATIENCE,
    ProcessParty,
    ThreadParty,
    ask_and_stay,
    channel_of,
    process_parties,
    send_request,
    serve_queue,
    take_and_stay,
    tell,
)

from unirun._channel import frame
from unirun._errors import ManagerLost
from unirun._manager import Manager
from unirun.sync import make_shared

FAMILIES = ["AF_UNIX", "AF_INET"]


@pytest.fixture(params=FAMILIES)
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    manager = Manager(family=request.param)
    yield manager
    manager.close()


def put(q: Any, item: Any) -> None:
    q.put(item)


def get(q: Any) -> Any:
    return q.get(timeout=PATIENCE)


# -- the death of a participant -------------------------------------------------------------------


def death_is_noticed(q: Any, other: ProcessParty) -> None:
    """After a kill: the end of that connection came first, and so is served before this."""
    other.start(type(q).qsize, q).result()


def test_an_item_handed_to_a_killed_getter_goes_back_to_the_front(
    make: Callable[..., Any], party: ProcessParty, other: ProcessParty
) -> None:
    q = make("Queue")
    q.put_many(["first", "second"])
    death_is_noticed(q, other)  # it is connected by now
    party.start(take_and_stay, q, "get")
    assert party.result()[0] == "item"
    assert q.qsize() == 1
    party.kill()
    death_is_noticed(q, other)
    assert q.get_many(5) == ["first", "second"]


def test_an_item_handed_to_a_killed_getter_wakes_the_next(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    q.put("item")
    party.start(take_and_stay, q, "get_many", 3)
    assert party.result()[0] == "item"
    survivor = ThreadParty().start(get, q)
    party.kill()
    assert survivor.result() == "item"


def test_an_item_that_arrived_is_not_delivered_again_when_its_getter_is_killed(
    make: Callable[..., Any], party: ProcessParty, other: ProcessParty
) -> None:
    q = make("Queue")
    q.put("item")
    death_is_noticed(q, other)
    assert party.start(get, q).result() == "item"
    party.kill()
    death_is_noticed(q, other)
    assert q.empty()


def test_a_killed_getter_takes_nothing_any_more(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    party.start(ask_and_stay, q, "get")
    party.result()
    party.kill()
    survivor = ThreadParty().start(get, q)
    q.put("item")
    assert survivor.result() == "item"


def test_what_a_killed_process_waited_to_put_is_gone(
    make: Callable[..., Any], party: ProcessParty, other: ProcessParty
) -> None:
    q = make("Queue", 1)
    q.put("first")
    death_is_noticed(q, other)
    party.start(ask_and_stay, q, "put", b"never to be read", None)
    party.result()
    party.kill()
    death_is_noticed(q, other)
    assert get(q) == "first"
    assert q.empty()


def test_a_putter_killed_in_the_middle_of_an_item_stalls_nobody(
    make: Callable[..., Any], party: ProcessParty, other: ProcessParty
) -> None:
    q = make("Queue")
    party.start(send_half, q)
    party.result()
    other.start(put, q, "whole").result()
    party.kill()
    assert get(q) == "whole"
    assert q.empty()


def send_half(q: Any) -> None:
    data = frame((1, "put", q._object_id, (b"x" * 100_000, None), None, None))
    channel_of(q)._send(data[: len(data) // 2], None)
    tell("half of it is sent")
    signal.pause()


def test_a_barrier_breaks_when_a_party_is_killed(
    make: Callable[..., Any], party: ProcessParty, other: ProcessParty
) -> None:
    barrier = make("Barrier", 4)
    party.start(ask_and_stay, barrier, "wait")
    party.result()
    waiters = [other.start(meet, barrier), ThreadParty().start(meet, barrier)]
    party.kill()
    assert [waiter.result() for waiter in waiters] == ["broken", "broken"]


def meet(barrier: Any) -> Any:
    try:
        return barrier.wait(PATIENCE)
    except threading.BrokenBarrierError:
        return "broken"


def test_a_barrier_breaks_when_the_party_in_the_action_is_killed(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    barrier = make("Barrier", 2, action=stay)
    waiter = ThreadParty().start(meet, barrier)
    while barrier.n_waiting < 1:
        assert not barrier.broken
    party.start(meet, barrier)
    assert party.result() == "in the action"
    party.kill()
    assert waiter.result() == "broken"


def stay() -> None:
    tell("in the action")
    signal.pause()


def test_the_waits_of_a_thread_end_with_the_thread(manager: Manager) -> None:
    event = make_shared(manager, "Semaphore", 9)  # an object that is asked for at the server
    ThreadParty().start(event.acquire).result()
    for thread in threading.enumerate():
        if thread not in (threading.main_thread(), manager._host._thread):
            thread.join(PATIENCE)
    event.acquire()  # the host's thread has tidied up when it has served this
    with process_parties(1) as [party]:
        party.start(type(event).acquire, event).result()
    assert len(manager._host._home_threads) == 1


# -- the end of a wait ----------------------------------------------------------------------------


class Interrupted(TimeoutError):
    """Raised by a signal handler; a TimeoutError, which must not be taken for one of ours."""


@contextlib.contextmanager
def interruption(delay: float) -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, delay, delay)  # again, should it have come too early
    try:
        with pytest.raises(Interrupted):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def be_interrupted(q: Any, event: Any, barrier: Any) -> Any:
    for wait in (q.get, lambda: q.get(timeout=PATIENCE), event.wait, barrier.wait):
        with interruption(0.02):
            wait()
    return session_of(q)


def session_of(q: Any) -> int:
    """Tells sessions apart; what a thread holds, it holds by its session."""
    home = q._home is not None and q._home.is_home
    return id(q._home._host._own_session() if home else channel_of(q))


def get_and_session(q: Any) -> tuple[Any, int]:
    return get(q), session_of(q)


@pytest.mark.parametrize("where", ["home", "process"])
def test_an_interrupted_wait_leaves_nothing_behind(
    make: Callable[..., Any], where: str, party: ProcessParty
) -> None:
    q, event, barrier = make("Queue"), make("Event"), make("Barrier", 2)

    def call(function: Callable[..., Any], *args: Any) -> Any:
        # At home in this very thread: signals reach no other.
        return function(*args) if where == "home" else party.start(function, *args).result()

    session = call(be_interrupted, q, event, barrier)
    q.put("for the next get")
    assert call(get_and_session, q) == ("for the next get", session)
    assert q.empty()
    assert barrier.n_waiting == 0
    assert not barrier.broken


def test_a_signal_handler_may_use_the_object_its_thread_waits_for(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    assert party.start(help_oneself, q).result() == "from the handler"


def help_oneself(q: Any) -> Any:
    before = signal.signal(signal.SIGALRM, lambda *_: q.put("from the handler"))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        return q.get()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("connected", [True, False])
def test_a_timeout_holds_while_the_owner_is_stopped(
    family: str, connected: bool, party: ProcessParty, served_by: str
) -> None:
    q, event, barrier = party.start(serve_queue, family).result()
    if connected:
        q.put("there before")
    party.stop()
    in_cells = connected and family == "AF_UNIX" and served_by == "cells"  # which go on without it
    if in_cells:
        assert q.get(timeout=0.1) == "there before"
    with pytest.raises(queue.Empty):
        q.get(timeout=0.1)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    if in_cells:
        q.put("there before")
    if not in_cells:
        with pytest.raises(queue.Full):
            q.put("too late", timeout=0.1)
    assert event.wait(0.1) is False
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.1)
    party.signal(signal.SIGCONT)
    q.put("after")
    assert barrier.broken is connected  # who never reached it did not break it
    assert [get(q) for _ in range(q.qsize())] == ["there before", "after"][not connected :]


@pytest.mark.parametrize("family", FAMILIES)
def test_whoever_waits_learns_that_the_owner_was_killed(family: str, party: ProcessParty) -> None:
    q, _, barrier = party.start(serve_queue, family).result()
    waits = [q.get, lambda: q.get(timeout=PATIENCE), barrier.wait]
    waiters = [ThreadParty().start(wait) for wait in waits]
    while barrier.n_waiting < 1:
        assert not barrier.broken
    party.kill()
    for waiter in waiters:
        with pytest.raises(ManagerLost):
            waiter.result()
    with pytest.raises(ManagerLost):
        q.put("more")
    if family == "AF_UNIX":
        assert not Path(q._address).parent.exists(), "whoever noticed has removed it"


def test_whoever_waits_learns_that_the_manager_is_closed(
    manager: Manager, make: Callable[..., Any], party: ProcessParty
) -> None:
    q, barrier = make("Queue"), make("Barrier", 4)
    waiters = [party.start(barrier.wait), *(ThreadParty().start(w) for w in (q.get, barrier.wait))]
    while barrier.n_waiting < 2:
        assert not barrier.broken
    manager.close()
    for waiter in waiters:
        with pytest.raises(ManagerLost):
            waiter.result()
    for ask in (q.qsize, q.get_nowait, lambda: make("Event"), barrier.reset):
        with pytest.raises(ManagerLost, match="is closed"):
            ask()
    with pytest.raises(ManagerLost):
        party.start(put, q, 1).result()


def test_an_object_that_does_not_exist_is_lost(make: Callable[..., Any]) -> None:
    q = make("Queue")
    with pytest.raises(ManagerLost, match="no such Queue"):
        type(q)(q._address, q._object_id + 1, (0,)).qsize()


def test_a_request_can_be_forgotten_and_its_late_answer_is_not_mistaken(
    make: Callable[..., Any], party: ProcessParty
) -> None:
    q = make("Queue")
    assert party.start(forget_and_go_on, q).result() == ["mine", "mine too"]


def forget_and_go_on(q: Any) -> Any:
    forgotten = send_request(q, "get")
    channel_of(q)._forget(forgotten)
    answered = send_request(q, "state")
    q.put("mine")
    channel_of(q)._forget(answered)
    q.put("mine too")
    return q.get_many(5)
