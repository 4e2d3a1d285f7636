"""Each rule of the report's advice: a run that earns it, and a near one that does not."""

import pytest
from traces import PID, Story, run_of

from unirun.report.advice import RULES, advice
from unirun.report.figures import figures


def said(story):
    run = run_of(story)
    return {each.rule: each for each in advice(run, figures(run))}


def many(count, took, *, workers=4, gap=0.0, first=1.0, **known):
    """So many calls, one after the other on each worker."""
    story = known.pop("story", None) or Story()
    for n in range(count):
        start = first + (n // workers) * (took + gap)
        story.call(start, start + took, worker=201 + n % workers, **known)
    return story


def with_cpu(story, cores):
    story.count("CPU", PID, {1.0 + 0.05 * n: cores for n in range(220)}, "cpu")
    return story


def test_large_arguments_that_are_sent_often():
    found = said(many(400, 0.1, bytes_in=80_000_000, packing=0.02))["large_arguments"]
    assert found.what == "work: arguments of 80 MB sent 400 times"
    assert found.why == "32 GB in all, and 8 s for it"


@pytest.mark.parametrize(
    "story",
    [
        lambda: many(400, 0.1, bytes_in=80_000),  # small
        lambda: many(4, 0.1, bytes_in=20_000_000),  # seldom
        lambda: many(40, 0.5, bytes_in=2_000_000, packing=0.001),  # cheap
        lambda: many(400, 0.1, bytes_in=80_000_000, backend="thread"),  # not sent
    ],
)
def test_no_advice_on_arguments_that_cost_little(story):
    assert "large_arguments" not in said(story())


def test_large_results_that_come_often():
    found = said(many(100, 0.1, bytes_out=5_000_000))["large_results"]
    assert found.what == "work: results of 5 MB came back 100 times"


def test_no_advice_on_small_results():
    assert "large_results" not in said(many(100, 0.1, bytes_out=50_000))


def test_pickling_that_takes_longer_than_running():
    found = said(many(100, 0.012, packing=0.02, unpacking=0.005))["pickling_longer_than_work"]
    assert "2.5 s for its data, 700 ms for the work" in found.why


def test_no_advice_on_pickling_that_is_shorter_than_running():
    assert "pickling_longer_than_work" not in said(many(100, 0.05, packing=0.02, unpacking=0.005))


def test_tiny_calls_in_processes():
    found = said(many(1000, 20e-6, gap=1e-4))["tiny_calls"]
    assert found.what == "work: 1,000 calls of 20 us each"
    assert "map()" in found.do


@pytest.mark.parametrize(
    "story",
    [
        lambda: many(1000, 2e-3),  # long enough
        lambda: many(50, 20e-6),  # few
        lambda: many(1000, 20e-6, items=50),  # pieces of a map
        lambda: many(1000, 20e-6, backend="thread"),  # threads cost little
    ],
)
def test_no_advice_on_calls_that_are_worth_sending(story):
    assert "tiny_calls" not in said(story())


def test_workers_that_are_idle_as_too_few_calls_are_there():
    found = said(many(80, 0.03, workers=8, gap=0.07))["idle_workers"]
    assert found.what == "8 workers were idle 68 % of the time"
    assert "too few are there" in found.why


def test_workers_that_are_idle_although_calls_wait():
    found = said(many(80, 0.03, workers=8, gap=0.07, queued=1.0))["idle_workers"]
    assert "although calls waited" in found.why


@pytest.mark.parametrize(
    "story",
    [
        lambda: many(80, 0.09, workers=8, gap=0.01),  # busy
        lambda: many(80, 0.03, workers=1, gap=0.07),  # one worker
        lambda: many(16, 0.003, workers=8, gap=0.007),  # a moment
    ],
)
def test_no_advice_on_workers_that_are_busy(story):
    assert "idle_workers" not in said(story())


def straggling(last):
    story = many(8, 1.0)
    story.call(3.0, 3.0 + last, task="slow")
    return story


def test_a_call_that_runs_alone_at_the_end():
    found = said(straggling(3.0))
    assert found["straggler"].what == "slow was the straggler: it ran alone for the last 60 %"
    assert "idle_workers" not in found  # it is the reason


def test_no_advice_on_a_short_end_or_on_one_call_after_the_other():
    assert "straggler" not in said(straggling(0.3))
    assert "straggler" not in said(many(3, 1.0, workers=1))


def test_workers_that_are_busy_while_cores_are_idle():
    story = many(40, 1.0, queued=1.0, kind="io", backend="thread")
    found = said(with_cpu(story, 0.5))["more_workers"]
    assert "0.5 of 4 cores" in found.why


def test_no_advice_to_have_more_workers_where_cores_are_busy_or_nobody_waits():
    assert "more_workers" not in said(with_cpu(many(40, 1.0, queued=1.0), 3.8))
    assert "more_workers" not in said(with_cpu(many(40, 1.0), 0.5))
    assert "more_workers" not in said(many(40, 1.0, queued=1.0))  # not measured


def test_a_computing_function_that_waits():
    found = said(many(40, 0.1, cpu=0.01))["waits_as_cpu"]
    assert found.what == "work has kind 'cpu' and waits 90 % of its time"
    assert "kind='io'" in found.do


@pytest.mark.parametrize(
    "story",
    [
        lambda: many(40, 0.1, cpu=0.08),  # computes
        lambda: many(40, 0.1),  # not measured
        lambda: many(40, 0.1, cpu=0.01, kind="io", backend="thread"),  # as it should be
        lambda: many(10, 0.001, cpu=0.0),  # too little to tell
    ],
)
def test_no_advice_on_kinds_that_fit(story):
    assert "waits_as_cpu" not in said(story())


def test_a_waiting_function_that_computes_in_threads():
    found = said(many(40, 0.1, cpu=0.095, kind="io", backend="thread"))["computes_as_io"]
    assert found.what == "work has kind 'io' and computes 95 % of its time"


def test_no_advice_on_threads_that_wait():
    assert "computes_as_io" not in said(many(40, 0.1, cpu=0.05, kind="io", backend="thread"))
    assert "computes_as_io" not in said(many(40, 0.1, cpu=0.095))  # in processes


def test_time_that_goes_into_calls_that_fail():
    story = many(40, 0.5)
    many(20, 0.5, what="failed", error="OSError", first=10.0, story=story)
    found = said(story)["wasted_attempts"]
    assert found.what == "33 % of the workers' time went into calls that failed"
    assert "20 calls, 10 s; most of it in work (OSError)" in found.why


def test_no_advice_on_failures_that_cost_little():
    story = many(40, 0.5)
    many(4, 0.05, what="failed", error="OSError", first=10.0, story=story)
    assert "wasted_attempts" not in said(story)


def test_workers_that_die():
    story = many(4, 0.5)
    story.tell("worker_died", 2.0, pid=201, worker="pid 201", exitcode=-11)
    assert said(story)["dying_workers"].why == "signal 11"


def test_no_advice_on_workers_that_end():
    story = many(4, 0.5)
    story.tell("worker_ended", 2.0, pid=201, worker="pid 201", exitcode=83)
    assert "dying_workers" not in said(story)


def lives(workers, calls):
    story = Story()
    for n in range(workers):
        for k in range(calls):
            story.call(1.0 + n + 0.1 * k, 1.05 + n + 0.1 * k, worker=300 + n)
    return story


def test_processes_that_are_made_for_a_call_each():
    assert said(lives(20, 1))["short_lives"].what == "20 worker processes ran 20 calls"


def test_no_advice_on_workers_that_live_long():
    assert "short_lives" not in said(lives(20, 8))
    assert "short_lives" not in said(lives(4, 1))


def growing(values):
    story = many(4, 2.0)
    story.count("memory", 201, {0.2 * n: value for n, value in enumerate(values)}, "memory")
    return story


def test_a_worker_that_only_grows():
    found = said(growing([100e6 + n * 40e6 for n in range(24)]))["growing_workers"]
    assert found.what.startswith("a worker grew from 300 MB to ")


def test_no_advice_on_memory_that_falls_again_or_grows_little():
    assert "growing_workers" not in said(growing([100e6, 900e6] * 12))
    assert "growing_workers" not in said(growing([500e6 + n * 1e6 for n in range(24)]))


def test_a_good_run_has_no_advice():
    assert said(with_cpu(many(80, 0.2, cpu=0.19, bytes_in=400, packing=1e-5), 3.9)) == {}


def test_the_weightiest_advice_comes_first():
    story = many(400, 0.1, bytes_in=80_000_000, packing=0.02, cpu=0.001)
    run = run_of(story)
    weights = [each.weight for each in advice(run, figures(run))]
    assert len(weights) >= 2
    assert weights == sorted(weights, reverse=True)


def test_every_rule_is_tested_here_by_its_name():
    text = (__import__("pathlib").Path(__file__)).read_text()
    missing = [rule.__name__ for rule in RULES if text.count(f'"{rule.__name__}"') < 2]
    assert missing == []
