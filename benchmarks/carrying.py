"""What it costs that context variables, seeds and the like travel: calls with none, and with some.

In one process in turns, as for the relay, on the same executor.
"""

import statistics
import time
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any

import unirun
from benchmarks._tasks import nothing
from benchmarks._workload import Figures, Row, Sizes, Workload
from unirun import Executor

user: ContextVar[Any] = ContextVar("user")


def none(contender: str, sizes: Sizes) -> Figures:
    """Calls without any, with the look for them over without."""
    from unirun.backends.process import backend

    looks = backend.is_bare
    with Executor(2, backend="process") as executor:

        def batch(look: bool) -> None:
            backend.is_bare = looks if look else bool  # type: ignore[assignment]  # always true
            _submit(executor, sizes["calls"])

        try:
            return {"look": _ratio(lambda: batch(look=True), lambda: batch(look=False), sizes)}
        finally:
            backend.is_bare = looks


def some(contender: str, sizes: Sizes) -> Figures:
    """Calls with one variable, or a seed, over calls with none."""
    found = {}
    with Executor(2, backend="process") as executor:

        def plain() -> None:
            _submit(executor, sizes["calls"])

        for name, value in (("text", "ann"), ("dict", {"ann": 1})):
            context = Context()
            context.run(user.set, value)
            found[name] = _ratio(
                lambda c=context: c.run(plain), lambda: Context().run(plain), sizes
            )
        with unirun.config(seed=1):
            found["seed"] = _ratio(plain, lambda: Context().run(plain), sizes)
    return found


def _submit(executor: Executor, calls: int) -> None:
    for future in [executor.submit(nothing, n) for n in range(calls)]:
        future.result()


def _ratio(on: Callable[[], object], off: Callable[[], object], sizes: Sizes) -> float:
    on(), off()
    ratios = []
    for n in range(sizes["pairs"]):
        taken = {}
        for run in (on, off) if n % 2 else (off, on):
            start = time.perf_counter()
            run()
            taken[run] = time.perf_counter() - start
        ratios.append(taken[on] / taken[off])
    return statistics.median(ratios)


SIZES: Sizes = {"calls": 2000, "pairs": 31}
QUICK: Sizes = {"calls": 20, "pairs": 1}
WORKLOADS = (
    Workload(
        "travel-none",
        "calls without context variables: time while these are looked for over time while not",
        "",
        none,
        (Row("look", "unirun", None, at_most=1.05),),
        sizes=SIZES,
        quick=QUICK,
        brief={"calls": 1000, "pairs": 11},
    ),
    Workload(
        "travel-some",
        "calls that come with a context variable, or with a seed: time over that of calls without",
        "",
        some,
        (Row("text", "unirun", None), Row("dict", "unirun", None), Row("seed", "unirun", None)),
        sizes=SIZES,
        quick=QUICK,
        brief={"calls": 1000, "pairs": 11},
    ),
)
