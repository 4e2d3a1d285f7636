"""What a crash tells of the worker that died: its last words, its stack, and who killed it."""

import copy
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process import bodies, mishaps, watch
from process.line import PATIENCE, Line

import unirun
from unirun import InitializerFailed, Retry, WorkerCrashed

Pool = Callable[..., unirun.Executor]
Lines = Callable[[], Line]


def crash_of(future: "unirun.Future[object]") -> WorkerCrashed:
    error = future.exception(PATIENCE)
    assert isinstance(error, WorkerCrashed)
    return error


# -- the stack ------------------------------------------------------------------------------------


@pytest.mark.scenario(3, "SIGSEGV named, with the stack of the worker")
def test_a_segmentation_fault_tells_where_it_was(pool: Pool, method: str) -> None:
    error = crash_of(pool(1, method).submit(mishaps.call_what_crashes))
    assert (error.signal_name, error.exitcode) == ("SIGSEGV", -signal.SIGSEGV)
    assert error.stack.startswith("Fatal Python error: Segmentation fault")
    crashed = error.stack.partition("Current thread")[2]
    functions = [line.split()[-1] for line in crashed.splitlines() if 'File "' in line]
    assert functions[:3] == ["string_at", "read_address_zero", "call_what_crashes"]
    assert "in read_address_zero" in str(error)
    assert "worker.py" not in crashed
    assert error.stderr == ""


def test_an_abort_tells_where_it_was(pool: Pool) -> None:
    error = crash_of(pool(1).submit(mishaps.abort))
    assert error.signal_name == "SIGABRT"
    assert "Fatal Python error: Aborted" in error.stack
    assert "in abort" in str(error)


def test_a_crash_among_short_calls_tells_of_its_own(pool: Pool) -> None:
    executor = pool(2)
    futures: list[unirun.Future[object]] = []
    for number in range(300):
        futures.append(executor.submit(bodies.double, number))
        if number % 60 == 30:
            futures.append(executor.submit(mishaps.say_and_crash, f"crash {number}"))
    crashes = [each for future in futures if (each := future.exception(PATIENCE)) is not None]
    assert [str(crash.stderr) for crash in crashes if isinstance(crash, WorkerCrashed)] == [
        f"crash {number}\n" for number in range(30, 300, 60)
    ]
    assert all("in say_and_crash" in str(crash) for crash in crashes)


def test_the_crash_of_a_forked_child_is_not_that_of_the_worker(pool: Pool) -> None:
    executor = pool(1)
    assert executor.submit(mishaps.fork_a_child_that_crashes).result(PATIENCE) == -signal.SIGSEGV
    error = crash_of(executor.submit(mishaps.crash_after_a_child_did))
    assert (error.stderr, error.stack) == ("the worker\n", "")


# -- the last words -------------------------------------------------------------------------------


def test_what_a_call_wrote_before_it_ended_its_worker_is_told(pool: Pool, method: str) -> None:
    error = crash_of(pool(1, method).submit(mishaps.say_and_exit, "no space left", 3))
    assert (error.exitcode, error.stderr, error.stack) == (3, "no space left\n", "")
    assert "no space left" in str(error)


def test_what_was_logged_is_told(pool: Pool) -> None:
    error = crash_of(pool(1).submit(mishaps.warn_and_exit, "no space left"))
    assert "no space left" in error.stderr


def test_a_worker_that_is_killed_from_outside_has_words_and_no_stack(
    pool: Pool, line: Lines
) -> None:
    ready = line()
    future = pool(1).submit(mishaps.say_and_wait, "working on 17", ready)
    os.kill(int(ready.wait()), signal.SIGKILL)
    error = crash_of(future)
    assert (error.signal_name, error.oom) == ("SIGKILL", False)
    assert (error.stderr, error.stack) == ("working on 17\n", "")


def test_the_words_of_an_earlier_call_are_not_those_of_the_one_that_crashed(pool: Pool) -> None:
    executor = pool(1)
    pid = executor.submit(mishaps.say, "all is well").result(PATIENCE)
    error = crash_of(executor.submit(bodies.by_exit_3))
    assert error.pid == pid
    assert error.stderr == ""


