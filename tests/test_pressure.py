"""Back-pressure: `max_pending`, on every backend where calls can be pending."""

import queue
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import unirun
from unirun import Executor, ExecutorShutdown, Future, QueueFull
from unirun._config import reset
from unirun.testing import PATIENCE, Gate
from unirun.testing import _subjects as subjects
from unirun.testing._gate import comes_true

both = pytest.mark.parametrize("backend", ["thread", "process"])


def aside(do: Callable[[], Any]) -> Future[Any]:
    """`do()` in a thread of its own; a future of what comes of it."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(do())
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


def somebody_waits(executor: Executor) -> bool:
    assert executor._gate is not None
    return bool(executor._gate._changed._waiters)  # type: ignore[attr-defined]


async def double(x: int) -> int:
    return 2 * x


# -- blocking -------------------------------------------------------------------------------------


@both
def test_a_submit_waits_until_there_is_room(backend: str, gate: Gate) -> None:
    with Executor(1, backend=backend, max_pending=2) as executor:
        running = executor.submit(subjects.hold, gate.address)
        waiting = executor.submit(subjects.square, 2)
        arrival = gate.arrival()
        third = aside(lambda: executor.submit(subjects.square, 3))
        assert comes_true(lambda: somebody_waits(executor))
        assert not third.done()
        arrival.release()
        assert third.result(PATIENCE).result(PATIENCE) == 9
        assert waiting.result(PATIENCE) == 4
        running.result(PATIENCE)


@both
def test_many_submits_from_many_threads_all_get_through(backend: str) -> None:
    with Executor(2, backend=backend, max_pending=3) as executor:
        submits = [
            aside(lambda: [executor.submit(subjects.square, n) for n in range(100)])
            for _ in range(4)
        ]
        for submit in submits:
            assert [f.result(PATIENCE) for f in submit.result(PATIENCE)] == [
                n * n for n in range(100)
            ]
        assert executor._gate is not None
        assert comes_true(lambda: (executor._gate._calls, executor._gate._pending) == (0, {}))


@both
def test_a_call_that_is_cancelled_or_fails_makes_room(backend: str, gate: Gate) -> None:
    with Executor(1, backend=backend, max_pending=2, when_full="raise") as executor:
        running = executor.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        assert executor.submit(subjects.square, 2).cancel()
        failing = executor.submit(subjects.inverse, 0)
        arrival.release()
        assert isinstance(failing.exception(PATIENCE), ZeroDivisionError)
        running.result(PATIENCE)
        futures = [executor.submit(subjects.square, n) for n in range(2)]
        assert [f.result(PATIENCE) for f in futures] == [0, 1]


def test_an_argument_that_cannot_be_sent_takes_no_room() -> None:
    with Executor(1, backend="process", max_pending=1, when_full="raise") as executor:
        for _ in range(3):
            future = executor.submit(subjects.same, threading.Lock())
            assert isinstance(future.exception(PATIENCE), unirun.SerializationError)


def test_views_and_tasks_count_with_their_executor(gate: Gate) -> None:
    with Executor(1, backend="thread", max_pending=1, when_full="raise") as executor:
        executor.options(name="one").submit(subjects.hold, gate.address)
        gate.arrival()
        with pytest.raises(QueueFull):
            unirun.submit(subjects.square, 2)
        with pytest.raises(QueueFull):
            executor.options(retries=1).submit(subjects.square, 2)
        gate.open()


def test_coroutines_count_too() -> None:
    with Executor(max_pending=1, backend="coroutine") as executor:
        assert [executor.submit(double, n).result(PATIENCE) for n in range(20)] == [
            2 * n for n in range(20)
        ]


def test_inline_calls_have_ended_when_submit_returns() -> None:
    with Executor(max_pending=1, when_full="raise", backend="inline") as executor:
        assert [executor.submit(subjects.square, n).result() for n in range(5)] == [0, 1, 4, 9, 16]


# -- raising --------------------------------------------------------------------------------------


@both
def test_a_submit_too_many_is_refused_with_what_code_for_queues_catches(
    backend: str, gate: Gate
) -> None:
    with Executor(1, backend=backend, max_pending=1, when_full="raise") as executor:
        executor.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        with pytest.raises(queue.Full) as caught:
            executor.submit(subjects.square, 2)
        assert isinstance(caught.value, QueueFull)
        assert "max_pending" in str(caught.value)
        arrival.release()


@both
def test_whoever_has_a_result_has_room_for_another_call(backend: str) -> None:
    """Also at once: room is counted before the result can be had."""
    with Executor(1, backend=backend, max_pending=1, when_full="raise") as executor:
        for n in range(300):
            assert executor.submit(subjects.square, n).result(PATIENCE) == n * n


def test_bytes_are_counted_where_arguments_are_encoded(gate: Gate) -> None:
    with Executor(1, backend="process", max_pending="100kB", when_full="raise") as executor:
        executor.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        few = [executor.submit(subjects.square, n) for n in range(50)]
        large = executor.submit(subjects.same, bytearray(200_000))
        with pytest.raises(QueueFull):
            executor.submit(subjects.square, 2)
        arrival.release()
        assert [f.result(PATIENCE) for f in few] == [n * n for n in range(50)]
        assert len(large.result(PATIENCE)) == 200_000
        assert executor.submit(subjects.square, 3).result(PATIENCE) == 9


# -- who never waits ------------------------------------------------------------------------------


@both
def test_a_callback_may_submit_though_there_is_no_room(backend: str, gate: Gate) -> None:
    with Executor(1, backend=backend, max_pending=1) as executor:
        made: queue.SimpleQueue[Future[int]] = queue.SimpleQueue()
        first = executor.submit(subjects.hold, gate.address)
        first.add_done_callback(
            lambda _: [made.put(executor.submit(subjects.square, n)) for n in range(5)]
        )
        gate.open()
        assert [made.get(timeout=PATIENCE).result(PATIENCE) for _ in range(5)] == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("when_full", ["block", "raise"])
def test_a_call_on_a_thread_may_submit_though_there_is_no_room(when_full: str) -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * executor.submit(factorial, n - 1).result(PATIENCE)

    with Executor(1, backend="thread", max_pending=1, when_full=when_full) as executor:
        assert executor.submit(factorial, 10).result(PATIENCE) == 3_628_800


def test_an_inline_call_may_submit_though_there_is_no_room() -> None:
    with Executor(backend="inline", max_pending=1, copy=False) as executor:
        outer = executor.submit(lambda: executor.submit(subjects.square, 3).result())
        assert outer.result(PATIENCE) == 9


def test_a_coroutine_may_submit_though_there_is_no_room() -> None:
    async def outer() -> int:
        return await executor.submit(double, 4)

    with Executor(backend="coroutine", max_pending=1) as executor:
        assert executor.submit(outer).result(PATIENCE) == 8


def test_a_second_attempt_is_inside_its_call_too() -> None:
    attempts = []

    def body() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError
        return executor.submit(subjects.square, 3).result(PATIENCE)

    with Executor(1, backend="thread", max_pending=1) as executor:
        retry = unirun.Retry(1, backoff=0.001)
        assert executor.options(retries=retry).submit(body).result(PATIENCE) == 9


def test_a_call_of_another_executor_waits_as_anybody_does(gate: Gate) -> None:
    """So that the first stage of a pipeline does not run away from the second."""
    with (
        Executor(1, backend="thread", max_pending=1) as second,
        Executor(1, backend="thread") as first,
    ):
        second.submit(subjects.hold, gate.address)
        arrival = gate.arrival()
        stage = first.submit(lambda: second.submit(subjects.square, 3))
        assert comes_true(lambda: somebody_waits(second))
        arrival.release()
        assert stage.result(PATIENCE).result(PATIENCE) == 9


# -- ends of a wait -------------------------------------------------------------------------------


def test_a_shutdown_ends_the_wait(gate: Gate) -> None:
    executor = Executor(1, backend="thread", max_pending=1)
    executor.submit(subjects.hold, gate.address)
    waiting = aside(lambda: executor.submit(subjects.square, 2))
    assert comes_true(lambda: somebody_waits(executor))
    executor.shutdown(wait=False)
    assert isinstance(waiting.exception(PATIENCE), ExecutorShutdown)
    gate.open()
    executor.shutdown()


def test_a_shutdown_under_way_lets_nobody_in_who_waits(gate: Gate) -> None:
    executor = Executor(1, backend="thread", max_pending=1)
    executor.submit(subjects.hold, gate.address)
    waiting = aside(lambda: executor.submit(subjects.square, 2))
    assert comes_true(lambda: somebody_waits(executor))
    with executor._lock:  # the shutdown comes no further
        closing = aside(lambda: executor.shutdown(wait=False))
        assert isinstance(waiting.exception(PATIENCE), ExecutorShutdown)
    closing.result(PATIENCE)
    gate.open()
    executor.shutdown()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no way to press Ctrl-C")
def test_ctrl_c_ends_the_wait_and_leaves_the_room_to_others(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import signal, threading, unirun
        go = threading.Event()
        with unirun.Executor(1, backend="thread", max_pending=1) as executor:
            executor.submit(go.wait)
            def press():
                while not executor._gate._changed._waiters:
                    pass
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            threading.Thread(target=press).start()
            try:
                executor.submit(print, "never")
            except KeyboardInterrupt:
                print("interrupted")
            go.set()
            executor.submit(print, "room").result(20)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\nroom\n", "", 0)


# -- maps -----------------------------------------------------------------------------------------


@both
def test_a_map_waits_for_room_and_is_never_refused(backend: str, gate: Gate) -> None:
    with Executor(1, backend=backend, max_pending=2, when_full="raise") as executor:
        results = executor.map(subjects.square, range(100), chunksize=1)
        assert list(results) == [n * n for n in range(100)]


@both
def test_two_maps_at_once_share_the_room(backend: str) -> None:
    with Executor(2, backend=backend, max_pending=2) as executor:
        one = executor.map(subjects.square, range(200), chunksize=1)
        two = executor.map(subjects.square, range(200), chunksize=1)
        assert list(zip(one, two, strict=True)) == [(n * n, n * n) for n in range(200)]


@both
@pytest.mark.parametrize("wait", [True, False])
def test_an_unread_map_is_completed_at_the_end(backend: str, wait: bool) -> None:
    executor = Executor(1, backend=backend, max_pending=1)
    heard: list[int] = []

    def inputs() -> Iterator[int]:
        for n in range(50):
            heard.append(n)
            yield n

    executor.map(subjects.square, inputs(), chunksize=1)
    executor.shutdown(wait=True)
    assert heard == list(range(50))


@pytest.mark.parametrize("max_pending", [None, 8, "100kB"])
@both
def test_a_long_map_needs_no_more_memory_than_a_short_one(
    backend: str, max_pending: int | str | None
) -> None:
    """200,000 items of 1000 bytes are 200 MB; what is on its way at a time is less than 10."""
    items, me = 200_000, psutil.Process()
    sizes: list[int] = []

    def inputs() -> Iterator[bytes]:
        for number in range(items):
            if number % 2000 == 0:
                sizes.append(me.memory_info().rss)
            yield bytes(1000)

    with Executor(2, backend=backend, max_pending=max_pending) as executor:
        found = sum(executor.map(len, inputs(), chunksize=100))
    assert found == items * 1000
    assert max(sizes) - sizes[1] < 50_000_000


@pytest.mark.parametrize(
    ("backend", "items", "bound"), [("thread", 50_000, 10), ("process", 700_000, 400_000)]
)
def test_a_map_of_short_calls_has_a_bounded_number_of_items_on_its_way(
    backend: str, items: int, bound: int
) -> None:
    """Its chunks grow, but neither they nor their number without end."""
    most = 0
    taken = 0

    def inputs() -> Iterator[int]:
        nonlocal most
        for drawn in range(items):
            most = max(most, drawn - taken)
            yield drawn

    with Executor(2, backend=backend, max_pending=4) as executor:
        for _ in executor.map(abs, inputs()):
            taken += 1
    assert taken == items
    assert most <= bound


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"max_pending": 0}, "a number of calls"),
        ({"max_pending": "many"}, "a number of calls"),
        ({"max_pending": "5 parsecs"}, "a number of calls"),
        ({"max_pending": [1, 2]}, "a number of calls"),
        ({"max_pending": True}, "a number of calls"),
        ({"when_full": "blok"}, "did you mean 'block'"),
    ],
)
def test_a_mistake_is_named(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(unirun.ConfigError, match=text):
        Executor(**wrong)


def test_it_belongs_to_the_executor_not_to_a_call() -> None:
    with (
        Executor(backend="thread") as executor,
        pytest.raises(unirun.ConfigError, match="belongs to a whole pool"),
    ):
        executor.options(max_pending=3)


@pytest.fixture
def _no_settings_left() -> Iterator[None]:
    yield
    reset()


@pytest.mark.usefixtures("_no_settings_left")
@pytest.mark.parametrize("source", ["environment", "file", "configure", "config"])
def test_every_layer_can_set_it(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if source == "environment":
        monkeypatch.setenv("UNIRUN_MAX_PENDING", "3, 1MiB")
    if source == "file":
        Path("pyproject.toml").write_text("[tool.unirun]\nmax_pending = [3, '1MiB']\n")
    if source == "configure":
        unirun.configure(max_pending=(3, "1MiB"))
    with unirun.config(**({"max_pending": "1 mib, 3"} if source == "config" else {})):
        executor = Executor(backend="thread")
    assert executor._gate is not None
    assert (executor._gate.most, executor._gate._most_bytes) == (3, 2**20)
    executor.shutdown()
