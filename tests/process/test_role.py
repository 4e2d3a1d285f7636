"""One thread at a time may touch a pool, and no signal tears what it does there."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from process.line import PATIENCE

from unirun.backends.process.interrupts import Deferral
from unirun.backends.process.role import Role


class Pool:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.role = Role(self)
        self.inside = 0
        self.most = 0
        self.left: list[int] = []
        self.settled: list[int] = []
        self.looks = 0
        self.free_while_settling: list[bool] = []

    def work(self, number: int) -> bool:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.left.append(number)
        self.inside -= 1
        return True

    def before_giving_up(self) -> list[int]:
        left, self.left = self.left, []
        return left

    def after_giving_up(self, left: list[int]) -> None:
        self.free_while_settling.append(self.role.is_free)
        self.settled += left

    def look_after(self) -> None:
        self.looks += 1


@pytest.fixture
def main_thread() -> Iterator[None]:
    """As in a program: without the handler that pytest-timeout has for SIGALRM."""
    handler = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGALRM, handler)


# -- the role -------------------------------------------------------------------------------------


def test_one_thread_at_a_time_has_it_and_all_that_is_left_is_settled() -> None:
    pool = Pool()

    def visit(start: int) -> None:
        for number in range(start, start + 300):
            if number % 3 == 0 or not pool.role.try_to(pool.work, number):
                ways = (pool.role.do, pool.role.visit)
                ways[number % 2](pool.work, number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(visit, range(0, 2400, 300)))
    assert pool.most == 1
    assert sorted(pool.settled) == list(range(2400))
    assert pool.role.is_free


@pytest.mark.usefixtures("main_thread")
def test_who_cannot_have_it_at_once_is_told_so() -> None:
    pool = Pool()
    assert pool.role.take()
    assert not pool.role.take()
    assert not pool.role.try_to(pool.work, 1)
    pool.role.give_up()
    assert pool.role.try_to(pool.work, 1)
    assert pool.settled == [1]
    assert pool.looks == 1


def test_a_guest_counts_until_what_it_left_is_settled() -> None:
    pool = Pool()
    assert pool.role.is_free
    pool.role.visit(pool.work, 1)
    assert pool.free_while_settling == [False]
    assert pool.role.is_free


def test_what_a_guest_runs_into_is_kept_for_the_loop_and_blocks_nobody() -> None:
    pool = Pool()
    pool.role.visit(lambda: 1 / 0)
    assert isinstance(pool.role.torn, ZeroDivisionError)
    assert pool.looks == 1
    assert pool.role.is_free
    assert pool.role.take()


# -- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("main_thread")
def test_a_ctrl_c_waits_for_the_end_and_comes_once() -> None:
    before, deferral = signal.getsignal(signal.SIGINT), Deferral()
    assert deferral.begin()
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert deferral.arrived
    with pytest.raises(KeyboardInterrupt):
        deferral.end()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("main_thread")
def test_a_handler_of_the_program_is_called_at_the_end_with_a_frame() -> None:
    called: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *args: called.append(args))
    try:
        outer, inner = Deferral(), Deferral()
        assert outer.begin()
        assert inner.begin()
        signal.raise_signal(signal.SIGINT)
        inner.end()
        assert called == []  # the outer one still defers it
        outer.end()
        ((number, frame),) = called
        assert number == signal.SIGINT
        assert frame.f_code.co_name
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("main_thread")
def test_a_handler_of_sigterm_waits_as_well_and_none_of_two_is_lost() -> None:
    seen: list[int] = []

    def stop(number: int, _: Any) -> None:
        seen.append(number)
        raise SystemExit

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        deferral = Deferral()
        assert deferral.begin()
        for number in numbers:
            signal.raise_signal(number)
        assert seen == []
        with pytest.raises(SystemExit):
            deferral.end()
        assert sorted(seen) == sorted(numbers)
        assert [signal.getsignal(number) for number in numbers] == [stop, stop]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.usefixtures("main_thread")
@pytest.mark.parametrize("ignored", [signal.SIG_IGN, signal.SIG_DFL])
def test_where_ctrl_c_raises_nothing_nothing_is_changed(ignored: Any) -> None:
    before = signal.signal(signal.SIGINT, ignored)
    try:
        deferral = Deferral()
        assert deferral.begin()
        assert signal.getsignal(signal.SIGINT) is ignored
        deferral.end()
        assert signal.getsignal(signal.SIGINT) is ignored
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("main_thread")
def test_it_cannot_be_deferred_where_another_signal_may_raise() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert not Deferral().begin()
    finally:
        signal.signal(signal.SIGUSR1, before)
    deferral = Deferral()
    assert deferral.begin()
    deferral.end()


def test_other_threads_have_nothing_to_defer() -> None:
    before, found = signal.getsignal(signal.SIGINT), []

    def defer() -> None:
        deferral = Deferral()
        found.append(deferral.begin())
        found.append(signal.getsignal(signal.SIGINT) is before)
        deferral.end()

    thread = threading.Thread(target=defer)
    thread.start()
    thread.join(PATIENCE)
    assert found == [True, True]
