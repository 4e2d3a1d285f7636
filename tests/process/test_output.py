"""What worker processes print: in the program's own streams, whole lines, before the result."""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process import tellers
from process.line import PATIENCE, Line

import unirun
from unirun import Output, UnsupportedByBackend, WorkerCrashed

Pool = Callable[..., unirun.Executor]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def executor() -> Iterator[unirun.Executor]:
    """A worker for most of these tests, which has printed something before."""
    with unirun.Executor(1, backend="process") as made:
        made.submit(print, "first").result(PATIENCE)
        yield made


def test_what_is_printed_is_there_with_the_result(
    executor: unirun.Executor, capsys: Capture
) -> None:
    for number in range(50):
        executor.submit(tellers.say, f"line {number}").result(PATIENCE)
        assert capsys.readouterr().out == f"line {number}\n"


def test_each_stream_goes_to_its_own(executor: unirun.Executor, capsys: Capture) -> None:
    executor.submit(tellers.say_on_both, "out", "err").result(PATIENCE)
    assert capsys.readouterr() == ("out\n", "err\n")


def test_it_goes_where_the_streams_are_at_that_moment(executor: unirun.Executor) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as found:
        executor.submit(tellers.say, "redirected").result(PATIENCE)
    assert found.getvalue() == "redirected\n"


def test_lines_of_different_workers_are_never_mixed(pool: Pool, capsys: Capture) -> None:
    executor = pool(2)
    futures = [executor.submit(tellers.say_lines, word, 300) for word in ("spam", "egg")]
    for future in futures:
        future.result(PATIENCE)
    lines = capsys.readouterr().out.splitlines()
    for word in ("spam", "egg"):
        mine = [line for line in lines if line.startswith(word)]
        assert mine == [f"{word} {number}" for number in range(300)]
    assert len(lines) == 600


def test_a_last_line_without_an_end_is_printed_when_the_call_ends(
    executor: unirun.Executor, capsys: Capture
) -> None:
    executor.submit(tellers.say, "no end", end="").result(PATIENCE)
    assert capsys.readouterr().out == "no end"


def test_what_is_flushed_is_shown_at_once_and_not_continued_by_another(
    executor: unirun.Executor, capsys: Capture
) -> None:
    executor.submit(tellers.say_in_parts, "a", "b", "c\n", "d").result(PATIENCE)
    with unirun.Executor(1, backend="process") as other:
        other.submit(tellers.say, "other").result(PATIENCE)
    assert capsys.readouterr().out == "abc\nd\nother\n"


def test_bytes_are_passed_on(executor: unirun.Executor, capsysbinary: object) -> None:
    executor.submit(tellers.say_bytes, b"\xff\x00spam\n").result(PATIENCE)
    assert capsysbinary.readouterr().out == b"\xff\x00spam\n"  # type: ignore[attr-defined]


def test_long_texts_come_whole(executor: unirun.Executor, capsys: Capture) -> None:
    text = "x" * 300_000
    executor.submit(tellers.say, text).result(PATIENCE)
    assert capsys.readouterr().out == text + "\n"


def test_characters_that_the_stream_cannot_write_are_escaped(executor: unirun.Executor) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    with contextlib.redirect_stdout(stream):
        executor.submit(tellers.say, "h\xe9\udcff").result(PATIENCE)
    assert stream.buffer.getvalue() == b"h\\xe9\\udcff\n"  # type: ignore[attr-defined]


def test_a_stream_that_is_closed_or_gone_harms_no_call(executor: unirun.Executor) -> None:
    closed = io.StringIO()
    closed.close()
    with contextlib.redirect_stdout(closed):
        assert executor.submit(tellers.say, "lost").result(PATIENCE) == "lost"
    with contextlib.redirect_stdout(None):
        assert executor.submit(tellers.say, "lost").result(PATIENCE) == "lost"


