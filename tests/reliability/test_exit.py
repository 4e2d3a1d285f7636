"""However a program ends, it ends soon, with its own status and words, and leaves nobody behind."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from apps import exits_all as exits
from process import watch
from process.line import PATIENCE

import unirun
from unirun import ExecutorShutdown, NotKillable

# Of 600 combinations those that say most; `python tests/apps/exits_all.py` runs all of them.
FINISHED = (
    *("end", "error", "exit_in_callback", "dropped", "shutdown_without_waiting", "daemons_submit"),
    *("at_exit", "at_exit_of_threading", "finalizer", "handler"),
)
HUNG = (
    *("exit_3", "error_in_with", "thread_waits", "callback_hangs", "many", "limited"),
    *("stderr_broken", "ctrl_c"),
)
SEVERAL = {
    "process": [("stubborn", "end"), ("stubborn", "shutdown_that_kills"), ("idle", "child")],
    "thread": [("running", "retried"), ("idle", "callback_hangs")],
    "coroutine": [("stubborn", "error_in_with"), ("stubborn", "thread_waits")],
    "inline": [("running", "retried")],
}


@pytest.mark.scenario(44, "what was submitted is finished, also after shutdown(wait=False)")
@pytest.mark.scenario(48, "a dropped executor finishes its work, also if the program ends")
@pytest.mark.scenario("exit: pending calls", "finished, whatever way the main thread ends")
@pytest.mark.scenario("exit: submit from atexit", "refused, on every version of Python; never lost")
@pytest.mark.scenario("exit: submit from __del__", "refused or finished, never lost")
@pytest.mark.scenario("exit: submit from a signal handler", "finished")
@pytest.mark.scenario("exit: submit after the interpreter began to end", "refused with the reason")
@pytest.mark.scenario("exit: executor dropped without shutdown", "its calls are finished at exit")
@pytest.mark.scenario("exit: sys.exit in a callback", "logged; the program goes on")
@pytest.mark.parametrize("backend", exits.BACKENDS)
def test_what_was_submitted_is_finished_before_the_program_ends(
    backend: str, tmp_path: Path
) -> None:
    assert not exits.run_all(product([backend], ["pending"], FINISHED), tmp_path)


@pytest.mark.scenario("exit: hung calls", "killed or left behind after exit_grace, and named once")
@pytest.mark.scenario("exit: exception in the main thread", "status and traceback are kept")
@pytest.mark.scenario("exit: exception out of `with`", "what runs is killed, the exception passes")
@pytest.mark.scenario("exit: a thread waits for a hung call", "is told, so the program can end")
@pytest.mark.scenario("exit: done-callback that hangs", "left behind, and said so")
@pytest.mark.parametrize("backend", exits.BACKENDS)
def test_what_hangs_does_not_hang_the_exit(backend: str, tmp_path: Path) -> None:
    assert not exits.run_all(product([backend], ["hung"], HUNG), tmp_path / "hung")
    several = [(backend, *each) for each in SEVERAL[backend]]
    assert not exits.run_all(several, tmp_path / "several")


@pytest.mark.scenario(43, "a parent that is killed takes workers, zygote and sockets along")
@pytest.mark.scenario("parent SIGKILLed with idle and busy workers", "nobody left, no file either")
@pytest.mark.scenario("exit: os._exit and signals", "nothing alive afterwards")
def test_nobody_outlives_a_program_that_ends_by_force(tmp_path: Path) -> None:
    states, endings = ("idle", "running", "stubborn"), ("sigkill", "os_exit_4", "sigterm")
    assert not exits.run_all(product(["process"], states, endings), tmp_path)


@pytest.mark.scenario("exit: Ctrl-C while it waits at exit", "calls are killed, and it ends")
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_ctrl_c_ends_the_wait_at_exit(backend: str, tmp_path: Path) -> None:
    done = watch.run(
        tmp_path,
        """
        import os, subprocess, sys, time, unirun
        executor = unirun.Executor(1, backend=sys.argv[1])
        executor.submit(time.sleep, 1000)
        code = "import os, sys, time; time.sleep(0.5); os.kill(int(sys.argv[1]), 2)"
        subprocess.Popen([sys.executable, "-c", code, str(os.getpid())])
        """,
        backend,
    )
    assert done.stderr.count("KeyboardInterrupt") == 1


@pytest.mark.scenario("exit: grandchild holds the stdout pipe", "killed with a hung call")
def test_what_a_hung_call_has_started_does_not_hold_our_output(tmp_path: Path) -> None:
    """Who reads it to its end is not kept waiting."""
    done = watch.run(
        tmp_path,
        """
        import subprocess, unirun

        def hang():
            subprocess.run(["sleep", "1000"])

        executor = unirun.Executor(1, backend="process")
        executor.submit(hang)
        """,
        env=watch.with_tests_on_path() | {"UNIRUN_EXIT_GRACE": "0.5"},
    )
    assert done.returncode == 0
    assert done.stderr == "unirun: at exit, ended calls that hung for 0.5 s: __main__.hang\n"


@pytest.mark.scenario("exit: unirun first used in atexit", "a clear error, nothing is left")
def test_an_executor_made_at_the_very_end_refuses(tmp_path: Path) -> None:
    done = watch.run(
        tmp_path,
        """
        import atexit, threading

        def late():
            import unirun
            for _ in range(2):
                try:
                    unirun.Executor(1, backend="process").submit(pow, 2, 3)
                except unirun.UnirunError as exc:
                    print(exc)

        atexit.register(late)
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 2 * "cannot schedule new futures after interpreter shutdown\n"


