"""The executor above its backends: what goes where, what is current, and what happens at exit."""

import asyncio
import concurrent.futures
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import unirun
from unirun import Executor, UnknownOption, UnsupportedByBackend
from unirun.testing import PATIENCE, Gate
from unirun.testing import _subjects as subjects

ROUTES = [
    ("auto", "thread"),
    ("io", "thread"),
    ("native", "thread"),
    ("cpu", "process"),
    ("isolated", "process"),
]


def backend_of(future_of_identity: "unirun.Future[dict[str, Any]]") -> str:
    return str(future_of_identity.result(PATIENCE)["backend"])


@unirun.task(kind="cpu")
def on_processes() -> dict[str, Any]:
    return subjects.identity()


@unirun.task(kind="io", timeout=PATIENCE)
def on_threads() -> dict[str, Any]:
    return subjects.identity()


async def on_the_loop() -> dict[str, Any]:
    return subjects.identity()


# -- where calls go -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "backend"), ROUTES)
def test_the_kind_of_an_executor_routes_what_has_none(kind: str, backend: str) -> None:
    with Executor(1, kind=kind) as executor:
        assert backend_of(executor.submit(subjects.identity)) == backend
        assert executor.explain(subjects.identity).backend == backend


@pytest.mark.parametrize(("kind", "backend"), ROUTES)
def test_the_kind_of_a_call_routes_that_call(kind: str, backend: str) -> None:
    with Executor(1) as executor:
        assert backend_of(executor.options(kind=kind).submit(subjects.identity)) == backend
        assert backend_of(executor.submit(subjects.identity)) == "thread"


def test_a_coroutine_function_goes_to_the_event_loop() -> None:
    with Executor() as executor:
        assert backend_of(executor.submit(on_the_loop)) == "coroutine"


def test_a_task_brings_its_own_hint() -> None:
    with Executor(1, kind="io") as executor:
        assert backend_of(executor.submit(on_processes)) == "process"
        assert backend_of(on_processes.submit()) == "process"
        about = executor.submit(on_threads).result(PATIENCE)
        assert (about["backend"], about["kind"]) == ("thread", "io")
        assert about["deadline"] is not None


def test_a_fixed_backend_takes_every_kind() -> None:
    with Executor(1, backend="inline") as executor:
        for kind, _ in ROUTES:
            assert backend_of(executor.options(kind=kind).submit(subjects.identity)) == "inline"
        assert backend_of(executor.submit(on_processes)) == "inline"
        assert backend_of(executor.submit(on_the_loop)) == "inline"


def test_two_different_backends_cannot_both_be_demanded() -> None:
    with Executor(backend="thread") as executor:
        with pytest.raises(ValueError, match="'process'"):
            executor.options(backend="process").submit(subjects.square, 2)
        assert executor.options(backend="thread").submit(subjects.square, 2).result(PATIENCE) == 4


def test_a_requirement_moves_a_call_to_where_it_is_met() -> None:
    with Executor(1, kind="io") as executor:
        assert backend_of(executor.options(killable=True).submit(subjects.identity)) == "process"
        assert (
            backend_of(executor.options(require={"isolation"}).submit(subjects.identity))
            == "process"
        )
        view = executor.options(kind="cpu", require={"sharedmem"})
        assert backend_of(view.submit(subjects.identity)) == "thread"


def test_a_requirement_that_a_fixed_backend_lacks_is_refused() -> None:
    with Executor(backend="thread") as executor:
        with pytest.raises(UnsupportedByBackend, match="isolation"):
            executor.options(require={"isolation"}).submit(subjects.square, 2)
        assert executor.stats() == {} or executor.stats()["thread"].running == 0


def test_calls_of_one_executor_on_several_backends_can_be_waited_for_together(gate: Gate) -> None:
    with Executor(1) as executor:
        held = [
            executor.options(kind=kind).submit(subjects.hold, gate.address, kind)
            for kind in ("io", "cpu")
        ]
        arrivals = gate.arrivals(2)
        assert len({arrival.pid for arrival in arrivals}) == 2
        gate.open()
        done = concurrent.futures.as_completed(held, PATIENCE)
        assert {future.result() for future in done} == {"io", "cpu"}
        assert sorted(executor.stats()) == ["process", "thread"]


def test_explain_says_what_would_happen_and_starts_nothing() -> None:
    executor = Executor(kind="cpu")
    explanation = executor.explain(subjects.square, 2)
    assert explanation.backend == "process"
    assert "square runs on backend 'process'" in str(explanation)
    assert any("routed" in reason for reason in explanation.reasons)
    assert executor.stats() == {}
    executor.shutdown()


