"""Item 8: full disks, no /proc, odd names, clocks that jump: slower work or a clear error.

A world is prepared by a shell in a mount namespace of its own, or by limits, or by variables; then
tests/apps/life.py lives in it, which tries everything and says how each step ended.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import process.conftest as fixtures
import pytest
import reliability_bodies_worlds as bodies
from process import watch
from process.line import PATIENCE
from worlds import FINE, LIFE, LIMIT, all_fine, disks, everywhere, live, nobody, world

import unirun

pool = fixtures.pool
Pool = Callable[..., unirun.Executor]

# -- no disk --------------------------------------------------------------------------------------


@pytest.mark.scenario("no disk: nothing can be written to", "everything works")
@pytest.mark.parametrize("manager", ["thread", "process"])
def test_where_nothing_can_be_written_to_everything_works(tmp_path: Path, manager: str) -> None:
    before = world(everywhere("ro,size=4k", tmp_path))
    assert live("--manager", manager, before=before) == all_fine()


@pytest.mark.scenario("no disk: a directory that is not there", "everything works")
def test_a_temporary_directory_that_is_not_there_is_not_needed(tmp_path: Path) -> None:
    assert live(TMPDIR=str(tmp_path / "missing")) == all_fine()


@pytest.mark.scenario("no disk: full, and no memfd", "an error that says what to do")
def test_a_disk_without_any_room_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    before = world(everywhere("ro,size=4k", tmp_path))
    lived = live("map", "shared", "threads", "shutdown", before=before, UNIRUN_WITHOUT="memfd")
    remedy = "; set TMPDIR to a directory that can be written to and has room"
    for step in ("map", "shared"):
        assert lived[step].startswith("InitializerFailed: no worker can be started: ")
        assert lived[step].endswith(remedy)
    assert lived["threads"] == lived["shutdown"] == "fine"


@pytest.mark.scenario("no disk: full in the midst, and no memfd", "the pipe does instead")
def test_a_disk_that_fills_up_makes_it_slower_and_kills_nobody(tmp_path: Path) -> None:
    """A mapping of a file without room would be the end of the process, by SIGBUS."""
    room = tmp_path / "room"
    room.mkdir()
    before = world(disks("size=12m", room))
    assert live("--manager", "process", before=before, TMPDIR=str(room)) == all_fine()
    lived = live("map", "large", "again", before=before, TMPDIR=str(room), UNIRUN_WITHOUT="memfd")
    assert lived == all_fine("map", "large", "again")


@pytest.mark.scenario("no disk: too little for a worker, and no memfd", "an error, no SIGBUS")
def test_a_disk_with_too_little_room_for_a_worker_is_an_error(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    before = world(disks("size=64k", room))
    lived = live("map", "shutdown", before=before, TMPDIR=str(room), UNIRUN_WITHOUT="memfd")
    assert "No space left on device; set TMPDIR to" in lived["map"]
    assert lived["shutdown"] == "fine"


# -- no file systems ------------------------------------------------------------------------------


@pytest.mark.scenario("no /dev/shm", "everything works")
@pytest.mark.scenario(62, "nothing of it is in /dev/shm")
def test_without_dev_shm_everything_works() -> None:
    assert live(before=world(disks("ro,size=4k", "/dev/shm"))) == all_fine()


@pytest.mark.scenario("no /proc", "everything works")
@pytest.mark.parametrize("method", ["zygote", "spawn"])
def test_without_proc_everything_works(method: str) -> None:
    before = world(disks("ro,size=4k", "/proc"))
    manager = "process" if method == "spawn" else "thread"
    assert live("--start", method, "--manager", manager, before=before) == all_fine()


@pytest.mark.scenario("no /dev/null", "an error that says what to do")
def test_without_dev_null_the_error_says_so() -> None:
    lived = live("map", "threads", "shutdown", before=world(disks("size=4k", "/dev")))
    assert lived["map"].endswith(
        "No such file or directory: '/dev/null'; "
        "make a /dev/null here: workers have it as their standard input"
    )
    assert lived["threads"] == lived["shutdown"] == "fine"


# -- names and variables --------------------------------------------------------------------------


@pytest.mark.scenario("read-only home, or none", "everything works")
@pytest.mark.parametrize("home", [None, "/proc/1"])
def test_a_home_is_not_needed(home: str | None) -> None:
    assert live("map", "lambda", "shared", HOME=home) == all_fine("map", "lambda", "shared")


@pytest.mark.scenario("no variables at all", "everything works")
def test_an_empty_environment_is_enough() -> None:
    keep = [f"{name}={os.environ[name]}" for name in ("TESTS_OF_UNIRUN",)]
    steps = ("map", "lambda", "shared")
    assert live(*steps, before=["env", "-i", *keep]) == all_fine(*steps)


@pytest.mark.scenario("LANG=C", "everything works, also with names that are no text")
def test_names_that_are_no_text_in_a_locale_without_any(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sp ace\xff\xfe"))
    odd.mkdir()
    shutil.copy(LIFE, odd / "life.py")
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    steps = ("map", "lambda", "large", "shared")
    lived = live("--manager", "process", *steps, path=odd, TMPDIR=str(odd), **plain)
    assert lived == all_fine(*steps)
    assert sorted(each.name for each in odd.iterdir()) == ["life.py"]


@pytest.mark.scenario("TMPDIR longer than the path of a socket", "everything works")
def test_a_temporary_directory_with_a_very_long_name(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    lived = live("map", "large", "shared", TMPDIR=str(long))
    assert lived == all_fine("map", "large", "shared")
    assert not list(long.iterdir())


@pytest.mark.scenario("working directory deleted", "everything works")
def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    leave = f"mkdir '{tmp_path}/gone'; cd '{tmp_path}/gone'; rmdir '{tmp_path}/gone'; exec \"$@\""
    before = ["sh", "-ec", leave, "sh"]
    lived = live("--manager", "process", before=before)
    assert lived == all_fine()


@pytest.mark.scenario("umask 0777", "everything works")
def test_a_umask_that_takes_all_rights_away() -> None:
    """Also those of the user himself: a directory that he makes is closed to him."""
    before = ["sh", "-c", 'umask 0777; exec "$@"', "sh", *(() if os.getuid() else nobody())]
    steps = ("map", "large", "shared", "shutdown")
    assert live(*steps, before=before, TMPDIR="/tmp") == all_fine(*steps)


# -- clocks ---------------------------------------------------------------------------------------

JUMPING = """
import itertools, runpy, sys, time

