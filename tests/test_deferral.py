"""Where signal handlers run that come in the middle of an operation on a shared object."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from parties import PATIENCE, ThreadParty

from unirun import _deferral
from unirun._deferral import interruptible, uninterrupted

SIGNALS = [signal.SIGINT, signal.SIGALRM, signal.SIGTERM]


class Stop(Exception):
    """What a handler raises."""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The program has one for SIGINT; the others are put back with it."""
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    signal.setitimer(signal.ITIMER_REAL, 0)  # of the time limit of this test, whose signal we use
    yield
    for number, handler in before:
        signal.signal(number, handler)


def stop(number: int, frame: object) -> None:
    raise Stop


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@uninterrupted
def work(steps: list[Any], number: int = signal.SIGINT) -> str:
    send(number)
    steps.extend(step + 1 for step in range(100))
    return "done"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_the_end_of_the_operation_and_its_result_is_not_lost(
    number: int,
) -> None:
    signal.signal(signal.SIGINT, stop)
    signal.signal(number, stop)
    steps: list[Any] = []
    result = None
    with pytest.raises(Stop):  # noqa: PT012  # that the result is there is the point
        result = work(steps, number)
        steps.clear()
        raise AssertionError("it should have come by now")
    assert (result, len(steps)) in (("done", 100), ("done", 0))
    assert signal.getsignal(number) is stop


class Held:
    def __init__(self) -> None:
        self.held = False

    @uninterrupted
    def __enter__(self) -> None:
        self.held = True
        send()

    def __exit__(self, *_: object) -> None:
        self.held = False


def test_what_was_entered_is_left() -> None:
    signal.signal(signal.SIGINT, stop)
    held = Held()
    with pytest.raises(Stop), held:
        len("a call, after which handlers run")
    assert not held.held


def test_an_operation_that_fails_does_so_and_the_signal_comes_too() -> None:
    signal.signal(signal.SIGINT, stop)

    @uninterrupted
    def fail() -> None:
        send()
        raise LookupError("of the operation")

    def attempt() -> None:
        try:
            fail()
        except LookupError:
            len("a call, after which handlers run")
            raise AssertionError("it should have come by now") from None

    with pytest.raises(Stop) as caught:
        attempt()
    assert isinstance(caught.value.__context__, LookupError)


def test_a_wait_is_interrupted() -> None:
    signal.signal(signal.SIGINT, stop)
    event = threading.Event()

    @uninterrupted
    def wait() -> None:
        threading.Timer(0.02, send).start()
        interruptible(event.wait, PATIENCE)
        raise AssertionError("nobody has set the event")

    with pytest.raises(Stop):
        wait()
    assert signal.getsignal(signal.SIGINT) is stop


def test_a_signal_that_came_before_the_wait_interrupts_it() -> None:
    signal.signal(signal.SIGINT, stop)

    @uninterrupted
    def wait() -> None:
        send()
        interruptible(pytest.fail, "it waited nevertheless")

    with pytest.raises(Stop):
        wait()


def test_a_handler_may_do_the_same_while_its_thread_waits() -> None:
    steps: list[Any] = []
    signal.signal(signal.SIGINT, lambda *_: steps.append(inner()))
    event = threading.Event()

    @uninterrupted
    def inner() -> str:
        send(signal.SIGALRM)  # which waits for the end of this, and of the handler
        return "inner"

    signal.signal(signal.SIGALRM, lambda *_: event.set())

    @uninterrupted
    def wait() -> bool:
        send()
        return interruptible(event.wait, PATIENCE)

    assert wait() is True
    assert steps == ["inner"]


def test_a_handler_that_was_set_by_a_handler_stays() -> None:
    def once(number: int, frame: object) -> None:
        signal.signal(number, stop)

    signal.signal(signal.SIGINT, once)

    @uninterrupted
    def wait() -> None:
        send()
        interruptible(len, "")

    wait()
    assert signal.getsignal(signal.SIGINT) is stop


def test_nothing_is_touched_where_nobody_handles_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    seen: list[Any] = []
    signal.signal(signal.SIGALRM, stop)
    uninterrupted(lambda: seen.append(signal.getsignal(signal.SIGALRM)))()
    assert seen == [stop]


def test_other_threads_are_not_touched() -> None:
    signal.signal(signal.SIGINT, stop)
    seen: list[Any] = []
    see = uninterrupted(lambda: seen.append(signal.getsignal(signal.SIGINT)))
    ThreadParty().start(see).result()
    see()
    assert seen == [stop, _deferral._note]


def test_an_operation_that_never_ends_is_interrupted_by_the_second_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_deferral, "IMPATIENCE", 0.01)
    signal.signal(signal.SIGINT, stop)

    @uninterrupted
    def never_end() -> None:
        while True:
            send()

    with pytest.raises(Stop):
        never_end()
    assert signal.getsignal(signal.SIGINT) is stop