# -- shutdown by force ----------------------------------------------------------------------------


@pytest.mark.scenario("shutdown by force", "every future ends, also of calls that cannot be killed")
@pytest.mark.parametrize("backend", ["thread", "inline"])
def test_a_call_that_is_left_behind_ends_for_those_who_wait(backend: str) -> None:
    begun, go = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        begun.set()
        go.wait(PATIENCE)

    own = {"copy": False} if backend == "inline" else {}
    executor = unirun.Executor(1, backend=backend, **own)
    beside = [executor.Barrier(1)] if own else []  # so that it does not run in this thread
    future = executor.options(name="the long one").submit(hang, *beside)
    assert begun.wait(PATIENCE)
    executor.shutdown(kill=True)
    with pytest.raises(NotKillable, match="end the long one, which was left behind"):
        future.result(0)
    go.set()


async def block_the_loop(begun: threading.Event, go: threading.Event) -> None:
    begun.set()
    go.wait(PATIENCE)


@pytest.mark.scenario("shutdown by force", "a coroutine that blocks the event loop is left behind")
@pytest.mark.parametrize("how", ["kill", "timeout", "shutdown"])
def test_a_coroutine_that_blocks_its_loop_holds_up_nobody(how: str) -> None:
    begun, go = threading.Event(), threading.Event()
    with unirun.Executor(backend="coroutine", grace=0.1) as executor:
        view = executor.options(timeout=0.1) if how == "timeout" else executor
        future = view.submit(block_the_loop, begun, go)
        assert begun.wait(PATIENCE)
        if how == "kill":
            future.kill()
        elif how == "shutdown":
            behind = executor.submit(block_the_loop, begun, go)  # the loop never sees it
            executor.shutdown(kill=True)
            assert behind.cancelled()
        with pytest.raises(NotKillable, match="block_the_loop, which was left behind"):
            future.result(PATIENCE)
        go.set()


@pytest.mark.scenario("shutdown by force", "a done-callback that hangs does not hold it up")
@pytest.mark.parametrize("backend", ["thread", "process", "coroutine"])
def test_a_callback_that_hangs_does_not_hold_up_a_killing_shutdown(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unirun.backend.Patience.__init__, "__defaults__", (0.3,))
    called, go = threading.Event(), threading.Event()
    executor = unirun.Executor(1, backend=backend, grace=0.1)
    sleep = asyncio.sleep if backend == "coroutine" else time.sleep

    def hang(_: object) -> None:
        called.set()
        go.wait(PATIENCE)

    executor.submit(sleep, 0.2).add_done_callback(hang)
    assert called.wait(PATIENCE)
    closing = threading.Thread(target=executor.shutdown, kwargs={"kill": True})
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    go.set()


# -- races ----------------------------------------------------------------------------------------


@pytest.mark.scenario(51, "submit races shutdown and resize in 10 threads, 20 times: never lost")
@pytest.mark.parametrize("backend", ["thread", "process"])
def test_a_submit_that_races_an_end_is_taken_or_refused(backend: str) -> None:
    for turn in range(20):
        executor = unirun.Executor(2, backend=backend)
        futures: list[unirun.Future[int]] = []
        started = threading.Barrier(11)

        def submit(executor: unirun.Executor = executor, turn: int = turn) -> None:
            started.wait(PATIENCE)  # noqa: B023  # joined within its turn
            for number in range(30):
                try:
                    futures.append(executor.submit(pow, 2, number))  # noqa: B023
                    if number % 10 == turn % 10:
                        executor.resize(1 + number % 3)
                except RuntimeError:
                    return

        threads = [threading.Thread(target=submit) for _ in range(10)]
        for thread in threads:
            thread.start()
        started.wait(PATIENCE)
        executor.shutdown(cancel_futures=turn % 2 == 0)
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
        assert all(future.done() for future in futures)
        if turn % 2:
            assert all(future.exception(0) is None for future in futures)


@pytest.mark.scenario(49, "a killing shutdown while 100 MB of arguments are on their way is quick")
def test_a_stop_amid_large_arguments_is_quick(record_property: Callable[..., None]) -> None:
    executor = unirun.Executor(2, backend="process", arena_limit=0)  # so they travel in the pipe
    data = os.urandom(1 << 20) * 100
    futures = [executor.submit(len, data) for _ in range(2)]
    began = time.monotonic()
    executor.shutdown(kill=True)
    seconds = time.monotonic() - began
    assert all(future.done() for future in futures)
    record_property("figure", f"ended in {seconds * 1e3:.0f} ms")
    with pytest.raises(ExecutorShutdown):
        executor.submit(len, data)


def test_the_full_check_of_exits_judges() -> None:
    """Its driver is no test; so see that it finds fault where there is one."""
    seen = exits.Seen("thread", "hung", "end", 0, 1.0, "", ["began"], ["a process"])
    assert exits.faults(seen) == ["left: a process", "it does not name what hung: "]
    assert exits.faults(seen._replace(status=None)) == ["it does not end"]
    assert "a call was lost" in exits.faults(seen._replace(state="running", left=[]))
