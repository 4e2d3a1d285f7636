"""Chunks that fail: what becomes of their items (rule 3 of `_map`), with calls ended by hand."""

import threading
from typing import Any

import pytest
from chunks import Calls, mapped, run_in_worker

from unirun import SerializationError, WorkerCrashed
from unirun._map import MapResult
from unirun._record import SIZE


def square(x: int) -> int:
    return x * x


def refuse_odd(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return x


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_crash_costs_the_item_the_worker_was_at(done: int) -> None:
    """Those before have their outcomes; those behind are sent again, once."""
    calls = Calls()
    results = mapped(calls, square, range(4), size=4, errors="return")
    calls.crash(after=done)
    outcomes = [_next(results, calls) for _ in range(4)]
    assert isinstance(outcomes.pop(done), WorkerCrashed)
    assert outcomes == [n * n for n in range(4) if n != done]
    assert calls.items == [0, 1, 2, 3, *range(done + 1, 4)]


def test_a_crash_of_every_item_ends_too() -> None:
    calls = Calls()
    results = mapped(calls, square, range(3), size=3, errors="return")
    found = []
    for _ in range(3):
        calls.crash(after=0)
        found.append(next(results))
    assert [type(each) for each in found] == [WorkerCrashed] * 3
    assert list(results) == []


def test_what_is_sent_again_keeps_its_place() -> None:
    calls = Calls()
    results = mapped(calls, square, range(8), size=4, errors="return")
    calls.run(1)
    calls.crash(after=1)
    assert [next(results), type(next(results))] == [0, WorkerCrashed]
    calls.run_all()
    assert list(results) == [4, 9, 16, 25, 36, 49]


def test_a_chunk_that_cannot_be_sent_is_halved_until_the_culprit_is_found() -> None:
    calls = Calls()
    results = mapped(calls, square, range(3), size=3, errors="return")
    future = calls.open.pop()[0]
    future._begin()
    future._fail(SerializationError("one of them"))
    taken = iter(lambda: _next(results, calls, refused=1), None)
    outcomes = [next(taken) for _ in range(3)]
    assert [outcomes[0], outcomes[2]] == [0, 4]
    assert isinstance(outcomes[1], SerializationError)


def test_an_outcome_sent_ahead_is_not_run_again() -> None:
    calls = Calls()
    results = mapped(calls, refuse_odd, range(3), size=3, errors="return")
    future, _, _, on_part = calls.open.pop()
    future._begin()
    last, parts = run_in_worker(memoryview(bytearray(SIZE)), refuse_odd, [range(2)])
    for part in (*parts, last):
        on_part(part, memoryview(b""))
    future._fail(WorkerCrashed("a chunk", 1, -9))
    first, second, third = results
    assert first == 0
    assert (type(second), second.args) == (ValueError, (1,))
    assert isinstance(third, WorkerCrashed)
    assert calls.sent == 1


def test_what_cannot_be_sent_again_has_the_error_of_its_chunk() -> None:
    """Behind a shutdown: an outcome for each item, and no error out of nowhere."""
    calls = Calls()
    results = mapped(calls, square, range(3), size=3, errors="return")
    calls.crash(after=1)
    calls.closed = True
    first, *others = results
    assert first == 0
    assert [type(each) for each in others] == [WorkerCrashed] * 2


def _next(results: MapResult, calls: Calls, refused: int | None = None) -> Any:
    """The next outcome; calls that are sent meanwhile are run, except those with item `refused`."""
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.append(next(results)))
    reader.start()
    while reader.is_alive():
        reader.join(0.002)
        if calls.open and reader.is_alive():
            if refused is not None and refused in calls.open[0][2][1][0]:
                future = calls.open.pop(0)[0]
                future._begin()
                future._fail(SerializationError("this one"))
            else:
                calls.run()
    return found[0]
