"""News amid other things: threads, signal handlers and pools that come and go at the wrong time."""

import os
import sys
import threading
import time
from _thread import allocate_lock, get_ident
from collections.abc import Iterator
from contextvars import Context
from typing import Any

import pytest
from process import tellers
from process.line import PATIENCE

import unirun
from unirun import _context, _news
from unirun.backend import CallOptions
from unirun.backends.process import carried, relays, wire, worker
from unirun.backends.process.control import HEARD
from unirun.backends.process.future import Profile


@pytest.fixture
def _hasty() -> Iterator[None]:
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(count: int, work: Any) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)


@pytest.mark.usefixtures("_hasty")
def test_who_subscribes_at_the_same_time_as_others_is_told() -> None:
    heard: list[int] = []
    stops: list[Any] = []

    def subscribe(number: int) -> None:
        for _ in range(300):
            _news.subscribe("race", lambda origin, value: None)()
            stops.append(_news.subscribe("race", lambda origin, value: heard.append(number)))

    in_threads(4, subscribe)
    _news.here("race", 1)
    for stop in stops:
        stop()
    _news.here("race", 2)
    assert [heard.count(number) for number in range(4)] == [300] * 4


def test_a_handler_that_hangs_does_not_stop_the_news_of_the_next_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_news, "PATIENCE", 0.02)
    desk, gate, order = _news.Desk(), threading.Event(), [0]
    heard = [threading.Event() for _ in range(3)]
    desk.enter()
    desk.put(gate.wait)
    desk.attend()
    desk.leave()  # it does not wait for ever, either
    desk.enter()
    for event in heard[:2]:
        desk.put(event.set)
        desk.attend()
        assert event.wait(PATIENCE)
    gate.set()  # the thread that hung has nothing more to do here
    desk.put(order.append, threading.active_count())
    desk.put(heard[2].set)
    desk.attend()
    assert heard[2].wait(PATIENCE)
    desk.leave()


def test_calls_wait_once_for_handlers_that_hang(capsys: pytest.CaptureFixture[str]) -> None:
    gate, told = threading.Event(), threading.Event()

    def hang(origin: object, value: Any) -> None:
        told.set()
        gate.wait(PATIENCE)

    stop = _news.subscribe("test", hang)
    try:
        with unirun.Executor(1, backend="process") as executor:
            executor.submit(tellers.tell, "x").result(PATIENCE)
            assert told.is_set()
            begun = time.monotonic()
            for number in range(6):
                assert executor.submit(abs, number).result(PATIENCE) == number
            assert time.monotonic() - begun < 4 * _news.PATIENCE
            gate.set()
    finally:
        gate.set()
        stop()


def test_a_call_gets_what_is_in_its_own_context_whoever_submits_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Contended(Profile):
        """Another thread has submitted a call of that function each time one looks again."""

        twin = property(lambda self: other, lambda self, made: None)  # type: ignore[assignment]

    def carry(options: CallOptions) -> Any:
        return (None, b"mine", None, None), []

    options = CallOptions()
    other = Profile(1, b"", "f", options, 0).carrying((None, b"theirs", None, None), [])
    monkeypatch.setattr(carried, "carry", carry)
    found = carried.accompany(Contended(1, b"", "f", options, 0), object())
    assert found.carried == (None, b"mine", None, None)


def test_shared_objects_in_a_context_are_let_go_with_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle = object()
    monkeypatch.setattr(carried, "carry", lambda _: ((None, b"mine", None, None), [handle]))
    profile = Profile(1, b"", "f", CallOptions(), 0)
    assert carried.accompany(profile, object()).handles == [handle]
    assert profile.twin is None


class Stream:
    def write(self, text: str, /) -> int:
        raise AssertionError(text)

    def flush(self) -> None:
        pass


@pytest.mark.usefixtures("_hasty")
def test_threads_of_a_call_that_print_at_the_same_time_lose_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    failed: list[BaseException] = []
    monkeypatch.setattr(_context, "tell", lambda topic, index, value: told.append(value[1]))
    relay = relays.Relay(1, Stream(), None)

    def write(number: int) -> None:
        try:
            for _ in range(1500):
                relay.write("a")
                relay.write("\n")
        except BaseException as exc:  # which the test is about
            failed.append(exc)

    in_threads(3, write)
    relay.flush()
    assert failed == []
    assert sorted("".join(told)) == sorted("a\n" * 4500)


def test_a_signal_handler_that_tells_something_amid_an_answer_does_not_wait_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = os.pipe()
    made: Any = worker.Worker.__new__(worker.Worker)
    made.writing, made.writer, made._results, made._running = allocate_lock(), 0, theirs, 1
    made._control = type("Control", (), {"words": [0] * (HEARD + 5)})

    def interrupted() -> int:
        assert not made.writing.locked()
        monkeypatch.setattr(worker, "get_ident", get_ident)
        Context().run(made.tell, "test", 1, "told")
        return get_ident()

    monkeypatch.setattr(worker, "get_ident", interrupted)
    made.send(wire.READY, 7)
    os.set_blocking(ours, False)
    messages = wire.FrameReader().receive(ours)
    os.close(ours)
    os.close(theirs)
    assert [message[0] for message in messages] == [wire.NEWS, wire.READY]
