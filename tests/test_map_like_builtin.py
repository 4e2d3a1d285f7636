"""A map gives what the built-in `map` gives, whatever the inputs, the chunks and the outcomes."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from chunks import PATIENCE, run_in_worker
from hypothesis import given, settings
from hypothesis import strategies as st

from unirun import Executor
from unirun._cuts import MAX_DRAWN, Inputs
from unirun._parts import Parts
from unirun._record import SIZE, lease_of

ATOMS = st.one_of(
    st.integers(),
    st.integers(-(1 << 64), 1 << 64),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.complex_numbers(allow_nan=False),
)
VALUES = st.one_of(ATOMS, st.tuples(ATOMS), st.lists(ATOMS, max_size=2), st.just(Ellipsis))
PURE = (st.integers(), st.floats(allow_nan=False), VALUES)
COLUMN = st.one_of(*(st.lists(each, max_size=30) for each in PURE))
SIZES = st.one_of(st.just("auto"), st.integers(1, 12))


class Refused(Exception):
    """Equal to others of its kind, so that outcomes can be compared."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Refused and other.args == self.args

    __hash__ = None  # type: ignore[assignment]


def give(*values: Any) -> Any:
    """Its argument, or what is wrong with it."""
    if values[0] in ("", b"") or values[-1] is Ellipsis:
        raise Refused(*values)
    return values[0] if len(values) == 1 else values


def outcome(*values: Any) -> Any:
    try:
        return give(*values)
    except Refused as exc:
        return exc


def exact(outcomes: Iterable[Any]) -> list[tuple[type, Any]]:
    """True is no 1, and 1.0 neither."""
    return [(type(each), repr(each)) for each in outcomes]


SHAPES: tuple[Callable[[list[Any]], Iterable[Any]], ...] = (list, tuple, iter)


def shaped(column: list[Any], shape: int) -> Iterable[Any]:
    return SHAPES[shape](column)


INPUTS = st.lists(st.tuples(COLUMN, st.integers(0, 2)), min_size=1, max_size=3)


@pytest.mark.parametrize("backend", ["process", "thread"])
def test_every_map_is_the_built_in_one(backend: str) -> None:
    with Executor(2, backend=backend) as executor:

        @given(INPUTS, SIZES, st.sampled_from([None, 1, 5, 50]), st.booleans())
        @settings(max_examples=60, deadline=None)
        def agree(inputs: Any, size: Any, buffersize: int | None, ordered: bool) -> None:
            columns = [column for column, _ in inputs]
            wanted = exact(map(outcome, *columns))
            iterables = [shaped(*each) for each in inputs]
            found = exact(
                executor.map(
                    give,
                    *iterables,
                    chunksize=size,
                    buffersize=buffersize,
                    ordered=ordered,
                    errors="return",
                    timeout=PATIENCE,
                )
            )
            assert found == wanted if ordered else sorted(found, key=str) == sorted(wanted, key=str)

        agree()


@given(COLUMN)
@settings(max_examples=300, deadline=None)
def test_every_outcome_comes_out_of_a_record_as_it_went_in(column: list[Any]) -> None:
    memory = memoryview(bytearray(SIZE))
    last, sent = run_in_worker(memory, give, [column])
    parts = Parts()
    for part in sent:
        parts.hear(part, memory)
    if isinstance(last, bytes):
        assert lease_of(last, memory) is None
    _, found = parts.take_answer(last)
    outcomes = [value for each in [*found] for _, value in each]
    assert exact(outcomes) == exact(map(outcome, column))


@given(st.lists(st.one_of(COLUMN, st.builds(range, st.integers(0, 30))), min_size=1, max_size=3))
def test_sequences_are_cut_as_they_would_be_drawn(columns: list[Any]) -> None:
    cut, drawn = Inputs(tuple(columns)), Inputs(tuple(map(iter, columns)))
    for size in (1, 5, 3, 40, 1):
        assert rows(cut.take(size).columns) == rows(drawn.take(size).columns)


def rows(columns: Iterable[Any]) -> list[Any]:
    return list(zip(*columns, strict=True))


def test_a_slice_of_a_range_stays_a_range() -> None:
    """It travels in thirty bytes."""
    inputs = Inputs((range(10**9), range(5, 10**9, 2)))
    assert inputs.take(4).columns == (range(4), range(5, 13, 2))
    assert inputs.take(3).columns == (range(4, 7), range(13, 19, 2))


def test_inputs_that_share_an_iterator_take_turns() -> None:
    with Executor(2, backend="process") as executor:
        turns = iter(range(1000))
        wanted = [(n, n + 1) for n in range(0, 1000, 2)]
        assert list(executor.map(give, turns, turns, timeout=PATIENCE)) == wanted


@pytest.mark.parametrize("count", [20, 30, 1000])
def test_an_error_of_the_inputs_comes_behind_the_results(count: int) -> None:
    def inputs() -> Iterator[int]:
        yield from range(count)
        raise Refused("no more")

    found = []
    with Executor(2, backend="process") as executor:
        results = executor.map(give, inputs(), timeout=PATIENCE)
        with pytest.raises(Refused, match="no more"):
            found.extend(results)
        assert list(results) == []
    assert found == list(range(count))


def test_a_loop_that_was_left_can_be_gone_on_with() -> None:
    with Executor(2, backend="process") as executor:
        results = executor.map(give, range(10_000), timeout=PATIENCE)
        for n in results:
            if n == 6000:
                break
        assert next(results) == 6001
        assert list(results) == list(range(6002, 10_000))


def test_how_many_are_left_is_known_for_a_list() -> None:
    with Executor(2, backend="process") as executor:
        results = executor.map(give, range(1000), chunksize=100, timeout=PATIENCE)
        for left in range(1000, 0, -1):
            assert results.__length_hint__() == left
            next(results)
        assert list(results) == []


class Counted(Iterator[int]):
    def __init__(self) -> None:
        self.drawn = 0

    def __next__(self) -> int:
        self.drawn += 1
        return self.drawn - 1


def test_a_million_items_are_never_in_memory_at_once() -> None:
    """However fast they are, only a bounded number has been drawn and not been taken."""
    inputs, most = Counted(), 0
    with Executor(2, backend="process") as executor:
        results = executor.map(give, inputs, timeout=10 * PATIENCE)
        for taken in itertools.islice(results, 1_000_000):
            most = max(most, inputs.drawn - taken)
        results.close()
    assert most <= 1.25 * MAX_DRAWN  # about: a chunk that is being read comes on top


def test_a_slow_reader_of_an_endless_input_is_not_run_away_from() -> None:
    inputs = Counted()
    with Executor(2, backend="process") as executor:
        results = executor.map(give, inputs, buffersize=100, timeout=PATIENCE)
        for taken in itertools.islice(results, 5000):
            assert inputs.drawn - (taken + 1) <= 100
        results.close()
