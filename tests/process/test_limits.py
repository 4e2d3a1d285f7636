"""Who belongs to a process, and how all of them are ended."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process import watch
from process.line import Line

from unirun.backends.process import limits
from unirun.backends.process.limits import Doomed, descendants, is_alive

Lines = Callable[[], Line]

LEADER = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[2])
from process.line import Line
line = Line(sys.argv[1])
near = subprocess.Popen(["sleep", "1000"])
far = subprocess.Popen(["sleep", "1000"], start_new_session=True)
code = "import subprocess as s; p = s.Popen(['sleep', '1000']); print(p.pid, flush=True); p.wait()"
command = [sys.executable, "-c", code]
deep = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
line.send(f"{near.pid} {far.pid} {deep.pid} {deep.stdout.readline().decode()}")
near.wait()
"""


class Family:
    """A leader, a child in its group, one outside, and one outside with a child."""

    def __init__(self, line: Line) -> None:
        tests = str(Path(__file__).parents[1])
        self.leader = subprocess.Popen(
            [sys.executable, "-c", LEADER, line.path, tests], start_new_session=True
        )
        self.pid = self.leader.pid
        self.near, self.far, self.deep, self.deepest = map(int, line.wait().split())
        self.all = [self.pid, self.near, self.far, self.deep, self.deepest]

    def end(self) -> None:
        for pid in self.all[1:]:
            if not watch.is_gone(pid):
                os.kill(pid, signal.SIGKILL)
        self.leader.kill()
        self.leader.wait(20)


@pytest.fixture
def family(line: Lines) -> Iterator[Family]:
    made = Family(line())
    yield made
    made.end()


def test_descendants_are_found_at_any_depth_and_in_any_session(family: Family) -> None:
    assert sorted(descendants(family.pid)) == sorted(family.all[1:])


def test_descendants_are_found_without_proc(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HERE", limits.HERE - {"proc"})
    assert sorted(descendants(family.pid)) == sorted(family.all[1:])


def test_a_process_that_is_gone_has_no_descendants(family: Family) -> None:
    family.end()
    assert descendants(family.pid) == []


@pytest.mark.parametrize("how", ["terminate", "kill"])
@pytest.mark.scenario(42, "descendants in any group and session, also without /proc")
def test_all_of_them_are_ended(family: Family, how: str) -> None:
    getattr(Doomed(family.pid), how)()
    watch.until_gone(*family.all)


def test_what_outlived_the_leader_is_swept_up(family: Family) -> None:
    doomed = Doomed(family.pid)
    family.leader.kill()
    family.leader.wait(20)
    assert not watch.is_gone(family.far)
    doomed.sweep()
    watch.until_gone(family.far, family.deep, family.deepest)


def test_a_number_that_was_given_to_somebody_else_is_spared(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = Doomed(family.pid)
    born = limits._born
    monkeypatch.setattr(limits, "_born", lambda pid: born(pid) + "0")  # another time of birth
    family.leader.kill()
    doomed.sweep()
    assert not watch.is_gone(family.far)
    assert not watch.is_gone(family.deepest)


def test_ending_what_has_ended_is_no_error(family: Family) -> None:
    doomed = Doomed(family.pid)
    family.end()
    doomed.terminate()
    doomed.kill()
    doomed.sweep()
    Doomed(family.pid).kill()


def test_a_group_is_ended_even_without_descriptors(family: Family) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    doomed = Doomed(family.pid)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        assert descendants(family.pid) == []
        assert is_alive(family.pid)
        Doomed(family.pid).terminate()
        doomed.kill()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    watch.until_gone(family.pid, family.near)


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    assert is_alive(process.pid)
    process.kill()
    watch.until(lambda: not is_alive(process.pid), "it is dead, though not reaped")
    process.wait(20)
    assert not is_alive(process.pid)
