"""Where a call goes and why: `explain`, before it is made, and `future.info`, afterwards."""

import asyncio
import copy
import os
import pickle
import threading
from concurrent.futures._base import PENDING
from pathlib import Path
from typing import Any

import pytest
from settings_files import pyproject

import unirun
from unirun import CallInfo, Executor, Explanation, cpu_count
from unirun._records import replace

PATIENCE = 20

pytestmark = pytest.mark.usefixtures("here")


def plain(*args: object) -> int:
    return len(args)


async def coroutine() -> int:
    await asyncio.sleep(0)
    return 1


def pid() -> int:
    return os.getpid()


@unirun.task(kind="cpu", retries=2)
def computes(number: int) -> int:
    return number


class Shop:
    @unirun.task(kind="isolated")
    def sell(self, what: str) -> str:
        return what


# -- explain --------------------------------------------------------------------------------------


def test_an_explanation_has_backend_reasons_kind_and_every_setting_with_its_place() -> None:
    found = unirun.explain(computes, 3)
    assert isinstance(found, Explanation)
    assert found.function == f"{__name__}.computes"
    assert (found.backend, found.kind) == ("process", "cpu")
    assert found.reasons == ("kind='cpu'", "kind 'cpu' is routed to 'process'")
    rows = {key: (value, source) for key, value, source in found.settings}
    assert rows["kind"] == ("cpu", "@task")
    assert rows["retries"] == (2, "@task")
    assert rows["blas_threads"] == ("auto", "default")


def test_as_text_it_is_for_people() -> None:
    assert str(unirun.explain(computes)) == (
        f"{__name__}.computes runs on backend 'process', because\n"
        "  - kind='cpu'\n"
        "  - kind 'cpu' is routed to 'process'\n"
        "settings:\n"
        "  kind = 'cpu'  (@task)\n"
        "  retries = 2  (@task)"
    )
    assert str(unirun.explain(plain)).endswith("settings:\n  all default")


