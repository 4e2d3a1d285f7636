"""`kind="auto"`: calls are measured, and go where they end soonest without a change of meaning."""

import concurrent.futures
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from auto_rounds import WITHIN, rounds, until_inline

import unirun
from unirun import Executor, _profile
from unirun._executor import Executor as OurExecutor
from unirun._lessons import LONG

ROUNDS = 20_000


def computes(n: int) -> int:
    found = 0
    for i in range(n):
        found += i * i
    return found


def with_a_constant(n: int) -> int:
    return computes(n) + FACTOR


FACTOR = 1
calls = 0


def counts(n: int) -> int:
    global calls
    calls += 1
    return computes(n)


def changes(numbers: list[int]) -> int:
    numbers[0] += computes(ROUNDS)
    return 1


def hands_back(numbers: list[int]) -> list[int]:
    if computes(ROUNDS):
        return numbers
    return []


def short(n: int) -> int:
    return n * 2 + 1


def divides(n: int) -> float:
    return 1 / n


def fails(n: int) -> None:
    computes(n)
    raise ValueError(n)


def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def of_any_kind(thing: Any) -> int:
    return computes(ROUNDS) + len(thing.numbers)


class Thing:
    def __init__(self) -> None:
        self.numbers = [1]


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    unirun.profile.clear()
    yield
    unirun.profile.clear()


@pytest.fixture
def ex() -> Iterator[OurExecutor]:
    with Executor(2) as executor:
        yield executor


def route_of(ex: OurExecutor, fn: Any) -> Any:
    return ex._plan(fn, ex._given).route


def until_it_leaves(ex: OurExecutor, fn: Callable[..., Any], *args: Any) -> None:
    for _ in rounds(ex, fn, *args):
        # The machine may be too busy for the probe to tell; what is done with that is not.
        route_of(ex, fn).known.gil_share = 1.0
        if ex.submit(fn, *args).info.backend == "process":
            return


def until_it_stays(ex: OurExecutor, fn: Callable[..., Any], *args: Any) -> str:
    for _ in rounds(ex, fn, *args):
        if route_of(ex, fn).reason_to_stay():
            return str(route_of(ex, fn).reason_to_stay())
    raise AssertionError


# -- where calls go -------------------------------------------------------------------------------


def test_pure_python_that_computes_for_long_goes_to_processes(ex: OurExecutor) -> None:
    until_it_leaves(ex, computes, ROUNDS)
    future = ex.submit(computes, ROUNDS)
    assert future.result() == computes(ROUNDS)
    assert future.info.backend == "process"
    assert "measured: " in future.info.reasons[-1]
    figures = dict(_profile.figures(computes))
    assert figures["calls on"] == "process"
    assert ex.stats()["process"].finished > 1


def test_what_waits_stays_on_threads(ex: OurExecutor) -> None:
    for _ in rounds(ex, sleeps, 0.001):
        if route_of(ex, sleeps).calls_on:
            break
    assert route_of(ex, sleeps).calls_on == "thread"
    assert "process" not in ex.stats()


def test_a_few_calls_start_no_process(ex: OurExecutor) -> None:
    assert [ex.submit(computes, 1000).result() for _ in range(20)] == [computes(1000)] * 20
    assert "process" not in ex.stats()


def test_a_function_that_writes_a_global_stays(ex: OurExecutor) -> None:
    before = calls
    made = 0
    for made, _ in enumerate(rounds(ex, counts, ROUNDS), 1):
        if made == 5:
            break
    assert calls == before + 8 * made
    assert "writes the global 'calls'" in until_it_stays(ex, counts, ROUNDS)
    assert "process" not in ex.stats()


def test_a_call_whose_arguments_are_no_plain_data_stays(ex: OurExecutor) -> None:
    until_it_leaves(ex, of_any_kind_or_plain, 1)
    future = ex.submit(of_any_kind_or_plain, Thing())
    assert future.result() > 0
    assert future.info.backend == "thread"


def of_any_kind_or_plain(thing: Any) -> int:
    return computes(ROUNDS)


def test_a_call_that_would_change_its_argument_changes_the_callers_own(ex: OurExecutor) -> None:
    numbers = [0]
    for made, _ in enumerate(rounds(ex, changes, numbers), 1):
        if made == 5:
            break
    assert numbers[0] >= 5 * computes(ROUNDS)
    assert ex.submit(changes, numbers).info.backend == "thread"


def test_a_result_that_is_an_argument_stays_that_object(ex: OurExecutor) -> None:
    numbers = [1]
    for made, results in enumerate(rounds(ex, hands_back, numbers), 1):
        assert all(result is numbers for result in results)
        if made == 5:
            break
    assert until_it_stays(ex, hands_back, numbers) == "it handed back one of its arguments"