days = itertools.cycle([0, 86400, -86400, 10**9, -10**9])
real = time.time
time.time = lambda: real() + next(days)
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.scenario("clock jumps", "no wait looks at the wall clock")
def test_a_wall_clock_that_jumps_is_no_concern(tmp_path: Path) -> None:
    done = watch.run(tmp_path, JUMPING, LIFE, env=watch.with_tests_on_path(), timeout=LIMIT)
    assert done.stdout.splitlines() == [f"{step}: fine" for step in FINE], done.stderr
    root = Path(unirun.__file__).parent
    files = [*root.rglob("*.py"), *(root.parent / "backends").rglob("*.py")]
    users = {file.name for file in files if "time.time(" in file.read_text()}
    # The age of a file that somebody left; and what is told to people and other programs.
    told = {"_info.py", "_monitor_door.py", "_snapshot.py", "opentelemetry.py"}
    assert users <= {"_leftovers.py", *told}


# -- slow -----------------------------------------------------------------------------------------


@pytest.mark.scenario("a worker stopped for 5 s", "the others go on; its call ends when it goes on")
def test_a_stopped_worker_holds_up_its_own_call_only(pool: Pool) -> None:
    executor = pool(2)
    naps = [executor.submit(bodies.nap, 0.1) for _ in range(2)]
    stopped, _ = (future.result(PATIENCE) for future in naps)
    os.kill(stopped, signal.SIGSTOP)
    try:
        futures = [executor.submit(bodies.double, number) for number in range(200)]
        watch.until(lambda: sum(map(unirun.Future.done, futures)) >= 190, "the others are done")
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert [future.result(PATIENCE) for future in futures] == [2 * n for n in range(200)]
    assert executor.stats()["process"].crashed == 0


