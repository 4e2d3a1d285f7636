"""What workers run in the tests of this folder. Light, so that a new worker has it at once."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from process.line import PATIENCE, Line


def sleep(line: Line) -> None:
    line.send(os.getpid())
    time.sleep(1000)


def hold_the_gil(line: Line) -> None:
    line.send(os.getpid())
    while True:
        pass


def loop_in_c(line: Line) -> None:
    line.send(os.getpid())
    sum(range(10**15))


def ignore_sigterm(line: Line) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line.send(os.getpid())
    time.sleep(1000)


def clean_up_on_sigterm(line: Line, path: str) -> None:
    def clean_up(*_: object) -> None:
        Path(path).write_text("clean")
        sys.exit()

    signal.signal(signal.SIGTERM, clean_up)
    line.send(os.getpid())
    time.sleep(1000)


def answer_to_sigterm(line: Line) -> str:
    """Ends as if nothing had happened, after it was told to die."""

    def give_up(*_: object) -> None:
        raise InterruptedError

    signal.signal(signal.SIGTERM, give_up)
    line.send(os.getpid())
    with contextlib.suppress(InterruptedError):
        time.sleep(1000)
    return "as if nothing had happened"


def start_a_child(line: Line) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    line.send(f"{os.getpid()} {child.pid}")
    time.sleep(1000)


def start_children(line: Line) -> None:
    children = [
        subprocess.Popen(["sleep", "1000"]),
        subprocess.Popen(["sleep", "1000"], start_new_session=True),
        subprocess.Popen([sys.executable, "-c", GRANDPARENT, line.path], start_new_session=True),
    ]
    line.send(" ".join(str(child.pid) for child in children))
    time.sleep(1000)


GRANDPARENT = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
fd = os.open(sys.argv[1], os.O_RDWR)
os.write(fd, str(child.pid).encode().ljust(64))
time.sleep(1000)
"""


def double(x: int) -> int:
    return 2 * x


def log_start(path: str, number: int, rounds: int) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b"%d\n" % number)
    os.close(fd)
    for _ in range(rounds):
        pass
    return number


# -- dying --------------------------------------------------------------------------------------


def by_sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def by_segfault() -> None:
    ctypes = __import__("ctypes")
    ctypes.string_at(0)


def by_exit_0() -> None:
    os._exit(0)


def by_exit_3() -> None:
    os._exit(3)


def by_abort() -> None:
    os.abort()


def raise_exit(status: object) -> None:
    sys.exit(status)  # type: ignore[arg-type]


def pid() -> int:
    return os.getpid()


def wait_for(line: Line, ready: Line) -> int:
    """Says that it runs, and returns its pid when it is told to."""
    ready.send(os.getpid())
    line.wait()
    return os.getpid()


def die_when_told(line: Line, ready: Line) -> None:
    ready.send(os.getpid())
    line.wait()
    by_sigkill()


class DiesUnpickled:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> object:
        return by_exit_3, ()


class DiesPickled:
    """Ends the process that pickles it."""

    def __reduce__(self) -> object:
        os._exit(4)


def return_what_dies() -> DiesPickled:
    return DiesPickled()


def return_much(line: Line, ready: Line) -> bytes:
    ready.send(os.getpid())
    line.wait()
    ready.send(os.getpid())
    return bytes(100_000_000)


def note_and_die(path: str) -> None:
    note(path, "attempt")
    os._exit(5)


