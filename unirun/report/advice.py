"""What could be better about a run, by rules over its measured figures.

Each rule is a function from the figures to pieces of advice, and says nothing unless the figures
do: a rule that is right four times in five is worse than none.  Its limits stand as constants
above it.  Advice names the measured amounts, and one thing to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from unirun.report.figures import Figures, TaskRow
from unirun.report.run import Run
from unirun.report.words import bytes_, count, seconds, share

__all__ = ["Advice", "advice"]


class Advice(NamedTuple):
    """One thing to look at."""

    rule: str
    """The name of the rule, for programs."""
    what: str
    why: str
    do: str
    weight: float
    """Seconds of workers' time it is about; the list is sorted by it."""


def advice(run: Run, found: Figures) -> list[Advice]:
    """All there is, the weightiest first."""
    said = [each for rule in RULES for each in rule(run, found)]
    return sorted(said, key=lambda each: -each.weight)


# -- what travels ---------------------------------------------------------------------------------

LARGE = 1_000_000
OFTEN = 5
MUCH = 100_000_000
PICKLING_SHARE = 0.05


def large_arguments(run: Run, found: Figures) -> Iterator[Advice]:
    for row in _remote(found):
        mean = row.bytes_in / row.drawn if row.drawn else 0
        spent = sum(
            call.encode + call.decode
            for call in run.calls
            if call.name == row.name and call.bytes_in >= LARGE
        )
        if mean < LARGE or row.drawn < OFTEN:
            continue
        if row.bytes_in >= MUCH or spent >= PICKLING_SHARE * row.total:
            yield Advice(
                "large_arguments",
                f"{row.name}: arguments of {bytes_(mean)} sent {row.drawn:,} times",
                f"{bytes_(row.bytes_in)} in all{_time_of(spent)}",
                "send what stays the same once, by Executor(initializer=, initargs=), or send the "
                "name of a file that the calls read themselves",
                spent,
            )


def large_results(run: Run, found: Figures) -> Iterator[Advice]:
    for row in _remote(found):
        mean = row.bytes_out / row.drawn if row.drawn else 0
        if mean < LARGE or row.drawn < OFTEN:
            continue
        spent = sum(call.answer for call in run.calls if call.name == row.name)
        if row.bytes_out >= MUCH or spent >= PICKLING_SHARE * row.total:
            yield Advice(
                "large_results",
                f"{row.name}: results of {bytes_(mean)} came back {row.drawn:,} times",
                f"{bytes_(row.bytes_out)} in all{_time_of(spent)}",
                "return what is needed of it, or have the calls write files and return their names",
                spent,
            )


LONGER = 1.0
WORTH = 0.05


def pickling_longer_than_work(run: Run, found: Figures) -> Iterator[Advice]:
    for row in _remote(found):
        if row.pickling >= WORTH and row.pickling > LONGER * row.work:
            yield Advice(
                "pickling_longer_than_work",
                f"{row.name}: pickling takes longer than running",
                f"{seconds(row.pickling)} for its data, {seconds(row.work)} for the work",
                "do more in each call, send less, or run it where nothing is copied: "
                "options(kind='io') or backend='thread'",
                row.pickling,
            )


def _remote(found: Figures) -> list[TaskRow]:
    return [row for row in found.tasks if row.backend not in ("thread", "inline", "coroutine")]


def _time_of(spent: float) -> str:
    return f", and {seconds(spent)} for it" if spent > 0 else ""


TINY = 200e-6
MANY = 200


def tiny_calls(run: Run, found: Figures) -> Iterator[Advice]:
    """Calls so short that sending each costs more; a map sends many at once."""
    for row in _remote(found):
        if row.drawn < MANY or row.p50 >= TINY or row.pieces > row.calls:
            continue
        yield Advice(
            "tiny_calls",
            f"{row.name}: {row.calls:,} calls of {seconds(row.p50)} each",
            "sending a call and its result costs about as much",
            "use map(), which sends many at once, or do more in each call",
            row.total,
        )


# -- who waits ------------------------------------------------------------------------------------

IDLE = 0.5
LONG_ENOUGH = 0.2
"""Seconds of a run below which start-up explains everything."""
LATE = 0.25
"""The share of the time that a call runs alone at the end, from which on it is the reason."""


