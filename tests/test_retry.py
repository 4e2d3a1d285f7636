"""Calls that are run again: which, how often, after what pause, and what is told of it."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

import unirun
from unirun import Retry, WorkerCrashed
from unirun._future import Future
from unirun._retry import RetriedCalls, RetryingFuture

PATIENCE = 20

Run = Callable[..., "RetryingFuture"]


class Attempts:
    """Stands for a backend: each attempt ends at once, with the next of these exceptions."""

    def __init__(self, *ends: BaseException | None) -> None:
        self._ends = list(ends)
        self.numbers: list[int] = []

    def __call__(self, number: int) -> Future[Any]:
        self.numbers.append(number)
        future: Future[Any] = Future()
        future._begin()
        end = self._ends.pop(0)
        if end is None:
            future._succeed("done")
        else:
            future._fail(end)
        return future


@pytest.fixture
def run() -> Iterator[Run]:
    calls = RetriedCalls("test")

    def submit(attempts: Attempts, retry: Retry) -> RetryingFuture:
        return calls.submit(attempts, retry, None)

    yield submit
    ended = threading.Event()
    calls.stop()
    calls.then(ended.set)
    assert ended.wait(PATIENCE)


def crash(exitcode: int = -11) -> WorkerCrashed:
    return WorkerCrashed("work.f", 42, exitcode)


# -- the policy -----------------------------------------------------------------------------------


def test_pauses_grow_by_the_factor_up_to_the_longest() -> None:
    retry = Retry(backoff=1, factor=3, max_backoff=20, jitter=0)
    assert [retry.pause(attempt) for attempt in range(1, 6)] == [1, 3, 9, 20, 20]


def test_jitter_takes_away_its_share_at_most() -> None:
    retry = Retry(backoff=10, jitter=0.25)
    pauses = {retry.pause(1) for _ in range(200)}
    assert len(pauses) > 100
    assert all(7.5 <= pause <= 10 for pause in pauses)


@pytest.mark.parametrize(
    "wrong",
    [
        {"times": -1},
        {"crashes": -1},
        {"backoff": -1},
        {"max_backoff": -1},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"quarantine": 0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retry(**wrong)


@pytest.mark.parametrize("wrong", [("KeyError",), (KeyError, 3), 3, (int,)])
def test_what_cannot_be_raised_cannot_be_retried(wrong: Any) -> None:
    with pytest.raises(TypeError):
        Retry(1, on=wrong)


@pytest.mark.parametrize("given", [KeyError, (KeyError,), [KeyError], {KeyError}])
def test_exceptions_are_named_one_by_one_or_together(given: Any) -> None:
    assert Retry(1, on=given).on == (KeyError,)


def test_two_policies_that_say_the_same_are_equal_and_neither_changes() -> None:
    assert Retry(3) == Retry(3)
    assert Retry(3) != Retry(4)
    assert len({Retry(3), Retry(3), Retry(crashes=3)}) == 2
    policy = Retry(3, on=KeyError, crashes=2, backoff=5, quarantine=None)
    assert pickle.loads(pickle.dumps(policy)) == policy
    with pytest.raises(AttributeError):
        Retry(3).times = 4  # type: ignore[misc]


# -- exceptions -----------------------------------------------------------------------------------


def test_a_call_is_run_again_until_it_succeeds(run: Run) -> None:
    attempts = Attempts(ValueError("1"), ValueError("2"), None)
    assert run(attempts, Retry(5, backoff=0)).result(PATIENCE) == "done"
    assert attempts.numbers == [1, 2, 3]


def test_crashes_and_exceptions_have_a_budget_each(run: Run) -> None:
    attempts = Attempts(ValueError("1"), crash(), ValueError("2"), crash(), None)
    retry = Retry(2, crashes=2, backoff=0, quarantine=None)
    assert run(attempts, retry).result(PATIENCE) == "done"
    assert attempts.numbers == [1, 2, 3, 4, 5]


def test_the_budget_for_exceptions_is_not_for_crashes(run: Run) -> None:
    attempts = Attempts(crash())
    assert isinstance(run(attempts, Retry(5, backoff=0)).exception(PATIENCE), WorkerCrashed)
    assert attempts.numbers == [1]


def test_the_budget_for_crashes_is_not_for_exceptions(run: Run) -> None:
    attempts = Attempts(ValueError("no"))
    retry = Retry(crashes=5, backoff=0)
    assert isinstance(run(attempts, retry).exception(PATIENCE), ValueError)
    assert attempts.numbers == [1]


@pytest.mark.parametrize(
    "error",
    [
        unirun.TaskTimeout("late"),
        unirun.TaskMemoryExceeded("work.f", 42, limit=1, used=2),
        unirun.SerializationError("no"),
        unirun.TaskCancelled("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_another_attempt_would_not_mend_stands(run: Run, error: BaseException) -> None:
    attempts = Attempts(error)
    assert run(attempts, Retry(5, on=BaseException, backoff=0)).exception(PATIENCE) is error
    assert attempts.numbers == [1]


# -- what is told ---------------------------------------------------------------------------------


def test_the_last_exception_tells_of_the_earlier_attempts(run: Run) -> None:
    attempts = Attempts(ValueError("first\nand more"), KeyError("second"), OSError("third"))
    error = run(attempts, Retry(2, backoff=0)).exception(PATIENCE)
    assert isinstance(error, OSError)
    (note,) = error.__notes__
    assert note.splitlines() == [
        "unirun: attempt 3 was the last",
        "  attempt 1: ValueError: first",
        "  attempt 2: KeyError: 'second'",
    ]


def test_of_many_attempts_the_latest_are_told(run: Run) -> None:
    attempts = Attempts(*[ValueError(str(number)) for number in range(1, 22)])
    error = run(attempts, Retry(20, backoff=0)).exception(PATIENCE)
    assert error is not None
    (note,) = error.__notes__
    told = [line.split()[1] for line in note.splitlines()[1:]]
    assert told == ["16:", "17:", "18:", "19:", "20:"]


def test_a_call_that_was_run_once_has_no_note(run: Run) -> None:
    error = run(Attempts(ValueError("no")), Retry(3, on=KeyError)).exception(PATIENCE)
    assert not hasattr(error, "__notes__")


@dataclass(frozen=True)
class Frozen(Exception):
    """Nothing can be set on it."""

    code: int


class Mute(Exception):
    """Its text is a trap."""

    def __str__(self) -> str:
        raise SystemExit("no text for you")


class Scribbled(Exception):
    """Its notes are none."""

    __notes__ = "not a list"  # type: ignore[assignment]


@pytest.mark.parametrize("make", [lambda: Frozen(3), Mute, Scribbled])
def test_an_exception_of_a_strange_kind_ends_the_call_too(
    run: Run, make: Callable[[], BaseException]
) -> None:
    first, last = make(), make()
    error = run(Attempts(first, last), Retry(1, backoff=0)).exception(PATIENCE)
    assert error is last
    (note,) = error.__notes__
    assert note.startswith("unirun: attempt 2 was the last\n  attempt 1: ")
    assert type(first).__name__ in note


# -- quarantine -----------------------------------------------------------------------------------


def test_a_call_that_crashed_two_workers_is_quarantined(run: Run) -> None:
    attempts = Attempts(crash(), crash(), None)
    error = run(attempts, Retry(crashes=5, backoff=0)).exception(PATIENCE)
    assert isinstance(error, WorkerCrashed)
    assert error.quarantined
    assert "it is quarantined, having crashed 2 workers" in str(error)
    assert attempts.numbers == [1, 2]


@pytest.mark.parametrize(("quarantine", "ran"), [(1, 1), (3, 3), (None, 4)])
def test_a_policy_may_say_when_a_call_is_quarantined(
    run: Run, quarantine: int | None, ran: int
) -> None:
    attempts = Attempts(*[crash() for _ in range(9)])
    retry = Retry(crashes=3, backoff=0, quarantine=quarantine)
    error = run(attempts, retry).exception(PATIENCE)
    assert isinstance(error, WorkerCrashed)
    assert error.quarantined == (quarantine is not None)
    assert attempts.numbers == list(range(1, ran + 1))


def test_whose_budget_is_used_up_is_not_quarantined(run: Run) -> None:
    error = run(Attempts(crash(), crash()), Retry(crashes=1, backoff=0)).exception(PATIENCE)
    assert isinstance(error, WorkerCrashed)
    assert not error.quarantined
    assert "quarantine" not in str(error)


def test_a_quarantined_call_says_so_after_a_journey(run: Run) -> None:
    error = run(Attempts(crash(), crash()), Retry(crashes=5, backoff=0)).exception(PATIENCE)
    for arrived in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert isinstance(arrived, WorkerCrashed)
        assert arrived.quarantined
        assert str(arrived) == str(error)


def stubborn(attempts: list[int], begun: threading.Event) -> None:
    """Fails with an error of its own once it is asked to stop."""
    task = unirun.current_task()
    assert task is not None
    attempts.append(task.attempt)
    begun.set()
    while not task.cancelled and task.attempt == 1:
        task.token.wait(0.01)
    raise OSError("interrupted")


def submit_stubborn(attempts: list[int], begun: threading.Event) -> None:
    retried = unirun.current_executor().options(retries=Retry(3, backoff=0))
    retried.submit(stubborn, attempts, begun).result(PATIENCE)


@pytest.mark.parametrize("asked", ["itself", "by a kill that is refused", "the call above"])
def test_what_was_asked_to_stop_is_not_run_again(asked: str) -> None:
    attempts: list[int] = []
    begun = threading.Event()
    with unirun.Executor(2, backend="thread") as executor:
        if asked == "the call above":
            future = executor.submit(submit_stubborn, attempts, begun)
        else:
            retried = executor.options(retries=Retry(3, backoff=0))
            future = retried.submit(stubborn, attempts, begun)
        assert begun.wait(PATIENCE)
        if asked == "by a kill that is refused":
            with pytest.raises(unirun.NotKillable):
                future.kill()
        else:
            future.cancel()
        assert isinstance(future.exception(PATIENCE), OSError)
    assert attempts == [1]


def test_what_a_scope_has_cancelled_is_not_run_again() -> None:
    attempts: list[int] = []
    begun = threading.Event()
    with (
        unirun.Executor(2, backend="thread") as executor,
        suppress(ExceptionGroup),
        executor.scope() as scope,
    ):
        scope.options(retries=Retry(3, backoff=0)).submit(stubborn, attempts, begun)
        assert begun.wait(PATIENCE)
        scope.cancel()
    assert attempts == [1]