def test_what_a_worker_would_read_otherwise_keeps_a_function_here(
    ex: OurExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "FACTOR", 2)  # a worker will import this file, and find 1
    why = ""
    for results in rounds(ex, with_a_constant, ROUNDS):
        assert set(results) == {computes(ROUNDS) + 2}
        route = route_of(ex, with_a_constant)
        route.known.gil_share = 1.0
        why = route.reason_to_stay()
        if why:
            break
    assert why == "test_auto.FACTOR is not the same in a worker"


def test_a_constant_that_changes_later_is_seen_by_the_next_call(
    ex: OurExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_it_leaves(ex, with_a_constant, ROUNDS)
    monkeypatch.setitem(globals(), "FACTOR", 3)
    future = ex.submit(with_a_constant, ROUNDS)
    assert future.result() == computes(ROUNDS) + 3
    assert future.info.backend == "thread"


def test_a_function_that_computes_otherwise_than_before_is_measured_anew(ex: OurExecutor) -> None:
    until_it_leaves(ex, computes, ROUNDS)
    route = route_of(ex, computes)
    known = route.known.calls
    for _ in rounds(ex, computes, ROUNDS // 200):
        if route.known.calls > known and route.known.cpu_seconds < LONG:
            break


# -- what keeps it out ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"kind": "cpu"}, {"kind": "io"}, {"backend": "thread"}, {"require": {"sharedmem"}}],
)
def test_calls_of_which_somebody_said_where_they_run_are_not_measured(
    ex: OurExecutor, options: dict[str, Any]
) -> None:
    view = ex.options(**options)
    assert ex._plan(computes, view._given).route is None
    assert _profile.figures(computes) == ()


@pytest.mark.parametrize("settings", [{"auto": "off"}, {"routes": {"auto": "thread"}}])
def test_settings_switch_it_off(settings: Any) -> None:
    with unirun.config(**settings), Executor(2) as ex:
        assert route_of(ex, computes) is None


def test_an_executor_with_an_initializer_keeps_its_calls_on_threads() -> None:
    with Executor(2, initializer=str) as ex:
        assert route_of(ex, computes) is None


def test_a_wrong_word_for_it_is_refused_with_the_right_ones() -> None:
    with pytest.raises(unirun.ConfigError, match="learn, frozen, off"):
        unirun.configure(auto="frosen")


# -- inline ---------------------------------------------------------------------------------------


def test_what_ends_at_once_runs_in_the_caller(ex: OurExecutor) -> None:
    until_inline(ex, short)
    future = ex.submit(short, 4)
    assert future.done()
    assert future.result() == 9
    assert not future.cancel()
    heard: list[Any] = []
    future.add_done_callback(heard.append)
    assert heard == [future]
    assert list(concurrent.futures.as_completed([future])) == [future]


def test_what_it_raises_waits_for_result_and_has_no_frame_of_ours(ex: OurExecutor) -> None:
    until_inline(ex, divides)
    future = ex.submit(divides, 0)
    with pytest.raises(ZeroDivisionError):
        future.result()
    error = future.exception()
    assert error is not None
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1] == "divides"
    assert "unirun/_auto.py" not in "".join(traceback.format_tb(error.__traceback__))


@pytest.mark.parametrize("arg", ["x" * 10, [1], 1 << 64])
def test_with_anything_but_small_numbers_it_does_not(ex: OurExecutor, arg: Any) -> None:
    until_inline(ex, short)
    future = ex.submit(short, arg)
    concurrent.futures.wait([future])
    assert future.info.backend == "thread"


# -- maps -----------------------------------------------------------------------------------------


def test_a_map_of_an_unknown_function_ends_up_on_processes_in_its_order(ex: OurExecutor) -> None:
    end = time.monotonic() + WITHIN

    def inputs() -> Iterator[int]:
        for n in itertools.cycle(range(1000, 3000)):
            _profile.find(_profile.key_of(computes)).gil_share = 1.0
            yield n
            stats = ex.stats().get("process")
            if (stats is not None and stats.finished > 3) or time.monotonic() > end:
                return

    drawn: list[int] = []
    results = list(ex.map(computes, (drawn.append(n) or n for n in inputs())))  # type: ignore[func-returns-value]
    expected = {n: computes(n) for n in set(drawn)}
    assert results == [expected[n] for n in drawn]
    assert ex.stats()["process"].finished > 3


