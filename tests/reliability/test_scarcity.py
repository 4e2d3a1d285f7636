"""Item 8: no descriptor, process, thread or address space left: slower work or a clear error."""

import shutil
import subprocess
from pathlib import Path

import pytest
from process import watch
from worlds import LIMIT, all_fine, live, nobody


@pytest.mark.scenario("RLIMIT_NOFILE 64", "everything works, with shared objects and crashes")
@pytest.mark.parametrize("method", ["zygote", "fork"])
def test_with_64_descriptors_everything_works(method: str) -> None:
    before = ["prlimit", "--nofile=64"]
    if shutil.which("prlimit") is None:
        before = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"]
    assert live("--start", method, before=before) == all_fine()


MANY = """
import resource, sys, unirun
import reliability_bodies_worlds as bodies

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with unirun.Executor(32, backend="process", mp_context=sys.argv[1]) as executor:
    naps = [executor.submit(bodies.nap, 0.05) for _ in range(32)]
    assert all(future.result(40) for future in naps)
    print(sum(executor.map(bodies.double, range(1000))))
executors, told = [], unirun.InitializerFailed  # so that it is imported while files can be opened
try:
    while True:
        executors.append(unirun.Executor(2, backend="process", mp_context=sys.argv[1]))
        executors[-1].submit(bodies.double, 1).result(40)
except told as exc:
    print(exc)
assert executors[0].submit(bodies.double, 3).result(40) == 6
for executor in executors:
    executor.shutdown()
"""


@pytest.mark.scenario("RLIMIT_NOFILE 64", "fewer workers than asked for, then a clear error")
def test_more_workers_and_executors_than_descriptors(tmp_path: Path) -> None:
    done = watch.run(tmp_path, MANY, "zygote", env=watch.with_tests_on_path(), timeout=LIMIT)
    assert done.stderr == ""
    assert done.stdout == (
        "999000\n"
        "no worker can be started: [Errno 24] Too many open files; "
        "raise the limit of open files (ulimit -n), or use fewer workers\n"
    )


UNMADE = """
import os, resource, unirun

def descriptors():
    return len(os.listdir("/proc/self/fd"))

executor = unirun.Executor(1, backend="process")  # all that is imported is imported
executor.submit(len, "").result(20)
executor.shutdown()
before = descriptors()
for room in range(12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + room, 4096))
    executor = unirun.Executor(1, backend="process")
    try:
        executor.submit(len, "").cancel()
    except unirun.InitializerFailed as exc:
        assert "ulimit -n" in str(exc)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    executor.shutdown(kill=True)
    del executor
import gc
gc.collect()
print(descriptors() - before)
"""


@pytest.mark.scenario("RLIMIT_NOFILE: an executor that cannot be made", "leaves no descriptor")
def test_an_executor_that_cannot_be_made_leaves_no_descriptor(tmp_path: Path) -> None:
    done = watch.run(tmp_path, UNMADE, timeout=LIMIT)
    assert (done.stdout, done.stderr) == ("0\n", "")


NO_ROOM_AT_THE_DOOR = """
import os, resource, sys, unirun
from unirun import _door
import reliability_bodies_worlds as bodies

_door.SCARCITY_PATIENCE = 0.2
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
executor = unirun.Executor(1, backend="process", mp_context=sys.argv[1])
lock = executor.Lock()
executor.submit(bodies.pid).result(20)
error = executor.submit(bodies.raise_this, ValueError).exception(20)  # what takes it is imported
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
error = executor.submit(bodies.acquire, lock).exception(20)
for fd in taken:
    os.close(fd)
print(type(error).__name__, error)
print(executor.submit(bodies.acquire, lock).result(20))
executor.shutdown()
"""


@pytest.mark.scenario("RLIMIT_NOFILE: no descriptor for who wants a shared object", "is told so")
def test_who_wants_a_shared_object_is_told_where_there_is_no_descriptor(tmp_path: Path) -> None:
    """He would wait in line for ever: his program has used up what the manager needs."""
    source, environment = NO_ROOM_AT_THE_DOOR, watch.with_tests_on_path()
    done = watch.run(tmp_path, source, "zygote", env=environment, timeout=LIMIT)
    assert done.stderr == ""
    told, again = done.stdout.splitlines()
    assert told.startswith("ManagerLost the manager of this shared object, at ")
    assert told.endswith("raise the limit of open files (ulimit -n), or use fewer workers")
    assert again == "True"


OUT_WHILE_IT_SETTLES = """
import os, resource, sys, unirun
import reliability_bodies_worlds as bodies

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
executor = unirun.Executor(1, backend="process")
executor.submit(bodies.pid).result(20)
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
error = executor.submit(bodies.raise_this, ValueError).exception(20)
assert executor.submit(bodies.double, 3).result(20) == 6
for fd in taken:
    os.close(fd)
print(type(error).__name__, error)
print(type(executor.submit(bodies.raise_this, ValueError).exception(20)).__name__)
executor.shutdown()
"""


