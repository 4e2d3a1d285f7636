"""Kills, Ctrl-C and standstill at any instruction, a few of each; the programs do thousands.

    python tests/apps/shared_stress.py --kills 5000 --method fork --seed 1     (or another method)
    python tests/apps/shared_tight.py 3000 1
    python tests/apps/shared_storm.py home 5000                                (or: process)
    python tests/apps/shared_stress.py --kills 500 --stops 500

Each prints what it found to be wrong, and how far behind a time-out the latest wait ended.
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from parties import SERVED_BY

APPS = Path(__file__).parent / "apps"
KILLS = {"executor": 30, "fork": 60, "forkserver": 20, "spawn": 5}


@pytest.fixture(params=SERVED_BY)
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """With and without memory that processes share."""
    without = {"UNIRUN_WITHOUT": "cells"} if request.param == "server" else {}
    return {**os.environ, **without}


def run(environment: dict[str, str], *arguments: object) -> None:
    program = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    ended = program.stdout.splitlines()[-1:], program.returncode
    assert ended == (["violations: 0"], 0), program.stdout + program.stderr


@pytest.mark.parametrize("method", ["executor", *multiprocessing.get_all_start_methods()])
def test_deaths_at_any_instruction_leave_everything_right(
    environment: dict[str, str], method: str
) -> None:
    run(environment, APPS / "shared_stress.py", "--method", method, "--kills", KILLS[method])


def test_the_same_with_a_manager_in_a_process_of_its_own(environment: dict[str, str]) -> None:
    run(environment, APPS / "shared_stress.py", "--manager", "process", "--kills", 30)


def test_deaths_in_the_middle_of_one_operation_leave_it_right(
    environment: dict[str, str],
) -> None:
    run(environment, APPS / "shared_tight.py", 100, 1)


def test_whoever_stands_still_makes_no_time_out_late(environment: dict[str, str]) -> None:
    run(environment, APPS / "shared_stress.py", "--kills", 10, "--stops", 2)


@pytest.mark.parametrize("where", ["home", "process"])
def test_interrupts_at_any_instruction_leave_everything_right(
    environment: dict[str, str], where: str
) -> None:
    run(environment, APPS / "shared_storm.py", where, 300)
