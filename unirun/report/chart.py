"""The pictures that need no script: load over time, and when each worker was busy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from unirun.report.figures import Figures, Step
from unirun.report.markup import text
from unirun.report.run import Run
from unirun.report.words import seconds

__all__ = ["lanes_chart", "load_chart"]

WIDTH, HEIGHT = 1000, 100
BINS = 500
ROW, MOST_ROWS = 16, 60


def load_chart(found: Figures) -> str:
    """How many calls ran and waited, as two areas; each to its own height."""
    running = _binned(found, lambda step: step.running)
    waiting = _binned(found, lambda step: step.waiting)
    most_running, most_waiting = max(running, default=0.0), max(waiting, default=0.0)
    label = (
        f"calls over {seconds(found.seconds)}: at most {found.most_running} ran at once, and about "
        f"{most_waiting:.0f} waited"
    )
    return (
        f"<svg id='load' viewBox='0 0 {WIDTH} {HEIGHT}' preserveAspectRatio='none' role='img' "
        f"aria-label='{text(label)}'>"
        f"<path class='running' d='{_area(running, most_running)}'/>"
        f"<path class='waiting' d='{_area(waiting, most_waiting)}'/></svg>"
    )


def _binned(found: Figures, of: Callable[[Step], int]) -> list[float]:
    """The mean of each part of the time."""
    if found.seconds <= 0:
        return []
    width = found.seconds / BINS
    bins = [0.0] * BINS
    for step, after in zip(found.steps, found.steps[1:], strict=False):
        value = of(step)
        if value:
            _spread(bins, (step.at - found.start) / width, (after.at - found.start) / width, value)
    return bins


def _spread(bins: list[float], start: float, end: float, value: float) -> None:
    first, last = max(0, int(start)), min(BINS - 1, int(end))
    for n in range(first, last + 1):
        bins[n] += value * max(0.0, min(end, n + 1) - max(start, n))


def _area(bins: list[float], most: float) -> str:
    if not bins or most <= 0:
        return "M0 0"
    step = WIDTH / BINS
    points = [f"M0 {HEIGHT}"]
    for n, value in enumerate(bins):
        y = HEIGHT - value / most * (HEIGHT - 4)
        points.append(f"L{n * step:.0f} {y:.1f}H{(n + 1) * step:.0f}")
    return "".join([*points, f"V{HEIGHT}Z"])


def lanes_chart(run: Run, found: Figures) -> str:
    """When each worker was busy, and where calls failed; the first ones, if they are many."""
    if found.seconds <= 0:
        return ""
    fine: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    failed: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for call in run.calls:
        ends = (call.start - found.start) / found.seconds, (call.end - found.start) / found.seconds
        (fine if call.state == "finished" else failed)[call.lane].append(ends)
    rows = found.workers[:MOST_ROWS]
    body = [
        f"<text x='0' y='{n * ROW + 11}'>{text(row.name)}</text>"
        f"<path class='busy' d='{_spans(fine[row.key], n)}'/>"
        f"<path class='failed' d='{_spans(failed[row.key], n)}'/>"
        for n, row in enumerate(rows)
    ]
    height = ROW * max(1, len(rows))
    return (
        f"<svg viewBox='0 0 {WIDTH + 150} {height}' role='img' aria-label='when workers were busy'>"
        f"{''.join(body)}</svg>"
    )


def _spans(ends: Iterable[tuple[float, float]], row: int) -> str:
    """Rectangles in whole units, those that touch joined."""
    joined: list[list[int]] = []
    for start, end in sorted(ends):
        left = int(start * WIDTH)
        right = max(left + 1, int(end * WIDTH))
        if joined and left <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], right)
        else:
            joined.append([left, right])
    top = row * ROW + 2
    return "".join(f"M{150 + a} {top}H{150 + b}v{ROW - 4}H{150 + a}Z" for a, b in joined) or "M0 0"
