"""How the command line meets its end and its streams: Ctrl-C, no reader, no space, terminals."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import PATIENCE, WORK, Running, environment, left_after, read_line, running, unirun

SECOND = 1.0
SLACK = 0.5  # for a machine that is busy with other things: starting to die takes CPU time too

# Function, options, and what is special about it.
HANGING = {
    "a process that sleeps": ("work:sleep", "--kind=cpu"),
    "a process that computes": ("work:spin", "--kind=cpu"),
    "a process that ignores SIGTERM": ("work:stubborn", "--kind=cpu"),
    "a process with a child": ("work:parent", "--kind=cpu"),
    "a process started by spawn": ("work:sleep", "--kind=cpu"),
    "a chunk": ("work:sleep", "--kind=cpu", "--chunksize=3"),
    "a call with retries": ("work:sleep", "--kind=cpu", "--retries=3"),
    "a thread": ("work:sleep", "--kind=io"),
    "a thread that computes": ("work:spin", "--kind=io"),
    "a thread with a pool of its own": ("work:pooled", "--kind=io"),
    "a coroutine": ("work:sleep_async",),
    "a call in our own thread": ("work:sleep", "--backend=inline"),
    "our own thread, computing": ("work:spin", "--backend=inline"),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


def ends_by_interrupt(command: Running, status: int = 130) -> str:
    """Press Ctrl-C; what it wrote to stderr until its end, which comes within a second."""
    family = command.family()
    start = time.monotonic()
    command.interrupt()
    assert command.process.wait(PATIENCE) == status
    left = left_after(family, max(0.0, start + SECOND - time.monotonic()) + SLACK)
    assert time.monotonic() - start < SECOND + SLACK
    assert not left
    return command.wait().err


@pytest.mark.parametrize("what", HANGING)
def test_interrupt_ends_it_within_a_second_and_leaves_no_process(home: Path, what: str) -> None:
    spawn = {"UNIRUN_START_METHOD": "spawn"} if "spawn" in what else {}
    with running("map", *HANGING[what], "a", cwd=home, **spawn) as command:
        assert command.err_line() == "running a\n"
        assert ends_by_interrupt(command) == ""


@pytest.mark.parametrize("options", [(), ("--kind=cpu",), ("--unordered",)])
def test_interrupt_ends_a_wait_for_stdin(home: Path, options: tuple[str, ...]) -> None:
    with running("map", "work:double", "-", *options, cwd=home) as command:
        command.tell("a\n")
        assert command.out_line() == '"aa"\n'
        assert ends_by_interrupt(command) == ""


def test_interrupt_ends_a_wait_for_a_reader(home: Path) -> None:
    """The pipe is full: it is blocked in a write."""
    with running("map", "work:double", "-", cwd=home) as command:
        assert command.process.stdin is not None
        feed = command.process.stdin.fileno()
        os.set_blocking(feed, False)
        while command.process.poll() is None and _writable(feed):
            os.write(feed, b"x" * 999 + b"\n")
        family = command.family()
        command.interrupt()
        assert command.process.wait(SECOND + SLACK) == 130
        assert not left_after(family, SECOND)


def _writable(fd: int) -> bool:
    import select

    return bool(select.select([], [fd], [], 1.0)[1])


def test_after_interrupt_a_task_may_clean_up(home: Path) -> None:
    with running("map", "work:tidy", "a", "--kind=cpu", cwd=home) as command:
        assert command.err_line() == "running a\n"
        assert ends_by_interrupt(command) == "cleaned up\n"


def test_a_second_interrupt_ends_it_at_once(home: Path) -> None:
    with running("map", "work:stubborn", "a", "--kind=cpu", cwd=home) as command:
        assert command.err_line() == "running a\n"
        family = command.family()
        command.interrupt()
        command.interrupt()
        assert command.process.wait(SECOND + SLACK) in (130, -signal.SIGINT)
        assert not left_after(family, SECOND + SLACK)


def test_interrupt_while_the_module_is_imported_is_quiet(home: Path) -> None:
    (home / "slow.py").write_text("import work\nwork.sleep('import')\n")
    with running("map", "slow:f", "a", cwd=home) as command:
        assert command.err_line() == "running import\n"
        assert ends_by_interrupt(command) == ""


def test_who_ignores_interrupts_is_not_interrupted(home: Path) -> None:
    """As a shell starts it in the background, so that Ctrl-C is not for it."""
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "os.execv(sys.executable, [sys.executable, '-m', 'unirun', *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "map", "work:double", "-"],
        cwd=home,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with process:
        command = Running(process)
        for text in ("a", "b"):
            command.tell(f"{text}\n")
            assert command.out_line() == f'"{text * 2}"\n'
            command.interrupt()
        assert command.wait() == (0, "", "")


def test_a_killed_command_takes_its_workers_along(home: Path) -> None:
    with running("map", "work:stubborn", "a", "--kind=cpu", cwd=home) as command:
        assert command.err_line() == "running a\n"
        family = command.family()
        assert len(family) > 1
        command.process.kill()
        assert not left_after(family, SECOND + SLACK)


# -- streams that do not work ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--kind=io",), ("--kind=cpu",), ("--errors=report",)])
def test_a_reader_that_leaves_ends_it_quietly(home: Path, options: tuple[str, ...]) -> None:
    with running("map", "work:double", "-", *options, cwd=home) as command:
        command.tell("a\n")
        command.out_line()
        family = command.family()
        assert command.process.stdout is not None
        command.process.stdout.close()
        command.tell("b\n")
        assert command.process.wait(PATIENCE) == 141
        assert command.process.stderr is not None
        assert command.process.stderr.read() == b""
        assert not left_after(family, SECOND)


@pytest.mark.parametrize("command", ["info", "explain work:double", "--help", "map --help"])
def test_a_reader_that_is_not_there_is_no_traceback(home: Path, command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "unirun", *command.split()],
        cwd=home,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("redirection", "text"),
    [
        (">/dev/full", "the output cannot be written: No space left on device"),
        (">&-", "standard output is closed"),
        ("0>written", "standard input cannot be read: Bad file descriptor"),
        ("<&-", "standard input is closed"),
    ],
)
def test_a_stream_that_does_not_work_is_one_clear_error(
    home: Path, redirection: str, text: str
) -> None:
    if "full" in redirection and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    script = f'exec "{sys.executable}" -m unirun map work:double a - {redirection}'
    done = unirun("-c", script, cwd=home, program=["sh"])
    assert done.status == 2
    assert done.err == f"unirun: error: {text}" + done.err.partition(text)[2]
    assert done.err.count("\n") == 1


def test_without_stderr_it_works(home: Path) -> None:
    script = f'exec "{sys.executable}" -m unirun map work:chatty a b 2>&-'
    done = unirun("-c", script, cwd=home, program=["sh"])
    assert (done.status, done.lines) == (0, ["a", "b"])


# -- progress -------------------------------------------------------------------------------------


def on_terminal(home: Path, *arguments: str, stdout_too: bool = False) -> tuple[str, str]:
    """What it writes to a terminal as stderr, and to stdout if that is none."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "unirun", "map", *arguments],
        cwd=home,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    with process:
        shown = ""
        try:
            while line := read_line(terminal):
                shown += line
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(terminal)
        out = "" if process.stdout is None else process.stdout.read().decode()
        assert process.wait(PATIENCE) == 0
    return shown, out


