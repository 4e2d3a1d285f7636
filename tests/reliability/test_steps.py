"""Any process of ours is killed or stopped at any of its system calls; a few of each by chance.

All of them, for hours if need be, are for the program to try:

    python tests/apps/step_through.py worker.kill --every 1      (zygote, manager; stop, pause)
    UNIRUN_WITHOUT=cells python tests/apps/step_through.py manager.pause --every 1

It prints how many moments it tried, and a line for each violation.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "apps" / "step_through.py"
SKIPPED = 77
FEW = {
    "worker.kill": 8,
    "worker3.kill": 2,
    "zygote.kill": 4,
    "manager.kill": 4,
    "worker.stop": 1,
    "zygote.stop": 1,
    "worker.pause": 1,
    "zygote.pause": 1,
    "manager.pause": 1,
}
RecordProperty = Callable[[str, object], None]
pytestmark = pytest.mark.timeout(120)  # far more than it takes, on a machine that does much else


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """What the program says: one for all tests, as it takes a second to begin."""
    wishes = [f"{word}={count}" for word, count in FEW.items()]
    command = [sys.executable, str(PROGRAM), *wishes, "--seconds", "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            said, _ = program.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            program.terminate()  # it ends what it has started
            raise
    if program.returncode == SKIPPED:
        pytest.skip(said.strip())
    return said.splitlines()


@pytest.mark.scenario(11, "killed at any system call, also while it reads a task")
@pytest.mark.scenario(12, "killed at any system call, also while it writes a result")
@pytest.mark.scenario("SIGKILL at each system call", "worker: one victim at most, nothing twice")
def test_a_worker_may_be_killed_at_any_system_call(
    lines: list[str], record_property: RecordProperty
) -> None:
    judge(lines, "worker.kill", record_property)


@pytest.mark.scenario("SIGKILL at each system call", "a worker that takes the place of another")
def test_its_successor_may_be_killed_at_any_system_call(
    lines: list[str], record_property: RecordProperty
) -> None:
    judge(lines, "worker3.kill", record_property)


@pytest.mark.scenario("SIGKILL at each system call", "zygote: no call notices")
def test_a_zygote_may_be_killed_at_any_system_call(
    lines: list[str], record_property: RecordProperty
) -> None:
    judge(lines, "zygote.kill", record_property)


@pytest.mark.scenario("SIGKILL at each system call", "manager process: who shares nothing goes on")
def test_a_manager_may_be_killed_at_any_system_call(
    lines: list[str], record_property: RecordProperty
) -> None:
    judge(lines, "manager.kill", record_property)


@pytest.mark.scenario("SIGSTOP at each system call", "worker: its call hangs, and can be killed")
def test_a_worker_may_be_stopped_at_any_system_call(
    lines: list[str], record_property: RecordProperty
) -> None:
    judge(lines, "worker.stop", record_property)


@pytest.mark.scenario("SIGSTOP at each system call", "zygote: replaced when a worker is needed")
def test_a_zygote_may_be_stopped_at_any_system_call(
    lines: list[str], record_property: RecordProperty
) -> None:
    judge(lines, "zygote.stop", record_property)


@pytest.mark.scenario("SIGSTOP at each system call", "who goes on later does no harm")
@pytest.mark.parametrize("victim", ["worker", "zygote", "manager"])
def test_whoever_stands_still_may_go_on_again(
    lines: list[str], victim: str, record_property: RecordProperty
) -> None:
    judge(lines, f"{victim}.pause", record_property)


def judge(lines: list[str], word: str, record_property: RecordProperty) -> None:
    """Its last line is the verdict."""
    of_it = [line for line in lines if line.startswith(f"{word}: ")]
    assert of_it, lines
    assert " 0 violations" in of_it[-1], lines
    record_property("figure", of_it[-1])