def test_the_last_words_of_a_crash_are_printed_and_told(pool: Pool, capsys: Capture) -> None:
    error = pool(1).submit(tellers.say_and_die, "bye").exception(PATIENCE)
    assert isinstance(error, WorkerCrashed)
    assert error.stderr == "bye\n"
    assert capsys.readouterr() == ("bye\n", "bye\n")


def test_what_a_killed_call_has_printed_is_there(
    pool: Pool, capsys: Capture, line: Callable[[], Line]
) -> None:
    pipe = line()
    future = pool(1).submit(tellers.say_and_wait, "killed", pipe.path)
    pipe.wait()
    future.kill(0)
    assert capsys.readouterr().out == "killed\n"


def test_what_c_code_and_programs_print_goes_straight_to_the_descriptor(
    capfd: Capture, pool: Pool
) -> None:
    pool(1).submit(tellers.say_without_python, "direct").result(PATIENCE)
    assert capfd.readouterr().out == "direct\ndirect\n"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_a_child_that_a_task_forks_prints_goes_there_too(capfd: Capture, pool: Pool) -> None:
    pool(1).submit(tellers.say_in_a_child, "child").result(PATIENCE)
    assert capfd.readouterr().out == "child\n"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_every_way_to_start_workers_relays(pool: Pool, method: str, capsys: Capture) -> None:
    pool(1, method).submit(tellers.say_on_both, "out", "err").result(PATIENCE)
    assert capsys.readouterr() == ("out\n", "err\n")


def test_it_can_be_turned_off(pool: Pool, capfd: Capture) -> None:
    executor = pool(1, output="direct")
    with contextlib.redirect_stdout(io.StringIO()) as found:
        executor.submit(tellers.say, "straight").result(PATIENCE)
    assert found.getvalue() == ""
    assert capfd.readouterr().out == "straight\n"


PROGRAM = """
import sys, unirun
from process import tellers
if __name__ == "__main__":
    with unirun.Executor(2, backend="process") as executor:
        imported = "[name for name in ('logging', 'pickle') if name in __import__('sys').modules]"
        assert "logging" not in executor.submit(eval, imported).result()
        list(executor.map(tellers.say, [f"line {n}" for n in range(100)]))
    print("end")
"""


def test_a_program_prints_everything_before_it_ends_and_needs_no_logging_for_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == "end"
    assert sorted(lines[:-1]) == sorted(f"line {n}" for n in range(100))


# -- capture --------------------------------------------------------------------------------------


@pytest.fixture(params=["process", "thread", "inline"])
def anywhere(request: pytest.FixtureRequest, executor: unirun.Executor) -> Iterator[object]:
    """An executor on each backend that runs plain functions."""
    if request.param == "process":
        yield executor
        return
    with unirun.Executor(2, backend=request.param) as made:
        yield made


def test_what_a_call_prints_is_kept_on_its_future(
    anywhere: unirun.Executor, capsys: Capture
) -> None:
    streams = sys.stdout, sys.stderr
    future = anywhere.options(capture=True).submit(tellers.say_on_both, "out", "err")
    future.result(PATIENCE)
    output = future.output
    assert isinstance(output, Output)
    assert (output.stdout, output.stderr) == ("out\n", "err\n")
    assert output == "out\nerr\n"
    assert "err" in output
    assert output.splitlines() == ["out", "err"]
    assert (len(output), output.dropped) == (8, 0)
    assert capsys.readouterr() == ("", "")
    assert (sys.stdout, sys.stderr) == streams


def test_bytes_and_unfinished_lines_are_kept(anywhere: unirun.Executor, capsys: Capture) -> None:
    captured = anywhere.options(capture=True)
    future = captured.submit(tellers.say_bytes, "h\xe9\n".encode())
    future.result(PATIENCE)
    assert future.output == "h\xe9\n"
    future = captured.submit(tellers.say, "no end", end="")
    future.result(PATIENCE)
    assert future.output == "no end"
    assert capsys.readouterr() == ("", "")


