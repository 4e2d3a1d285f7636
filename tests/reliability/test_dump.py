"""Item 9: `dump()` tells what everything is doing, and does not hang, whatever does."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process.conftest as fixtures
import psutil
import pytest
import reliability_bodies_evidence as bodies
from process.line import PATIENCE, Line
from process.watch import until

import unirun
from unirun import _dump_signal
from unirun._dump_server import address_of, disable_dump

pool, line = fixtures.pool, fixtures.line
Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]
PROGRAM = Path(__file__).parents[1] / "apps" / "dumped.py"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="stacks of others need /proc")
pytestmark = LINUX


def line_about(text: str, *words: str) -> str:
    """The one line with all these words."""
    found = [each for each in text.splitlines() if all(word in each for word in words)]
    assert len(found) == 1, f"{words} in {len(found)} lines of\n{text}"
    return found[0]


def stacks_of(text: str, pid: object) -> str:
    return text.partition(f"stacks of worker {pid} ")[2].partition("\n\n")[0]


# -- what it tells --------------------------------------------------------------------------------


@pytest.mark.scenario("evidence: dump", "processes: calls, workers, waits, owners, stacks")
def test_it_tells_what_processes_do_and_wait_for(pool: Pool, line: Lines) -> None:
    executor = pool(4)
    lock, queue, release = executor.Lock(), executor.Queue(), line()
    begun = [line() for _ in range(4)]
    executor.submit(bodies.hold, lock, begun[0], release)
    holder = begun[0].wait()
    executor.submit(bodies.acquire, lock, begun[1])
    taker = executor.options(timeout=500, name="taker").submit(bodies.take, queue, begun[2])
    executor.submit(bodies.loop_in_c, begun[3])
    waiter, getter, looper = (each.wait() for each in begun[1:])
    executor.submit(bodies.sleep_quietly, 1000)
    text = ""

    def all_are_seen_to_wait() -> bool:
        nonlocal text
        text = executor.dump()
        return text.count("waits for Queue #") == text.count("waits for Lock #") == 1

    until(all_are_seen_to_wait, "they wait")
    assert "executor 'unirun': process (4 workers)" in text
    held = line_about(text, "call", ".hold #")
    assert f"running on pid {holder}, began " in held
    assert "submitted " in held
    assert "attempt 1" in held
    assert f"running on pid {waiter}" in line_about(text, "call", ".acquire #", "waits for Lock #")
    limited = line_about(text, "call taker #", f"pid {getter}", "waits for Queue #", " s left")
    assert 400 < float(limited.split(" s left")[0].split()[-1]) <= 500
    assert "waiting, submitted" in line_about(text, "call", ".sleep_quietly #", "for a worker")
    assert f"held by pid {holder}" in line_about(text, "Lock #", "held by")
    assert f"process {waiter})" in line_about(text, "waited for by task")
    assert "0 items" in line_about(text, "Queue #", "items")
    line_about(text, f"waited for by pid {getter}")
    for pid, function in ((holder, "hold"), (waiter, "acquire"), (getter, "take")):
        assert f"in {function}" in stacks_of(text, pid), text
    assert "in loop_in_c" in stacks_of(text, looper), "a handler in C needs no interpreter"
    assert "worker.py" not in stacks_of(text, looper), "how it came to be called helps nobody"
    assert "thread 'MainThread', which makes this dump" in text
    assert not taker.done()
    release.send()


@pytest.mark.scenario("evidence: dump", "threads: nested calls, futures, queues, names of threads")
def test_it_tells_what_threads_do_and_wait_for() -> None:
    with unirun.Executor(2, backend="thread", name="crew") as executor:
        queue, begun = executor.Queue(), threading.Barrier(3)

        def take() -> Any:
            begun.wait(PATIENCE)
            return queue.get()

        def ask(box: list[Any]) -> Any:
            begun.wait(PATIENCE)
            return box[0].result()

        box: list[Any] = []
        taking = executor.options(name="the taker").submit(take)
        box.append(taking)
        asking = executor.options(name="the asker").submit(ask, box)
        begun.wait(PATIENCE)
        left = executor.options(name="left behind").submit(abs, -1)
        text = ""

        def both_are_seen_to_wait() -> bool:
            nonlocal text
            text = executor.dump()
            return "waits for the result of" in text and "waits for an item of" in text

        until(both_are_seen_to_wait, "both wait")
        asker = line_about(text, "call the asker", "waits for the result of call the taker")
        assert "running on thread 'crew_" in asker
        assert "in test_it_tells_what_threads_do_and_wait_for.<locals>.ask" in asker
        line_about(text, "call the taker", "waits for an item of Queue", "with 0 items")
        line_about(text, "call left behind: waiting, submitted ", "waits for a worker")
        line_about(text, "worker crew_", "runs the taker")
        queue.put(7)
        assert (asking.result(PATIENCE), left.result(PATIENCE)) == (7, 1)
    assert "nothing has started" in unirun.Executor(1).dump()


def test_a_call_stands_below_the_one_whose_thread_runs_it() -> None:
    go_on = threading.Event()
    begun = threading.Event()

    def inner() -> None:
        begun.set()
        go_on.wait(PATIENCE)

    with unirun.Executor(1, backend="thread") as executor:

        def outer() -> None:
            executor.options(name="inner").submit(inner).result()

        future = executor.options(name="outer").submit(outer)
        assert begun.wait(PATIENCE)
        text = executor.dump()
        go_on.set()
        future.result(PATIENCE)
    below = text[text.index("call outer") :]
    assert below.index("\n      call inner") < below.index("\n    worker")
    line_about(text, "call outer", "waits for a call that its thread runs meanwhile")


def test_all_executors_are_told_of_and_a_file_gets_the_text() -> None:
    file = io.StringIO()
    with unirun.Executor(1, name="first") as first, unirun.Executor(1, name="second"):
        first.submit(abs, -1).result(PATIENCE)
        text = unirun.dump(file)
    assert file.getvalue() == text
    line_about(text, "executor 'first'")
    line_about(text, "executor 'second'")


def test_very_many_calls_are_counted_rather_than_listed() -> None:
    go_on = threading.Event()
    with unirun.Executor(1, backend="thread") as executor:
        futures = [executor.submit(go_on.wait, PATIENCE) for _ in range(500)]
        until(futures[0].running, "the first runs")
        text = executor.dump()
        go_on.set()
    assert text.count("waiting, submitted") == 100
    assert "... and 399 more calls that wait" in text


def test_objects_in_a_manager_process_are_told_of(pool: Pool, line: Lines) -> None:
    executor, started, release = pool(1, manager="process"), line(), line()
    lock = executor.Lock()
    executor.submit(bodies.hold, lock, started, release)
    pid = started.wait()
    assert f"Lock #1: held by pid {pid}" in executor.dump().replace(line_name(lock), "Lock #1")
    release.send()


def line_name(handle: Any) -> str:
    return f"{handle.kind} #{handle._object_id & 0xFFFFF:x}"


# -- it does not hang -----------------------------------------------------------------------------


@pytest.mark.scenario("evidence: dump", "never hangs: stopped workers, locks that are never free")
def test_a_stopped_worker_is_told_of(
    pool: Pool, line: Lines, record_property: Callable[[str, object], None]
) -> None:
    executor, started = pool(3), line()
    futures = [executor.submit(bodies.sleep, started) for _ in range(3)]
    pids = [int(started.wait()) for _ in range(3)]
    for pid in pids[:2]:
        os.kill(pid, signal.SIGSTOP)
        until(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "stopped")
    began = time.monotonic()
    text = executor.dump()
    record_property("figure", f"dump beside 2 stopped workers: {time.monotonic() - began:.2f} s")
    for pid in pids[:2]:
        assert "no stacks: it is stopped" in stacks_of(text, pid)
        os.kill(pid, signal.SIGCONT)
    assert "in sleep" in stacks_of(text, pids[2])
    assert all(future.running() for future in futures)


def test_locks_that_are_never_given_back_hold_up_nothing(pool: Pool, line: Lines) -> None:
    """What they guard is read without."""
    executor, started = pool(1), line()
    lock = executor.Lock()
    executor.submit(bodies.sleep, started)
    started.wait()
    backend: Any = executor._backends["process"]
    host = backend._place.manager()._host
    texts: list[str] = []
    asks = threading.Thread(target=lambda: texts.append(executor.dump()))
    with backend._pool.role._lock, host._lock:
        asks.start()
        asks.join(PATIENCE)
        assert not asks.is_alive()
    line_about(texts[0], "call", ".sleep #", "running")
    line_about(texts[0], line_name(lock), "free")


@pytest.mark.scenario(
    "evidence: dump", "a task may take the signal: said so, and nothing is killed"
)
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("default", "does not catch it any more"),
        ("ignored", "does not catch it any more"),
        ("blocked", "has blocked signal"),
        ("handled", "its code may have taken signal"),
    ],
)
def test_a_task_may_use_the_signal(
    pool: Pool, line: Lines, tmp_path: Path, how: str, said: str
) -> None:
    number, started = _dump_signal.signal_number(), line()
    executor, noticed = pool(1), tmp_path / "noticed"
    future = executor.submit(bodies.take_the_signal, number, how, str(noticed), started)
    pid = started.wait()
    # While it still runs, the other signal is asked first, and answered.
    until(lambda: said in stacks_of(executor.dump(), pid), f"{said!r} is said")
    assert future.running()
    assert noticed.exists() == (how == "handled")
    assert executor.stats()["process"].pids == (int(pid),)


def test_a_task_notices_nothing_of_being_asked(pool: Pool, line: Lines) -> None:
    """System calls that the signal interrupts are restarted; what runs goes on."""
    executor = pool(1)
    future = executor.submit(bodies.sleep_quietly, 0.5)
    asked = 0
    until(future.running, "it runs")
    while not future.done() and asked < 50:
        executor.dump()
        asked += 1
    assert future.result(PATIENCE) == 0.5
    assert asked > 3


@pytest.mark.scenario("evidence: dump", "workers amid making frames come to no harm")
@pytest.mark.parametrize("threads", [1, 4])
def test_workers_that_run_python_come_to_no_harm(pool: Pool, threads: int) -> None:
    """Where the stacks of running threads are read as they are, a worker dies within seconds."""
    executor = pool(2)
    futures = [executor.submit(bodies.run_python, threads, 1.5) for _ in range(2)]
    until(lambda: all(future.running() for future in futures), "they run")
    shown = 0
    while not all(future.done() for future in futures):
        shown += "in run_python" in executor.dump()
    assert [future.result(PATIENCE) for future in futures] == [threads, threads]
    assert shown > 0


# -- from outside ---------------------------------------------------------------------------------


@pytest.fixture
def program() -> Iterator[Callable[..., int]]:
    """Starts the program; returns its pid when it is up."""
    made = []

    def start(what: str, **variables: str) -> int:
        running = subprocess.Popen(
            [sys.executable, str(PROGRAM), what],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        made.append(running)
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        return running.pid

    yield start
    for running in made:
        running.kill()
        running.wait(PATIENCE)
        assert running.stdout is not None
        running.stdout.close()


def ask(pid: int, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "unirun", "dump", str(pid), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.scenario("evidence: unirun dump PID", "of a program whose main thread waits")
def test_a_program_tells_whoever_may_ask(program: Callable[..., int]) -> None:
    pid = program("waits", UNIRUN_DUMP="1")
    told = ask(pid)
    assert (told.returncode, told.stderr) == (0, "")
    line_about(told.stdout, "call long sleep #", "running on pid")
    line_about(told.stdout, "executor 'the one'")
    assert "in sleep_in_a_worker" in told.stdout
    assert "in Future.result" in told.stdout
    assert psutil.pid_exists(pid)


@pytest.mark.scenario("evidence: unirun dump PID", "of one whose C code holds the interpreter")
def test_a_program_that_cannot_answer_shows_its_stacks(program: Callable[..., int]) -> None:
    pid = program("computes", UNIRUN_DUMP="1")
    told = ask(pid, "--timeout", "0.5")
    assert (told.returncode, told.stderr) == (0, "")
    assert f"process {pid} does not answer; its stacks and those of its children" in told.stdout
    assert "in compute_in_c" in told.stdout
    assert "in sleep_in_a_worker" in told.stdout
    assert psutil.pid_exists(pid)


def test_a_program_that_does_not_allow_it_is_not_asked(program: Callable[..., int]) -> None:
    pid = program("waits")
    told = ask(pid)
    assert (told.returncode, told.stdout) == (2, "")
    assert f"process {pid} cannot be asked; start it with UNIRUN_DUMP=1" in told.stderr
    assert ask(2**22 + 1).stderr == f"unirun: error: there is no process {2**22 + 1}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_stranger_is_told_nothing(program: Callable[..., int]) -> None:
    pid = program("waits", UNIRUN_DUMP="1")
    address = address_of(pid)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        os.seteuid(65534)
        try:
            sock.connect(address)
        finally:
            os.seteuid(0)
        assert sock.recv(1) == b""
    assert ask(pid).returncode == 0


def test_a_name_that_is_taken_is_no_reason_not_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIRUN_DUMP", "yes")
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(address_of(os.getpid()))
        with pytest.warns(RuntimeWarning, match="the setting dump has no effect: .*in use"):
            executor = unirun.Executor(1, backend="thread")
        assert executor.submit(abs, -1).result(PATIENCE) == 1
        executor.shutdown()


def test_a_program_can_allow_it_and_take_that_back() -> None:
    unirun.enable_dump()
    unirun.enable_dump()
    told = ask(os.getpid())
    disable_dump()
    assert told.stdout.startswith(f"unirun: dump of process {os.getpid()} ")
    assert ask(os.getpid()).returncode == 2
