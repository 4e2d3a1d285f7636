"""SIGTERM drains: what was submitted is finished, nothing new is taken, and the program ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process.line import PATIENCE, Line
from process.watch import with_tests_on_path

import unirun
from unirun import ConfigError, Drain, Executor

PROGRAM = Path(__file__).parents[1] / "apps" / "drained.py"
Start = Callable[..., "Program"]
both = pytest.mark.parametrize("backend", ["thread", "process"])
pytestmark = pytest.mark.scenario("signals: drain", "SIGTERM: refuse, finish, kill at the deadline")


class Program:
    """One that runs, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[str], go: Line) -> None:
        self.process = process
        self.go = go
        self.said: list[str] = []

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until it has said so, that often."""
        assert self.process.stdout is not None
        while sum(line.startswith(text) for line in self.said) < times:
            line = self.process.stdout.readline()
            assert line, (self.said, self.process.stderr and self.process.stderr.read())
            self.said.append(line.rstrip("\n"))

    def terminate(self, says: str = "draining") -> None:
        self.process.send_signal(signal.SIGTERM)
        if says:
            self.wait_for(says)

    def end(self) -> tuple[int, str]:
        """Its status, and what it has said on stderr."""
        out, errors = self.process.communicate(timeout=PATIENCE)
        self.said += out.splitlines()
        return self.process.returncode, errors


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    programs: list[Program] = []

    def begin(where: str, backend: str, timeout: float = PATIENCE, *before: str) -> Program:
        path = tmp_path / f"line-{len(programs)}"
        os.mkfifo(path)
        go = Line(str(path))
        go.keep_open()
        command = [*before, sys.executable, str(PROGRAM), where, backend, str(timeout), str(path)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=with_tests_on_path(),
        )
        programs.append(Program(process, go))
        return programs[-1]

    yield begin
    for program in programs:
        program.go.close()
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("where", ["result", "asleep", "awaited", "shutdown", "importing"])
def test_what_was_submitted_is_finished_and_then_the_program_ends(where: str, start: Start) -> None:
    programs = [start(where, backend) for backend in ("thread", "process")]
    for program in programs:
        program.wait_for("begun")
        program.terminate()
        program.go.send("fine")
    for program in programs:
        assert program.end() == (143, "")
        refused = next(line for line in program.said if line.startswith("draining"))
        assert "drains since SIGTERM" in refused
        assert program.said[-2:] == ["finally", "at exit"]
        assert where == "shutdown" or "result fine" in program.said


def test_calls_are_finished_though_the_main_thread_is_deaf(start: Start) -> None:
    """It sits in a library that knows nothing of signals; the program is ended by force later."""
    program = start("deaf", "process")
    program.wait_for("begun")
    program.terminate()
    program.go.send("fine")
    program.wait_for("result fine")
    program.process.kill()


def test_a_map_gives_all_its_results_before_the_end(start: Start) -> None:
    programs = [start("mapped", backend) for backend in ("thread", "process")]
    for program in programs:
        program.wait_for("mapping")
        program.terminate()
        for _ in range(4):
            program.go.send("fine")
    for program in programs:
        status, errors = program.end()
        assert (status in (0, 143), errors) == (True, "")  # it may be through by itself first
        assert [line for line in program.said if line.startswith("result")] == [
            f"result fine {number}" for number in range(4)
        ]


def test_a_map_that_nobody_reads_is_completed(start: Start) -> None:
    program = start("mapped_by_nobody", "process")
    program.wait_for("mapping")
    program.terminate()
    for _ in range(4):
        program.go.send("fine")
    assert program.end() == (143, "")
    assert program.said.count("begun") == 4


def test_a_main_thread_that_is_waited_for_ends_by_itself(start: Start) -> None:
    program = start("waited_for", "process")
    program.wait_for("begun")
    program.terminate()
    program.go.send("fine")
    assert program.end() == (0, "")
    assert program.said[-3:] == ["all", "finally", "at exit"]


def test_at_the_deadline_calls_have_their_grace_and_one_line_names_them(start: Start) -> None:
    program = start("cleaning", "process", 0.2)
    program.wait_for("begun", times=2)
    program.terminate()
    status, errors = program.end()
    assert status == 143
    assert errors == (
        "unirun: the 0.2 s to drain are over; "
        "ended the calls that ran: __main__.clean_up, __main__.clean_up; cancelled 1 that waited\n"
    )
    assert program.said.count("cleaned up") == 2
    assert program.said.count("begun") == 2


def test_calls_in_threads_are_left_behind_at_the_deadline(start: Start) -> None:
    program = start("asleep", "thread", 0.2)
    program.wait_for("begun")
    program.terminate()
    status, errors = program.end()
    assert status == 143
    assert errors.startswith(
        "unirun: the 0.2 s to drain are over; ended the calls that ran: __main__.work\n"
    )
    assert errors.count("unirun: ") == 1


@both
def test_a_second_sigterm_ends_everything_at_once(backend: str, start: Start) -> None:
    program = start("result", backend)
    program.wait_for("begun")
    program.terminate()
    began = time.monotonic()
    program.terminate(says="")
    status, errors = program.end()
    assert (status, time.monotonic() - began < PATIENCE / 2) == (143, True)
    assert errors.startswith("unirun: SIGTERM came again; ended the calls that ran: __main__.work")


def test_a_main_thread_that_does_not_want_to_end_has_to(start: Start) -> None:
    program = start("stubborn", "process", 0.1)
    program.wait_for("begun")
    program.terminate()
    program.wait_for("no")
    program.terminate(says="")
    status, errors = program.end()
    assert status == -signal.SIGTERM, errors


def test_a_handler_of_the_program_decides_at_the_end(start: Start) -> None:
    program = start("handled", "process")
    program.wait_for("begun")
    program.terminate()
    program.go.send("fine")
    assert program.end() == (7, "")
    assert "its own handler" in program.said


@both
def test_a_program_that_exits_already_finishes_and_keeps_its_status(
    backend: str, start: Start
) -> None:
    program = start("exiting", backend)
    program.wait_for("finally")
    program.wait_for("begun")
    program.terminate(says="")
    program.go.send("fine")
    assert program.end() == (0, "")
    assert "at exit" in program.said


def test_the_deadline_holds_for_a_program_that_exits_already(start: Start) -> None:
    program = start("exiting", "process", 0.2)
    program.wait_for("finally")
    program.wait_for("begun")
    program.terminate(says="")
    status, errors = program.end()
    assert status == 0
    assert errors.startswith(
        "unirun: the 0.2 s to drain are over; ended the calls that ran: __main__.work\n"
    )


def test_all_executors_of_a_program_drain_together(start: Start) -> None:
    program = start("several", "process")
    program.wait_for("begun", times=2)
    program.terminate()
    program.go.send("fine")
    program.go.send("fine")
    assert program.end() == (143, "")
    assert {"result fine", "default fine"} <= set(program.said)


def _can_unshare() -> bool:
    command = ["unshare", "--pid", "--fork", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=5).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.mark.skipif(not _can_unshare(), reason="may not make a PID namespace")
@pytest.mark.parametrize("timeout", [PATIENCE, 0.2])
def test_the_first_process_of_a_container_drains(timeout: float, start: Start) -> None:
    """SIGTERM has no default action there: who handles it not is killed with the container."""
    program = start("asleep", "process", timeout, "unshare", "--pid", "--fork", "--mount-proc")
    program.wait_for("begun")
    child = _only_child(program.process.pid)
    os.kill(child, signal.SIGTERM)
    program.wait_for("draining")
    if timeout == PATIENCE:
        program.go.send("fine")
    status, errors = program.end()
    assert status == 143
    assert errors.startswith("" if timeout == PATIENCE else "unirun: the 0.2 s to drain are over")


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


# -- in this process ------------------------------------------------------------------------------


@contextmanager
def handler_kept() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before


@both
def test_what_is_undone_leaves_nothing(backend: str) -> None:
    with handler_kept(), Executor(1, backend=backend) as executor:
        with executor.drain_on_sigterm(1) as drain:
            assert isinstance(drain, Drain)
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        executor.drain_on_sigterm(1).cancel()
        again = executor.drain_on_sigterm(1)
        again.cancel()
        again.cancel()


@both
def test_the_shutdown_of_an_executor_undoes_it(backend: str) -> None:
    with handler_kept():
        with Executor(1, backend=backend) as executor, Executor(1, backend=backend) as other:
            executor.drain_on_sigterm(1)
            other.drain_on_sigterm(1)
            assert executor.submit(abs, -1).result(PATIENCE) == 1
        assert not executor.drain_on_sigterm(1).begun  # too late to be of use, and no harm
        assert "unirun-drain" in [thread.name for thread in threading.enumerate()]
        executor.shutdown()


def test_a_handler_that_is_set_later_has_the_say() -> None:
    seen: list[int] = []
    with handler_kept(), Executor(1, backend="thread") as executor:
        before = signal.getsignal(signal.SIGTERM)
        with executor.drain_on_sigterm(PATIENCE) as drain:
            signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
                assert executor.submit(abs, -1).result(PATIENCE) == 1
            assert not drain.begun
        signal.signal(signal.SIGTERM, before)
    assert seen == 3 * [signal.SIGTERM]


def test_where_signals_cannot_be_handled_an_error_says_so() -> None:
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            unirun.drain_on_sigterm(1)
        except ConfigError as exc:
            errors.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(PATIENCE)
    assert "main thread" in str(errors[0])
    assert isinstance(errors[0], ValueError)
    with Executor(1, backend="process") as executor:
        with pytest.raises(ConfigError, match="worker process"):
            executor.submit(unirun.drain_on_sigterm, 1).result(PATIENCE)
        for wrong in (-1, float("nan"), "1", None):
            with pytest.raises(ConfigError, match="number of seconds"):
                executor.drain_on_sigterm(wrong)  # type: ignore[arg-type]


def test_a_forked_child_is_not_drained() -> None:
    """Its threads stayed in the parent; SIGTERM ends it as ever."""
    with Executor(1, backend="thread") as executor, executor.drain_on_sigterm(PATIENCE) as drain:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, b"\0")
            time.sleep(PATIENCE)
            os._exit(1)
        os.read(reader, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        os.close(reader)
        os.close(writer)
        assert not drain.begun
