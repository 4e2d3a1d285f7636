"""What a call knows of itself and of the call that has submitted it: the same on every backend."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from contexts import PATIENCE, apart

import unirun
from unirun import Executor, TaskCancelled

BACKENDS = ("inline", "thread", "coroutine", "process")


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, Executor]]:
    made = {name: Executor(1, backend=name) for name in BACKENDS}
    ended = threading.Event()
    made["process"].submit(abs, 1).add_done_callback(lambda _: ended.set())
    assert ended.wait(PATIENCE)
    made["thread"].submit(abs, 1).result(PATIENCE)
    made["coroutine"].submit(asyncio.sleep, 0).result(PATIENCE)
    yield made
    for each in made.values():
        each.shutdown()


def task() -> Any:
    found = unirun.current_task()
    assert found is not None
    return found


# -- identity --------------------------------------------------------------------------------------


def identity() -> dict[str, Any]:
    me = task()
    names = ("name", "id", "attempt", "kind", "backend", "worker", "deadline", "parent", "seed")
    return {name: getattr(me, name) for name in names} | {"same": me is unirun.current_task()}


async def identity_later() -> dict[str, Any]:
    before = identity()
    await asyncio.sleep(0)
    assert identity() == before
    return before


@apart
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_knows_all_about_itself(backend: str) -> None:
    fn = identity_later if backend == "coroutine" else identity
    end = time.monotonic() + 1000
    with Executor(1, backend=backend) as executor:
        view = executor.options(name="mine", kind="io", seed=5, deadline=end)
        found = view.submit(fn).result(PATIENCE)
    worker = found.pop("worker")
    assert worker.startswith("pid ") if backend == "process" else worker
    assert isinstance(found.pop("id"), int)
    kind = "async" if backend == "coroutine" else "io"  # the one by which it was decided
    expected = {"name": "mine", "attempt": 1, "kind": kind, "backend": backend, "deadline": end}
    assert found == {**expected, "parent": None, "seed": 5, "same": True}


def identity_of(_: int) -> dict[str, Any]:
    return identity()


@apart
@pytest.mark.parametrize("backend", ["inline", "thread", "process"])
@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_item_of_a_map_is_called_after_its_function(
    executors: dict[str, Executor], backend: str, chunksize: int
) -> None:
    executor = executors[backend]
    found = list(executor.map(identity_of, range(6), chunksize=chunksize))
    assert {each["name"] for each in found} == {"test_context_calls.identity_of"}
    assert len({each["id"] for each in found}) == 6 // chunksize
    named = executor.options(name="mine").map(identity_of, range(3), chunksize=chunksize)
    assert {each["name"] for each in named} == {"mine"}


def child_of(backend: str) -> Any:
    """What a call that this one submits there says of itself, and who this one is."""
    fn, me = identity_later if backend == "coroutine" else identity, (task().id, task().deadline)
    if backend == "home":
        return me, unirun.submit(fn).result(PATIENCE)
    with Executor(1, backend=backend) as executor:
        return me, executor.options(timeout=1000).submit(fn).result(PATIENCE)


@apart
@pytest.mark.parametrize(
    ("above", "below"),
    [
        *(("inline", "thread"), ("inline", "coroutine"), ("thread", "inline")),
        *(("thread", "home"), ("thread", "coroutine"), ("thread", "process")),
        *(("process", "home"), ("process", "thread"), ("process", "process")),
    ],
)
def test_a_call_of_a_call_names_its_parent_and_has_its_deadline(above: str, below: str) -> None:
    with Executor(1, backend=above) as executor:
        view = executor.options(timeout=500)
        (parent, end), child = view.submit(child_of, below).result(PATIENCE)
    assert (child["parent"], child["deadline"]) == (parent, end)
    assert child["id"] != parent or above == "process"  # each process has numbers of its own
    assert child["backend"] == (above if below == "home" else below)


@apart
def test_who_keeps_a_task_keeps_no_others(executors: dict[str, Executor]) -> None:
    kept = executors["thread"].submit(nested_tasks).result(PATIENCE)
    assert [each._above for each in kept] == [None, None]
    assert kept[1].parent == kept[0].id


def nested_tasks() -> Any:
    return task(), unirun.submit(task).result(PATIENCE)


# -- its deadline ----------------------------------------------------------------------------------


@apart
@pytest.mark.parametrize("below", ["thread", "process"])
def test_what_a_call_has_left_behind_ends_at_its_deadline(tmp_path: Path, below: str) -> None:
    """It is told so on threads, and killed on processes."""
    with Executor(1, backend=below) as there, Executor(1, backend="thread") as threads:
        there.submit(abs, 1).result(PATIENCE)
        future = threads.options(timeout=1.5).submit(leave_behind, there, str(tmp_path / "child"))
        error = future.result(PATIENCE).exception(PATIENCE)
        assert isinstance(error, (TaskCancelled, unirun.TaskTimeout, unirun.QueueTimeout))


def leave_behind(executor: Executor, path: str) -> Any:
    return executor.submit(sleep_there, path)


def sleep_there(path: str) -> str:
    Path(path).touch()
    try:
        task().sleep(PATIENCE)
    except TaskCancelled:
        Path(path + ".cancelled").touch()
        raise
    return "slept"


def wait_for(path: str, future: Any = None) -> None:
    end = time.monotonic() + PATIENCE
    while not Path(path).exists():
        assert time.monotonic() < end, f"{path} was never made"
        assert future is None or not future.done(), future
        time.sleep(0.005)


# -- its cancellation ------------------------------------------------------------------------------


def wait_for_child(backend: str, path: str) -> Any:
    """Whether the call that this one waits for heard that it is not wanted, and this one too."""
    if backend == "home":  # in a process of its own, if these are processes
        return heard(unirun.current_executor().options(kind="isolated"), path)
    with Executor(1, backend=backend) as executor:
        return heard(executor, path)


def heard(executor: Any, path: str) -> Any:
    try:
        executor.submit(sleep_there, path).result(PATIENCE)
    except TaskCancelled:
        return "told", task().cancelled
    return "not told", task().cancelled


@apart
@pytest.mark.parametrize(
    ("above", "below"),
    [
        *(("thread", "inline"), ("thread", "home"), ("thread", "process")),
        *(("process", "home"), ("process", "thread"), ("process", "process")),
    ],
)
def test_cancelling_a_call_tells_those_it_waits_for(tmp_path: Path, above: str, below: str) -> None:
    path = str(tmp_path / "child")
    with Executor(1, backend=above) as executor:
        future = executor.submit(wait_for_child, below, path)
        wait_for(path, future)
        assert not future.cancel()
        assert future.result(PATIENCE) == ("told", True)


@apart
@pytest.mark.parametrize("above", ["thread", "process"])
def test_who_only_looks_sees_it_too(tmp_path: Path, above: str) -> None:
    path = str(tmp_path / "child")
    with Executor(1, backend=above) as executor:
        future = executor.submit(let_look, path)
        wait_for(path, future)
        future.cancel()
        assert future.result(PATIENCE) == [True] * 3


def let_look(path: str) -> Any:
    """What a call in a thread sees; one that runs where this does; and one in another process."""
    with Executor(1, backend="thread") as threads:
        first = threads.submit(look, path).result(PATIENCE)
        second = unirun.submit(look, path).result(PATIENCE)
        elsewhere = unirun.current_executor().options(kind="isolated")
        return [first, second, elsewhere.submit(look, path).result(PATIENCE)]


def look(path: str) -> bool:
    Path(path).touch()
    end = time.monotonic() + PATIENCE
    while not task().cancelled and time.monotonic() < end:
        time.sleep(0.002)
    return bool(task().cancelled)


@apart
def test_it_goes_down_through_several_backends(tmp_path: Path) -> None:
    path = str(tmp_path / "child")
    with Executor(1, backend="thread") as executor:
        future = executor.submit(through_threads, 3, path)
        wait_for(path)
        future.cancel()
        assert future.result(PATIENCE) == ("told", True)


def through_threads(depth: int, path: str) -> Any:
    if not depth:
        return wait_for_child("process", path)
    with Executor(1, backend="thread") as executor:
        return executor.submit(through_threads, depth - 1, path).result(PATIENCE)


@apart
def test_a_call_that_begins_after_its_caller_was_cancelled_knows_it(tmp_path: Path) -> None:
    path = str(tmp_path / "parent")
    with Executor(1, backend="thread") as threads, Executor(1, backend="process") as processes:
        future = threads.submit(submit_late, processes, path)
        wait_for(path)
        future.cancel()
        assert future.result(PATIENCE) == [True] * 4


def submit_late(processes: Executor, path: str) -> Any:
    """Calls that waited when this one was cancelled, and others that are submitted after that."""
    go = processes.Event()
    first = processes.submit(wait_until, go)
    waiting = [processes.submit(is_cancelled_soon) for _ in range(2)]
    Path(path).touch()
    with pytest.raises(TaskCancelled):
        task().sleep(PATIENCE)
    later = [processes.submit(is_cancelled_soon), unirun.submit(is_cancelled_soon)]
    go.set()
    first.result(PATIENCE)
    return [future.result(PATIENCE) for future in (*waiting, *later)]


def wait_until(event: Any) -> None:
    event.wait(PATIENCE)


def is_cancelled_soon() -> bool:
    try:
        task().sleep(PATIENCE)
    except TaskCancelled:
        return True
    return False


@apart
def test_a_call_whose_cancellation_came_with_it_knows_it() -> None:
    with Executor(1, backend="process") as executor:
        executor.submit(abs, 1).result(PATIENCE)
        for _ in range(20):
            future = executor.submit(is_cancelled_soon)
            if future.cancel():  # it had not begun
                continue
            assert future.result(PATIENCE)


@apart
def test_the_time_out_of_a_call_ends_those_it_waits_for(tmp_path: Path) -> None:
    path = str(tmp_path / "child")
    with Executor(1, backend="process") as there, Executor(1, backend="thread") as threads:
        future = threads.options(timeout=1).submit(heard, there, path)
        assert isinstance(future.exception(PATIENCE), unirun.TaskTimeout)
        assert there.submit(abs, -3).result(PATIENCE) == 3  # its only worker is free


@apart
def test_killing_a_call_ends_those_it_waits_for(tmp_path: Path) -> None:
    path = str(tmp_path / "child")
    with Executor(1, backend="process") as executor:
        future = executor.submit(hold_a_child, path)
        wait_for(path, future)
        child = psutil.Process(int(Path(path).read_text()))
        assert future.kill(grace=0)
        assert executor.submit(abs, -3).result(PATIENCE) == 3
        assert psutil.wait_procs([child], PATIENCE)[1] == []


def hold_a_child(path: str) -> None:
    with Executor(1, backend="process") as executor:
        executor.submit(hold, path).result(PATIENCE)


def hold(path: str) -> None:
    """Does not look whether it is wanted."""
    before = Path(path + ".new")
    before.write_text(str(os.getpid()))
    before.rename(path)
    time.sleep(PATIENCE)


@apart
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_calls_of_calls_may_be_deeper_than_the_stack(tmp_path: Path, backend: str) -> None:
    path = str(tmp_path / "child")
    depth = 1200 if backend == "thread" else 150
    with Executor(1, backend=backend) as executor:
        future = executor.submit(go_down, depth, path)
        wait_for(path, future)
        future.cancel()
        assert future.result(PATIENCE) == ("told", True)


def go_down(depth: int, path: str) -> Any:
    if not depth:
        assert task().parent is not None
        return heard(unirun.current_executor(), path)
    return unirun.submit(go_down, depth - 1, path).result(PATIENCE)


@apart
def test_a_call_forgets_those_it_has_submitted_when_they_are_over() -> None:
    with Executor(1, backend="process") as there, Executor(1, backend="thread") as threads:
        assert threads.submit(heirs_after, 200, there).result(PATIENCE) < 100


def heirs_after(count: int, there: Executor) -> int:
    for _ in range(count):
        there.submit(abs, 1).result(PATIENCE)
        unirun.submit(doze).result(PATIENCE)
    return len(task().token._heirs._all)


def doze() -> None:
    task().sleep(0)


@apart
def test_what_a_call_has_left_behind_goes_on_when_it_has_ended() -> None:
    with Executor(2, backend="thread") as executor:
        go = threading.Event()
        left = executor.submit(leave, go).result(PATIENCE)
        go.set()
        assert left.result(PATIENCE) is False


def leave(go: Any) -> Any:
    return unirun.submit(cancelled_after, go)


def cancelled_after(go: Any) -> bool:
    go.wait(PATIENCE)
    return bool(task().cancelled)