def idle_workers(run: Run, found: Figures) -> Iterator[Advice]:
    workers = [row for row in found.workers if row.is_worker and row.backend != "inline"]
    present = sum(row.present for row in workers)
    if len(workers) < 2 or found.seconds < LONG_ENOUGH or present <= 0:
        return
    idle = 1 - sum(row.busy for row in workers) / present
    is_late = found.tail is not None and found.tail.share >= LATE
    if idle < IDLE or is_late:  # the straggler is the reason then, and has a rule of its own
        return
    queued = _share_of_time(found, lambda waiting: waiting > 0)
    if queued < 0.5:
        why = f"calls waited for a worker only {share(queued)} of the time: too few are there"
        do = "submit more at once, with map() or before the first result(); or use fewer workers"
    else:
        why = (
            f"although calls waited {share(queued)} of the time: starting workers or sending calls "
            "one by one held them up"
        )
        do = "do more in each call, or use map(), which sends many at once"
    yield Advice(
        "idle_workers",
        f"{count(len(workers), 'worker')} were idle {share(idle)} of the time",
        why,
        do,
        idle * present,
    )


def _share_of_time(found: Figures, holds: Callable[[int], bool]) -> float:
    total = 0.0
    for step, after in zip(found.steps, found.steps[1:], strict=False):
        if holds(step.waiting):
            total += after.at - step.at
    return total / found.seconds if found.seconds else 0.0


def straggler(run: Run, found: Figures) -> Iterator[Advice]:
    tail = found.tail
    if tail is None or tail.share < LATE or found.seconds < LONG_ENOUGH:
        return
    if found.most_running < 2:  # one after the other by design
        return
    yield Advice(
        "straggler",
        f"{tail.call.name} was the straggler: it ran alone for the last {share(tail.share)}",
        f"{seconds(tail.seconds)} of {seconds(found.seconds)}; it took "
        f"{seconds(tail.call.seconds)} in all",
        "submit the longest calls first, or give them options(priority=1); or split this one",
        tail.seconds * (found.most_running - 1),
    )


FULL = 0.9
UNUSED_CPU = 0.5


def more_workers(run: Run, found: Figures) -> Iterator[Advice]:
    """All workers are busy, calls wait, and the cores have nothing to do."""
    if found.cpu is None or found.seconds < LONG_ENOUGH or not found.workers:
        return
    queued = _share_of_time(found, lambda waiting: waiting > 0)
    if found.utilisation >= FULL and found.cpu <= UNUSED_CPU * found.cores and queued >= 0.5:
        yield Advice(
            "more_workers",
            "all workers were busy while cores were idle",
            f"{found.cpu:.1f} of {count(found.cores, 'core')} worked on average; calls waited "
            f"{share(queued)} of the time",
            f"more workers than {found.most_running}: Executor(max_workers=...)",
            found.lost.waiting,
        )


# -- what kind ------------------------------------------------------------------------------------

WAITS = 0.2
COMPUTES = 0.9
ENOUGH = 0.2
"""Seconds of measured calls, below which a share says little."""


def waits_as_cpu(run: Run, found: Figures) -> Iterator[Advice]:
    """A function taken for a computing one that waits most of the time."""
    for row in found.tasks:
        if row.kind != "cpu" or row.cpu is None or row.total < ENOUGH or row.cpu > WAITS:
            continue
        yield Advice(
            "waits_as_cpu",
            f"{row.name} has kind 'cpu' and waits {share(1 - row.cpu)} of its time",
            f"{seconds(row.total * (1 - row.cpu))} of {seconds(row.total)} in processes, "
            "of which there are as many as cores",
            "use kind='io': threads are cheaper to wait in, and there may be more of them",
            row.total * (1 - row.cpu),
        )


def computes_as_io(run: Run, found: Figures) -> Iterator[Advice]:
    """A function taken for a waiting one that computes, in threads that share one interpreter."""
    for row in found.tasks:
        threads = row.backend == "thread" and row.kind == "io" and found.most_running > 1
        if not threads or row.cpu is None or row.total < ENOUGH or row.cpu < COMPUTES:
            continue
        yield Advice(
            "computes_as_io",
            f"{row.name} has kind 'io' and computes {share(row.cpu)} of its time",
            f"{seconds(row.total * row.cpu)} of computing in threads, which take turns",
            "use kind='cpu' (or 'native', if it computes outside of the interpreter's lock)",
            row.total * row.cpu,
        )


