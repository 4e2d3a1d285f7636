"""What a process is held to use, when it is looked at again, and who the kernel killed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from unirun.backends.process import limits, memory, system
from unirun.backends.process.oom import OomCounter

MIB = 1 << 20

# Reads a line at a time, runs it, and says so.
HOG = """
import mmap, os, subprocess, sys, time
def fork():
    pid = os.fork()
    if not pid:
        time.sleep(1000)
    return pid
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Hog:
    """A process that takes memory when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOG],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.do("pass")

    def do(self, statement: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(statement, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        limits.Doomed(self.pid).kill()
        self.process.communicate()


@pytest.fixture
def hog() -> Iterator[Hog]:
    hog = Hog()
    yield hog
    hog.end()


@pytest.fixture(params=["proc", "psutil"])
def seen_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "psutil":
        monkeypatch.setattr(system, "HERE", system.HERE - {"proc"})
    return str(request.param)


Figure = Callable[[int], int]


def own(pid: int) -> int:
    return memory.exactly(pid)[0]


FIGURES = [memory.at_most, own]


def near(amount: int, expected: int) -> bool:
    return abs(amount - expected) < 8 * MIB


# -- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.usefixtures("seen_by")
def test_what_is_allocated_and_filled_counts(hog: Hog, figure: Figure) -> None:
    before = figure(hog.pid)
    assert 0 < before < 60 * MIB
    hog.do(f"x = b'x' * {80 * MIB}")
    assert near(figure(hog.pid) - before, 80 * MIB)
    hog.do("del x")
    assert near(figure(hog.pid), before)


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize(
    "share",
    [
        "m = mmap.mmap(-1, {size}); m.write(bytes({size}))",
        "f = open({path!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0); sum(m[::4096])",
        "fd = os.memfd_create('m'); os.write(fd, bytes({size})); m = mmap.mmap(fd, 0); m[::4096]",
    ],
    ids=["shared memory", "a mapped file", "a memfd"],
)
def test_what_is_shared_does_not_count(
    hog: Hog, figure: Figure, share: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(50 * MIB))
    before, resident = figure(hog.pid), psutil.Process(hog.pid).memory_info().rss
    hog.do(share.format(size=50 * MIB, path=str(path)))
    assert psutil.Process(hog.pid).memory_info().rss - resident > 40 * MIB
    assert near(figure(hog.pid), before)


def test_pages_in_common_with_a_fork_are_told_apart(hog: Hog) -> None:
    hog.do(f"x = b'x' * {80 * MIB}")
    hog.do("children = [fork() for _ in range(3)]")
    for pid in (hog.pid, *limits.descendants(hog.pid)):
        assert memory.at_most(pid) > 75 * MIB
        alone, common = memory.exactly(pid)
        assert alone < 8 * MIB
        assert common > 75 * MIB
        assert near(alone + common, memory.at_most(pid))


def test_a_fork_that_fills_what_it_inherited_has_it_for_itself(hog: Hog) -> None:
    hog.do(f"x = bytearray({80 * MIB})")
    hog.do("child = fork()")
    assert own(hog.pid) < 8 * MIB
    hog.do(f"x[:] = b'y' * {80 * MIB}")
    assert own(hog.pid) > 75 * MIB


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.usefixtures("seen_by")
def test_who_is_gone_uses_nothing(hog: Hog, figure: Figure) -> None:
    hog.end()
    assert figure(hog.pid) == 0
    assert memory.used(hog.pid, 1) == 0


# -- a worker and what it started -----------------------------------------------------------------

CHILD = f"import sys, time; x = b'x' * {70 * MIB}; print(flush=True); time.sleep(1000)"


@pytest.mark.usefixtures("seen_by")
def test_children_count_also_in_sessions_of_their_own(hog: Hog) -> None:
    before = memory.used(hog.pid, 1)
    hog.do(f"code = {CHILD!r}")
    start = "subprocess.Popen([sys.executable, '-c', code], stdout=-1, start_new_session={})"
    for session in (False, True):
        hog.do(f"child = {start.format(session)}; child.stdout.readline()")
    assert memory.used(hog.pid, 1) - before > 140 * MIB
    assert memory.used(hog.pid, 1 << 40) - before > 140 * MIB


def test_what_a_worker_has_in_common_with_its_parent_is_not_held_against_it(hog: Hog) -> None:
    hog.do(f"x = b'x' * {80 * MIB}")
    hog.do("child = fork()")
    child = limits.descendants(hog.pid)[0]
    assert memory.used(child, 1 << 40) > 75 * MIB
    assert memory.used(child, 70 * MIB) < 8 * MIB


def test_what_a_tree_has_in_common_counts_once(hog: Hog) -> None:
    hog.do(f"x = b'x' * {400 * MIB}")
    hog.do("children = [fork() for _ in range(3)]")
    assert memory.used(hog.pid, 1 << 40) > 1600 * MIB
    ours = memory.at_most(os.getpid())  # we may have brought along as much, for all it knows
    found = memory.used(hog.pid, 500 * MIB)
    assert 380 * MIB - ours < found < 500 * MIB


# -- when to look again ---------------------------------------------------------------------------


def test_the_nearer_to_the_limit_the_sooner() -> None:
    limit = 100 * MIB
    pauses = [memory.pause(limit, used) for used in range(0, 2 * limit, MIB)]
    assert pauses == sorted(pauses, reverse=True)
    assert pauses[0] > memory.MIN_PAUSE
    assert pauses[-1] == memory.MIN_PAUSE


def test_a_process_cannot_fill_much_more_than_what_is_left_in_a_pause() -> None:
    limit = 1 << 30
    for used in range(0, limit, limit // 64):
        overshoot = used + memory.pause(limit, used) * memory.FILL_RATE - limit
        assert overshoot <= memory.MIN_PAUSE * memory.FILL_RATE


def test_who_is_far_from_the_limit_is_looked_at_now_and_then() -> None:
    assert memory.pause(1 << 50) == memory.MAX_PAUSE


def test_a_look_tells_what_is_used_and_when_to_look_again(hog: Hog) -> None:
    found, seconds = memory.look(hog.pid, 1 << 40)
    assert found == memory.used(hog.pid, 1 << 40)
    assert seconds >= memory.MAX_PAUSE


# -- whom the kernel killed -----------------------------------------------------------------------

V1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n36 31 0:32 {} {} rw - cgroup cgroup rw,{}\n"
V2 = "30 23 0:26 {} {} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


class System:
    """The part of a file system that tells of control groups."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def has(self, groups: str, mounts: str) -> None:
        self.write("/proc/self/cgroup", groups)
        self.write("/proc/self/mountinfo", mounts)

    def count(self) -> int:
        return OomCounter(str(self.root)).count()


