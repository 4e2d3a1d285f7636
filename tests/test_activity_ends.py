"""How activities end: by themselves, killed, with their executor, with the program."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from activities import KINDS, begin_and_wait, by_kind, ended, fail, hang, is_gone, put, run_to_end
from parties import PATIENCE

from unirun import (
    Activity,
    DeserializationError,
    Executor,
    ExecutorShutdown,
    NotKillable,
    SerializationError,
    TaskKilled,
    WorkerCrashed,
)


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(1) as executor:
        yield executor
        executor._kill_activities(wait=True)  # of a test that has failed


# -- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "args", "exitcode"),
    [
        (int, (), 0),
        (fail, (), 1),
        (sys.exit, (), 0),
        (sys.exit, (3,), 3),
        (sys.exit, ("a text",), 1),
        (os._exit, (7,), 7),
        (os._exit, (0,), 0),
        (os.abort, (), -signal.SIGABRT),
        (signal.raise_signal, (signal.SIGKILL,), -signal.SIGKILL),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_exit_code_is_that_of_multiprocessing(
    executor: Executor, target: Any, args: Any, exitcode: int, capfd: Any
) -> None:
    activity = run_to_end(executor.Activity(target, args, kind="isolated"))
    assert activity.exitcode == exitcode
    crashed = target in (os._exit, os.abort, signal.raise_signal)
    assert isinstance(activity.exception, WorkerCrashed) is crashed


def test_an_exception_of_a_process_is_printed_there_and_kept_here(
    executor: Executor, capfd: Any
) -> None:
    activity = run_to_end(executor.Activity(fail, name="egg", kind="isolated"))
    assert isinstance(activity.exception, LookupError)
    printed = capfd.readouterr().err
    assert "Exception in activity egg:\nTraceback" in printed
    assert "_bodies" not in printed  # how we called it helps nobody
    assert printed.endswith("LookupError: egg\n")
    assert printed.count("LookupError") == 2  # once in the source line of the traceback


def test_the_text_of_an_exit_is_printed(executor: Executor, capfd: Any) -> None:
    activity = run_to_end(executor.Activity(sys.exit, ("why",), kind="isolated"))
    assert capfd.readouterr().err == "why\n"
    assert activity.exception is None


def test_an_exception_of_a_thread_is_reported_by_threading(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    activity = run_to_end(executor.Activity(fail, name="egg"))
    assert [(each.exc_value, each.thread.name) for each in told] == [(activity.exception, "egg")]
    assert activity.exitcode is None


def test_an_exit_of_a_thread_is_no_error(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # not that of pytest
    assert run_to_end(executor.Activity(sys.exit, (3,))).exception is None
    assert capfd.readouterr().err == ""


class Unloadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_one_that_never_ran_says_so_here(executor: Executor, capfd: Any) -> None:
    activity = run_to_end(executor.Activity(print, (Unloadable(),), name="egg", kind="isolated"))
    assert (activity.exitcode, activity.pid) == (1, None)
    assert isinstance(activity.exception, DeserializationError)
    assert "Exception in activity egg:\n" in capfd.readouterr().err


def test_what_cannot_be_pickled_is_an_error_of_start(executor: Executor) -> None:
    activity = executor.Activity(print, (threading.Lock(),), kind="isolated")
    with pytest.raises(SerializationError, match="lock"):
        activity.start()
    assert repr(activity) == f"<Activity({activity.name}, initial)>"
    activity.kind = "io"  # where nothing is pickled
    ended_ = run_to_end(activity)
    assert ended_.exception is None


def test_threads_of_its_process_are_waited_for(executor: Executor) -> None:
    queue = executor.Queue()
    activity = run_to_end(executor.Activity(_leave_a_thread, (queue,), kind="isolated"))
    assert queue.get(block=False) == "from the thread"
    assert activity.exitcode == 0


def _leave_a_thread(queue: Any) -> None:
    threading.Thread(target=lambda: (time.sleep(0.2), queue.put("from the thread"))).start()


@pytest.mark.parametrize("method", ["zygote", "spawn", "fork"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocessing")
def test_processes_may_be_started_in_any_way(method: str) -> None:
    with Executor(mp_context=method) as executor:
        queue = executor.Queue()
        one = run_to_end(executor.Activity(put, (queue, 1), kind="isolated"))
        assert queue.get(timeout=PATIENCE) == (one.pid, (1,), {})
        assert one.exitcode == 0
        other = executor.Activity(hang, kind="isolated")
        other.start()
        assert other.kill() is True
        assert is_gone(other.pid) if other.pid else True


# -- kill -----------------------------------------------------------------------------------------


def test_kill_ends_a_process_and_its_children(executor: Executor) -> None:
    queue = executor.Queue()
    activity = executor.Activity(_start_children, (queue,), kind="isolated")
    activity.start()
    children = queue.get(timeout=PATIENCE)
    pid = activity.pid
    assert activity.kill() is True
    assert (activity.is_alive(), activity.exitcode) == (False, -signal.SIGKILL)
    assert isinstance(activity.exception, TaskKilled)
    assert all(is_gone(each) for each in (pid, *children))
    activity.join()
    assert activity.kill() is True


def _start_children(queue: Any) -> None:
    import subprocess

    sleep = [sys.executable, "-c", "import time; time.sleep(3600)"]
    children = [subprocess.Popen(sleep, start_new_session=new) for new in (False, True)]
    queue.put([child.pid for child in children])
    hang()


def test_kill_with_a_grace_lets_it_clean_up(executor: Executor) -> None:
    begun, cleaned = executor.Event(), executor.Event()
    activity = executor.Activity(_clean_up_at_the_end, (begun, cleaned), kind="isolated")
    activity.start()
    assert begun.wait(PATIENCE)
    assert activity.kill(PATIENCE) is True
    assert cleaned.is_set()
    assert activity.exitcode == 5


def _clean_up_at_the_end(begun: Any, cleaned: Any) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        hang(begun)
    finally:
        cleaned.set()
        os._exit(5)


def test_kill_of_one_that_is_still_coming_up_keeps_it_from_running(executor: Executor) -> None:
    event = executor.Event()
    activity = executor.Activity(event.set, kind="isolated")
    activity.start()
    killed = activity.kill()
    assert killed is (activity.exitcode == -signal.SIGKILL)
    assert not (killed and event.is_set()) or isinstance(activity.exception, TaskKilled)


def test_kill_of_one_that_has_ended_says_so(executor: Executor) -> None:
    for kind in KINDS:
        assert run_to_end(executor.Activity(kind=kind)).kill() is False


def test_a_thread_cannot_be_killed(executor: Executor) -> None:
    leave = threading.Event()
    activity = executor.Activity(leave.wait)
    activity.start()
    with pytest.raises(NotKillable, match="isolated"):
        activity.kill()
    assert activity.is_alive()
    leave.set()
    ended(activity)


def test_a_lock_that_it_held_when_it_was_killed_is_free(executor: Executor) -> None:
    lock, begun = executor.Lock(), executor.Event()
    activity = executor.Activity(_acquire_and_hang, (lock, begun), kind="isolated")
    activity.start()
    assert begun.wait(PATIENCE)
    assert not lock.acquire(timeout=0.01)
    activity.kill()
    assert lock.acquire(timeout=PATIENCE)
    assert lock.abandoned
    lock.release()


def _acquire_and_hang(lock: Any, begun: Any) -> None:
    lock.acquire()
    hang(begun)


# -- the end of its executor ----------------------------------------------------------------------


@by_kind
def test_a_shutdown_leaves_it_alone(kind: str) -> None:
    with Executor() as executor:
        begun, leave = executor.Event(), executor.Event()
        activity = executor.Activity(begin_and_wait, (begun, leave), kind=kind)
        activity.start()
    assert begun.wait(PATIENCE)
    assert activity.is_alive()
    leave.set()
    ended(activity)


def test_a_shutdown_that_kills_kills_it() -> None:
    executor = Executor()
    activity = executor.Activity(hang, kind="isolated")
    activity.start()
    assert activity.pid is not None
    executor.shutdown(kill=True)
    assert not activity.is_alive()
    assert activity.exitcode == -signal.SIGTERM


def test_a_shutdown_that_kills_after_a_while_lets_it_end_by_itself() -> None:
    executor = Executor()
    leave = executor.Event()
    ends, hangs = (executor.Activity(do, kind="isolated") for do in (leave.wait, hang))
    ends.start()
    hangs.start()
    assert hangs.pid is not None  # it has begun
    leave.set()
    ended(ends)
    executor.shutdown(timeout=0.01, kill=True)
    assert (ends.exitcode, hangs.exitcode) == (0, -signal.SIGTERM)


def test_leaving_with_by_an_exception_kills_it() -> None:
    with contextlib.suppress(LookupError), Executor() as executor:
        activity = executor.Activity(hang, kind="isolated")
        activity.start()
        raise LookupError
    assert not activity.is_alive()


def test_a_shutdown_that_kills_does_not_hang_on_a_thread() -> None:
    executor, leave = Executor(), threading.Event()
    activity = executor.Activity(leave.wait)
    activity.start()
    executor.shutdown(kill=True)
    assert activity.is_alive()
    leave.set()
    ended(activity)


def test_none_can_be_started_after_a_shutdown() -> None:
    executor = Executor()
    executor.shutdown()
    activity = executor.Activity()
    with pytest.raises(ExecutorShutdown):
        activity.start()
    assert not activity.is_alive()


@by_kind
def test_what_has_ended_is_not_kept(executor: Executor, kind: str) -> None:
    import gc
    import weakref

    class Argument:
        pass

    argument = Argument() if kind == "io" else threading.Event
    kept = weakref.ref(argument)
    activity = run_to_end(executor.Activity(print_nothing, (argument,), kind=kind))
    gone = weakref.ref(activity)
    assert executor._activities == {}
    del argument
    gc.collect()
    assert kept() is None or kind != "io"
    del activity
    gc.collect()
    assert gone() is None


def print_nothing(*_: Any) -> None:
    pass


# -- the end of the task that started it ---------------------------------------------------------


def start_and_hang(queue: Any) -> None:
    activity = Activity(hang, kind="isolated")
    activity.start()
    queue.put(activity.pid)
    hang()


def test_it_ends_with_the_process_of_the_task_that_started_it() -> None:
    with Executor(1, backend="process") as executor:
        queue = executor.Queue()
        future = executor.submit(start_and_hang, queue)
        pid = queue.get(timeout=PATIENCE)
        assert psutil.pid_exists(pid)
        future.kill(0)
        assert is_gone(pid)


def test_many_are_started_and_killed_at_the_same_time(executor: Executor) -> None:
    activities = [executor.Activity(hang, kind="isolated") for _ in range(6)]
    threads: list[threading.Thread] = []
    for do in (Activity.start, Activity.kill):
        threads = [threading.Thread(target=do, args=(each,)) for each in activities]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert [each.exitcode for each in activities] == [-signal.SIGKILL] * 6


# -- the end of the program -----------------------------------------------------------------------


def run(directory: Path, program: str) -> subprocess.CompletedProcess[str]:
    """As a script: what is defined in its main module travels, too."""
    (directory / "program.py").write_text(program)
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


ENDS = """
import time, unirun