def test_what_workers_write_still_reaches_the_programs_stderr(tmp_path: Path) -> None:
    source = """
    import sys, unirun
    from process import mishaps
    with unirun.Executor(1, backend="process", mp_context=sys.argv[1]) as executor:
        executor.submit(mishaps.say, "heard outside").result()
        executor.submit(mishaps.say_and_exit, "the last of it", 3).exception()
    """
    for method in ("zygote", "spawn", "fork"):
        done = watch.run(tmp_path, source, method, env=watch.with_tests_on_path())
        assert done.stderr == "heard outside\nthe last of it\n"


def test_a_crash_keeps_what_it_tells_on_a_journey(pool: Pool) -> None:
    error = crash_of(pool(1).submit(mishaps.say_and_crash, "the words"))
    for arrived in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (arrived.stderr, arrived.stack) == (error.stderr, error.stack)
        assert str(arrived) == str(error)
    assert "the words" in str(error)
    assert "in read_address_zero" in str(error)


# -- before the first call ------------------------------------------------------------------------


@pytest.mark.scenario(19, "exit and segfault in the initializer")
@pytest.mark.parametrize(
    ("initializer", "initargs", "told"),
    [
        (mishaps.say_and_exit, ("no licence found", 5), ["exit code 5", "no licence found"]),
        (mishaps.call_what_crashes, (), ["by SIGSEGV", "in read_address_zero"]),
    ],
)
def test_workers_that_die_in_the_initializer_tell_of_it(
    pool: Pool,
    method: str,
    initializer: Callable[..., None],
    initargs: tuple[object, ...],
    told: list[str],
) -> None:
    executor = pool(1, method, initializer=initializer, initargs=initargs)
    with pytest.raises(InitializerFailed) as caught:
        executor.submit(bodies.double, 1).result(PATIENCE)
    assert all(text in str(caught.value) for text in told), str(caught.value)


# -- again ----------------------------------------------------------------------------------------


@pytest.mark.scenario(20, "bounded retries, then quarantined")
def test_a_call_that_crashes_again_and_again_is_quarantined(pool: Pool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    view = pool(1).options(retries=Retry(crashes=9, backoff=0))
    error = crash_of(view.submit(bodies.note_and_die, str(log)))
    assert error.quarantined
    assert error.attempt == 2
    assert "quarantined" in str(error)
    assert log.read_text().count("attempt") == 2


# -- out of memory --------------------------------------------------------------------------------

CROWDED = """
import sys, unirun
from pathlib import Path
from process import bodies, mishaps

group = Path(sys.argv[1])
(group / "cgroup.procs").write_text("0")
with unirun.Executor(1, backend="process") as executor:
    executor.submit(bodies.double, 1).result(20)
    error = executor.submit(mishaps.hog, 400 << 20).exception(20)
    print(type(error).__name__, error.signal_name, error.oom)
    print(executor.submit(bodies.double, 2).result(20))
    error = executor.submit(bodies.by_sigkill).exception(20)
    print(type(error).__name__, error.signal_name, error.oom)
"""


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group that allows 150 MB of memory."""
    version_1 = Path("/sys/fs/cgroup/memory")
    home = version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")
    group = home / f"unirun-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"no control group can be made here: {exc}")
    try:
        limit = group / ("memory.limit_in_bytes" if home == version_1 else "memory.max")
        if not limit.exists():
            pytest.skip("the control group has no say about memory")
        limit.write_text(str(150 << 20))
        yield group
    finally:
        watch.until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are a thing of Linux")
def test_a_worker_killed_for_want_of_memory_is_told_from_others(
    small_group: Path, tmp_path: Path
) -> None:
    env = watch.with_tests_on_path()
    done = watch.run(tmp_path, CROWDED, str(small_group), env=env, timeout=3 * PATIENCE)
    assert done.stdout.splitlines() == [
        "WorkerCrashed SIGKILL True",
        "4",
        "WorkerCrashed SIGKILL False",
    ], done.stderr