@pytest.fixture
def machine(tmp_path: Path) -> System:
    return System(tmp_path)


EVENTS = "low 0\nhigh 0\nmax 12\noom 5\noom_kill {}\noom_group_kill 9\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


@pytest.mark.parametrize(
    ("mounted", "group", "place"),
    [
        ("/", "/user.slice/me", "/sys/fs/cgroup/user.slice/me"),
        ("/", "/", "/sys/fs/cgroup"),
        ("/docker/abc", "/docker/abc", "/sys/fs/cgroup"),
        ("/docker/abc", "/docker/abc/inner", "/sys/fs/cgroup/inner"),
        ("/docker/abc", "/docker/abcd", "/sys/fs/cgroup"),
        ("/", "/../other", "/sys/fs/cgroup"),
    ],
)
def test_version_2_counts_in_the_events_of_our_group(
    machine: System, mounted: str, group: str, place: str
) -> None:
    machine.has(f"0::{group}\n", V2.format(mounted, "/sys/fs/cgroup"))
    machine.write("/sys/fs/cgroup/memory.events", EVENTS.format(1))
    machine.write(f"{place}/memory.events", EVENTS.format(4))
    assert machine.count() == 4


def test_version_1_counts_in_the_control_of_our_group(machine: System) -> None:
    mounts = V1.format("/", "/sys/fs/cgroup/cpu", "cpu,cpuacct")
    mounts += V1.format("/", "/sys/fs/cgroup/memory", "memory")
    machine.has("4:memory:/job/1\n1:cpu,cpuacct:/other\n", mounts)
    machine.write("/sys/fs/cgroup/memory/job/1/memory.oom_control", CONTROL.format(2))
    machine.write("/sys/fs/cgroup/cpu/other/memory.oom_control", CONTROL.format(7))
    assert machine.count() == 2


def test_where_both_are_mounted_the_one_with_the_memory_counts(machine: System) -> None:
    mounts = V1.format("/", "/sys/fs/cgroup/memory", "memory")
    mounts += V2.format("/", "/sys/fs/cgroup/unified")
    machine.has("4:memory:/job\n0::/job\n", mounts)
    machine.write("/sys/fs/cgroup/memory/job/memory.oom_control", CONTROL.format(2))
    machine.write("/sys/fs/cgroup/unified/job/memory.events", EVENTS.format(7))
    assert machine.count() == 2


def test_a_place_with_a_blank_in_its_name_is_found(machine: System) -> None:
    machine.has("0::/a\n", V2.format("/", r"/my\040groups\134x"))
    machine.write("/my groups\\x/a/memory.events", EVENTS.format(3))
    assert machine.count() == 3


def test_a_group_that_does_not_count_is_passed_over(machine: System) -> None:
    mounts = V1.format("/", "/sys/fs/cgroup/memory", "memory")
    mounts += V2.format("/", "/sys/fs/cgroup/unified")
    machine.has("4:memory:/job\n0::/job\n", mounts)
    machine.write("/sys/fs/cgroup/memory/job/memory.oom_control", "oom_kill_disable 0\n")
    machine.write("/sys/fs/cgroup/unified/job/memory.events", EVENTS.format(7))
    assert machine.count() == 7


@pytest.mark.parametrize("text", ["", "nonsense\n", "a - b\n", "0:\n\n:::\n"])
def test_where_nobody_counts_there_were_none(machine: System, text: str) -> None:
    assert machine.count() == 0
    machine.write("/proc/self/cgroup", text)
    machine.write("/proc/self/mountinfo", text)
    assert machine.count() == 0


def test_a_counter_follows_its_file(machine: System) -> None:
    machine.has("0::/a\n", V2.format("/", "/sys/fs/cgroup"))
    machine.write("/sys/fs/cgroup/a/memory.events", EVENTS.format(0))
    counter = OomCounter(str(machine.root))
    counts = [counter.count()]
    for number in (0, 1, 3):
        machine.write("/sys/fs/cgroup/a/memory.events", EVENTS.format(number))
        counts.append(counter.count())
    (machine.root / "sys/fs/cgroup/a/memory.events").unlink()
    assert [*counts, counter.count()] == [0, 0, 1, 3, 0]


def test_this_system_can_be_asked() -> None:
    assert OomCounter().count() >= 0