def test_calls_that_run_at_the_same_time_have_each_their_own(anywhere: unirun.Executor) -> None:
    captured = anywhere.options(capture=True)
    futures = [captured.submit(tellers.say_lines, word, 50) for word in ("spam", "egg", "ham")]
    for word, future in zip(("spam", "egg", "ham"), futures, strict=True):
        future.result(PATIENCE)
        assert future.output == "".join(f"{word} {number}\n" for number in range(50))


def test_other_calls_print_as_ever(anywhere: unirun.Executor, capsys: Capture) -> None:
    future = anywhere.submit(tellers.say, "shown")
    future.result(PATIENCE)
    assert future.output is None
    assert capsys.readouterr().out == "shown\n"


@pytest.mark.parametrize("backend", ["process", "thread", "inline"])
def test_a_call_that_is_run_again_has_what_its_last_attempt_printed(
    backend: str, tmp_path: Path
) -> None:
    with unirun.Executor(1, backend=backend) as executor:
        again = executor.options(capture=True, retries=unirun.Retry(1, backoff=0))
        future = again.submit(tellers.fail_once, "spam", str(tmp_path / "been"))
        assert future.result(PATIENCE) == "spam"
        assert future.output == "spam\n"


def test_coroutines_are_captured_too(capsys: Capture) -> None:
    with unirun.Executor(backend="coroutine") as executor:
        captured = executor.options(capture=True)
        futures = [captured.submit(tellers.say_later, word) for word in ("spam", "egg")]
        for word, future in zip(("spam", "egg"), futures, strict=True):
            future.result(PATIENCE)
            assert future.output == f"{word}\n"
    assert capsys.readouterr().out == ""


def test_threads_of_a_captured_call_are_kept_in_processes_only(
    executor: unirun.Executor, capsys: Capture
) -> None:
    future = executor.options(capture=True).submit(tellers.say_in_a_thread, "thread")
    future.result(PATIENCE)
    assert future.output == "thread\n"
    with unirun.Executor(1, backend="thread") as here:
        future = here.options(capture=True).submit(tellers.say_in_a_thread, "thread")
        future.result(PATIENCE)
    assert future.output == ""
    assert capsys.readouterr().out == "thread\n"


def test_a_crash_leaves_what_was_captured(pool: Pool, capsys: Capture) -> None:
    future = pool(1).options(capture=True).submit(tellers.say_and_die, "bye")
    assert isinstance(future.exception(PATIENCE), WorkerCrashed)
    assert future.output is not None
    assert (future.output.stdout, future.output.stderr) == ("bye\n", "bye\n")
    assert capsys.readouterr() == ("", "")


def test_of_very_much_the_last_is_kept(executor: unirun.Executor) -> None:
    output = Output()
    for number in range(20):
        output._add(1, f"{number:06}" + "x" * 1_000_000)
    assert output.dropped > 0
    assert output.dropped + len(output) == 20 * 1_000_006
    assert re.match(r"\d{6}x", str(output))


def test_what_cannot_be_captured_is_refused(pool: Pool) -> None:
    with pytest.raises(UnsupportedByBackend, match="output='direct'"):
        pool(1, output="direct").options(capture=True).submit(tellers.say, "x")
    with pytest.raises(ValueError, match=r"map\(\)"):
        pool(1).options(capture=True).map(tellers.say, ["x"])


def test_a_stream_that_the_program_puts_there_meanwhile_stays() -> None:
    before, own = sys.stdout, io.StringIO()

    def replace() -> None:
        sys.stdout = own

    with unirun.Executor(1, backend="thread") as executor:
        executor.options(capture=True).submit(replace).result(PATIENCE)
        try:
            assert sys.stdout is own
        finally:
            sys.stdout = before


def test_a_child_that_a_captured_call_forks_prints_where_the_program_does() -> None:
    before = sys.stdout

    def fork() -> int:
        assert sys.stdout is not before
        pid = os.fork()
        if not pid:
            os._exit(0 if sys.stdout is before else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    with unirun.Executor(1, backend="thread") as executor:
        assert executor.options(capture=True).submit(fork).result(PATIENCE) == 0
    assert sys.stdout is before
