"""Every exception: the bases its module draws, what it carries, and that it travels."""

import concurrent.futures
import concurrent.futures.process
import concurrent.futures.thread
import copy
import pickle
import queue
import re
import threading
import traceback
from collections.abc import Iterator

import pytest

import unirun
from unirun import _errors, _remote
from unirun._errors import UnirunError

# What the tree in the docstring calls by its short name.
STANDARD = {
    "BrokenBarrierError": threading.BrokenBarrierError,
    "BrokenExecutor": concurrent.futures.BrokenExecutor,
    "BrokenProcessPool": concurrent.futures.process.BrokenProcessPool,
    "BrokenThreadPool": concurrent.futures.thread.BrokenThreadPool,
    "CancelledError": concurrent.futures.CancelledError,
    "ConnectionError": ConnectionError,
    "ImportError": ImportError,
    "MemoryError": MemoryError,
    "PicklingError": pickle.PicklingError,
    "RuntimeError": RuntimeError,
    "TimeoutError": TimeoutError,
    "TypeError": TypeError,
    "ValueError": ValueError,
}

# What faulthandler leaves, as `remains` hands it on.
STACK = """Fatal Python error: Segmentation fault

Thread 0x00007f0000000001 (most recent call first):
  File "/lib/threading.py", line 324 in wait

Current thread 0x00007f0000000002 (most recent call first):
  File "/lib/ctypes/__init__.py", line 519 in string_at
  File "/home/me/work.py", line 7 in f

Extension modules: numpy (total: 1)"""

SAMPLES: list[UnirunError] = [
    unirun.UnirunError("a text"),
    unirun.ConfigError("pyproject.toml: a text"),
    unirun.UnknownOption("options(): a text"),
    unirun.UnknownBackend("a text"),
    unirun.BackendUnavailable("a text"),
    unirun.UnsupportedByBackend("thread", "kill", "use a process"),
    unirun.NotKillable("thread", "kill", "use a process"),
    unirun.ExecutorShutdown("a text"),
    unirun.SerializationError("a text"),
    unirun.DeserializationError("a text"),
    unirun.TaskKilled("a text"),
    unirun.NotReplayable("a text"),
    unirun.ScopeTimeout("a text"),
    unirun.TaskCancelled("a text"),
    unirun.TaskTimeout("a text", abandoned=True),
    unirun.TaskTimeout(),
    unirun.QueueFull("a text"),
    unirun.QueueTimeout("a text"),
    unirun.WorkerCrashed("module.function", 42, -9, attempt=2, detail="a detail"),
    unirun.WorkerCrashed("module.function", None, None),
    unirun.WorkerCrashed("module.function", 42, -9, stderr="words", stack=STACK, oom=True),
    unirun.TaskMemoryExceeded("module.function", 42, limit=2**30, used=2**31),
    unirun.InitializerFailed("a text"),
    unirun.RemoteError("a text"),
    unirun.ManagerLost("a text"),
    unirun.ManagerLost(111, "connection refused"),
    unirun.LockAbandoned("a text"),
    unirun.BarrierTooLarge("a text"),
    unirun.DeadlockError("a text"),
    unirun.BackendLost("a text"),
    unirun.NoSuitableWorker("a text"),
    unirun.ResultLost("module.function", "a place", attempt=2),
    unirun.VersionMismatch("a text"),
]


