"""Lazy, windowed, chunked map by itself: its calls are futures that the tests end by hand."""

import concurrent.futures
import gc
import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence

import pytest
from chunks import PATIENCE, Calls, mapped

from unirun import Executor, ExecutorShutdown, WorkerCrashed
from unirun._cuts import MAX_CHUNK, MAX_DRAWN, Chunker
from unirun._open_maps import OpenMaps
from unirun._progress import Telling


def square(x: int) -> int:
    return x * x


def refuse_odd(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return x


class Counter(Iterator[int]):
    """0, 1, 2, ...: how many were drawn."""

    def __init__(self) -> None:
        self.count = 0

    def __next__(self) -> int:
        self.count += 1
        return self.count - 1


# -- the size of chunks ---------------------------------------------------------------------------


def test_a_given_size_stays() -> None:
    chunker = Chunker(7, workers=2)
    chunker.learn(7, 1e-6)
    assert [chunker.next(left) for left in (None, 1000, 3)] == [7, 7, 7]


def test_an_automatic_size_grows_while_calls_are_short() -> None:
    chunker = Chunker(None, workers=2)
    sizes = []
    for _ in range(4):
        sizes.append(chunker.next(None))
        chunker.learn(sizes[-1], sizes[-1] * 1e-6)
    assert sizes == [1, 16, 256, 4096]


def test_an_automatic_size_grows_only_beyond_what_was_tried() -> None:
    """Calls that were sent before the last one had grown say nothing about larger ones."""
    chunker = Chunker(None, workers=2)
    for _ in range(4):
        chunker.learn(1, 1e-6)
    assert chunker.size == 16


def test_an_automatic_size_aims_at_ten_milliseconds() -> None:
    chunker = Chunker(None, workers=2)
    for _ in range(10):
        chunker.learn(chunker.size, chunker.size * 1e-4)
    assert chunker.size == 100
    chunker.learn(100, 100 * 1.0)  # calls became long
    assert chunker.size == 1


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_an_automatic_size_has_a_bound(workers: int) -> None:
    """So that what is under way at a time has one."""
    chunker = Chunker(None, workers)
    for _ in range(20):
        chunker.learn(chunker.size, 0.0)
    assert chunker.next(None) <= MAX_CHUNK
    assert chunker.next(None) * chunker.calls(1 << 62) <= MAX_DRAWN


def test_no_more_calls_are_under_way_than_were_allowed() -> None:
    """However it goes: those that are allowed may be all that the executor takes."""
    chunker = Chunker(None, workers=2)
    allowed = []
    for _ in range(6):
        allowed.append(chunker.calls(1))
        chunker.learn(chunker.size, 0.0)
    assert set(allowed) == {1}


@pytest.mark.parametrize("size", [None, 100])
def test_a_window_has_room_for_more_than_one_chunk(size: int | None) -> None:
    chunker = Chunker(size, workers=2)
    chunker.limit(40)
    for _ in range(5):
        chunker.learn(chunker.size, 0.0)
    assert 2 * chunker.next(None) <= 40


def test_the_last_items_are_shared_evenly() -> None:
    chunker = Chunker(None, workers=2)
    chunker.size = 100
    assert [chunker.next(left) for left in (10_000, 80, 8, 1, 0)] == [100, 20, 2, 1, 1]


# -- the window -----------------------------------------------------------------------------------


def test_no_more_calls_are_open_than_the_limit() -> None:
    calls, drawn = Calls(), Counter()
    results = mapped(calls, square, drawn, limit=4)
    assert (drawn.count, len(calls.open)) == (4, 4)
    for taken in range(1, 30):
        calls.run()
        assert next(results) == square(taken - 1)
        assert drawn.count == taken + 4
        assert len(calls.open) == 4


def test_no_more_items_are_out_than_the_window() -> None:
    """`buffersize`: what is drawn, done or not, and not yet taken."""
    calls, drawn = Calls(), Counter()
    results = mapped(calls, square, drawn, window=10, size=4, limit=1 << 62)
    assert (drawn.count, calls.sent) == (10, 3)  # 4 + 4 + 2
    calls.run_all()
    for taken in range(1, 30):
        next(results)
        assert drawn.count - taken <= 10
        calls.run_all()


def test_results_are_in_the_order_of_the_inputs_however_calls_end() -> None:
    calls = Calls()
    results = mapped(calls, square, range(12), size=3)
    for which in (3, 1, 0, 0):
        calls.run(which)
    assert list(results) == [n * n for n in range(12)]


def test_unordered_results_are_in_the_order_of_their_ends() -> None:
    calls = Calls()
    results = mapped(calls, square, range(4), ordered=False, single=True)
    for which in (3, 1, 0, 0):
        calls.run(which)
    assert list(results) == [9, 1, 0, 4]


def test_the_length_is_known_where_an_input_tells_it() -> None:
    told: list[tuple[int, int | None]] = []
    for inputs in ([1, 2, 3], iter([1, 2, 3]), range(3)):
        calls = Calls()
        results = mapped(calls, divmod, inputs, itertools.count(1), progress=Telling(_Told(told)))
        calls.run_all()
        list(results)
    assert told == [(1, 3), (2, 3), (3, 3)] * 3


def test_progress_of_endless_inputs_has_no_total() -> None:
    calls, told = Calls(), []
    results = mapped(calls, square, Counter(), progress=Telling(_Told(told)))
    calls.run_all()
    next(results)
    assert told == [(1, None)]


class _Told:
    def __init__(self, told: list[tuple[int, int | None]]) -> None:
        self._told = told
        self._total: int | None = None

    def start(self, total: int | None) -> None:
        self._total = total

    def update(self, done: int, running: Sequence[object] = ()) -> None:
        self._told.append((done, self._total))

    def close(self) -> None:
        """Nothing is open."""


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("single", [True, False])
def test_the_first_error_is_raised_and_cancels_the_rest(single: bool) -> None:
    calls = Calls()
    results = mapped(calls, refuse_odd, range(100), single=single)
    calls.run()
    calls.run()
    assert next(results) == 0
    waiting = [call[0] for call in calls.open]
    with pytest.raises(ValueError, match="1"):
        next(results)
    assert waiting
    assert all(future.cancelled() for future in waiting)
    assert list(results) == []


@pytest.mark.parametrize("single", [True, False])
def test_errors_can_be_outcomes_or_left_out(single: bool) -> None:
    calls = Calls()
    returned = mapped(calls, refuse_odd, range(4), single=single, errors="return")
    calls.run_all()
    assert [each if isinstance(each, int) else each.args for each in returned] == [0, (1,), 2, (3,)]
    skipped = mapped(calls, refuse_odd, range(4), single=single, errors="skip")
    calls.run_all()
    assert list(skipped) == [0, 2]


def test_an_error_of_the_inputs_is_raised_where_they_are_drawn() -> None:
    def inputs() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        mapped(Calls(), square, inputs())


def test_a_cancelled_chunk_is_an_outcome_of_each_of_its_items() -> None:
    """It never ran: nothing of it is sent again."""
    calls = Calls()
    results = mapped(calls, square, range(6), size=3, errors="return")
    calls.open[0][0].cancel()
    calls.run(1)
    outcomes = list(results)
    assert [type(each) for each in outcomes[:3]] == [concurrent.futures.CancelledError] * 3
    assert outcomes[3:] == [9, 16, 25]
    assert calls.sent == 2


# -- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_time_is_counted_from_the_call_of_map(ordered: bool) -> None:
    calls = Calls()
    results = mapped(calls, square, range(4), timeout=0.02, ordered=ordered, single=True)
    calls.run()
    assert next(results) == 0
    waiting = [call[0] for call in calls.open]
    with pytest.raises(TimeoutError):
        next(results)
    assert all(future.cancelled() for future in waiting)
    assert list(results) == []


def test_a_time_out_error_of_a_task_is_its_outcome() -> None:
    calls = Calls()
    results = mapped(calls, _time_out, range(2), single=True, errors="return")
    calls.run_all()
    assert [each.args for each in results] == [("the task's",)] * 2


def _time_out(_: int) -> None:
    raise TimeoutError("the task's")


# -- maps that are dropped, closed or never read --------------------------------------------------


def test_a_map_that_is_dropped_half_way_cancels_what_waits() -> None:
    calls = Calls()
    results = mapped(calls, square, range(100), single=True)
    calls.run()
    next(results)
    waiting = [call[0] for call in calls.open]
    del results
    gc.collect()
    assert waiting
    assert all(future.cancelled() for future in waiting)


def test_a_map_that_was_never_read_cancels_nothing_when_it_is_dropped() -> None:
    calls = Calls()
    results = mapped(calls, square, range(100), single=True)
    del results
    gc.collect()
    assert not any(call[0].cancelled() for call in calls.open)


def test_an_unread_map_is_kept_and_completed() -> None:
    calls, maps = Calls(), OpenMaps()
    maps.add(mapped(calls, square, range(100), size=1))
    gc.collect()
    maps.complete(endless=False)
    assert calls.items == list(range(100))


def test_a_map_is_not_kept_once_somebody_reads() -> None:
    calls, maps = Calls(), OpenMaps()
    results = mapped(calls, square, range(100), single=True)
    maps.add(results)
    reference = weakref.ref(results)
    calls.run()
    next(results)
    del results
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize(
    ("read", "endless", "completed"),
    [(False, True, True), (False, False, False), (True, True, False), (True, False, False)],
)
def test_inputs_that_may_be_endless_are_completed_only_unread_and_on_request(
    read: bool, endless: bool, completed: bool
) -> None:
    calls, maps = Calls(), OpenMaps()
    results = mapped(calls, square, (n for n in range(50)), single=True)
    maps.add(results)
    if read:
        calls.run()
        next(results)
    maps.complete(endless=endless)
    assert (len(calls.items) == 50) is completed


def test_a_shutdown_sends_again_what_a_failed_chunk_left_over() -> None:
    """And waits for it, so that it can be read afterwards."""
    calls, maps = Calls(), OpenMaps()
    results = mapped(calls, square, range(4), size=4, errors="return")
    maps.add(results)
    calls.crash(after=1)
    settled: list[bool] = []
    shutdown = threading.Thread(target=lambda: settled.append(maps.settle(None)))
    shutdown.start()
    while shutdown.is_alive():
        shutdown.join(0.002)
        calls.run_all()
    calls.closed = True
    assert settled == [True]
    assert [each if isinstance(each, int) else type(each) for each in results] == [
        0,
        WorkerCrashed,
        4,
        9,
    ]


def test_settling_ends_with_its_time() -> None:
    maps, calls = OpenMaps(), Calls()
    results = mapped(calls, square, range(4), size=4)
    maps.add(results)
    assert maps.settle(0.0) is False


def test_a_map_that_cannot_go_on_gives_what_it_has_and_then_says_why() -> None:
    calls = Calls()
    results = mapped(calls, square, Counter(), single=True)
    calls.run_all()
    calls.closed = True
    assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
    with pytest.raises(ExecutorShutdown):
        next(results)


def test_one_thread_may_complete_what_another_reads() -> None:
    """The order of the inputs stays the order of the results."""
    for _ in range(20):
        with Executor(2, backend="thread") as executor:
            found: list[int] = []
            results = executor.map(square, range(400), chunksize=1)
            reader = threading.Thread(target=found.extend, args=(results,))
            reader.start()
            executor.shutdown()
            reader.join(PATIENCE)
            assert found == [n * n for n in range(400)]