# -- what goes wrong ------------------------------------------------------------------------------

WASTED = 0.1
DEATHS = ("worker_died", "crashed", "killed", "timed_out")


def wasted_attempts(run: Run, found: Figures) -> Iterator[Advice]:
    """Time of workers spent on attempts that failed."""
    failed = [call for call in run.calls if call.state != "finished"]
    lost = sum(call.seconds for call in failed)
    if not failed or lost < LONG_ENOUGH or lost < WASTED * found.lost.running:
        return
    worst = max({call.name for call in failed}, key=lambda name: _lost_by(run, name))
    reasons = sorted({call.error or call.state for call in failed})[:3]
    yield Advice(
        "wasted_attempts",
        f"{share(lost / found.lost.running)} of the workers' time went into calls that failed",
        f"{count(len(failed), 'call')}, {seconds(lost)}; most of it in {worst} "
        f"({', '.join(reasons)})",
        "look at these first; where a failure is expected, find it out before the long work",
        lost,
    )


def _lost_by(run: Run, name: str) -> float:
    return sum(call.seconds for call in run.calls if call.name == name and call.state != "finished")


def dying_workers(run: Run, found: Figures) -> Iterator[Advice]:
    deaths = [mark for mark in run.marks if mark.kind == "worker_died"]
    if deaths:
        details = sorted({mark.detail for mark in deaths if mark.detail})[:2]
        yield Advice(
            "dying_workers",
            f"{count(len(deaths), 'worker')} died by itself"
            if len(deaths) == 1
            else f"{count(len(deaths), 'worker')} died by themselves",
            "; ".join(details) or "the trace does not say of what",
            "look at the marks in the timeline; docs/reliability.md says what each death means",
            found.seconds,
        )


FEW_CALLS = 3
MANY_WORKERS = 8


def short_lives(run: Run, found: Figures) -> Iterator[Advice]:
    """Processes made for a call or two each."""
    made = [row for row in found.workers if row.backend not in ("thread", "coroutine", "inline")]
    calls = sum(row.calls for row in made)
    if len(made) < MANY_WORKERS or len(made) <= 2 * found.most_running:
        return
    if calls <= FEW_CALLS * len(made):
        yield Advice(
            "short_lives",
            f"{len(made):,} worker processes ran {count(calls, 'call')}",
            "each start costs tens of milliseconds and the imports of the function's modules",
            "raise max_tasks_per_child, max_worker_rss or idle_timeout, whichever replaces them",
            0.03 * len(made),
        )


GROWTH = 2.0
GROWN = 200_000_000


def growing_workers(run: Run, found: Figures) -> Iterator[Advice]:
    """A worker's memory that only grows, to a multiple of what it was."""
    worst = (0.0, 0.0)
    for counter in run.counted("memory"):
        values = [value for _, value in counter.points]
        if len(values) < 8 or counter.pid == run.about.get("pid"):
            continue
        early, late = max(values[: len(values) // 4]), min(values[-(len(values) // 4) :])
        if late - early > worst[1] - worst[0] and _only_grows(values):
            worst = (early, late)
    early, late = worst
    if late - early >= GROWN and late >= GROWTH * early:
        yield Advice(
            "growing_workers",
            f"a worker grew from {bytes_(early)} to {bytes_(late)}",
            "and its memory did not fall between calls",
            "look for what the calls leave behind (caches, globals); or max_worker_rss='2GiB', "
            "which replaces such a worker after a call",
            0.0,
        )


def _only_grows(values: list[float]) -> bool:
    quarter = max(1, len(values) // 4)
    lows = [min(values[n : n + quarter]) for n in range(0, len(values), quarter)]
    return all(after >= before for before, after in itertools.pairwise(lows))


RULES: tuple[Callable[[Run, Figures], Iterator[Advice]], ...] = (
    large_arguments,
    large_results,
    pickling_longer_than_work,
    tiny_calls,
    idle_workers,
    straggler,
    more_workers,
    waits_as_cpu,
    computes_as_io,
    wasted_attempts,
    dying_workers,
    short_lives,
    growing_workers,
)