@pytest.mark.scenario("RLIMIT_NOFILE: none left when a call fails", "the pool lives on")
def test_a_call_that_fails_without_descriptors_left_does_not_end_the_pool(tmp_path: Path) -> None:
    """To tell how it failed, something has to be imported: a file to be opened."""
    source, environment = OUT_WHILE_IT_SETTLES, watch.with_tests_on_path()
    done = watch.run(tmp_path, source, env=environment, timeout=LIMIT)
    assert done.stderr == ""
    told, after = done.stdout.splitlines()
    assert told.startswith("UnirunError reliability_bodies_worlds.raise_this failed; how cannot be")
    assert told.endswith("raise the limit of open files (ulimit -n), or use fewer workers")
    assert after == "ValueError"


@pytest.mark.scenario("RLIMIT_NPROC", "an error that says what to do, in every kind of pool")
def test_without_a_thread_to_be_had_the_error_says_what_to_do() -> None:
    before = [*nobody(), "prlimit", "--nproc=1"]
    lived = live("map", "shared", "threads", "shutdown", before=before)
    remedy = "can't start new thread; raise the limit of processes and threads (ulimit -u;"
    for step in ("map", "threads"):
        assert lived[step].startswith(f"InitializerFailed: no worker can be started: {remedy}")
    assert lived["shared"].startswith("ManagerLost: no manager for shared objects can be started")
    assert remedy in lived["shared"]
    assert lived["shutdown"] == "fine"


IMPATIENT = """
import os, sys
sys.path[:0] = sys.argv[1:2]
import resource, unirun
from unirun.backends.process import crew, zygote

crew.SCARCITY_PATIENCE = 0.3
threads = 2  # ours, and the loop's: then there is the zygote, or none
resource.setrlimit(resource.RLIMIT_NPROC, (threads + (sys.argv[2] == "zygote"),) * 2)
executor = unirun.Executor(2, backend="process", mp_context=sys.argv[2], preload=["hasty"])
print(executor.submit(len, "").exception(20))
executor.shutdown()
"""


@pytest.mark.scenario("RLIMIT_NPROC hit while starting a worker", "an error that says what to do")
@pytest.mark.parametrize("method", ["zygote", "spawn"])
def test_without_a_process_to_be_had_the_error_says_what_to_do(tmp_path: Path, method: str) -> None:
    hasty = "import unirun.backends.process.zygote as zygote\nzygote.PATIENCE = 0.3\n"
    (tmp_path / "hasty.py").write_text(hasty)
    command = [*nobody(), *watch.script(tmp_path, IMPATIENT), str(tmp_path), method]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, cwd=tmp_path, check=False
    )
    assert done.stderr == ""
    assert done.stdout.startswith("no worker can be started: ")
    assert "Resource temporarily unavailable" in done.stdout
    assert "raise the limit of processes and threads (ulimit -u" in done.stdout


LITTLE_SPACE = """
import os, resource, sys, unirun
import reliability_bodies_worlds as bodies

executor = unirun.Executor(1, backend="process", mp_context=sys.argv[1])
executor.submit(bodies.pid).result(20)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)  # no window of 64 MiB
data = os.urandom(5_000_000)
assert executor.submit(bodies.same, data).result(20) == data
error = executor.submit(bodies.last_of, bytes(1)).exception(20)
del data
try:
    far = executor.submit(bodies.same, bytearray(40 << 20)).exception(20)
except MemoryError as exc:
    far = exc
print(type(far).__name__ if far is None else isinstance(far, MemoryError | unirun.UnirunError))
assert executor.submit(bodies.double, 3).result(20) == 6
executor.shutdown()
"""


@pytest.mark.scenario("RLIMIT_AS hit", "large objects travel in the pipe, or are refused")
@pytest.mark.parametrize("method", ["zygote", "fork"])
def test_with_little_address_space_calls_go_on(tmp_path: Path, method: str) -> None:
    environment = watch.with_tests_on_path()
    done = watch.run(tmp_path, LITTLE_SPACE, method, env=environment, timeout=LIMIT)
    assert done.stderr == ""
    assert done.stdout in ("True\n", "NoneType\n")


UNBORN = """
import resource, threading, unirun
import reliability_bodies_worlds as bodies
from unirun.backends.process import crew

crew.SCARCITY_PATIENCE = crew.STOP_PATIENCE = 1000.0
executor = unirun.Executor(2, backend="process", mp_context="spawn")
executor.submit(bodies.double, 1).result(20)
processes = 1 + threading.active_count()
resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
futures = [executor.submit(bodies.nap, 0.05) for _ in range(4)]
assert len({future.result(20) for future in futures}) == 1
assert executor._backends["process"]._pool._crew._scarce_since is not None
executor.shutdown()
print("fine")
"""


@pytest.mark.scenario("RLIMIT_NPROC hit while starting a worker", "fewer workers; shutdown at once")
def test_a_worker_that_cannot_be_made_does_not_hold_up_the_shutdown(tmp_path: Path) -> None:
    command = [*nobody(), *watch.script(tmp_path, UNBORN)]
    environment = watch.with_tests_on_path()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=tmp_path,
        check=False,
        env=environment,
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