def test_progress_is_shown_on_a_terminal(home: Path) -> None:
    shown, out = on_terminal(home, "work:double", "a", "b", "c", "--bar", "plain")
    assert out == '"aa"\n"bb"\n"cc"\n'
    assert "\rwork:double 0/3 [" in shown
    assert "\rwork:double 3/3 [##############################]" in shown
    assert shown.endswith("\n")


@pytest.mark.parametrize("stdout_too", [False, True])
def test_no_progress_shows_none(home: Path, stdout_too: bool) -> None:
    shown, out = on_terminal(home, "work:double", "a", "--no-progress", stdout_too=stdout_too)
    assert (shown + out).splitlines() == ['"aa"']


def test_progress_does_not_mix_with_results_by_itself(home: Path) -> None:
    shown, _ = on_terminal(home, "work:double", "a", stdout_too=True)
    assert shown.splitlines() == ['"aa"']


def test_progress_that_is_wanted_gives_way_to_results(home: Path) -> None:
    shown, _ = on_terminal(home, "work:double", "a", "b", "--progress", stdout_too=True)
    assert re.search('\r *\r"aa"\r\n', shown)
    assert "2/2" in shown


def test_progress_that_is_wanted_needs_no_terminal(home: Path) -> None:
    done = unirun("map", "work:double", "a", "-", "--progress", cwd=home, stdin="b\n")
    assert done.lines == ["aa", "bb"]
    assert "work:double 2 [" in done.err
    assert unirun("map", "work:double", "a", cwd=home).err == ""
