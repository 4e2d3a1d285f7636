"""What `kind="auto"` measures, what it makes of that, and where it expects calls to end soonest."""

import threading
import time

import pytest

from unirun import _profile
from unirun._forecast import Place, best, enough_to_start
from unirun._gauge import PROBE, Probe, Sample, weigh
from unirun._lessons import DRIFT, ENOUGH, FIRST, LONG, ODD, Lessons

WITHIN = 30.0  # seconds that what has to happen some time may take on a busy machine


def computes(n: int) -> int:
    return sum(i * i for i in range(n))


def test_the_probe_tells_who_holds_the_gil() -> None:
    """Whatever else the machine does; three tries, in case it is very busy."""
    for _ in range(3):
        shares = []
        for work in (lambda: computes(400_000), lambda: time.sleep(0.03)):
            probe = Probe()
            assert probe.enter(work) == (0, 0)
            work()
            time.sleep(0.002)  # it may have to wait for us to let it look
            held, looked = probe.leave()
            shares.append(held / max(looked, 1e-9))
        if shares[0] > 0.5 > shares[1]:
            return
    pytest.fail(f"held while computing: {shares[0]}, while asleep: {shares[1]}")


def test_the_probe_ends_when_nobody_asks() -> None:
    PROBE.enter(None)
    assert any(thread.name == "unirun-probe" for thread in threading.enumerate())
    PROBE.leave()
    end = time.monotonic() + WITHIN
    while any(thread.name == "unirun-probe" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_value_is_weighed_by_a_few_of_its_parts() -> None:
    import pickle

    for value in (b"x" * 10_000, "x" * 500, list(range(1000)), {n: [n] for n in range(300)}, 7):
        size, _ = weigh(value)
        assert 0.2 < size / len(pickle.dumps(value, 5)) < 5


def test_a_call_of_another_kind_is_no_average_with_those_before() -> None:
    lessons = Lessons(_profile.Figures("a:b"))
    for cpu in [0.01] * ENOUGH + [0.01 * DRIFT * 2] * ODD:
        sample = Sample(1)
        sample.cpu = sample.wall = cpu
        lessons.begin()
        lessons.end(sample, (), ())
    assert lessons.known.cpu_seconds == pytest.approx(0.01 * DRIFT * 2)
    assert not lessons.are_enough(gil_matters=False)


def test_one_call_that_is_unlike_the_others_changes_nothing() -> None:
    lessons = Lessons(_profile.Figures("a:b"))
    for cpu in [0.01] * ENOUGH + [1.0] + [0.01]:
        sample = Sample(1)
        sample.cpu = sample.wall = cpu
        lessons.begin()
        lessons.end(sample, (), ())
    assert lessons.known.cpu_seconds == pytest.approx(0.01)
    assert lessons.are_enough(gil_matters=False)


def test_short_calls_are_measured_more_often_than_long_ones() -> None:
    for cpu, many in ((LONG * 10, ENOUGH), (LONG / 10, FIRST)):
        lessons, made = Lessons(_profile.Figures("a:b")), 0
        while not lessons.are_enough(gil_matters=False):
            sample = Sample(1)
            sample.cpu = sample.wall = cpu
            lessons.begin()
            lessons.end(sample, (), ())
            made += 1
        assert made == many


# -- the forecast ---------------------------------------------------------------------------------

TWO = Place(cores=2, threads=6, processes=2)
FOUR = Place(cores=4, threads=8, processes=4)
ONE_CORE = Place(cores=1, threads=5, processes=1)
FREE = Place(cores=4, threads=8, processes=4, gil=False)


def figures(
    seconds: float, cpu: float, gil: float | None = None, size: float = 20, parallel: int = 50
) -> _profile.Figures:
    made = _profile.Figures("a:b")
    made.calls, made.seconds, made.cpu_seconds, made.gil_share = 10, seconds, cpu, gil
    made.bytes_in, made.objects, made.parallel = size, 2, parallel
    return made


@pytest.mark.parametrize(
    ("known", "place", "calls_on", "maps_on"),
    [
        (figures(0.01, 0.01, 1.0), TWO, "process", "process"),
        (figures(0.01, 0.01, 1.0), ONE_CORE, "thread", "thread"),
        (figures(0.01, 0.01, 1.0), FREE, "thread", "thread"),
        (figures(0.01, 0.01, 1.0, parallel=1), TWO, "thread", "process"),
        (figures(0.01, 0.01, 0.05), TWO, "thread", "thread"),
        (figures(0.01, 0.0001, 1.0), TWO, "thread", "thread"),
        (figures(0.01, 0.009, 1.0), FOUR, "process", "process"),
        (figures(0.01, 0.01, 1.0, size=100e6), TWO, "thread", "thread"),
        (figures(1e-6, 1e-6), TWO, "thread", "thread"),
        (figures(5e-6, 5e-6), TWO, "thread", "process"),
        (figures(1e-4, 1e-4), TWO, "process", "process"),
    ],
)
def test_the_place_with_the_earliest_end_is_chosen(
    known: _profile.Figures, place: Place, calls_on: str, maps_on: str
) -> None:
    assert best(known, place, in_map=False).place == calls_on
    assert best(known, place, in_map=True).place == maps_on


def test_a_small_gain_changes_nothing_either_way() -> None:
    known = figures(0.01, 0.01, 0.55)
    assert best(known, TWO, in_map=False, now="thread").place == "thread"
    assert best(known, TWO, in_map=False, now="process").place == "process"


def test_processes_are_started_only_for_what_is_worth_it() -> None:
    assert not enough_to_start(0.001)
    assert enough_to_start(1.0)