class Late(unirun.Activity):
    kind = {kind!r}

    def run(self):
        time.sleep(0.2)
        print(42, flush=True)

Late(daemon=False).start()
print("the end", flush=True)
"""


@by_kind
def test_the_interpreter_waits_for_one_that_is_no_daemon(kind: str, tmp_path: Path) -> None:
    done = run(tmp_path, ENDS.format(kind=kind))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "the end\n42\n")


SUBMITS_AT_EXIT = """
import threading, time, unirun

def work():
    time.sleep(0.2)  # by then the main thread has ended
    print(unirun.submit(int, "42").result(), flush=True)

unirun.submit(int).result()  # Python 3.12.1 starts no threads any more when it ends
unirun.Activity(work, kind="io").start()
"""


def test_a_thread_may_use_executors_until_it_ends(tmp_path: Path) -> None:
    done = run(tmp_path, SUBMITS_AT_EXIT)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "42\n")


DAEMONS = """
import threading, unirun

def hang():
    threading.Event().wait()

for kind in ("io", "isolated"):
    activity = unirun.Activity(hang, kind=kind, daemon=True)
    activity.start()
print(activity.pid, flush=True)
"""


def test_daemons_end_with_the_interpreter(tmp_path: Path) -> None:
    done = run(tmp_path, DAEMONS)
    assert (done.returncode, done.stderr) == (0, "")
    assert is_gone(int(done.stdout))


WAITS = """
import sys, threading, unirun

