"""No signal is missed where the main thread waits, and none tears what it does."""

import concurrent.futures
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest
from process.line import PATIENCE

from unirun import Executor
from unirun._deferral import in_finalizer, undisturbed
from unirun._prompt import SLICE, Thread, in_slices, span

SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Stop(Exception):
    """What a handler raises."""


def stop(number: int, frame: Any) -> None:
    raise Stop(number)


@pytest.fixture
def handled() -> Iterator[None]:
    before = [signal.signal(number, stop) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        assert signal.getsignal(number) is stop
        signal.signal(number, handler)


def asks(timeout: float | None) -> list[float | None]:
    """What a wait is asked for that never succeeds, or does at the fourth time."""
    asked: list[float | None] = []

    def wait(seconds: float | None) -> bool:
        asked.append(seconds)
        time.sleep(min(seconds or 0, 0.01))
        return len(asked) > 3

    in_slices(wait, timeout)
    return asked


@pytest.mark.scenario("signals: missed", "one that comes just before a wait begins is noticed soon")
def test_the_main_thread_never_waits_for_long_without_a_look() -> None:
    """Python cannot be made to miss a signal at will; but it looks whenever a wait is over."""
    assert asks(None) == 4 * [SLICE]
    assert asks(100) == 4 * [SLICE]
    assert asks(SLICE / 2) == [SLICE / 2]
    assert (span(None), span(100), span(0.1)) == (SLICE, SLICE, 0.1)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(asks, None).result(PATIENCE)[0] is None
        assert threads.submit(asks, 100).result(PATIENCE)[0] == 100
        assert threads.submit(span, None).result(PATIENCE) is None


@pytest.mark.scenario("signals: missed", "nor in the standard library's wait and as_completed")
def test_the_standard_library_waits_for_our_futures_with_a_look_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[float | None] = []
    goes: list[threading.Event] = []

    def look(wait: Callable[[Any], bool], timeout: float | None, forever: Any = None) -> bool:
        looks.append(timeout)
        goes[-1].set()
        return in_slices(wait, timeout, forever)

    monkeypatch.setattr("unirun._prompt.in_slices", look)
    waits: list[Callable[[Any], object]] = [
        concurrent.futures.wait,
        lambda futures: list(as_completed(futures)),
    ]
    with Executor(1, backend="thread") as executor:
        for wait in waits:
            goes.append(threading.Event())
            future = executor.submit(goes[-1].wait, PATIENCE)
            wait([future])
            assert future.result(0) is True
    assert len(looks) == 2


@pytest.mark.usefixtures("handled")
def test_a_thread_whose_join_was_interrupted_is_not_taken_for_ended() -> None:
    """As `threading` does up to Python 3.12."""
    go, seen = threading.Event(), threading.Event()
    thread = Thread(go.wait, "test")
    thread.start()
    main = threading.get_ident()

    def interrupt() -> None:
        while not seen.wait(0.01):
            signal.pthread_kill(main, signal.SIGUSR1)

    sender = threading.Thread(target=interrupt)
    try:
        sender.start()
        assert thread.ends_within(PATIENCE)
    except Stop:
        try:
            seen.set()
        except Stop:
            seen.set()
    sender.join()
    assert not thread.ends_within(0.01)
    go.set()
    assert thread.ends_within(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.usefixtures("handled")
def test_nothing_disturbs_what_is_made_once_and_no_signal_is_lost() -> None:
    for numbers in ([], SIGNALS[:1], SIGNALS[1:2], SIGNALS):
        seen: list[int] = []
        _raise_amid(numbers, seen)
        assert sorted(seen) == sorted(numbers)


def _raise_amid(numbers: Any, seen: list[int]) -> None:
    made: list[str] = []

    def make() -> None:
        for number in numbers:
            signal.raise_signal(number)
            signal.raise_signal(number)
        made.append("whole")

    try:
        undisturbed(make)
        len("a call, after which handlers run")
    except Stop as exc:
        error: BaseException | None = exc
        while error is not None:  # those that raised while another one did
            seen.append(error.args[0])
            error = error.__context__
    assert made == ["whole"]


class Dropped:
    """What weak references can refer to."""


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_amid_a_finalizer_is_handled_after_it_and_not_lost(number: int) -> None:
    steps: list[str] = []

    def act() -> None:
        signal.raise_signal(number)
        steps.append("whole")

    dropped = Dropped()
    weakref.finalize(dropped, in_finalizer, act)
    with pytest.raises(Stop):  # noqa: PT012  # what the finalizer raises would be lost
        del dropped
        assert steps == ["whole"]
        in_slices(threading.Event().wait, PATIENCE)
    assert steps == ["whole"]


@pytest.mark.usefixtures("handled")
def test_an_error_amid_it_is_told_and_handlers_are_back() -> None:
    with pytest.raises(ZeroDivisionError):
        undisturbed(lambda: 1 / 0)


@pytest.mark.scenario("trap: submit in a signal handler", "amid the first one, too")
def test_a_handler_that_submits_amid_the_first_submit_makes_no_second_backend() -> None:
    made: list[Any] = []
    futures: list[Any] = []
    executor = Executor(1, backend="thread")
    add: Callable[..., None] = executor._add_backend

    def slowly(pool: str, name: str, backend: Any) -> None:
        def count(spec: Any) -> Any:
            signal.raise_signal(signal.SIGUSR1)
            made.append(backend(spec))
            return made[-1]

        add(pool, name, count)

    before = signal.signal(
        signal.SIGUSR1, lambda *_: futures.append(executor.submit(abs, -len(futures) - 2))
    )
    try:
        executor._add_backend = slowly  # type: ignore[method-assign]
        assert executor.submit(abs, -1).result(PATIENCE) == 1
        assert [future.result(PATIENCE) for future in futures] == [2]
        assert len(made) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
        executor.shutdown()
