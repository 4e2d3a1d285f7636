"""Surroundings and tasks that mean no good: daemons, signals, and a system that has run out."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from process import bodies, watch
from process.line import PATIENCE, Line

import unirun

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]


# -- daemons --------------------------------------------------------------------------------------


def make_a_daemon(line: Line, how: str) -> int:
    """Its pid; it has left our group and our session, and its parent has ended."""
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            line.send(os.getpid())
            if how == "program":
                os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)"])
            time.sleep(1000)
        os._exit(0)
    os.waitpid(middle, 0)
    return int(line.wait())


def make_a_daemon_and_wait(line: Line, how: str, ready: Line) -> None:
    ready.send(make_a_daemon(line, how))
    time.sleep(1000)


def has_adopted(pid: int, zygote: psutil.Process) -> bool:
    return psutil.Process(pid).ppid() == zygote.pid


def wait_for_adoption(executor: unirun.Executor, line: Line) -> None:
    """The zygote adopts from the first quiet moment on; who is an orphan before is init's."""
    executor.submit(bodies.pid).result(PATIENCE)
    zygote = watch.zygote_of(executor)

    def adopts() -> bool:
        pid = executor.submit(make_a_daemon, line, "fork").result(PATIENCE)
        adopted = has_adopted(pid, zygote)
        os.kill(pid, signal.SIGKILL)
        return adopted

    watch.until(adopts, "orphans are adopted")


@pytest.mark.parametrize("how", ["program", "fork"])
def test_daemons_of_a_killed_call_die_and_those_of_others_live(
    pool: Pool, line: Lines, how: str
) -> None:
    executor, names, ready = pool(2), line(), line()
    wait_for_adoption(executor, names)
    calls, daemons = [], []
    for _ in range(2):
        calls.append(executor.submit(make_a_daemon_and_wait, names, how, ready))
        daemons.append(int(ready.wait()))
    for call, daemon in zip(calls, daemons, strict=True):
        assert not watch.is_gone(daemon)
        assert call.kill()
        watch.until_gone(daemon)


def test_daemons_of_a_crashed_call_die(pool: Pool, line: Lines) -> None:
    executor, names, ready = pool(1), line(), line()
    wait_for_adoption(executor, names)
    call = executor.submit(make_a_daemon_and_wait, names, "fork", ready)
    daemon = int(ready.wait())
    os.kill(executor.stats()["process"].pids[0], signal.SIGSEGV)
    assert isinstance(call.exception(PATIENCE), unirun.WorkerCrashed)
    watch.until_gone(daemon)


def test_a_daemon_outlives_an_orderly_end(pool: Pool, line: Lines) -> None:
    executor, names = pool(1), line()
    wait_for_adoption(executor, names)
    daemon = executor.submit(make_a_daemon, names, "program").result(PATIENCE)
    zygote = watch.zygote_of(executor)
    try:
        executor.shutdown()
        watch.until_gone(zygote.pid)
        assert not watch.is_gone(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


PARENT_OF_DAEMONS = """
import os, signal, sys, unirun
from process import bodies, test_hostile
from process.line import Line

executor = unirun.Executor(2, backend="process")
names, ready = Line(sys.argv[1]), Line(sys.argv[2])
test_hostile.wait_for_adoption(executor, names)
executor.submit(test_hostile.make_a_daemon_and_wait, names, "program", ready)
daemons = [int(ready.wait()), executor.submit(test_hostile.make_a_daemon, names, "fork").result(20)]
print(*daemons, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_daemons_die_with_a_parent_that_was_killed(tmp_path: Path, line: Lines) -> None:
    names, ready = line(), line()
    environment = watch.with_tests_on_path()
    done = watch.run(tmp_path, PARENT_OF_DAEMONS, names.path, ready.path, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    daemons = [int(word) for word in done.stdout.split()]
    assert len(daemons) == 2
    watch.until_gone(*daemons)


# -- signals --------------------------------------------------------------------------------------

IGNORES_ITS_CHILDREN = """
import os, signal, sys, unirun
from process import bodies
from process.line import Line

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps them, unseen
os.mkfifo("line")
line = Line(os.path.abspath("line"))
line.keep_open()
with unirun.Executor(2, backend="process", mp_context=sys.argv[1]) as executor:
    assert executor.submit(bodies.use_subprocess).result(20)
    assert type(executor.submit(bodies.by_sigkill).exception(20)) is unirun.WorkerCrashed
    future = executor.submit(bodies.sleep, line)
    line.wait()
    assert future.kill()
    assert executor.submit(bodies.double, 4).result(20) == 8
print("fine")
"""


def test_a_program_that_ignores_its_children(method: str, tmp_path: Path) -> None:
    environment = watch.with_tests_on_path()
    done = watch.run(tmp_path, IGNORES_ITS_CHILDREN, method, env=environment)
    assert (done.stdout, done.stderr) == ("fine\n", "")


ALARMED = """
import signal, sys, unirun
from process import bodies

class Bell(Exception):
    pass

rung, armed = [], []

def ring(*_):
    number = len(rung)  # not its place: the next alarm may ring in here
    rung.append((number, executor.submit(bodies.double, number)))

def jump(*_):
    if armed:
        armed.clear()
        raise Bell

executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1])
executor.submit(bodies.double, 1).result(20)
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while len(rung) < 100:
    assert executor.submit(bodies.double, 3).result(20) == 6
