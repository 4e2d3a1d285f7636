"""What is said of output, warnings, events and notes holds for each call, wherever it runs."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from auto_rounds import until_inline

import unirun
from unirun import Executor

PATIENCE = 20


def doubles(n: int) -> int:
    return n * 2


def divides(n: int) -> float:
    return 1 / n


def prints(n: int) -> int:
    sys.stdout.write(f"printed {n}\n")
    return n


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(2) as made:
        yield made


def test_output_is_kept_whoever_chooses_where_the_call_runs(executor: Any) -> None:
    for n in range(50):  # some while it measures, others after it has chosen
        future = executor.options(capture=True).submit(prints, n)
        assert future.result(PATIENCE) == n
        assert future.output.stdout == f"printed {n}\n"


def test_calls_that_were_run_at_once_are_events_while_somebody_watches(executor: Any) -> None:
    until_inline(executor, doubles)
    seen: list[str] = []
    with executor.on("finished", lambda event: seen.append(str(event.task))):
        futures = [executor.submit(doubles, n) for n in range(30)]
        assert [each.result(PATIENCE) for each in futures] == [2 * n for n in range(30)]
    assert [name.rpartition(".")[2] for name in seen] == ["doubles"] * 30


def test_a_failure_of_a_call_that_was_run_at_once_says_which_it_was(executor: Any) -> None:
    until_inline(executor, divides)
    line = sys._getframe().f_lineno + 1
    future = executor.submit(divides, 0)
    assert future.info.backend == "inline"
    error = future.exception()
    (note,) = error.__notes__
    assert note.startswith("unirun: call ")
    assert note.endswith(
        f"of {__name__}.divides(0), attempt 1 in this process, submitted at {__file__}:{line}"
    )
    with pytest.raises(ZeroDivisionError):
        future.replay()


def test_a_call_that_was_run_at_once_and_returned_cannot_be_replayed(executor: Any) -> None:
    until_inline(executor, doubles)
    with pytest.raises(unirun.NotReplayable, match="has not failed"):
        executor.submit(doubles, 3).replay()


# -- lines ----------------------------------------------------------------------------------------

LONG = 300_000


def print_lines(letter: str, barrier: Any) -> None:
    """Lines that are longer than what is told at once, while others print theirs."""
    barrier.wait(PATIENCE)
    for _ in range(20):
        sys.stdout.write(letter * LONG + "\n")


def print_bytes(letter: str, barrier: Any) -> None:
    barrier.wait(PATIENCE)
    for _ in range(200):
        for part in (letter.encode() * 10, "é".encode()[:1], "é".encode()[1:], b"\n"):
            sys.stdout.buffer.write(part)


@pytest.mark.parametrize(
    ("prints_so", "line"),
    [(print_lines, lambda letter: letter * LONG), (print_bytes, lambda letter: letter * 10 + "é")],
)
def test_lines_of_workers_come_out_whole(
    prints_so: Callable[..., None], line: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    with Executor(2, backend="process") as executor:
        barrier = executor.Barrier(2)
        calls = [executor.submit(prints_so, letter, barrier) for letter in "ab"]
        for call in calls:
            call.result(PATIENCE)
    shown = capfd.readouterr().out.splitlines()
    assert set(shown) == {line("a"), line("b")}
    assert shown.count(line("a")) == shown.count(line("b"))


def print_without_end() -> None:
    sys.stdout.write("x" * 3_000_000)


def test_a_line_without_end_is_kept_whole_by_capture() -> None:
    with Executor(1, backend="process") as executor:
        future = executor.options(capture=True).submit(print_without_end)
        future.result(PATIENCE)
        assert future.output.stdout == "x" * 3_000_000


# -- warnings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver", None])
def test_a_filter_keeps_its_category_in_workers(method: str | None, tmp_path: Path) -> None:
    """Also one of a module that the worker imports with the call, after it was told of filters."""
    (tmp_path / "with_a_category.py").write_text(MODULE)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py", str(method or "")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["Mine", "Finer", "Here", "went_on"]


MODULE = """
import warnings

class Mine(UserWarning): ...
class Finer(Mine): ...

def warn_of(name):
    warnings.warn("look", globals()[name])
    return "went_on"
"""
PROGRAM = """
import sys, warnings
import unirun, with_a_category

class Here(UserWarning): ...

def warn_here():
    warnings.warn("look", Here)
    return "went_on"

def end_of(future):
    try:
        return future.result(20)
    except Warning as error:
        return type(error).__name__

if __name__ == "__main__":
    wish = {"mp_context": sys.argv[1]} if sys.argv[1] else {}
    with unirun.Executor(1, backend="process", **wish) as executor:
        executor.submit(len, "").result(20)
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", with_a_category.Mine)
        warnings.simplefilter("error", Here)
        print(end_of(executor.submit(with_a_category.warn_of, "Mine")))
        print(end_of(executor.submit(with_a_category.warn_of, "Finer")))
        print(end_of(executor.submit(warn_here)))
        print(end_of(executor.submit(warnings.warn, "look", DeprecationWarning)) or "went_on")
"""


# -- what is ours ---------------------------------------------------------------------------------


def computes(n: int) -> int:
    found = 0
    for i in range(n):
        found += i * i
    return found


def test_what_auto_asks_of_a_worker_is_not_told_as_a_call_of_the_program() -> None:
    ours = f"unirun: asks if {__name__}.computes may go there"
    seen: set[str] = set()
    asked = threading.Event()

    def note(event: Any) -> None:
        seen.add(str(event.task))
        if event.task == ours:
            asked.set()

    with Executor(2, kind="auto") as executor, executor.on("finished", note):
        for _ in range(100):
            assert len(list(executor.map(computes, [20_000] * 100))) == 100
            if asked.is_set():
                break
    assert seen == {ours, f"{__name__}.computes"}


def test_the_time_of_an_abandoned_call_was_busy_time() -> None:
    gate = threading.Event()
    with Executor(1, backend="thread") as executor:
        late = executor.options(timeout=0.2).submit(gate.wait, PATIENCE)
        assert isinstance(late.exception(PATIENCE), unirun.TaskTimeout)
        assert executor.stats()["thread"].busy >= 0.2
        gate.set()
