"""Item 11: the figures, from small runs and against generous limits.

The real ones come from `python -m benchmarks --only reliability`, on a machine that does nothing
else; a test must not fail because its machine is busy.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks/ is never installed

from benchmarks import _all, chaos, reliability
from benchmarks._workload import Workload

LINUX = sys.platform == "linux"
pytestmark = pytest.mark.skipif(not LINUX, reason="what processes have is read from /proc")

# What each run must reach here, where others may use the machine: far more than the targets.
GENEROUS: dict[str, dict[str, float]] = {
    "kill-next": {"median": 2.0, "worst": 10.0},
    "kill-race": {"astray": 0},
    "timeout": {"median": 2.0, "clock steps, median": 2.0},
    "orphans": {"left": 0},
    "ctrl-c": {"seconds to exit": 10.0, "left": 0},
    "queued": {"KiB per call": 4, "seconds to cancel": 10, "not cancelled": 0},
    "long-map": {"MiB": 8},
    "dead-holder": {"worst": 5.0},
    "chaos": {"lost": 0, "doubled": 0, "hung": 0, "time, of calm": 10},
}
CLAIMS = {
    "kill-next": ("figure: kill", "the next call has its result at once after a kill"),
    "kill-race": ("figure: kill race", "kills that meet the end of their call hit no other call"),
    "timeout": ("figure: timeouts", "as late as they are whatever the wall clock does"),
    "orphans": ("figure: orphans", "none 0.5 s after SIGKILL to the parent, grandchildren too"),
    "ctrl-c": ("figure: Ctrl-C", "to the end of the program, with calls that hang"),
    "queued": ("figure: queued calls", "what one takes, and cancelling them all"),
    "long-map": ("pain 18", "a lazy map keeps its window in memory, not its inputs"),
    "dead-holder": ("figure: dead holder", "its lock goes to the next one"),
    "chaos": ("figure: chaos", "calls with retries while workers are killed every 75 ms"),
}


def named(name: str) -> Any:
    return pytest.param(
        _all.BY_NAME[name], GENEROUS[name], id=name, marks=pytest.mark.scenario(*CLAIMS[name])
    )


@pytest.mark.parametrize(("workload", "limits"), [named(name) for name in GENEROUS])
def test_the_figures_of_a_small_run_are_far_from_generous_limits(
    workload: Workload, limits: dict[str, float], record_property: Callable[[str, str], None]
) -> None:
    found = workload.measure("unirun", workload.quick)
    scale, unit = {"ms": (1e3, " ms")}.get(workload.unit, (1, ""))
    told = ", ".join(f"{key}: {figure * scale:.3g}{unit}" for key, figure in found.items())
    record_property("figure", f"{workload.what}, small run: {told}")
    for key, limit in limits.items():
        assert found[key] <= limit, f"{key}: {found}"


def test_every_target_of_the_issue_has_a_row() -> None:
    rows = {
        (workload.name, row.key): row.at_most
        for workload in _all.GROUPS["reliability"]
        for row in workload.rows
    }
    for name, limits in GENEROUS.items():
        for key in limits:
            assert rows[name, key] is not None
    assert all(target is not None for target in rows.values())


# -- the accounts find what is planted ------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "killed", "doubled"),
    [
        (["1 70", "2 70"], set(), []),
        (["1 70", "1 71"], {70}, []),
        (["1 70", "1 71"], set(), [1]),
        (["1 70", "2 71", "1 71", "1 72"], {70}, [1]),
        (["1 70", "1 70"], {70}, []),
    ],
)
def test_a_call_that_began_again_without_need_is_found(
    lines: list[str], killed: set[int], doubled: list[int]
) -> None:
    assert chaos.begun_without_need(lines, killed) == doubled


def test_the_wall_clock_that_jumps_is_seen_to_jump() -> None:
    import time

    with reliability._clock_steps(True):
        first, second = time.time(), time.time()
    assert abs(second - first) > 3600
    assert abs(time.time() - second) > 3600