def test_every_layer_is_named_where_it_gave_a_value(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pyproject(here, "exit_grace = 4", f"task.'{__name__}:*'.priority = 3")
    monkeypatch.setenv("UNIRUN_GRACE", "2")
    unirun.configure(idle_timeout=9)
    with Executor(3, kind="native") as executor, unirun.config(queue_timeout=8):
        found = executor.options(timeout=7).explain(unirun.task(name="mine")(plain))
    sources = {key: source for key, value, source in found.settings if source != "default"}
    assert sources == {
        "timeout": "options()",
        "max_workers": "Executor()",
        "kind": "Executor()",
        "queue_timeout": "with config()",
        "priority": f"pyproject.toml [tool.unirun] (line 3 of {file})",
        "name": "@task",
        "idle_timeout": "configure()",
        "grace": "UNIRUN_GRACE",
        "exit_grace": f"pyproject.toml [tool.unirun] (line 2 of {file})",
    }
    for key, source in sources.items():
        line = next(row for row in str(found).splitlines() if row.startswith(f"  {key} ="))
        assert line.endswith(f"({source})")


def test_what_only_the_backend_understands_is_told_too() -> None:
    with Executor(backend="process", window=7) as executor:
        found = executor.explain(plain)
    assert ("backend.process.window", 7, "Executor()") in found.settings
    assert "backend.process.window = 7  (Executor())" in str(found)


@pytest.mark.parametrize(
    ("explained", "backend"),
    [
        (lambda: unirun.explain(plain, 1, 2), "thread"),
        (lambda: unirun.explain(coroutine), "coroutine"),
        (lambda: unirun.explain(len), "thread"),
        (lambda: unirun.explain(Shop().sell, "x"), "process"),
        (lambda: Shop().sell.explain("x"), "process"),
        (lambda: computes.explain(1), "process"),
        (lambda: computes.options(kind="io").explain(1), "thread"),
        (lambda: unirun.current_executor().explain(plain, 1), "thread"),
        (lambda: unirun.current_executor().options(kind="cpu").explain(plain), "process"),
    ],
)
def test_anything_that_can_be_submitted_can_be_explained_by_anyone(
    explained: Any, backend: str
) -> None:
    assert explained().backend == backend


def test_explaining_runs_and_starts_nothing() -> None:
    ran: list[object] = []
    with Executor() as executor:
        executor.explain(ran.append, 1)
        executor.options(kind="isolated").explain(ran.append, 1)
        assert executor.stats() == {}
    assert ran == []


def test_an_explanation_is_a_value() -> None:
    found = unirun.explain(plain)
    assert pickle.loads(pickle.dumps(found)) == found == copy.copy(found)
    with pytest.raises(AttributeError, match="cannot assign"):
        found.backend = "process"  # type: ignore[misc]


def test_what_was_measured_is_told_with_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from unirun import _profile

    rows = (("calls measured", 4), ("seconds", 0.012345678), ("on", "thread"))
    monkeypatch.setattr(_profile, "figures", lambda fn: rows if fn is plain else ())
    found = unirun.explain(plain)
    assert found.profile == rows
    measured = "measured:\n  calls measured = 4\n  seconds = 0.01235\n  on = thread"
    assert str(found).endswith(measured)
    assert unirun.explain(pid).profile == ()
    assert "measured" not in str(unirun.explain(pid))


@pytest.mark.parametrize(
    ("options", "made_with", "backend"),
    [
        ({}, {}, "process"),
        ({"timeout": 3}, {}, "process"),
        ({"kind": "io"}, {}, "thread"),
        ({"backend": "thread"}, {}, "thread"),
        ({}, {"backend": "thread"}, "thread"),
        ({}, {"initializer": int}, "thread"),
    ],
    ids=str,
)
def test_where_measures_decide_the_explanation_says_what_they_have_decided(
    options: dict[str, Any],
    made_with: dict[str, Any],
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from unirun import _profile

    rows = (("calls on", "process"), ("because", "it ends sooner"))
    monkeypatch.setattr(_profile, "figures", lambda fn: rows)
    with Executor(**made_with) as executor:
        found = executor.options(**options).explain(plain)
        with unirun.config(auto="off"):
            assert executor.options(**options).explain(plain).backend == "thread"
    assert found.backend == backend
    assert (found.reasons[-1] == "measured: it ends sooner") == (backend == "process")
    assert found.profile == rows


# -- how many workers -----------------------------------------------------------------------------


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine of so many cores."""
    count = 8
    for module in ("_choice", "_executor", "backend"):
        monkeypatch.setattr(f"unirun.{module}.cpu_count", lambda: count)
    return count


@pytest.mark.parametrize(
    ("kind", "workers"), [("auto", 12), ("cpu", 8), ("io", 12), ("native", 8), ("isolated", 8)]
)
def test_an_explanation_says_how_many_workers_there_are(
    cores: int, kind: str, workers: int
) -> None:
    with Executor() as executor:
        assert executor.options(kind=kind).explain(plain).workers == workers
    with Executor(3) as executor:
        assert executor.options(kind=kind).explain(plain).workers == 3
    unirun.configure(max_workers="half")
    with Executor() as executor:
        assert executor.options(kind=kind).explain(plain).workers == 4


@pytest.mark.parametrize(("given", "threads"), [(8, 1), (4, 2), (3, 2), (1, 8), (20, 1)])
def test_an_explanation_says_what_is_left_for_libraries(
    cores: int, given: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with Executor(given) as executor:
        assert executor.options(kind="cpu").explain(plain).library_threads == threads
        assert executor.options(kind="io").explain(plain).library_threads is None
    with Executor(given, blas_threads=5) as executor:
        assert executor.options(kind="cpu").explain(plain).library_threads == 5
    with Executor(given, blas_threads=None) as executor:
        assert executor.options(kind="cpu").explain(plain).library_threads is None


@pytest.mark.parametrize(
    ("made_with", "workers"),
    [
        ({}, 8),
        ({"kind": "cpu"}, 8),
        ({"kind": "native"}, 8),
        ({"kind": "io"}, 12),
        ({"backend": "process"}, 8),
        ({"backend": "thread"}, 12),
        ({"backend": "thread", "kind": "native"}, 8),
        ({"backend": "inline"}, 1),
        ({"backend": "thread", "max_workers": 5}, 5),
        ({"kind": "io", "max_workers": "half"}, 4),
    ],
)
def test_an_executor_tells_others_how_many_workers_it_has(
    cores: int, made_with: dict[str, Any], workers: int
) -> None:
    with Executor(**made_with) as executor:
        assert executor._max_workers == workers


def thread_name(_: object = None) -> str:
    return threading.current_thread().name


def test_threads_that_compute_are_as_many_as_cores_beside_those_that_wait(cores: int) -> None:
    with Executor(thread_name_prefix="crew") as executor:
        names = {
            kind: executor.options(kind=kind).submit(thread_name).result(PATIENCE)
            for kind in ("auto", "io", "native")
        }
        sizes = {pool: stats.max_workers for pool, stats in executor.stats().items()}
        assert {stats.backend for stats in executor.stats().values()} == {"thread"}
    assert names == {"auto": "crew_0", "io": "crew_0", "native": "crew-cores_0"}
    assert sizes == {"thread": 12, "thread-cores": 8}


def test_where_somebody_has_said_how_many_threads_there_are_all_are_in_one_pool() -> None:
    unirun.configure(backend={"thread": {"max_workers": 3}})
    for executor, size in ((Executor(), 3), (Executor(4), 4), (Executor(5, kind="native"), 5)):
        with executor:
            for kind in ("io", "native"):
                executor.options(kind=kind).submit(int).result(PATIENCE)
            found = {pool: stats.max_workers for pool, stats in executor.stats().items()}
            assert found == {"thread": size}


def test_both_pools_are_resized_and_shut_down_and_later_kinds_keep_to_their_pool() -> None:
    executor = Executor()
    for kind in ("io", "native"):
        executor.options(kind=kind).submit(int).result(PATIENCE)
    executor.resize(3)
    assert executor.options(kind="native").submit(len, "abc").result(PATIENCE) == 3
    assert {name: each.max_workers for name, each in executor.stats().items()} == {
        "thread": 3,
        "thread-cores": 3,
    }
    executor.shutdown()
    assert [each.workers for each in executor.stats().values()] == [0, 0]


def test_calls_of_both_pools_may_wait_for_one_another_however_deep() -> None:
    with Executor() as executor:

        def down(levels: int) -> int:
            if not levels:
                return 0
            kind = "native" if levels % 2 else "io"
            return executor.options(kind=kind).submit(down, levels - 1).result(PATIENCE) + 1

        deep = [executor.options(kind="native").submit(down, 20) for _ in range(4)]
        assert [future.result(PATIENCE) for future in deep] == [20] * 4


def test_a_barrier_for_more_than_can_compute_is_said_to_be_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unirun._choice.cpu_count", lambda: 2)
    monkeypatch.setattr("unirun._crowding.PATIENCE", 0.05)
    with Executor() as executor:
        barrier = executor.Barrier(cpu_count() + 1 if cpu_count() > 2 else 3)
        view = executor.options(kind="native")
        waiting = [view.submit(barrier.wait) for _ in range(barrier.parties)]
        for future in waiting:
            assert isinstance(future.exception(PATIENCE), unirun.BarrierTooLarge)


def test_calls_in_line_are_counted_once_though_there_are_two_pools() -> None:
    with Executor() as executor:
        go, begun = threading.Event(), threading.Event()
        view = executor.options(kind="native", limit=1)
        futures = [view.submit(lambda: begun.set() or go.wait(PATIENCE)) for _ in range(3)]
        assert begun.wait(PATIENCE)
        assert sum(each.pending for each in executor.stats().values()) == 2
        executor.submit(int).result(PATIENCE)
        assert sum(each.pending for each in executor.stats().values()) == 2
        go.set()
        assert all(future.result(PATIENCE) for future in futures)


def test_an_initializer_runs_in_the_threads_of_both_pools() -> None:
    began: list[str] = []

    def begin(word: str) -> None:
        began.append(word + thread_name())

    with Executor(initializer=begin, initargs=("in ",)) as executor:
        for kind in ("io", "native"):
            executor.options(kind=kind).submit(int).result(PATIENCE)
    assert sorted(began) == ["in unirun-cores_0", "in unirun_0"]


# -- future.info ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fn", "backend", "kind"),
    [
        ({}, plain, "thread", "auto"),
        ({"kind": "native"}, plain, "thread", "native"),
        ({"kind": "cpu"}, pid, "process", "cpu"),
        ({"kind": "isolated", "timeout": 60}, pid, "process", "isolated"),
        ({}, coroutine, "coroutine", "async"),
        ({"backend": "inline"}, plain, "inline", "auto"),
        ({"retries": 2}, plain, "thread", "auto"),
        ({"limit": 1}, plain, "thread", "auto"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_future_tells_where_its_call_went_and_why(
    options: dict[str, Any], fn: Any, backend: str, kind: str
) -> None:
    with Executor() as executor:
        view = executor.options(**options)
        future = view.submit(fn)
        result = future.result(PATIENCE)
        info, explained = future.info, view.explain(fn)
    assert isinstance(info, CallInfo)
    assert (info.state, info.backend, info.kind) == ("finished", backend, kind)
    assert (info.function, info.attempt) == (f"{__name__}.{fn.__name__}", 1)
    assert (info.reasons, info.settings) == (explained.reasons, explained.settings)
    assert info.pid == (result if fn is pid else os.getpid())
    assert str(info).startswith(f"{info.function}: finished on backend {backend!r}\n")
    for reason in info.reasons:
        assert f"  - {reason}\n" in str(info)
    assert pickle.loads(pickle.dumps(info)) == info


def test_a_future_tells_its_worker_once_it_has_one() -> None:
    with Executor(1, backend="thread", thread_name_prefix="crew") as executor:
        go, begun = threading.Event(), threading.Event()

        def hold() -> None:
            begun.set()
            go.wait(PATIENCE)

        running, waiting = executor.submit(hold), executor.submit(plain)
        assert begun.wait(PATIENCE)
        assert (running.info.state, running.info.worker) == ("running", "crew_0")
        assert (waiting.info.state, waiting.info.worker) == ("pending", None)
        assert waiting._state is PENDING, "to ask changes nothing"
        waiting.cancel()
        go.set()
        running.result(PATIENCE)
        assert (running.info.state, running.info.worker) == ("finished", "crew_0")
        assert (waiting.info.state, waiting.info.pid) == ("cancelled", None)
    assert "worker: crew_0 of process" in str(running.info)


def test_a_future_of_a_call_that_was_killed_tells_its_process() -> None:
    with Executor(1, backend="process") as executor:
        assert executor.submit(plain).result(PATIENCE) == 0
        (worker,) = executor.stats()["process"].pids
        future = executor.submit(_wait_long)
        while not future.running() or future.info.pid is None:
            assert not future.done()
        assert (future.info.pid, future.info.worker) == (worker, f"pid {worker}")
        future.kill(grace=0)
        assert future.info.state == "cancelled"
        assert future.info.backend == "process"


def _wait_long() -> None:
    threading.Event().wait(PATIENCE)


def test_a_future_of_a_retried_call_tells_its_attempt() -> None:
    failures = iter([ValueError, KeyError])

    def fails_twice() -> str:
        for failure in failures:
            raise failure
        return "done"

    with Executor() as executor:
        view = executor.options(retries=unirun.Retry(5, backoff=0))
        future = view.submit(fails_twice)
        assert future.result(PATIENCE) == "done"
    assert future.info.attempt == 3
    assert "attempt: 3" in str(future.info)


def test_a_future_in_line_tells_where_it_will_go() -> None:
    with Executor() as executor:
        go = threading.Event()
        view = executor.options(kind="native", limit=1, name="in line")
        first, second = view.submit(go.wait, PATIENCE), view.submit(plain)
        assert (second.info.function, second.info.state) == ("in line", "pending")
        assert (second.info.backend, second.info.kind) == ("thread", "native")
        go.set()
        assert (first.result(PATIENCE), second.result(PATIENCE)) == (True, 0)
        assert second.info.worker == "unirun-cores_0"


def test_the_settings_of_a_future_are_those_of_its_call_not_of_now() -> None:
    with Executor() as executor:
        with unirun.config(timeout=9):
            future = executor.submit(plain)
        later = executor.submit(plain)
        assert (future.result(PATIENCE), later.result(PATIENCE)) == (0, 0)
        unirun.configure(priority=3)
    assert ("timeout", 9.0, "with config()") in future.info.settings
    assert ("timeout", None, "default") in later.info.settings
    assert ("priority", 0, "default") in later.info.settings


def test_what_is_not_known_is_none() -> None:
    by_hand: unirun.Future[int] = unirun.Future()
    assert by_hand.info == CallInfo()
    assert str(by_hand.info) == "a call: pending"
    by_hand.set_result(3)
    assert by_hand.info == replace(CallInfo(), state="finished")


def nested() -> tuple[str | None, str | None, bool]:
    future = unirun.submit(computes, 1)
    future.result(PATIENCE)
    return future.info.backend, future.info.kind, bool(future.info.reasons)


def test_a_call_of_a_call_tells_the_same_inside_a_worker() -> None:
    with Executor(1) as executor:
        found = executor.options(kind="cpu").submit(nested).result(PATIENCE)
    assert found == ("process", "cpu", True)
