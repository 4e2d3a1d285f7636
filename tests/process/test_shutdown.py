"""The end of a pool, and of the program that has one."""

import gc
import os
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from process import bodies, watch
from process.line import PATIENCE, Line

import unirun
from unirun import ExecutorShutdown, TaskKilled

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]


# -- shutdown() ---------------------------------------------------------------------------------


def test_shutdown_waits_for_all_calls_and_all_workers(pool: Pool, method: str, line: Lines) -> None:
    executor, ready, go = pool(2, method), line(), line()
    futures = [executor.submit(bodies.wait_for, go, ready) for _ in range(4)]
    pids = {int(ready.wait()), int(ready.wait())}
    closing = threading.Thread(target=executor.shutdown)
    closing.start()
    for _ in futures:
        go.send()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert {future.result(0) for future in futures} == pids
    assert all(map(watch.is_gone, pids))
    with pytest.raises(ExecutorShutdown):
        executor.submit(bodies.pid)


@pytest.mark.scenario(50, "TimeoutError names the call; it can be stopped afterwards")
def test_a_shutdown_that_takes_too_long_says_what_still_runs(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(1), line(), line()
    future = executor.submit(bodies.wait_for, go, ready)
    pid = int(ready.wait())
    with pytest.raises(TimeoutError, match=r"calls still run after 0\.2 s: process.bodies.wait_fo"):
        executor.shutdown(timeout=0.2)
    assert future.running()
    go.send()
    assert future.result(PATIENCE) == pid
    executor.shutdown(timeout=PATIENCE)
    assert watch.is_gone(pid)


@pytest.mark.scenario(50, "or it kills what takes too long")
def test_a_shutdown_may_kill_what_takes_too_long(pool: Pool, line: Lines) -> None:
    executor, ready = pool(1), line()
    running, waiting = executor.submit(bodies.sleep, ready), executor.submit(bodies.pid)
    pid = int(ready.wait())
    executor.shutdown(timeout=0.2, kill=True)
    assert running.cancelled()
    assert waiting.cancelled()
    assert watch.is_gone(pid)


@pytest.mark.scenario(41, "returns at once, futures raise, nobody is left")
def test_a_killing_shutdown_leaves_nobody(pool: Pool, method: str, line: Lines) -> None:
    executor, ready = pool(2, method, grace=0.2), line()
    bodies_ = [bodies.sleep, bodies.ignore_sigterm]
    running = [executor.submit(body, ready) for body in bodies_]
    waiting = [executor.submit(bodies.pid) for _ in range(5)]
    pids = [int(ready.wait()) for _ in running]
    executor.shutdown(kill=True)
    assert all(map(watch.is_gone, pids))
    for future in running:
        with pytest.raises(TaskKilled, match="its executor was shut down"):
            future.result(0)
    assert all(future.cancelled() for future in waiting)
    assert executor.stats()["process"].workers == 0


def test_a_shutdown_may_drop_what_waits(pool: Pool, line: Lines) -> None:
    executor, ready, go = pool(1), line(), line()
    running = executor.submit(bodies.wait_for, go, ready)
    waiting = [executor.submit(bodies.pid) for _ in range(5)]
    pid = int(ready.wait())
    executor.shutdown(wait=False, cancel_futures=True)
    go.send()
    executor.shutdown()
    assert running.result(0) == pid
    assert [future.cancelled() for future in waiting].count(False) <= 1  # it may be quicker by one


def test_a_shutdown_hurries_a_kill_that_was_patient(pool: Pool, line: Lines) -> None:
    executor, ready = pool(1, grace=0.2), line()
    future = executor.submit(bodies.ignore_sigterm, ready)
    pid = int(ready.wait())
    killing = threading.Thread(target=future.kill, args=(1000,))
    killing.start()
    watch.until(lambda: future.victim_of is not None, "it is being killed")  # type: ignore[attr-defined]
    executor.shutdown(kill=True)
    assert watch.is_gone(pid)
    killing.join(PATIENCE)
    assert not killing.is_alive()


@pytest.mark.scenario(47, "from a callback, from several threads, twice: returns")
def test_shutdown_may_come_from_anywhere_and_more_than_once(pool: Pool, line: Lines) -> None:
    executor, ended = pool(2), threading.Event()

    def end(_: object) -> None:
        executor.shutdown()
        ended.set()

    futures = [executor.submit(bodies.double, number) for number in range(10)]
    futures[0].add_done_callback(end)
    threads = [threading.Thread(target=executor.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert ended.wait(PATIENCE)
    assert [future.result(0) for future in futures] == [2 * n for n in range(10)]


def test_an_exception_in_the_block_kills_what_runs(pool: Pool, line: Lines) -> None:
    executor, ready = pool(1), line()
    running, waiting = executor.submit(bodies.sleep, ready), executor.submit(bodies.pid)
    pid = int(ready.wait())
    with pytest.raises(LookupError), executor:
        raise LookupError
    assert running.cancelled()
    assert waiting.cancelled()
    assert watch.is_gone(pid)


def test_a_worker_that_will_not_stop_is_ended(
    pool: Pool, line: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unirun.backends.process.crew.STOP_PATIENCE", 0.2)
    executor = pool(1)
    pid = executor.submit(bodies.leave_a_thread_running).result(PATIENCE)
    executor.shutdown(timeout=PATIENCE)
    assert watch.is_gone(pid)


@pytest.mark.scenario(48, "workers are gone at once")
def test_an_executor_that_is_dropped_ends_its_workers(line: Lines) -> None:
    executor = unirun.Executor(2, backend="process")
    future = executor.submit(bodies.pid)
    pid, gone = future.result(PATIENCE), weakref.ref(executor)
    del executor, future
    gc.collect()
    assert gone() is None
    watch.until_gone(pid)


# -- all workers --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_all_workers_are_ended_and_the_pool_goes_on(
    pool: Pool, method: str, line: Lines, how: str
) -> None:
    executor, ready = pool(2, method), line()
    running = [executor.submit(bodies.sleep, ready) for _ in range(2)]
    waiting = [executor.submit(bodies.double, number) for number in range(5)]
    pids = [int(ready.wait()) for _ in running]
    getattr(executor, how)()
    for future in running:
        with pytest.raises(TaskKilled, match="with all workers of its executor"):
            future.result(PATIENCE)
    assert all(map(watch.is_gone, pids))
    assert [future.result(PATIENCE) for future in waiting] == [2 * n for n in range(5)]


def test_terminated_calls_may_clean_up_and_killed_ones_may_not(
    pool: Pool, line: Lines, tmp_path: Path
) -> None:
    executor, ready, mark = pool(1, grace=PATIENCE), line(), tmp_path / "mark"
    first = executor.submit(bodies.clean_up_on_sigterm, ready, str(mark))
    ready.wait()
    executor.terminate_workers()
    watch.until(first.done, "it has ended")
    assert mark.read_text() == "clean"
    mark.unlink()
    second = executor.submit(bodies.clean_up_on_sigterm, ready, str(mark))
    ready.wait()
    executor.kill_workers()
    watch.until(second.done, "it has ended")
    assert not mark.exists()


def test_workers_may_be_killed_while_they_start(pool: Pool, method: str) -> None:
    executor = pool(3, method)
    futures = [executor.submit(bodies.double, number) for number in range(10)]
    for _ in range(20):
        executor.kill_workers()
    ends = [future.exception(PATIENCE) if not future.cancelled() else None for future in futures]
    assert ends == [None] * 10
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8


# -- the end of the program ---------------------------------------------------------------------


def program(path: Path, source: str, *args: str) -> subprocess.CompletedProcess[str]:
    environment = watch.with_tests_on_path() | {"UNIRUN_EXIT_GRACE": "0.5"}
    head = "import os, sys, unirun\nfrom process import bodies\nfrom process.line import Line\n"
    return watch.run(path, head + source, *args, env=environment)


def lines_of(path: Path) -> list[str]:
    return sorted((path / "log").read_text().split())


@pytest.mark.scenario(44, "with each start method, and the status is kept")
def test_what_was_submitted_is_done_before_the_program_ends(method: str, tmp_path: Path) -> None:
    source = """
executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1])
futures = [executor.submit(bodies.note_and_return, "log", n) for n in range(100, 150)]
futures[-1].add_done_callback(lambda f: bodies.note("log", f"last-{f.result()}"))
sys.exit(7)
"""
    done = program(tmp_path, source, method)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert lines_of(tmp_path) == [*map(str, range(100, 150)), "last-149"]


def test_also_if_nobody_holds_the_executor_any_more(tmp_path: Path) -> None:
    source = """
for n in range(3):
    unirun.Executor(1, backend="process").submit(bodies.note_and_return, "log", n)
"""
    done = program(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines_of(tmp_path) == ["0", "1", "2"]


def test_an_unhandled_exception_keeps_its_status_and_its_traceback(tmp_path: Path) -> None:
    source = """
executor = unirun.Executor(2, backend="process")
executor.submit(bodies.note_and_return, "log", 5)
raise LookupError("the program's own")
"""
    done = program(tmp_path, source)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("LookupError: the program's own")
    assert lines_of(tmp_path) == ["5"]


@pytest.mark.parametrize("body", ["sleep", "hold_the_gil", "ignore_sigterm"])
@pytest.mark.scenario("exit: hung calls", "holding the GIL, or deaf to SIGTERM: killed and named")
def test_a_hung_call_does_not_hang_the_exit(tmp_path: Path, body: str) -> None:
    os.mkfifo(tmp_path / "line")
    source = """
line = Line("line")
line.keep_open()
executor = unirun.Executor(1, backend="process", grace=0.2)
executor.submit(getattr(bodies, sys.argv[1]), Line(os.path.abspath("line")))
waiting = executor.submit(bodies.note_and_return, "log", 5)
print(line.wait())
sys.exit(7)
"""
    done = program(tmp_path, source, body)
    assert done.returncode == 7
    text = "unirun: at exit, ended calls that hung for 0.5 s: "
    text += f"process.bodies.{body}; cancelled 1 that waited\n"
    assert done.stderr == text
    assert watch.is_gone(int(done.stdout))
    assert not (tmp_path / "log").exists()


def test_slow_is_not_hung(tmp_path: Path) -> None:
    source = """
import time
executor = unirun.Executor(1, backend="process")
for n in range(8):
    executor.submit(time.sleep, 0.2)
executor.submit(bodies.note_and_return, "log", 5)
"""
    done = program(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert lines_of(tmp_path) == ["5"]


def test_submitting_at_exit_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    source = """
import atexit
executor = unirun.Executor(1, backend="process")
executor.submit(bodies.double, 1).result(20)

def late(kind):
    try:
        make = executor if kind == "old" else unirun.Executor(1, backend="process")
        print(kind, make.submit(bodies.double, 1).result(20))
    except RuntimeError as exc:
        print(kind, "refused")

atexit.register(late, "old")
atexit.register(late, "new")
"""
    done = program(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("new refused\nold refused\n", "new 2\nold refused\n")  # 3.11


def test_a_daemon_thread_that_submits_for_ever_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    source = """
import threading
executor = unirun.Executor(2, backend="process")
begun = threading.Event()

def submit():
    while True:
        try:
            executor.submit(bodies.double, 1).result(20)
        except unirun.ExecutorShutdown:
            return
        begun.set()

threading.Thread(target=submit, daemon=True).start()
assert begun.wait(20)
print(*executor.stats()["process"].pids)
"""
    done = program(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(watch.is_gone(int(pid)) for pid in done.stdout.split())


@pytest.mark.scenario("exit: os._exit and signals", "with each start method")
def test_a_program_that_leaves_at_once_leaves_nobody(method: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "line")
    source = """
line = Line(os.path.abspath("line"))
line.keep_open()
executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1])
for _ in range(2):
    executor.submit(bodies.sleep, line)
print(line.wait(), line.wait(), flush=True)
os._exit(9)
"""
    done = program(tmp_path, source, method)
    assert done.returncode == 9
    watch.until_gone(*map(int, done.stdout.split()), timeout=5)


@pytest.mark.scenario(46, "SIGTERM to the parent with the default handler leaves nobody")
def test_sigterm_to_the_program_leaves_nobody(method: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "line")
    source = """
line = Line(os.path.abspath("line"))
line.keep_open()
executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1])
future = executor.submit(bodies.sleep, line)
print(line.wait(), flush=True)
future.result()
"""
    head = "import os, sys, unirun\nfrom process import bodies\nfrom process.line import Line\n"
    command = [*watch.script(tmp_path, head + source), method]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=watch.with_tests_on_path(), stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM
    watch.until_gone(pid, timeout=5)


@pytest.mark.scenario(52, "the child exits at once; the parent's call goes on")
def test_a_child_of_a_fork_leaves_at_once_while_the_parent_works(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "line")
    source = """
import time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork under threads
line, go = Line(os.path.abspath("line")), Line(os.path.abspath("line"))
line.keep_open()
executor = unirun.Executor(1, backend="process")
future = executor.submit(bodies.sleep, line)
line.wait()
child = os.fork()
if not child:
    sys.exit(5)
began = time.monotonic()
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, time.monotonic() - began < 5, future.running(), future.kill())
print(executor.submit(bodies.double, 4).result(20))
"""
    done = program(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "5 True True True\n8\n"


def test_time_is_not_wasted_on_an_idle_pool(pool: Pool) -> None:
    """Nothing polls: a pool that has nothing to do takes no turns."""
    executor = pool(2)
    executor.submit(bodies.double, 1).result(PATIENCE)
    loop = next(t for t in threading.enumerate() if t.name.endswith("-loop"))
    clock = time.pthread_getcpuclockid(loop.ident or 0)
    before = time.clock_gettime(clock)
    with pytest.raises(TimeoutError):
        executor.submit(time.sleep, 1000).result(0.5)
    assert time.clock_gettime(clock) - before < 0.05