def tree() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, names of its bases) for each line of the tree in the docstring."""
    branch: list[tuple[int, str]] = []
    for line in (_errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"([ │]*(?:[├└]── )?)(\w+)(?:\(([\w, ]+)\))?(?:  .*)?", line)
        if match is None or not (match[1].endswith("── ") or line.strip() == "UnirunError"):
            continue
        while branch and branch[-1][0] >= len(match[1]):
            branch.pop()
        parent = branch[-1][1] if branch else "Exception"
        branch.append((len(match[1]), match[2]))
        yield match[2], (parent, *re.findall(r"\w+", match[3] or ""))


TREE = dict(tree())


def same(error: BaseException, other: BaseException) -> bool:
    """Nothing that can be asked of one tells it from the other."""
    return (
        type(error) is type(other)
        and error.args == other.args
        and vars(error) == vars(other)
        and str(error) == str(other)
        and repr(error) == repr(other)
    )


# -- the tree -------------------------------------------------------------------------------------


def test_the_tree_shows_every_error_and_no_other() -> None:
    assert next(iter(TREE)) == "UnirunError"
    assert set(TREE) == set(_errors.__all__)


@pytest.mark.parametrize("name", _errors.__all__)
def test_an_error_has_the_bases_the_tree_shows(name: str) -> None:
    error = getattr(unirun, name)
    bases = [STANDARD.get(base) or getattr(unirun, base, Exception) for base in TREE[name]]
    assert error.__bases__ == tuple(bases)


def test_every_error_there_is_is_in_the_samples() -> None:
    public = {getattr(unirun, name) for name in unirun.__all__}
    errors = {cls for cls in public if isinstance(cls, type) and issubclass(cls, UnirunError)}
    assert errors == {type(sample) for sample in SAMPLES}


@pytest.mark.parametrize("error", list(dict.fromkeys(map(type, SAMPLES))), ids=lambda e: e.__name__)
def test_an_error_is_public(error: type[UnirunError]) -> None:
    assert error.__module__ == "unirun"
    assert error.__name__ in unirun.__all__
    assert getattr(unirun, error.__name__) is error
    assert (error.__doc__ or "").strip(), "it says what it means"


# -- what code that is already written catches ----------------------------------------------------

CAUGHT = [
    (unirun.ExecutorShutdown, RuntimeError),
    (unirun.NotReplayable, RuntimeError),
    (unirun.ScopeTimeout, TimeoutError),
    (unirun.TaskKilled, concurrent.futures.CancelledError),
    (unirun.TaskTimeout, TimeoutError),
    (unirun.TaskTimeout, concurrent.futures.TimeoutError),
    (unirun.QueueFull, queue.Full),
    (unirun.QueueTimeout, TimeoutError),
    (unirun.WorkerCrashed, concurrent.futures.BrokenExecutor),
    (unirun.WorkerCrashed, RuntimeError),
    (unirun.TaskMemoryExceeded, MemoryError),
    (unirun.InitializerFailed, concurrent.futures.BrokenExecutor),
    (unirun.DeserializationError, concurrent.futures.process.BrokenProcessPool),
    (unirun.SerializationError, pickle.PickleError),
    (unirun.SerializationError, TypeError),
    (unirun.BackendUnavailable, ImportError),
    (unirun.NotKillable, ValueError),
    (unirun.NotKillable, RuntimeError),
    (unirun.UnknownOption, TypeError),
    (unirun.UnknownOption, ValueError),
    (unirun.ManagerLost, OSError),
    (unirun.LockAbandoned, RuntimeError),
    (unirun.BarrierTooLarge, threading.BrokenBarrierError),
    (unirun.DeadlockError, RuntimeError),
    (unirun.BackendLost, concurrent.futures.BrokenExecutor),
    (unirun.NoSuitableWorker, ValueError),
    (unirun.ResultLost, concurrent.futures.process.BrokenProcessPool),
    (unirun.VersionMismatch, ImportError),
]


@pytest.mark.parametrize(("error", "caught"), CAUGHT)
def test_handlers_written_for_the_standard_library_catch_it(
    error: type[UnirunError], caught: type[BaseException]
) -> None:
    assert issubclass(error, caught)


# -- what an error carries ------------------------------------------------------------------------


def test_what_a_backend_cannot_do_is_told_in_parts() -> None:
    error = unirun.UnsupportedByBackend("thread", "kill a call", "use backend='process'")
    assert str(error) == "the 'thread' backend cannot kill a call; use backend='process'"
    assert (error.backend, error.feature) == ("thread", "kill a call")
    assert error.remedy == "use backend='process'"


@pytest.mark.parametrize(
    ("exitcode", "signal_name", "text"),
    [
        (-9, "SIGKILL", "died by SIGKILL"),
        (-11, "SIGSEGV", "died by SIGSEGV"),
        (-99, "signal 99", "died by signal 99"),
        (0, None, "died with exit code 0"),
        (7, None, "died with exit code 7"),
        (None, None, "died with exit code None"),
    ],
)
def test_a_crash_says_how_the_worker_died(
    exitcode: int | None, signal_name: str | None, text: str
) -> None:
    error = unirun.WorkerCrashed("work.f", 42, exitcode, attempt=3, detail="its last words")
    assert str(error) == f"the worker (pid 42) running work.f {text}; its last words"
    assert (error.task, error.pid, error.exitcode) == ("work.f", 42, exitcode)
    assert (error.signal_name, error.attempt) == (signal_name, 3)


def test_a_crash_shows_where_it_was_and_what_it_wrote_last() -> None:
    error = unirun.WorkerCrashed("work.f", 42, -11, stderr="one\ntwo\n", stack=STACK)
    assert str(error).splitlines() == [
        "the worker (pid 42) running work.f died by SIGSEGV",
        "  it was in (most recent call first):",
        '    File "/lib/ctypes/__init__.py", line 519 in string_at',
        '    File "/home/me/work.py", line 7 in f',
        "  the last it wrote to stderr:",
        "    one",
        "    two",
    ]
    assert (error.stderr, error.stack) == ("one\ntwo\n", STACK)


def test_a_crash_shows_no_more_than_can_be_read() -> None:
    frames = [f'  File "/work.py", line {n} in f{n}' for n in range(50)]
    stack = "Current thread 0x1 (most recent call first):\n" + "\n".join(frames)
    stderr = "\n".join([*map(str, range(50)), "x" * 5000])
    error = unirun.WorkerCrashed("work.f", 42, -11, stderr=stderr, stack=stack)
    lines = str(error).splitlines()
    assert [line.split()[-1] for line in lines if "File" in line] == [f"f{n}" for n in range(8)]
    assert [line.strip() for line in lines[-5:-1]] == ["46", "47", "48", "49"]
    assert len(lines[-1]) < 300
    assert len(error.stderr) > 5000


def test_a_stack_of_no_known_form_is_carried_and_not_shown() -> None:
    error = unirun.WorkerCrashed("work.f", 42, -11, stack="\x00 garbage")
    assert str(error) == "the worker (pid 42) running work.f died by SIGSEGV"
    assert error.stack == "\x00 garbage"


def test_a_kill_for_want_of_memory_says_what_to_do() -> None:
    error = unirun.WorkerCrashed("work.f", 42, -9, oom=True)
    assert error.oom
    assert "died by SIGKILL; the system had run out of memory and killed it; use" in str(error)
    assert "memory=" in str(error)
    assert not unirun.WorkerCrashed("work.f", 42, -9).oom


def test_a_call_that_took_too_much_memory_says_how_much() -> None:
    error = unirun.TaskMemoryExceeded("work.f", 42, limit=2**30, used=2**30 + 2**28)
    assert str(error) == (
        "work.f used 1.25 GiB of memory in worker 42, where 1 GiB were allowed, and was killed; "
        "raise memory= or give it less to do at once"
    )
    assert (error.task, error.pid) == ("work.f", 42)
    assert (error.limit, error.used) == (2**30, 2**30 + 2**28)


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1 bytes"), (1536, "1.5 KiB"), (5 << 20, "5 MiB"), (3 << 40, "3 TiB")]
)
def test_sizes_have_a_unit_that_fits(size: int, text: str) -> None:
    assert f"used {text} of" in str(unirun.TaskMemoryExceeded("f", 1, limit=1, used=size))


def test_a_timeout_says_whether_the_body_runs_on() -> None:
    assert not unirun.TaskTimeout("late").abandoned
    assert unirun.TaskTimeout("late", abandoned=True).abandoned
    assert str(unirun.TaskTimeout()) == "the call timed out"


# -- travelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_pickles_with_all_it_carries(error: UnirunError, protocol: int) -> None:
    assert same(pickle.loads(pickle.dumps(error, protocol)), error)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_can_be_copied(error: UnirunError) -> None:
    assert same(copy.copy(error), error)
    assert same(copy.deepcopy(error), error)


def test_an_error_keeps_its_notes_and_what_was_set_on_it() -> None:
    error = unirun.WorkerCrashed("work.f", 42, -9)
    error.add_note("a note")
    error.told = {"by": "a user"}  # type: ignore[attr-defined]
    arrived = pickle.loads(pickle.dumps(error))
    assert arrived.__notes__ == ["a note"]
    assert arrived.told == {"by": "a user"}


def test_an_oserror_keeps_its_number() -> None:
    arrived = pickle.loads(pickle.dumps(unirun.ManagerLost(111, "connection refused")))
    assert (arrived.errno, arrived.strerror) == (111, "connection refused")


class OfTheirs(unirun.WorkerCrashed):
    """A subclass with an `__init__` of its own."""

    def __init__(self, *, colour: str) -> None:
        super().__init__("work.f", 1, 2)
        self.colour = colour


def test_a_subclass_of_the_users_own_pickles_whatever_its_init() -> None:
    error = OfTheirs(colour="red")
    assert same(pickle.loads(pickle.dumps(error)), error)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_travels_from_a_worker_as_itself(error: UnirunError) -> None:
    """The way outcomes take, which keeps the cause too."""
    error.__cause__ = cause = unirun.DeadlockError("why")
    try:
        arrived = _remote.decode(_remote.encode(error))
    finally:
        error.__cause__ = None
    assert same(arrived, error)
    assert arrived.__cause__ is not None
    assert same(arrived.__cause__, cause)


def raise_all(index: int) -> None:
    raise SAMPLES[index]


def test_every_error_may_pass_through_a_task() -> None:
    with unirun.Executor(1, backend="process") as executor:
        futures = [executor.submit(raise_all, index) for index in range(len(SAMPLES))]
        arrived = [future.exception(20) for future in futures]
    for error, sample in zip(arrived, SAMPLES, strict=True):
        assert error is not None
        assert "of test_errors.raise_all(" in error.__notes__[-1]
        del error.__notes__
        assert same(error, sample)
        assert "in raise_all" in "".join(traceback.format_exception(error))
