"""Promises about `map`: order, laziness, errors, and what becomes of one that is not read."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unirun import Executor
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE, Gate
from unirun.testing._suite import Suite, lacks, needs

CHUNKS = pytest.mark.parametrize("chunksize", ["auto", 1, 7])


class MapTests(Suite):
    # -- results ----------------------------------------------------------------------------------

    @CHUNKS
    def test_results_come_in_the_order_of_the_inputs(
        self, common: Executor, chunksize: int | str
    ) -> None:
        """Whatever the chunks."""
        results = common.map(subjects.square, range(300), chunksize=chunksize, timeout=PATIENCE)
        assert list(results) == [n * n for n in range(300)]

    @CHUNKS
    def test_unordered_results_are_the_same_results(
        self, common: Executor, chunksize: int | str
    ) -> None:
        """`ordered=False`: each exactly once."""
        results = common.map(
            subjects.square, range(300), ordered=False, chunksize=chunksize, timeout=PATIENCE
        )
        assert sorted(results) == [n * n for n in range(300)]

    @needs("cooperative")
    def test_unordered_results_come_as_they_end(self, common: Executor, gate: Gate) -> None:
        """A slow first one delays nobody."""
        results = common.map(_step(gate, 0), range(4), ordered=False, chunksize=1, timeout=PATIENCE)
        assert sorted(next(results) for _ in range(3)) == [1, 2, 3]
        gate.open()
        assert list(results) == [0]

    @CHUNKS
    def test_several_inputs_end_with_the_shortest(
        self, common: Executor, chunksize: int | str
    ) -> None:
        """As with the built-in map."""
        results = common.map(
            divmod, [7, 9, 11], itertools.count(2), chunksize=chunksize, timeout=PATIENCE
        )
        assert list(results) == [(3, 1), (3, 0), (2, 3)]

    def test_no_inputs_give_no_results(self, common: Executor) -> None:
        """An empty iterator, not an error."""
        assert list(common.map(subjects.square, [])) == []

    def test_a_lambda_can_be_mapped(self, common: Executor) -> None:
        """As it can be submitted."""
        assert list(common.map(lambda x: x + 1, range(3), timeout=PATIENCE)) == [1, 2, 3]

    def test_a_coroutine_function_can_be_mapped(self, common: Executor) -> None:
        """Each call is run to its end."""
        results = common.map(subjects.square_later, range(3), timeout=PATIENCE)
        assert list(results) == [0, 1, 4]

    # -- laziness ---------------------------------------------------------------------------------

    @CHUNKS
    def test_inputs_may_be_endless(self, common: Executor, chunksize: int | str) -> None:
        """Only a bounded number is drawn before results are taken."""
        drawn = _Counter()
        results = common.map(subjects.square, drawn, chunksize=chunksize, timeout=PATIENCE)
        assert [next(results) for _ in range(50)] == [n * n for n in range(50)]
        results.close()
        assert drawn.count < 50_000

    def test_buffersize_bounds_what_is_drawn(self, common: Executor) -> None:
        """Never more than that many beyond what was taken."""
        drawn = _Counter()
        results = common.map(subjects.square, drawn, buffersize=3, timeout=PATIENCE)
        assert drawn.count == 3
        for taken in range(1, 10):
            next(results)
            assert drawn.count <= taken + 3
        results.close()

    def test_the_first_inputs_are_drawn_at_once(self, common: Executor) -> None:
        """Work begins before anybody asks for a result."""
        drawn = _Counter()
        results = common.map(subjects.square, drawn, chunksize=1)
        assert drawn.count > 1
        results.close()

    # -- errors -----------------------------------------------------------------------------------

    @CHUNKS
    def test_an_exception_is_raised_in_its_place(
        self, common: Executor, chunksize: int | str
    ) -> None:
        """After the results before it; then the iteration is over."""
        results = common.map(subjects.inverse, [1, 2, 0, 4], chunksize=chunksize, timeout=PATIENCE)
        assert [next(results), next(results)] == [1.0, 0.5]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == []

    @CHUNKS
    def test_errors_can_be_returned(self, common: Executor, chunksize: int | str) -> None:
        """`errors="return"`: in their places, as results."""
        results = [
            *common.map(
                subjects.inverse,
                [1, 0, 4, 0],
                errors="return",
                chunksize=chunksize,
                timeout=PATIENCE,
            )
        ]
        assert [results[0], results[2]] == [1.0, 0.25]
        assert [type(results[1]), type(results[3])] == [ZeroDivisionError] * 2

    @CHUNKS
    def test_errors_can_be_skipped(self, common: Executor, chunksize: int | str) -> None:
        """`errors="skip"`: the rest, in order."""
        results = common.map(
            subjects.inverse, [1, 0, 4, 0, 2], errors="skip", chunksize=chunksize, timeout=PATIENCE
        )
        assert list(results) == [1.0, 0.25, 0.5]

    def test_a_base_exception_of_an_item_is_its_outcome(self, common: Executor) -> None:
        """`sys.exit` in one ends neither the worker nor its neighbours."""
        items = [subjects.Refused("a"), SystemExit(3), KeyboardInterrupt(), subjects.Refused("b")]
        results = list(
            common.map(subjects.fail, items, errors="return", chunksize=4, timeout=PATIENCE)
        )
        assert [type(each) for each in results] == [type(each) for each in items]
        assert self.still_works(common)

    @CHUNKS
    @lacks("sharedmem")
    def test_an_item_that_cannot_be_sent_spoils_no_other(
        self, common: Executor, chunksize: int | str
    ) -> None:
        """Nor one whose result cannot."""
        items = [1, subjects.unpicklable(), 3, 4]
        results = list(
            common.map(
                subjects.unpicklable_at_3,
                items,
                errors="return",
                chunksize=chunksize,
                timeout=PATIENCE,
            )
        )
        assert [results[0], results[3]] == [1, 4]
        assert [isinstance(results[n], TypeError) for n in (1, 2)] == [True, True]

    @CHUNKS
    def test_an_exception_of_the_inputs_is_raised(
        self, common: Executor, chunksize: int | str
    ) -> None:
        """Where they are drawn; it is not taken for their end."""
        with pytest.raises(subjects.Refused, match="no more inputs"):
            list(
                common.map(
                    subjects.square, _failing_inputs(100), chunksize=chunksize, timeout=PATIENCE
                )
            )
        assert self.still_works(common)

    # -- time -------------------------------------------------------------------------------------

    @needs("cooperative")
    def test_a_map_that_takes_too_long_raises(self, common: Executor, gate: Gate) -> None:
        """TimeoutError, when the time from the call of `map` is up."""
        results = common.map(_step(gate, 1), range(2), timeout=0.2, chunksize=1)
        gate.arrival()
        assert next(results) == 0
        with pytest.raises(TimeoutError):
            next(results)

    @needs("cooperative")
    def test_a_time_out_cancels_what_waits(
        self, single: Executor, gate: Gate, tmp_path: Path
    ) -> None:
        """It never runs."""
        path = tmp_path / "ran"
        results = single.map(_step(gate, 0, path), range(5), timeout=0.02, chunksize=1)
        gate.arrival()
        with pytest.raises(TimeoutError):
            next(results)
        gate.open()
        assert single.submit(subjects.square, 2).result(PATIENCE) == 4
        assert path.read_text() == "0,"

    # -- maps that are not read -------------------------------------------------------------------

    @CHUNKS
    def test_a_map_that_nobody_reads_runs_to_its_end(
        self, tmp_path: Path, chunksize: int | str
    ) -> None:
        """By the end of `with`, also where its result was dropped: as with the standard library."""
        path = str(tmp_path / "ran")
        with self.make_executor() as executor:
            executor.map(subjects.note, [path] * 500, chunksize=chunksize)
        assert len(Path(path).read_text()) == 500

    @CHUNKS
    def test_a_map_can_be_read_behind_with(self, chunksize: int | str) -> None:
        """Its results are there."""
        with self.make_executor() as executor:
            results = executor.map(subjects.square, range(500), chunksize=chunksize)
        assert list(results) == [n * n for n in range(500)]

    @CHUNKS
    def test_a_map_can_be_read_on_behind_with(self, chunksize: int | str) -> None:
        """Where its reading began inside."""
        with self.make_executor() as executor:
            results = executor.map(subjects.square, range(500), chunksize=chunksize)
            assert [next(results) for _ in range(3)] == [0, 1, 4]
        assert list(results) == [n * n for n in range(3, 500)]

    @pytest.mark.parametrize("chunksize", [1, 5])
    @needs("cooperative")
    def test_a_map_whose_calls_were_cancelled_says_so(
        self, single: Executor, gate: Gate, chunksize: int
    ) -> None:
        """CancelledError at the first of them, as in the standard library."""
        single.submit(subjects.hold, gate.address)
        gate.arrival()
        results = single.map(subjects.square, range(20), chunksize=chunksize, timeout=PATIENCE)
        single.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(concurrent.futures.CancelledError):
            next(results)

    @needs("cooperative")
    def test_dropping_a_map_half_way_cancels_the_rest(
        self, single: Executor, gate: Gate, tmp_path: Path
    ) -> None:
        """What has not begun never runs."""
        path = tmp_path / "ran"
        results = single.map(_step(gate, 1, path), range(30), chunksize=1)
        assert next(results) == 0
        gate.arrival()
        results.close()
        gate.open()
        assert single.submit(subjects.square, 2).result(PATIENCE) == 4
        assert path.read_text() == "0,1,"

    def test_leaving_a_loop_half_way_lets_the_executor_go_on(self, common: Executor) -> None:
        """Endless inputs included."""
        for value in common.map(subjects.square, itertools.count(), timeout=PATIENCE):
            if value > 100:
                break
        assert self.still_works(common)

    # -- mistakes ---------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("wrong", "error"),
        [
            ({"chunksize": 0}, ValueError),
            ({"chunksize": -1}, ValueError),
            ({"chunksize": "large"}, TypeError),
            ({"chunksize": 1.5}, TypeError),
            ({"buffersize": 0}, ValueError),
            ({"buffersize": "many"}, TypeError),
            ({"errors": "ignore"}, ValueError),
            ({"progress": 3}, TypeError),
        ],
    )
    def test_a_wrong_option_is_refused_at_once(
        self, common: Executor, wrong: dict[str, Any], error: type[Exception]
    ) -> None:
        """Before an input is drawn."""
        drawn = _Counter()
        with pytest.raises(error, match=next(iter(wrong))):
            common.map(subjects.square, drawn, **wrong)
        assert drawn.count == 0

    def test_what_is_not_iterable_is_refused_at_once(self, common: Executor) -> None:
        """A TypeError where it is written."""
        with pytest.raises(TypeError, match="not iterable"):
            common.map(subjects.square, 5)  # type: ignore[arg-type]

    def test_progress_is_told_after_each_result(self, common: Executor) -> None:
        """To a callable: how many are done, of how many."""
        told: list[tuple[int, int | None]] = []
        results = common.map(
            subjects.square, range(3), progress=lambda *at: told.append(at), timeout=PATIENCE
        )
        assert list(results) == [0, 1, 4]
        assert told == [(1, 3), (2, 3), (3, 3)]


class _Counter(Iterator[int]):
    """0, 1, 2, ... without end; counts what was drawn."""

    def __init__(self) -> None:
        self.count = 0

    def __next__(self) -> int:
        self.count += 1
        return self.count - 1


def _failing_inputs(good: int) -> Iterator[int]:
    yield from range(good)
    raise subjects.Refused("no more inputs")


def _step(gate: Gate, held: int, path: Path | None = None) -> Callable[[int], int]:
    """What is mapped: notes its input, and waits at the gate with one of them."""
    return functools.partial(subjects.step, gate.address, held, None if path is None else str(path))
