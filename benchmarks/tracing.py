"""What a trace costs the calls that are traced: the same batch with it and without, in turns.

Pairs in one process, since what changes from process to process is more than what is looked for.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import unirun
from benchmarks._workload import Figures, Row, Sizes, Workload

KINDS = {"process": "cpu", "thread": "io"}


def compute(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def wait(seconds: float) -> None:
    time.sleep(seconds)


def cost(contender: str, sizes: Sizes) -> Figures:
    """Time of a batch of calls with a trace over that without, for calls of 1 ms."""
    found: Figures = {}
    with tempfile.TemporaryDirectory() as folder, unirun.Executor(2) as executor:
        for backend, work in (("process", compute), ("thread", wait)):
            view = executor.options(kind=KINDS[backend])

            def batch(work: Callable[[float], None] = work, view: object = view) -> None:
                futures = [view.submit(work, 0.001) for _ in range(sizes["calls"])]  # type: ignore[attr-defined]
                for future in futures:
                    future.result()

            batch()  # all workers are there
            _pair(batch, Path(folder, "run.json"), first=True)  # and all is imported
            ratios, spent = [], []
            for n in range(sizes["pairs"]):
                pair = _pair(batch, Path(folder, "run.json"), first=n % 2 == 0)
                ratios.append(pair[0])
                spent.append(pair[1] / sizes["calls"])
            found[f"{backend} time"] = statistics.median(ratios)
            found[f"{backend} us of CPU"] = statistics.median(spent) * 1e6
    return found


def _pair(batch: Callable[[], None], file: Path, *, first: bool) -> tuple[float, float]:
    """Time with over time without, and how much more CPU the program itself used."""
    taken = {}
    for traced in (first, not first):
        start, used = time.perf_counter(), time.process_time()
        if traced:
            with unirun.trace(file):
                batch()
                taken[traced] = time.perf_counter() - start, 0.0
            taken[traced] = taken[traced][0], time.process_time() - used
        else:
            batch()
            taken[traced] = time.perf_counter() - start, time.process_time() - used
    return taken[True][0] / taken[False][0], taken[True][1] - taken[False][1]


WORKLOADS = (
    Workload(
        "trace-cost",
        "calls of 1 ms on two workers: time while they are traced over time while not, and "
        "what that takes of the program's CPU for a call",
        "",
        cost,
        (
            Row("process time", "unirun", None, at_most=1.03),
            Row("thread time", "unirun", None, at_most=1.03),
            Row("process us of CPU", "unirun", None),
            Row("thread us of CPU", "unirun", None),
        ),
        sizes={"calls": 400, "pairs": 15},
        quick={"calls": 10, "pairs": 1},
        brief={"calls": 200, "pairs": 5},
    ),
)
