"""Figures of a run: for each task, each worker and the whole; pure arithmetic over its calls."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from unirun.report.run import RAN_WELL, Call, Counter, Run

__all__ = ["Figures", "LaneRow", "Lost", "Step", "Tail", "TaskRow", "figures", "percentile"]

SLOWEST = 15
"""How many of the slowest calls are shown."""


class TaskRow(NamedTuple):
    """All calls of one task. Times in seconds; percentiles of those that were drawn one by one."""

    name: str
    calls: int
    drawn: int
    failed: int
    total: float
    mean: float
    p50: float
    p95: float
    longest: float
    wait: float
    """In total, from submit to start."""
    pickling: float
    """In total, of arguments and results, on both sides."""
    work: float
    """In total, without that."""
    bytes_in: int
    bytes_out: int
    cpu: float | None
    """Share of its time that it computed; None: not measured."""
    kind: str
    backend: str
    pieces: int
    """Items, where calls carry several of a map."""


class LaneRow(NamedTuple):
    """One worker."""

    key: tuple[int, int]
    name: str
    process: str
    backend: str
    calls: int
    busy: float
    present: float

    @property
    def share(self) -> float:
        return min(1.0, self.busy / self.present) if self.present > 0 else 0.0

    @property
    def is_worker(self) -> bool:
        """Not a lane of a coroutine, of which there are as many as calls at once."""
        return self.backend != "coroutine"


class Lost(NamedTuple):
    """Where the seconds went, summed over all calls."""

    running: float
    waiting: float
    encode: float
    decode: float
    answer: float
    transfer: float


class Tail(NamedTuple):
    """The time at the end in which one call ran alone."""

    seconds: float
    share: float
    call: Call


class Step(NamedTuple):
    """From `at` on, so many calls waited and so many ran."""

    at: float
    waiting: int
    running: int


class Figures(NamedTuple):
    """What the report shows. Times in seconds from the start of the trace."""

    start: float
    end: float
    calls: int
    failed: int
    tasks: list[TaskRow]
    workers: list[LaneRow]
    slowest: list[Call]
    lost: Lost
    tail: Tail | None
    steps: list[Step]
    cpu: float | None
    """Cores that the program kept busy on average; None: not measured."""
    cores: int
    most_running: int

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def utilisation(self) -> float:
        """Share of the workers' time in which they had a call."""
        rows = [row for row in self.workers if row.is_worker]
        present = sum(row.present for row in rows)
        return sum(row.busy for row in rows) / present if present else 0.0


