"""`future.replay()`: a call that failed, once more, here, with all it had."""

import contextvars
import gc
import io
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import unirun
from unirun import Executor, NotReplayable

PATIENCE = 20
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture(params=["thread", "process", "inline"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    own = {"strict": False} if request.param == "inline" else {"max_workers": 1}
    with Executor(backend=request.param, **own) as made:
        yield made


@pytest.fixture
def thread() -> Iterator[Executor]:
    with Executor(1, backend="thread") as made:
        yield made


HERE = threading.local()  # .succeed: the call is to return, in this thread


def succeed_here(x: Any, y: int = 0) -> Any:
    task = unirun.current_task()
    assert task is not None
    if not getattr(HERE, "succeed", False):
        raise ValueError(f"no {task.id} {task.attempt} {task.name} {colour.get()}")
    deadline, where = task.deadline, threading.current_thread().name
    return x, y, task.id, task.attempt, task.name, task.kind, colour.get(), deadline, where


def replayed(future: Any) -> Any:
    HERE.succeed = True
    try:
        return future.replay()
    finally:
        HERE.succeed = False


def test_it_runs_here_with_the_same_arguments_name_id_and_variables(executor: Executor) -> None:
    token = colour.set("green")
    view = executor.options(name="mine", kind="io", timeout=PATIENCE)
    future = view.submit(succeed_here, [1], y=2)
    colour.reset(token)
    text = str(future.exception(PATIENCE))
    x, y, number, attempt, name, kind, seen, deadline, where = replayed(future)
    assert text == f"no {number} {attempt} {name} {seen}"
    assert (x, y, name, kind, seen) == ([1], 2, "mine", "io", "green")
    assert deadline is None
    assert where == threading.current_thread().name
    assert unirun.current_task() is None


def test_a_failure_is_raised_with_the_frames_of_here(executor: Executor) -> None:
    future = executor.submit(succeed_here, 1)
    with pytest.raises(ValueError, match="no ") as caught:
        future.replay() if future.exception(PATIENCE) else None
    tb = caught.value.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    assert tb is not None
    assert tb.tb_frame.f_code is succeed_here.__code__
    assert tb.tb_frame.f_locals["x"] == 1


def test_it_may_be_run_again_and_again(executor: Executor) -> None:
    future = executor.submit(succeed_here, 5)
    future.exception(PATIENCE)
    assert [replayed(future)[0] for _ in range(3)] == [5, 5, 5]


def test_a_lambda_and_a_large_argument_come_back(executor: Executor) -> None:
    data = os.urandom(1 << 17)
    outcome: list[bytes] = []
    future = executor.submit(lambda given: succeed_here(len(given)), data)
    assert isinstance(future.exception(PATIENCE), ValueError)
    del data, outcome
    assert replayed(future)[0] == 1 << 17


def test_arrays_come_back() -> None:
    numpy = pytest.importorskip("numpy")
    with Executor(1, backend="process") as executor:
        future = executor.submit(succeed_here, numpy.arange(50_000))
        future.exception(PATIENCE)
    assert int(replayed(future)[0].sum()) == sum(range(50_000))


def test_a_call_with_retries_or_in_line_is_its_last_attempt(executor: Executor) -> None:
    view = executor.options(retries=unirun.Retry(1, backoff=0.001), limit=1)
    future = view.submit(succeed_here, 3)
    future.exception(PATIENCE)
    found = replayed(future)
    assert (found[0], found[3]) == (3, 2)


async def fail_later(x: int) -> Any:
    return succeed_here(x)


def test_a_coroutine_is_run_to_its_end() -> None:
    with Executor(backend="coroutine") as executor:
        future = executor.submit(fail_later, 4)
        future.exception(PATIENCE)
        assert replayed(future)[0] == 4


def in_a_task() -> Any:
    future = unirun.submit(succeed_here, 6)
    future.exception()
    return replayed(future)[0]


def test_it_works_in_tasks(executor: Executor) -> None:
    assert executor.submit(in_a_task).result(PATIENCE) == 6


def hang() -> None:
    if not getattr(HERE, "succeed", False):
        unirun.current_task().sleep(PATIENCE)  # type: ignore[union-attr]


def die() -> str:
    if not getattr(HERE, "succeed", False):
        os._exit(3)
    return "alive"


def test_what_was_cut_off_or_has_crashed_can_be_tried_here() -> None:
    with Executor(1, backend="process") as executor:
        late = executor.options(timeout=0.2).submit(hang)
        dead = executor.submit(die)
        assert isinstance(late.exception(PATIENCE), unirun.TaskTimeout)
        assert isinstance(dead.exception(PATIENCE), unirun.WorkerCrashed)
    assert replayed(late) is None
    assert replayed(dead) == "alive"


def test_what_has_not_failed_is_refused(thread: Executor) -> None:
    with pytest.raises(NotReplayable, match="has not failed, it has returned"):
        _ended(thread.submit(abs, -1)).replay()
    gate = threading.Event()
    running = thread.submit(gate.wait, PATIENCE)
    waiting = thread.submit(abs, -1)
    with pytest.raises(NotReplayable, match="has not ended"):
        running.replay()
    waiting.cancel()
    with pytest.raises(NotReplayable, match="was cancelled or killed"):
        waiting.replay()
    gate.set()
    with pytest.raises(NotReplayable, match="is gone"):
        unirun_future_with(ValueError()).replay()


def _ended(future: Any) -> Any:
    future.result(PATIENCE)
    return future


def unirun_future_with(error: BaseException) -> Any:
    future: unirun.Future[None] = unirun.Future()
    future.set_exception(error)
    return future


class Thing:
    pass


def give_back(thing: Thing, fails: bool) -> None:
    if fails:
        raise ValueError


@pytest.mark.parametrize("fails", [False, True])
def test_arguments_are_kept_only_with_a_failure_and_its_future(
    thread: Executor, fails: bool
) -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    future: Any = thread.submit(give_back, thing, fails)
    future.exception(PATIENCE)
    del thing
    gc.collect()
    thread.submit(abs, -1).result(PATIENCE)  # its worker has let go
    assert (gone() is not None) is fails
    del future
    gc.collect()
    assert gone() is None


def test_a_call_that_has_returned_keeps_nothing() -> None:
    with Executor(1, backend="process") as executor:
        future = executor.submit(len, [1, 2, 3])
        assert future.result(PATIENCE) == 3
    assert future._kept is None  # type: ignore[attr-defined]


def broken(x: int) -> float:
    halves = x / 2
    return 1 / (halves - halves)


def test_a_debugger_starts_where_it_raises(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = executor.submit(broken, 6)
    future.exception(PATIENCE)
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("p halves\nw\nq\n"))
    monkeypatch.setattr(sys, "stdout", said)
    with pytest.raises(ZeroDivisionError):
        future.replay(debug=True)
    assert "3.0" in said.getvalue()
    assert "broken()" in said.getvalue()
    assert "unirun/_" not in said.getvalue()


def stops(x: int) -> int:
    if getattr(HERE, "succeed", False):
        unirun.set_trace()
        return x + 1
    raise ValueError


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """pdb leaves a handler of its own when it goes on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_breakpoint_in_it_stops(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    future = executor.submit(stops, 6)
    future.exception(PATIENCE)
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("p x\nw\nc\n"))
    monkeypatch.setattr(sys, "stdout", said)
    assert replayed(future) == 7
    line = "unirun.set_trace()" if sys.version_info >= (3, 13) else "return x + 1"
    assert f"stops()\n-> {line}" in said.getvalue()
