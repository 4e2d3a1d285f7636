"""What is said of every call holds for those that `kind="auto"` sees to, too."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import unirun
from unirun import Executor

ROUNDS = 5_000
PATIENCE = 20


def doubles(n: int) -> int:
    return n * 2


def divides(n: int) -> float:
    return 1 / n


def prints(n: int) -> int:
    sys.stdout.write(f"printed {n}\n")
    return n


def until_inline(executor: Any, fn: Callable[..., Any]) -> None:
    """Submit until such calls are run at once."""
    for _ in range(ROUNDS):
        future = executor.submit(fn, 5)
        future.result(PATIENCE)
        if future.info.backend == "inline":
            return
    raise AssertionError("no call was run inline")


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