def hang():
    threading.Event().wait()

activity = unirun.Activity(hang, kind="isolated")
activity.start()
print(activity.pid, flush=True)
if sys.argv[1] == "in join":
    activity.join()
elif sys.argv[1] == "later":
    threading.Event().wait()
"""


@pytest.mark.parametrize("where", ["in join", "later", "at exit"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_a_program_that_is_interrupted_or_killed(
    where: str, number: int, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(WAITS)
    program = subprocess.Popen(
        [sys.executable, "program.py", where],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout is not None
    with program, program.stdout:
        pid = int(program.stdout.readline())
        assert psutil.pid_exists(pid)
        program.send_signal(number)
        assert is_gone(pid)
        program.wait(PATIENCE)


FORKS = """
import os, threading, unirun

def hang():
    threading.Event().wait()

activity = unirun.Activity(hang, kind="isolated", daemon=True)
activity.start()
if os.fork() == 0:
    print(activity.is_alive(), activity.exitcode)
    for method in (activity.join, activity.kill):
        try:
            method()
        except RuntimeError as exc:
            print(exc, flush=True)
    os._exit(0)
os.wait()
print(activity.is_alive())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_in_a_forked_child_it_is_that_of_another_process(tmp_path: Path) -> None:
    done = run(tmp_path, FORKS)
    assert done.stdout.splitlines() == [
        "False None",
        "cannot join an activity of another process; join it where it was made",
        "cannot kill an activity of another process; kill it where it was made",
        "True",
    ]
