"""Runs the command line as users do: a process of its own, in a directory with a module `work`."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

PATIENCE = 20.0  # seconds after which a test has failed

WORK = '''
import asyncio, os, signal, sys, time
import unirun

def double(x):
    return x * 2

def number(x):
    return int(x)

def add(a, b=10):
    return a + b

def pid(x):
    return os.getpid()

@unirun.task(kind="cpu")
def tasked(x):
    return [os.getpid(), x]

@unirun.task(kind="cpu", require={"killable"})
def must_be_killable(x):
    return x

async def later(x):
    await asyncio.sleep(0)
    return x * 2

class Shop:
    @staticmethod
    def static(x):
        return f"static {x}"

    @unirun.task(kind="cpu")
    @classmethod
    def tasked(cls, x):
        return f"{cls.__name__} {x}"

    def __init__(self, x):
        self.x = x

    def __repr__(self):
        return f"Shop({self.x})"

constant = 3

def chatty(x):
    print("printed", x)
    os.system("echo from a program; cat")
    sys.stdin.read()
    return x

def crash_at_3(x):
    if x == "3":
        os._exit(7)
    with open("ran", "a") as file:
        file.write(x)
    return x

def retried(x):
    attempt = unirun.current_task().attempt
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt}")
    return attempt

def wait_for(path):
    """Return what is written to a fifo, once it is."""
    with open(path) as file:
        return file.read()

def begin(x):
    """Tell that a call runs: a line to stderr, in one write."""
    os.write(2, f"running {x}\\n".encode())

def sleep(x):
    begin(x)
    time.sleep(3600)

def spin(x):
    begin(x)
    while True:
        pass

def stubborn(x):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep(x)

def tidy(x):
    def clean_up(*_):
        os.write(2, b"cleaned up\\n")
        os._exit(0)
    signal.signal(signal.SIGTERM, clean_up)
    sleep(x)

def parent(x):
    """Has a child of its own, in a session of its own."""
    import subprocess
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
    sleep(x)

async def sleep_async(x):
    begin(x)
    await asyncio.sleep(3600)

def pooled(x):
    """Hangs in a thread that the interpreter waits for at its exit."""
    import concurrent.futures
    pool = concurrent.futures.ThreadPoolExecutor()
    return pool.submit(sleep, x).result()
'''


def environment(**variables: str) -> dict[str, str]:
    """Ours, without settings and habits, and with these."""
    habits = ("UNIRUN_", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(habits)}
    return {**kept, **variables}


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """What was written, which has to be JSON, strictly, line by line."""
        return [json.loads(line, parse_constant=refuse) for line in self.out.splitlines()]


def refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def unirun(
    *arguments: str,
    cwd: Path,
    stdin: str | bytes = "",
    program: Sequence[str] = (sys.executable, "-m", "unirun"),
    **variables: str,
) -> Done:
    """Run it to its end."""
    done = subprocess.run(
        [*program, *arguments],
        cwd=cwd,
        env=environment(**variables),
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=PATIENCE,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


class Running:
    """The command line while it runs: unbuffered pipes to all three streams."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def out_line(self) -> str:
        assert self.process.stdout is not None
        return read_line(self.process.stdout.fileno())

    def err_line(self) -> str:
        assert self.process.stderr is not None
        return read_line(self.process.stderr.fileno())

    def family(self) -> list[psutil.Process]:
        """The command itself and every process that descends from it now."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> Done:
        """End its input and wait for its end."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return Done(self.process.returncode, out.decode(), err.decode())


@contextlib.contextmanager
def running(*arguments: str, cwd: Path, **variables: str) -> Iterator[Running]:
    """Start it; it is killed if the test leaves it behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unirun", *arguments],
        cwd=cwd,
        env=environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        process.wait(PATIENCE)


def read_line(fd: int) -> str:
    """The next line of a pipe or terminal, byte by byte so that nothing is taken too early."""
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([fd], [], [], PATIENCE)[0], f"no line comes, only {line!r}"
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line.decode()


def left_after(processes: list[psutil.Process], seconds: float) -> list[str]:
    """Which of them are still there after `seconds`; zombies of somebody else's do not count."""
    end = time.monotonic() + seconds
    while True:
        left = [each for each in processes if _lives(each)]
        if not left or time.monotonic() > end:
            return [f"{each.pid} {' '.join(each.cmdline())}" for each in left]
        time.sleep(0.005)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