def test_a_map_of_very_short_calls_goes_in_pieces(ex: OurExecutor) -> None:
    assert list(ex.map(short, range(5000))) == list(map(short, range(5000)))
    assert sum(stats.finished for stats in ex.stats().values()) < 2500


def test_a_map_of_what_stays_goes_one_by_one(ex: OurExecutor) -> None:
    before = calls
    assert list(ex.map(counts, [10] * 50)) == [computes(10)] * 50
    assert calls == before + 50
    assert ex.stats()["thread"].finished == 50


def test_a_map_raises_where_the_builtin_one_does(ex: OurExecutor) -> None:
    for _ in range(3):
        results = ex.map(divides, [1, 2, 0, 4])
        assert [next(results), next(results)] == [1, 0.5]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_a_chunksize_that_was_asked_for_is_kept(ex: OurExecutor) -> None:
    assert list(ex.map(short, range(100), chunksize=10)) == list(map(short, range(100)))
    assert ex.stats()["thread"].finished == 10


# -- measuring ------------------------------------------------------------------------------------


def test_a_measured_call_that_fails_has_the_traceback_it_has_elsewhere(ex: OurExecutor) -> None:
    with Executor(1, backend="thread") as plain:
        errors = [each.submit(fails, 10).exception() for each in (ex, plain)]
    found = [[each.name for each in traceback.extract_tb(e.__traceback__)] for e in errors if e]
    assert found[0] == found[1] == ["fails"]


def test_a_measured_call_is_called_by_its_own_name(ex: OurExecutor) -> None:
    go = threading.Event()

    def blocks() -> None:
        go.wait(WITHIN)

    future = ex.submit(blocks)
    while not (names := ex._backends["thread"].running_calls()):
        time.sleep(0)
    go.set()
    future.result()
    assert names == [f"{__name__}.{blocks.__qualname__}"]


def test_calls_that_were_cancelled_are_not_counted_as_under_way(ex: OurExecutor) -> None:
    go = threading.Event()
    held = [ex.options(kind="io").submit(go.wait, WITHIN) for _ in range(2)]
    futures = [ex.submit(computes, 10) for _ in range(5)]
    lessons = route_of(ex, computes)._lessons
    assert lessons._active == 5
    assert all(future.cancel() for future in futures)
    go.set()
    concurrent.futures.wait(held)
    assert ex.submit(computes, 10).result() == computes(10)
    assert lessons._active <= 1


def test_a_dropped_executor_is_not_kept_by_what_it_learned() -> None:
    import weakref

    ex = Executor(1)
    assert ex.submit(computes, 10).result() == computes(10)
    watched = weakref.ref(ex)
    del ex
    assert watched() is None


# -- profiles -------------------------------------------------------------------------------------


def test_a_frozen_profile_is_kept_to_from_the_first_call_on(tmp_path: Any) -> None:
    found = _profile.find(_profile.key_of(computes))
    found.calls, found.seconds, found.cpu_seconds, found.gil_share = 10, 0.001, 0.001, 1.0
    found.calls_on, found.maps_on = "process", "process"
    unirun.profile.save(tmp_path / "profile.json")
    unirun.profile.clear()
    unirun.profile.load(tmp_path / "profile.json")
    before = unirun.profile.functions()
    with unirun.config(auto="frozen"), Executor(1) as ex:
        future = ex.submit(computes, 10)
        assert future.result() == computes(10)
        assert future.info.backend == "process"
        assert ex.submit(sleeps, 0).info.backend == "thread"  # nothing is known of it
    after = unirun.profile.functions()
    assert {key: after[key] for key in before} == before
    assert _profile.figures(sleeps) == ()


def test_a_frozen_choice_that_would_change_the_meaning_is_not_followed() -> None:
    found = _profile.find(_profile.key_of(counts))
    found.calls, found.calls_on, found.maps_on = 10, "process", "process"
    with unirun.config(auto="frozen"), Executor(1) as ex:
        assert ex.submit(counts, 10).info.backend == "thread"
        assert list(ex.map(counts, [10])) == [computes(10)]


def test_what_was_loaded_need_not_be_measured(tmp_path: Any) -> None:
    found = _profile.find(_profile.key_of(computes))
    found.calls, found.seconds, found.cpu_seconds, found.gil_share = 10, 0.001, 0.001, 1.0
    found.parallel = 8
    unirun.profile.save(tmp_path / "profile.json")
    unirun.profile.load(tmp_path / "profile.json")
    with Executor(2) as ex:
        ex.submit(computes, 10).result()
        end = time.monotonic() + WITHIN
        while "process" not in ex.stats() and sys.platform == "linux":
            assert time.monotonic() < end
            ex.submit(computes, 10).result()