def test_a_plan_follows_the_settings_of_the_moment() -> None:
    """It is kept between calls, and made again when a setting changes."""
    with Executor(backend="thread") as executor:
        assert executor.submit(subjects.identity).result(PATIENCE)["deadline"] is None
        with unirun.config(timeout=PATIENCE):
            assert executor.submit(subjects.identity).result(PATIENCE)["deadline"] is not None
        assert executor.submit(subjects.identity).result(PATIENCE)["deadline"] is None


# -- making one -----------------------------------------------------------------------------------


def test_making_an_executor_starts_nothing() -> None:
    before = threading.enumerate()
    executors = [Executor(backend=name) for name in ("inline", "thread", "coroutine", "process")]
    executors.append(Executor())
    assert threading.enumerate() == before
    assert [executor.stats() for executor in executors] == [{}] * 5
    for executor in executors:
        executor.shutdown()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"kind": "cpuu"}, "'cpu'"),
        ({"backend": "proces"}, "'process'"),
        ({"backend": "thread", "thread_nam": "x"}, "thread_nam"),
        ({"max_worker": 3}, "max_workers"),
        ({"mp_context": "sparn"}, "spawn"),
        ({"grace": -1}, "grace"),
        ({"max_workers": 0}, "max_workers"),
        ({"max_tasks_per_child": 0}, "max_tasks_per_child"),
    ],
)
def test_a_mistake_is_named_where_it_is_written(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        Executor(**wrong)


def test_an_unknown_option_is_a_type_error_as_every_unexpected_keyword() -> None:
    with pytest.raises(UnknownOption) as caught:
        Executor(idle_timout=3)
    assert isinstance(caught.value, TypeError)
    assert "idle_timeout" in str(caught.value)


def test_what_an_executor_was_made_with_is_in_its_repr() -> None:
    executor = Executor(3, backend="thread")
    assert repr(executor) == "<unirun.Executor(max_workers=3, backend='thread')>"
    executor.shutdown()
    assert "shut down" in repr(executor)


def test_worker_threads_have_the_name_that_was_asked_for() -> None:
    with Executor(1, backend="thread", thread_name_prefix="miner") as executor:
        name = executor.submit(lambda: threading.current_thread().name).result(PATIENCE)
    assert name.startswith("miner")


# -- views ----------------------------------------------------------------------------------------


def test_a_view_is_an_executor_that_owns_nothing() -> None:
    with Executor(2, backend="thread") as executor:
        view = executor.options(name="seen")
        assert isinstance(view, concurrent.futures.Executor)
        assert list(view.map(subjects.square, range(3), timeout=PATIENCE)) == [0, 1, 4]
        with pytest.raises(RuntimeError, match="shut down the executor it was made from"):
            view.shutdown()
        assert executor.submit(subjects.square, 2).result(PATIENCE) == 4


def test_asyncio_runs_calls_through_a_view() -> None:
    async def main(view: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(view, subjects.identity)

    with Executor(1, backend="thread") as executor:
        assert asyncio.run(main(executor.options(name="seen")))["name"] == "seen"


# -- the current executor -------------------------------------------------------------------------


def test_inside_with_the_functions_of_the_package_use_that_executor() -> None:
    with Executor(1, backend="inline") as outer:
        assert unirun.current_executor() is outer
        assert backend_of(unirun.submit(subjects.identity)) == "inline"
        with Executor(1, backend="thread") as inner:
            assert unirun.current_executor() is inner
            assert unirun.run(subjects.identity)["backend"] == "thread"
            assert list(unirun.map(subjects.square, range(3))) == [0, 1, 4]
        assert unirun.current_executor() is outer


def test_outside_of_with_there_is_one_default_executor() -> None:
    default = unirun.current_executor()
    assert unirun.current_executor() is default
    assert unirun.run(subjects.square, 7) == 49
    found: list[Executor] = []
    thread = threading.Thread(target=lambda: found.append(unirun.current_executor()))
    thread.start()
    thread.join(PATIENCE)
    assert found == [default]


def test_a_default_executor_that_was_shut_down_is_replaced() -> None:
    first = unirun.current_executor()
    first.shutdown()
    second = unirun.current_executor()
    assert second is not first
    assert unirun.run(subjects.square, 7) == 49


def test_a_task_on_a_thread_submits_to_the_executor_it_runs_on() -> None:
    with Executor(2, backend="thread") as executor:
        assert executor.submit(unirun.current_executor).result(PATIENCE) is executor


def test_a_run_that_is_interrupted_takes_its_call_along(gate: Gate) -> None:
    """Ctrl-C while `unirun.run` waits: the call does not run on unseen."""
    interrupt = threading.Thread(target=_interrupt_when_there, args=(gate,))
    with Executor(1, backend="process", grace=0):
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            unirun.run(subjects.hold, gate.address)
    interrupt.join(PATIENCE)
    assert gate.last.is_gone()


def _interrupt_when_there(gate: Gate) -> None:
    gate.arrival()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


# -- shared objects -------------------------------------------------------------------------------


def test_shared_objects_of_threads_are_the_standard_ones() -> None:
    with Executor(backend="thread") as executor:
        assert isinstance(executor.Queue(), queue.Queue)
        assert type(executor.Event()) is threading.Event
        assert type(executor.Barrier(2)) is threading.Barrier


def test_shared_objects_of_an_open_executor_reach_every_backend() -> None:
    """Each call goes where its kind belongs; one queue serves them all."""
    with Executor(1) as executor:
        shared = executor.Queue()
        for kind, _ in ROUTES:
            executor.options(kind=kind).submit(subjects.put_all, shared, [kind]).result(PATIENCE)
        assert [shared.get(timeout=PATIENCE) for _ in ROUTES] == [kind for kind, _ in ROUTES]


# -- the end of the program -----------------------------------------------------------------------


def program(text: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=40,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("backend", ["thread", "process", "coroutine"])
def test_work_is_finished_before_the_program_ends(backend: str, tmp_path: Path) -> None:
    """Calls that run and that wait, retries, and a map that nobody reads."""
    done = program(
        """
        import sys, unirun
        backend, path = sys.argv[1:]

        async def note(text):
            with open(path, "a") as file:
                file.write(text)
            if text == "r" and unirun.current_task().attempt < 3:
                raise ValueError

        executor = unirun.Executor(1, backend=backend)
        executor.map(note, "m" * 100)
        executor.options(retries=unirun.Retry(3, backoff=0.01)).submit(note, "r")
        for _ in range(10):
            executor.submit(note, "s")
        """,
        backend,
        tmp_path / "ran",
    )
    assert (done.stderr, done.returncode) == ("", 0)
    text = (tmp_path / "ran").read_text()
    assert (text.count("m"), text.count("s"), text.count("r")) == (100, 10, 3)


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_call_that_hangs_does_not_hang_the_exit(backend: str) -> None:
    """It is ended after `exit_grace`, and named."""
    done = program(
        """
        import sys, threading, unirun

        def hang(begun):
            begun.set()
            threading.Event().wait(60)

        executor = unirun.Executor(1, backend=sys.argv[1])
        begun = executor.Event()
        executor.options(name="the hung one").submit(hang, begun)
        begun.wait()
        print("at the end")
        """,
        backend,
        UNIRUN_EXIT_GRACE="0.3",
    )
    assert (done.stdout, done.returncode) == ("at the end\n", 0)
    assert "hung for 0.3 s: the hung one" in done.stderr


def test_an_executor_in_a_forked_child_says_that_its_workers_are_elsewhere() -> None:
    """And the child can make its own."""
    done = program(
        """
        import os, unirun
        executor = unirun.Executor(1, backend="thread")
        assert executor.submit(pow, 2, 3).result(20) == 8
        assert unirun.run(pow, 2, 4) == 16
        pid = os.fork()
        if pid == 0:
            try:
                executor.submit(pow, 2, 3)
            except RuntimeError as exc:
                assert "shutdown" in str(exc), exc
                assert unirun.run(pow, 2, 5) == 32
                with unirun.Executor(1, backend="process") as own:
                    assert own.submit(pow, 2, 6).result(20) == 64
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert executor.submit(pow, 2, 7).result(20) == 128
        """,
        PYTHONWARNINGS="ignore::DeprecationWarning",
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_program_without_a_main_guard_runs_once() -> None:
    done = program(
        """
        import unirun
        print("once")
        with unirun.Executor(2, backend="process") as executor:
            print(sum(executor.map(lambda x: x * x, range(10))))
        """
    )
    assert (done.stdout, done.stderr) == ("once\n285\n", "")


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_the_last_reference_may_go_at_any_time(backend: str) -> None:
    """Also inside a callback of its own, and while the interpreter ends."""
    done = program(
        """
        import sys, threading, unirun

        holder = []
        ended = threading.Event()

        def let_go(_):
            holder.clear()
            ended.set()

        for _ in range(3):
            holder.append(unirun.Executor(1, backend=sys.argv[1]))
            ended.clear()
            futures = [holder[0].submit(pow, 2, n) for n in range(5)]
            futures[0].add_done_callback(let_go)
            assert ended.wait(20)
            assert [future.result(20) for future in futures] == [1, 2, 4, 8, 16]
        holder.append(unirun.Executor(1, backend=sys.argv[1]))
        holder[0].submit(print, "at the end", flush=True)
        """,
        backend,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("at the end\n", "", 0)