def note(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def note_and_raise(path: str) -> None:
    note(path, "attempt")
    raise LookupError("no licence found")


class Slow:
    """Takes as long to unpickle, in the pool's loop, as a line stays silent."""

    def __init__(self, line: Line, ready: Line) -> None:
        self.line, self.ready = line, ready

    def __setstate__(self, state: dict[str, Line]) -> None:
        self.__dict__.update(state)
        self.ready.send()
        self.line.wait()


def make_slow(line: Line, ready: Line) -> Slow:
    slow = Slow.__new__(Slow)
    slow.line, slow.ready = line, ready
    return slow


def answer_and_die(line: Line, ready: Line) -> str:
    """Returns, and soon afterwards its worker dies all the same."""
    threading = __import__("threading")
    thread = threading.Thread(target=die_when_told, args=(line, ready), daemon=True)
    thread.start()
    return "answer"


# -- bad manners --------------------------------------------------------------------------------


def fork_and(child: str) -> int:
    """The exit status of a child that leaves the task in one way or another."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if child == "exits":
        sys.exit(3)
    if child == "raises":
        raise ValueError("in the child")
    if child == "forks":
        return fork_and("returns")
    return 99


def close_fds(first: int, last: int) -> str:
    os.closerange(first, last + 1)
    return "closed"


def use_multiprocessing(method: str) -> list[int]:
    import multiprocessing

    context = multiprocessing.get_context(method)
    process = context.Process(target=sys.exit, args=(7,))
    process.start()
    process.join(PATIENCE)
    with context.Pool(2) as pool:
        return [process.exitcode or 0, *pool.map(double, [1, 2])]


def use_subprocess() -> str:
    return subprocess.run(
        ["sh", "-c", "ls -l /proc/self/fd; echo fine"],
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def replace_stdout(how: str) -> str:
    class Nothing:
        pass

    if how == "nonsense":
        sys.stdout = Nothing()  # type: ignore[assignment]
    elif how == "none":
        sys.stdout = None  # type: ignore[assignment]
    elif how == "deleted":
        del sys.stdout
    else:
        sys.stdout.close()
    return how


def write_into_every_pipe(garbage: bytes) -> None:
    for fd in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(fd, garbage)
    time.sleep(1000)


def call_home(module: str) -> str:
    return module


class Unread:
    """Cannot be unpickled."""

    def __reduce__(self) -> object:
        return int, ("no number",)


class UnreadAtHome:
    """Can be unpickled in a worker only."""

    def __init__(self, home: int) -> None:
        self.home = home

    def __setstate__(self, state: dict[str, int]) -> None:
        if os.getpid() == state["home"]:
            raise LookupError("not here")
        self.__dict__.update(state)


def hand_back(value: object) -> object:
    return value


def fail_to_pickle(kind: type[BaseException]) -> object:
    return Refusing(kind)


class Refusing:
    """Raises whatever is wanted when it is pickled."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> object:
        raise self.kind("not me")


class Silent(Exception):
    """Has no text, and says so violently."""

    def __str__(self) -> str:
        raise SystemExit("no text for you")


def raise_silent(*_: object) -> None:
    raise Silent


class RaisesSilentAtHome:
    def __init__(self, home: int) -> None:
        self.home = home

    def __setstate__(self, state: dict[str, int]) -> None:
        if os.getpid() == state["home"]:
            raise Silent
        self.__dict__.update(state)


class RaisesSilentAway:
    def __init__(self, home: int) -> None:
        self.home = home

    def __setstate__(self, state: dict[str, int]) -> None:
        if os.getpid() != state["home"]:
            raise Silent


def leave_a_thread_asking(ready: Line, line: Line) -> str:
    """Its thread goes on asking whether a call was cancelled that has ended long ago."""
    import threading

    from unirun import current_task

    task = current_task()
    assert task is not None

    def ask() -> None:
        while not task.cancelled:
            task.token.wait(0.001)

    threading.Thread(target=ask, daemon=True).start()
    return "answer"


def sleep_until_cancelled(ready: Line) -> str:
    from unirun import TaskCancelled, current_task

    task = current_task()
    assert task is not None
    ready.send()
    try:
        task.sleep(PATIENCE)
    except TaskCancelled:
        return "cancelled"
    return "slept"


def fork_and_ask() -> int:
    from unirun import current_task

    task = current_task()
    assert task is not None
    pid = os.fork()
    if not pid:
        os._exit(int(task.cancelled))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def allocate(size: int) -> bytes:
    return bytes(size)


def length(data: bytes) -> int:
    return len(data)


def echo(data: bytes) -> bytes:
    return data


# -- what a worker has, and is ------------------------------------------------------------------


def loaded(module: str) -> bool:
    return module in sys.modules


def cwd() -> str:
    return str(Path.cwd())


def use_module(name: str) -> str:
    return __import__(name).VALUE  # type: ignore[no-any-return]


def parent() -> int:
    return os.getppid()


def read_stdin() -> str:
    return sys.stdin.read()


def argv() -> list[str]:
    return sys.argv


remembered: list[object] = []


def remember(*values: object) -> None:
    remembered.extend(values)


def recall() -> list[object]:
    return remembered


def note_and_return(path: str, value: int) -> int:
    note(path, str(value))
    return value


def wait_and_note(line: Line, ready: Line, path: str) -> None:
    ready.send(os.getpid())
    line.wait()
    note(path, "done")


def leave_a_thread_running() -> int:
    import threading

    threading.Thread(target=time.sleep, args=(1000,)).start()
    return os.getpid()


def which_can_submit(depth: int) -> list[bool]:
    """Whether each worker on the way had what that takes, before its task did it."""
    could = "unirun._executor" in sys.modules
    if not depth:
        return [could]
    import unirun

    isolated = unirun.current_executor().options(kind="isolated")
    return [could, *isolated.submit(which_can_submit, depth - 1).result()]


def has_the_process_backend() -> bool:
    """In a task that has submitted a call."""
    import unirun

    unirun.submit(int).result()
    return "unirun.backends.process.pool" in sys.modules