SLOW = """
import sys, time, unirun
import reliability_bodies_worlds as bodies

executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1], preload=["slow_coach"])
futures = [executor.submit(bodies.double, number) for number in range(4)]
brief = executor.options(queue_timeout=0.05).submit(bodies.double, 1)
assert isinstance(brief.exception(20), unirun.QueueTimeout)
assert futures[3].cancel()
assert [future.result(20) for future in futures[:3]] == [0, 2, 4]
executor.shutdown()

begun = time.monotonic()
executor = unirun.Executor(2, backend="process", mp_context=sys.argv[1], preload=["slow_coach"])
future = executor.submit(bodies.double, 1)
executor.shutdown(kill=True)
assert future.cancelled() and time.monotonic() - begun < 10
print("fine")
"""


@pytest.mark.scenario("very slow start-up", "calls wait, can be cancelled, and end rightly")
@pytest.mark.parametrize("method", ["zygote", "spawn"])
def test_workers_that_take_their_time_to_start(tmp_path: Path, method: str) -> None:
    """So slow is a `sitecustomize` on a network disk, or a machine under load."""
    (tmp_path / "slow_coach.py").write_text("import time\ntime.sleep(0.5)\n")
    environment = watch.with_tests_on_path()
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    done = watch.run(tmp_path, SLOW, method, env=environment, timeout=LIMIT)
    assert (done.stdout, done.stderr) == ("fine\n", "")


# -- where memfd is refused -----------------------------------------------------------------------

REFUSED = """
import os, errno, sys

def refuse(*_):
    raise OSError(getattr(errno, sys.argv[1]), os.strerror(getattr(errno, sys.argv[1])))

os.memfd_create = refuse
from unirun.backends.process import system
print("memfd" in system.HERE)
"""


@pytest.mark.scenario("memfd_create refused by a sandbox", "a file does instead")
@pytest.mark.parametrize(("error", "here"), [("ENOSYS", 0), ("EPERM", 0), ("EMFILE", 1)])
def test_a_sandbox_that_refuses_memfd_is_noticed(tmp_path: Path, error: str, here: int) -> None:
    done = watch.run(tmp_path, REFUSED, error)
    assert (done.stdout, done.stderr) == (f"{bool(here)}\n", "")


@pytest.mark.scenario("TMPDIR filled up by others while threads write", "each is whole or refused")
def test_memory_on_a_disk_is_never_written_where_there_is_no_room(tmp_path: Path) -> None:
    """By many at once: the arena refuses, and each object arrives by the pipe."""
    room = tmp_path / "room"
    room.mkdir()
    before = world(disks("size=9m", room))
    program = [*watch.script(tmp_path, CROWDED)]
    environment = {**watch.with_tests_on_path(), "UNIRUN_WITHOUT": "memfd", "TMPDIR": str(room)}
    done = subprocess.run(
        [*before, *program],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=tmp_path,
        check=False,
        env=environment,
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


CROWDED = """
import os, threading, unirun
import reliability_bodies_worlds as bodies

def shuttle(number):
    data = os.urandom(3_000_000)
    for _ in range(5):
        right.append(executor.submit(bodies.same, data).result(30) == data)

right = []
with unirun.Executor(2, backend="process") as executor:
    # Both workers are there before the disk is full.
    unirun.wait([executor.submit(bodies.nap, 0.1) for _ in range(2)])
    threads = [threading.Thread(target=shuttle, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert right == [True] * 20, right
print("fine")
"""