signal.signal(signal.SIGALRM, jump)
jumped = 0
while jumped < 100:
    try:
        armed.append(True)
        assert executor.submit(bodies.double, 3).result(20) == 6
        armed.clear()
    except Bell:
        jumped += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert all(future.result(20) == 2 * number for number, future in rung)
assert list(executor.map(bodies.double, range(100))) == [2 * n for n in range(100)]
executor.shutdown()
print("fine")
"""


@pytest.mark.scenario("submit from a signal handler", "at any moment; it may raise too")
def test_a_signal_handler_may_submit_and_raise_at_any_moment(method: str, tmp_path: Path) -> None:
    environment = watch.with_tests_on_path()
    done = watch.run(tmp_path, ALARMED, method, env=environment, timeout=50)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def handle_signals_of_its_own() -> tuple[list[int], int]:
    seen = []
    signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
    signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    status = subprocess.run(["true"], check=False).returncode
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return sorted(set(seen)), status


def test_a_task_may_handle_signals(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    for _ in range(2):
        seen, status = executor.submit(handle_signals_of_its_own).result(PATIENCE)
        assert (seen, status) == (sorted([signal.SIGCHLD, signal.SIGUSR1]), 0)


# -- too deep -------------------------------------------------------------------------------------


def descend(depth: int) -> int:
    return 0 if depth == 0 else 1 + descend(depth - 1)


def nested(depth: int) -> list[object]:
    found: list[object] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.scenario("recursion depth", "a RecursionError of its own call")
def test_a_recursion_without_end_is_an_exception_of_its_own_call(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    with pytest.raises(RecursionError):
        executor.submit(descend, 10**6).result(PATIENCE)
    assert executor.submit(descend, 100).result(PATIENCE) == 100


@pytest.mark.scenario("recursion depth", "a SerializationError of its own call")
def test_a_result_that_is_too_deep_is_an_error_of_its_own_call(pool: Pool) -> None:
    executor = pool(1)
    pid = executor.submit(bodies.pid).result(PATIENCE)
    with pytest.raises(unirun.SerializationError, match="recursion"):
        executor.submit(nested, 100_000).result(PATIENCE)
    with pytest.raises(unirun.SerializationError, match="recursion"):
        executor.submit(bodies.hand_back, nested(100_000)).result(PATIENCE)
    assert executor.submit(bodies.pid).result(PATIENCE) == pid


# -- nothing left to have -------------------------------------------------------------------------

OUT_FOR_A_MOMENT = """
import os, resource, sys, threading, time, unirun
from process import bodies, watch

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1], idle_timeout=None)
assert executor.submit(bodies.double, 1).result(20) == 2
executor.kill_workers()
watch.until(lambda: not executor.stats()["process"].workers, "all are gone")
taken = []
while True:
    try:
        taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        break
for fd in [taken.pop() for _ in range(3)]:
    os.close(fd)  # enough to let the program itself go on, and not for a worker

def relent():
    while crew._scarce_since is None and not future.done():
        time.sleep(0.001)
    for fd in taken:
        os.close(fd)

crew = executor._backends["process"]._pool._crew
future = executor.submit(bodies.double, 4)
thread = threading.Thread(target=relent)
thread.start()
assert future.result(20) == 8
thread.join()
executor.shutdown()
print("fine")
"""


@pytest.mark.scenario("RLIMIT_NOFILE 64", "workers come when there are descriptors again")
def test_descriptors_that_are_used_up_for_a_moment(method: str, tmp_path: Path) -> None:
    environment = watch.with_tests_on_path()
    done = watch.run(tmp_path, OUT_FOR_A_MOMENT, method, env=environment)
    assert (done.stdout, done.stderr) == ("fine\n", "")


CANNOT_FORK = """
import errno, os

fork, left = os.fork, [5]

def fork_later():
    if left[0]:
        left[0] -= 1
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()

os.fork = fork_later
"""


@pytest.mark.scenario("RLIMIT_NPROC hit while starting a worker", "tried again while there is hope")
def test_a_system_without_a_process_to_give_for_a_moment(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cannot_fork.py").write_text(CANNOT_FORK)
    monkeypatch.syspath_prepend(tmp_path)
    executor = pool(2, preload=["cannot_fork"])
    assert executor.submit(bodies.double, 4).result(PATIENCE) == 8
    assert executor.stats()["process"].crashed == 0


@pytest.mark.scenario("RLIMIT_NPROC hit while starting a worker", "an error that names it")
def test_a_system_that_never_gives_a_process_is_named(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CANNOT_FORK.replace("[5]", "[10**9]").replace("cannot_fork", "never_fork")
    (tmp_path / "never_fork.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    executor = pool(2, preload=["never_fork"])
    with pytest.raises(unirun.InitializerFailed, match=r"no worker can .*unavailable"):
        executor.submit(bodies.double, 4).result(PATIENCE)
