"""Ctrl-C, as a terminal sends it: to every process of the program that does not hide from it.

Once: what waits is cancelled, what runs is killed after its grace, and the caller sees one
KeyboardInterrupt.  Twice: at once.  Nothing is left behind (conftest looks), and no worker says a
word.
"""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from process.line import PATIENCE
from process.watch import with_tests_on_path

APPS = Path(__file__).parents[1] / "apps"
Record = Callable[[str, object], None]

WAITING = [
    *("result", "exception", "run", "map_next", "map_running", "map_unordered", "wait"),
    *("completed", "shutdown", "end_of_with", "storm", "queue_get", "lock_acquire"),
    *("condition_wait", "barrier_wait", "awaited", "gathered", "nested", "in_thread", "asleep"),
]
BY_DEFAULT = ["result", "map_next", "wait", "storm", "queue_get", "nested", "asleep"]
# Where it is not unirun that waits, Python may miss a signal in the instant in which a wait begins:
# these are hit when it has. The objects of threads are those of `threading` and `queue`.
NOT_OURS = {"awaited", "gathered", "asleep", "in_thread"}
OBJECTS = {"queue_get", "lock_acquire", "condition_wait", "barrier_wait"}
START_UPS = 8
"""Moments of a start-up that are hit, evenly spread."""
START_SECONDS = 0.15


class Program:
    """tests/apps/ctrl_c.py, in a session of its own, as under a terminal."""

    def __init__(self, where: str, backend: str) -> None:
        self.name = f"{where} on {backend}"
        self.process = subprocess.Popen(
            [sys.executable, str(APPS / "ctrl_c.py"), where, backend],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=with_tests_on_path(),
            start_new_session=True,
        )
        self.wait_for("there")

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(word), (self.name, line)

    def press(self) -> None:
        """Ctrl-C: more than a terminal does, as its workers get it wherever they hide."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGINT)
        for child in children:
            try:
                child.send_signal(signal.SIGINT)
            except psutil.NoSuchProcess:
                continue

    def faults(self) -> list[str]:
        """What is wrong with how it ends."""
        try:
            out, errors = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return [f"{self.name} did not end: {self.process.communicate()}"]
        wrong = []
        if self.process.returncode != -signal.SIGINT:
            wrong.append(f"status {self.process.returncode}")
        if "caught 1\n" not in out:
            wrong.append(f"said {out[-100:]!r}")
        # One traceback; it may tell of what it interrupted (asyncio's way, and an import's).
        if len(re.findall(r"^KeyboardInterrupt$", errors, re.MULTILINE)) != 1:
            wrong.append("not one KeyboardInterrupt")
        if not errors.endswith("\nKeyboardInterrupt\n") or "unirun: " in errors:
            wrong.append("says more")
        return [f"{self.name}: {', '.join(wrong)}\n{errors}"] if wrong else []


def end_by_one(where: str, backend: str, delay: float = 0.0) -> tuple[float, list[str]]:
    """Seconds from Ctrl-C to the end of the program; and what was wrong."""
    program = Program(where, backend)
    time.sleep(delay)
    began = time.monotonic()
    program.press()
    faults = program.faults()
    return time.monotonic() - began, faults


def end_all_by_one(places: list[tuple[str, str, float]]) -> list[float]:
    """Two programs at a time; how long each took."""
    with ThreadPoolExecutor(2) as threads:
        ends = list(threads.map(lambda place: end_by_one(*place), places))
    faults = [fault for _, found in ends for fault in found]
    assert not faults, "\n\n".join(faults)
    return [seconds for seconds, _ in ends]


@pytest.mark.scenario(45, "Ctrl-C once, wherever the program waits")
@pytest.mark.parametrize("backend", ["thread", "process", "default"])
def test_one_ctrl_c_ends_the_program_wherever_it_is(backend: str, record_property: Record) -> None:
    places = BY_DEFAULT if backend == "default" else WAITING
    not_ours = NOT_OURS | OBJECTS if backend == "thread" else NOT_OURS
    took = end_all_by_one([(where, backend, 0.5 * (where in not_ours)) for where in places])
    record_property(
        "figure",
        f"Ctrl-C to clean exit ({backend}): {statistics.median(took) * 1000:.0f} ms median, "
        f"{max(took) * 1000:.0f} ms worst of {len(took)} places",
    )


@pytest.mark.scenario("signals: start-up", "Ctrl-C at any moment of the zygote's start")
@pytest.mark.parametrize("backend", ["process", "default"])
def test_one_ctrl_c_ends_a_program_whose_workers_come_up(backend: str) -> None:
    moments = [START_SECONDS * number / START_UPS for number in range(START_UPS)]
    end_all_by_one([("starting", backend, moment) for moment in moments])
    end_all_by_one([("starting_to_share", backend, moment) for moment in moments[::3]])


@pytest.mark.scenario("signals: twice", "the second Ctrl-C does not wait for the grace")
@pytest.mark.parametrize("where", ["stubborn", "stubborn_at_end", "stubborn_in_shutdown"])
def test_a_second_ctrl_c_ends_calls_that_are_cleaning_up(where: str) -> None:
    """The grace is 100 s here."""
    program = Program(where, "process")
    program.press()
    program.wait_for("told")
    program.press()
    assert not program.faults()


@pytest.mark.scenario("signals: storm", "1,000 times Ctrl-C, and everything goes on")
def test_a_thousand_times_ctrl_c_and_all_is_well() -> None:
    programs = [
        subprocess.Popen(
            [sys.executable, str(APPS / "ctrl_c_storm.py"), "all", backend, "1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=with_tests_on_path(),
        )
        for backend in ("thread", "process")
    ]
    ends = [program.communicate(timeout=2 * PATIENCE) for program in programs]
    assert [(program.returncode, *end) for program, end in zip(programs, ends, strict=True)] == [
        (0, "", ""),
        (0, "", ""),
    ]
