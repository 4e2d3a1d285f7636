"""Programs that fork: no lock is waited for in vain, and no pipe of ours is shared."""

import concurrent.futures
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process import watch
from process.line import PATIENCE

import unirun
from unirun import DeadlockError

PROGRAM = Path(__file__).parents[1] / "apps" / "forks.py"

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def run(path: Path, *arguments: object) -> str:
    """What the program says; it has to end well, and to say nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(PROGRAM), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.scenario("fork: amid submits", "the child ends at once, with its own pool if it wants")
@pytest.mark.scenario("fork: locks of other threads", "logging's and ours are free in the child")
@pytest.mark.parametrize(
    ("backend", "method"), [("thread", ""), ("process", "zygote"), ("process", "fork")]
)
def test_a_child_forked_amid_submits_ends_whatever_it_does(
    backend: str, method: str, tmp_path: Path
) -> None:
    assert "children by status: {0: " in run(tmp_path, "amid_submits", backend, method, 1.0)


@pytest.mark.scenario("fork: amid an import of another thread", "the child can import it, too")
def test_a_fork_waits_for_imports_but_not_for_ever(tmp_path: Path) -> None:
    assert "was waited for once: True" in run(tmp_path, "amid_imports", "thread", "", 0.2)


@pytest.mark.scenario("fork: amid a slow start of a pool", "the child can make its own")
@pytest.mark.parametrize("method", ["zygote", "fork"])
def test_a_fork_amid_a_start_that_takes_long(method: str, tmp_path: Path) -> None:
    run(tmp_path, "amid_a_slow_start", "process", method, 0)


@pytest.mark.scenario(52, "a child that lives on disturbs nobody: deaths and ends are noticed")
@pytest.mark.scenario("fork: pipes", "no child of the program has an end of a worker's pipes")
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing tells of descriptors")
@pytest.mark.parametrize("method", ["zygote", "spawn", "fork"])
def test_a_child_that_lives_on_has_none_of_our_pipes(method: str, tmp_path: Path) -> None:
    assert "end: " in run(tmp_path, "children_that_live", "process", method, 0.5)


@pytest.mark.scenario("fork: other pools in the same program", "before, during and after ours")
def test_other_pools_and_processes_work_beside_ours(tmp_path: Path) -> None:
    run(tmp_path, "beside_others", "process", "", 0)


@pytest.mark.scenario("fork: a future of the parent", "result() in the child raises, and says why")
@pytest.mark.parametrize("backend", ["thread", "process", "coroutine"])
def test_waiting_for_a_call_of_the_parent_is_an_error(backend: str) -> None:
    import asyncio

    sleep = asyncio.sleep if backend == "coroutine" else time.sleep
    with unirun.Executor(1, backend=backend) as executor:
        future = executor.submit(sleep, 0.5)
        pid = os.fork()
        if not pid:
            os._exit(len([1 for wait in _WAITS if _is_refused(wait, future)]))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == len(_WAITS)
        assert future.result(PATIENCE) is None


_WAITS = (
    lambda future: future.result(),
    lambda future: future.exception(),
    lambda future: concurrent.futures.wait([future]),
)


def _is_refused(wait: object, future: object) -> bool:
    try:
        wait(future)  # type: ignore[operator]
    except DeadlockError as exc:
        return "before this process was forked" in str(exc)
    return False


def fork_in_task(path: str) -> tuple[int, int]:
    """One child that comes back, one that lives on for a while; and all pipes are looked at."""
    child = os.fork()
    if not child:
        return (0, 0)  # into the worker's loop
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    alive = os.fork()
    if not alive:
        Path(path).write_text("alive")
        time.sleep(1000)
        os._exit(0)
    return status, alive


@pytest.mark.scenario("fork in a task", "the child is no worker, and keeps nothing of it open")
@pytest.mark.parametrize("method", ["zygote", "fork"])
def test_a_task_may_fork(method: str, tmp_path: Path) -> None:
    with unirun.Executor(1, backend="process", mp_context=method) as executor:
        future = executor.submit(fork_in_task, str(tmp_path / "alive"))
        status, alive = future.result(PATIENCE)
        assert status == 0
        watch.until((tmp_path / "alive").exists, "the child runs")
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
        with pytest.raises(unirun.WorkerCrashed):  # noticed, although the child lives
            executor.submit(os._exit, 3).result(PATIENCE)
        assert executor.submit(pow, 2, 4).result(PATIENCE) == 16
    if not watch.is_gone(alive):
        os.kill(alive, 9)
    watch.until_gone(alive)


def close_standard_streams() -> list[str]:
    for fd in range(3):
        os.close(fd)
    taken = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]
    return [str(fd) for fd in taken]


@pytest.mark.scenario("task that closes descriptors 0-2", "its worker works on")
def test_a_task_may_close_its_standard_streams() -> None:
    with unirun.Executor(1, backend="process") as executor:
        assert executor.submit(close_standard_streams).result(PATIENCE) == ["0", "1", "2"]
        assert executor.submit(print, "to nobody").result(PATIENCE) is None
        assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