def figures(run: Run) -> Figures:
    """All figures of that run."""
    start, end = run.span()
    tasks = _tasks(run)
    steps = _steps(run.calls)
    return Figures(
        start=start,
        end=end,
        calls=sum(row.calls for row in tasks),
        failed=sum(row.failed for row in tasks),
        tasks=tasks,
        workers=_workers(run, start, end),
        slowest=sorted(run.calls, key=lambda call: -call.seconds)[:SLOWEST],
        lost=_lost(run.calls),
        tail=_tail(run.calls, steps, end - start),
        steps=steps,
        cpu=_mean_sum(run.counted("cpu"), start, end),
        cores=run.cores,
        most_running=max((step.running for step in steps), default=0),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; 0.0 of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


# -- tasks ----------------------------------------------------------------------------------------


def _tasks(run: Run) -> list[TaskRow]:
    by_name: dict[str, list[Call]] = defaultdict(list)
    for call in run.calls:
        by_name[call.name].append(call)
    summed = {str(each["name"]): each for each in run.summed}
    rows = [
        _task(name, by_name.get(name, []), summed.get(name, {})) for name in {**by_name, **summed}
    ]
    return sorted(rows, key=lambda row: -row.total)


def _task(name: str, calls: list[Call], summed: dict[str, object]) -> TaskRow:
    seconds = sorted(call.seconds for call in calls)
    more, more_seconds = int(_of(summed, "calls")), _of(summed, "seconds")
    count, total = len(calls) + more, sum(seconds) + more_seconds
    measured = [call for call in calls if call.cpu is not None]
    spent = sum(call.seconds for call in measured)
    return TaskRow(
        name=name,
        calls=count,
        drawn=len(calls),
        failed=sum(call.state != RAN_WELL for call in calls) + int(_of(summed, "failed")),
        total=total,
        mean=total / count if count else 0.0,
        p50=percentile(seconds, 0.5),
        p95=percentile(seconds, 0.95),
        longest=max([*seconds[-1:], _of(summed, "longest")]),
        wait=sum(call.wait for call in calls),
        pickling=sum(call.pickling for call in calls),
        work=sum(call.work for call in calls) + more_seconds,
        bytes_in=sum(call.bytes_in for call in calls),
        bytes_out=sum(call.bytes_out for call in calls),
        cpu=sum(call.cpu or 0.0 for call in measured) / spent if spent else None,
        kind=_usual(call.kind for call in calls),
        backend=_usual(call.backend for call in calls),
        pieces=sum(call.pieces for call in calls) + more,
    )


def _of(summed: dict[str, object], key: str) -> float:
    value = summed.get(key)
    fine = isinstance(value, int | float) and math.isfinite(value) and value > 0
    return float(value) if fine else 0.0  # type: ignore[arg-type]


def _usual(words: Iterable[str]) -> str:
    counts: dict[str, int] = defaultdict(int)
    for word in words:
        counts[word] += 1
    return max(counts, key=counts.__getitem__, default="")


# -- workers --------------------------------------------------------------------------------------


def _workers(run: Run, start: float, end: float) -> list[LaneRow]:
    by_lane: dict[tuple[int, int], list[Call]] = defaultdict(list)
    for call in run.calls:
        by_lane[call.lane].append(call)
    rows = []
    for key, calls in sorted(by_lane.items()):
        lane = run.lanes[key]
        first = start if lane.born is None else min(max(start, lane.born), calls[0].start)
        last = end if lane.died is None else max(min(end, lane.died), calls[-1].end)
        backend = _usual(call.backend for call in calls)
        busy = _covered((call.start, call.end) for call in calls)
        present = max(last - first, busy)
        rows.append(LaneRow(key, lane.name, lane.process, backend, len(calls), busy, present))
    return rows


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Seconds in at least one of them; they come in the order of their starts."""
    total, reached = 0.0, -math.inf
    for start, end in intervals:
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total


# -- the whole ------------------------------------------------------------------------------------


def _lost(calls: list[Call]) -> Lost:
    return Lost(
        running=sum(call.work for call in calls),
        waiting=sum(call.wait for call in calls),
        encode=sum(call.encode for call in calls),
        decode=sum(call.decode for call in calls),
        answer=sum(call.answer for call in calls),
        transfer=sum(call.transfer for call in calls),
    )


def _steps(calls: list[Call]) -> list[Step]:
    changes: dict[float, list[int]] = defaultdict(lambda: [0, 0])
    for call in calls:
        changes[call.start - call.wait][0] += 1
        changes[call.start][0] -= 1
        changes[call.start][1] += 1
        changes[call.end][1] -= 1
    steps, waiting, running = [], 0, 0
    for at in sorted(changes):
        waiting += changes[at][0]
        running += changes[at][1]
        steps.append(Step(at, waiting, running))
    return steps


def _tail(calls: list[Call], steps: list[Step], seconds: float) -> Tail | None:
    """A call that waits for others it has submitted is not alone: they run, too."""
    if len(calls) < 2 or seconds <= 0:
        return None
    alone = steps[-1].at
    for step in reversed(steps[:-1]):
        if step.running != 1 or step.waiting:
            break
        alone = step.at
    last = max(calls, key=lambda call: call.end)
    length = last.end - max(alone, last.start)
    return Tail(length, length / seconds, last) if length > 0 else None


def _mean_sum(counters: Iterable[Counter], start: float, end: float) -> float | None:
    """The mean over that time of the sum of them."""
    total, found = 0.0, False
    for counter in counters:
        points = [(at, value) for at, value in counter.points if start <= at <= end]
        for (before, _), (at, value) in itertools.pairwise(points):
            total += value * (at - before)
            found = True
    return total / (end - start) if found and end > start else None


def as_data(found: Figures) -> dict[str, Any]:
    """For programs: plain values only."""
    data = found._asdict()
    del data["steps"]
    data["tasks"] = [row._asdict() for row in found.tasks]
    data["workers"] = [{**row._asdict(), "share": row.share} for row in found.workers]
    data["slowest"] = [call._asdict() for call in found.slowest]
    data["lost"] = found.lost._asdict()
    data["tail"] = found.tail and {**found.tail._asdict(), "call": found.tail.call._asdict()}
    return {**data, "seconds": found.seconds, "utilisation": found.utilisation}
