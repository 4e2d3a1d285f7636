"""Signals and children of the program's own keep working beside unirun, and unirun with them.

One program each, tests/apps/own_signals.py; what calls have to do there is the same for all.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from process.line import PATIENCE
from process.watch import with_tests_on_path

PROGRAM = Path(__file__).parents[1] / "apps" / "own_signals.py"
METHODS = ("zygote", "spawn", "fork")


def faults(ways: tuple[str, ...], methods: tuple[str, ...]) -> list[str]:
    """What goes wrong in any of them; two run at a time."""
    every = [(way, method) for way in ways for method in methods]
    with ThreadPoolExecutor(2) as threads:
        return [fault for found in threads.map(_faults_of, every) for fault in found]


def _faults_of(which: tuple[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *which],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        env=with_tests_on_path(),
    )
    fine = (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")
    return [] if fine else [f"{which}: {done}"]


@pytest.mark.scenario("trap: SIGCHLD handler", "a program that handles, reaps or ignores SIGCHLD")
def test_a_program_may_do_with_sigchld_what_it_likes() -> None:
    assert not faults(("child_handler",), METHODS[:1])
    assert not faults(("reaper", "ignores_children"), METHODS)


@pytest.mark.scenario("signals: SIGALRM", "timers of the program ring, and raise where it waits")
def test_a_program_may_have_alarms() -> None:
    assert not faults(("alarms", "raising_alarm", "restarts"), METHODS[:1])


@pytest.mark.scenario(
    "signals: faulthandler", "faulthandler.register and set_wakeup_fd keep working"
)
def test_a_program_may_ask_for_stacks_and_have_a_wakeup_descriptor() -> None:
    assert not faults(("stacks_on_request", "wakeup_fd"), METHODS[:1])


@pytest.mark.scenario("signals: asyncio", "children of asyncio, in the main thread and in another")
def test_children_of_asyncio_are_not_taken_away() -> None:
    assert not faults(("watched_children",), METHODS[:2])


@pytest.mark.scenario("signals: masks", "workers have no mask, and ignore nothing that they need")
def test_what_a_program_has_blocked_or_ignores_is_not_so_in_its_workers() -> None:
    assert not faults(("blocked", "ignored"), METHODS)


@pytest.mark.scenario("trap: submit in a signal handler", "amid a submit, and amid a wait")
def test_a_signal_handler_may_submit_at_any_moment() -> None:
    assert not faults(("submits_in_handlers",), METHODS[:1])
