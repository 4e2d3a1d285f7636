"""Victims and survivors: tasks that use a shared object until they are killed, and the others.

A victim tells by a named pipe that it is where it is to die. One that is to crash is told by a
second pipe, which a thread of it reads.  What is tested takes no part in this.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from parties import PATIENCE, ProcessParty, ThreadParty, process_parties

import unirun


class Lines(NamedTuple):
    """The names of the two pipes."""

    up: str
    down: str

    def tell(self) -> None:
        """To the test: this process is where it is to be."""
        line = os.open(self.up, os.O_WRONLY)
        os.write(line, b"%d\n" % os.getpid())
        os.close(line)


class Stage:
    """Where victims die: an executor on processes, and who is to survive.

    Survivors are a thread of this process, a worker, and a process that the test itself started.
    """

    def __init__(self, directory: Path, parties: list[ProcessParty], acts: str) -> None:
        # Workers leave at once: those that replace a victim would be taken for what a test left.
        self.executor = unirun.Executor(
            backend="process", max_workers=2, grace=0, idle_timeout=0, preload=(acts,)
        )
        self.lines = Lines(str(directory / "up"), str(directory / "down"))
        self._process, self._witness = parties
        self._seen = self.executor.Semaphore()  # of the kind that only the manager can answer for
        for name in self.lines:
            os.mkfifo(name)
        # For reading and writing, lest they end with each writer.
        self._up, self._down = (os.open(name, os.O_RDWR) for name in self.lines)

    def close(self) -> None:
        self.executor.shutdown(kill=True)
        os.close(self._up)
        os.close(self._down)

    def make(self, kind: str, *args: Any) -> Any:
        """A shared object."""
        return getattr(self.executor, kind)(*args)

    def victim(self, death: str, act: Callable[..., Any], *args: Any) -> "Victim":
        """A worker that acts, once it has told that it does."""
        timeout = 1.0 if death == "timeout" else None
        view = self.executor.options(timeout=timeout)
        future = view.submit(be_a_victim, self.lines, death, act, *args)
        return Victim(death, future, self.told(), self)

    def crash(self) -> None:
        """Tell a victim to crash."""
        os.write(self._down, b"!")

    def notices(self, pid: int) -> None:
        """Wait until that process is gone, and the manager knows.

        The connections of a process end before it does, so the manager reads of their end before
        it reads what another process asks now.
        """
        end = time.monotonic() + PATIENCE
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, "it does not die"
            time.sleep(0.001)
        self._witness.start(self._seen.acquire, False).result()

    def told(self) -> int:
        """The id of the process that tells next."""
        assert select.select([self._up], [], [], PATIENCE)[0], "nobody tells anything"
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._up, 1)
        return int(line)

    def survivors(self, act: Callable[..., Any], *args: Any) -> Callable[[], list[Any]]:
        """Have each of the three act; returns how to wait for what they return."""
        return self.some(("thread", "worker", "process"), act, *args)

    def some(
        self, places: tuple[str, ...], act: Callable[..., Any], *args: Any
    ) -> Callable[[], list[Any]]:
        begin = {
            "thread": ThreadParty().start,
            "worker": self.executor.submit,
            "process": self._process.start,
        }
        begun = [begin[place](act, *args) for place in places]
        return lambda: [each.result() for each in begun]


@contextlib.contextmanager
def staged(directory: Path, acts: str) -> Iterator[Stage]:
    """A stage on which everything that lives as long as it does is there already.

    `acts` is the module of what is done there: workers have it before they are needed.
    """
    with process_parties(2) as parties:
        stage = Stage(directory, parties, acts)
        try:
            lock = stage.make("Lock")
            victim, taken = stage.victim("_exit", hold, lock), stage.survivors(take, lock)
            victim.die()
            taken()
            yield stage
        finally:
            stage.close()


def hold(tell: Callable[[], None], held: Any) -> None:
    with held:
        tell()
        stay()


def take(held: Any) -> bool | None:
    """Whether it was abandoned; None if it has no such notion."""
    assert held.acquire(timeout=PATIENCE)
    abandoned = getattr(held, "abandoned", None)
    held.release()
    return abandoned


class Victim:
    """A task that is to die, and how."""

    def __init__(self, death: str, future: Any, pid: int, stage: Stage) -> None:
        self._death = death
        self._future = future
        self._stage = stage
        self.pid = pid

    def falls_asleep(self) -> "Victim":
        """Wait until its main thread waits: it has not run for some looks."""
        looks = [-1.0]
        process = psutil.Process(self.pid)
        end = time.monotonic() + PATIENCE
        while len(looks) < 5:
            now = float(process.num_ctx_switches().voluntary) + process.cpu_times().user
            looks = [*looks, now] if now == looks[-1] else [now]
            assert time.monotonic() < end, "it does not wait for anything"
            time.sleep(0.002)
        return self

    def die(self) -> None:
        """The death itself, until its future and the manager know."""
        assert not self._future.done(), "it died too early"
        if self._death == "SIGKILL":
            os.kill(self.pid, signal.SIGKILL)
        elif self._death == "kill()":
            assert self._future.kill()
        elif self._death in CRASHES:
            self._stage.crash()
        with contextlib.suppress(ENDS[self._death]):
            raise AssertionError(f"the victim returned {self._future.result(PATIENCE)!r}")
        try:
            self._stage.notices(self.pid)
        except psutil.NoSuchProcess:
            self._stage.notices(self.pid)  # it went between two looks


CRASHES: dict[str, Callable[[], Any]] = {"_exit": lambda: os._exit(3), "abort": os.abort}
ENDS: dict[str, type[BaseException]] = {
    "SIGKILL": unirun.WorkerCrashed,
    "kill()": unirun.TaskKilled,
    "timeout": unirun.TaskTimeout,
    "_exit": unirun.WorkerCrashed,
    "abort": unirun.WorkerCrashed,
}


def be_a_victim(lines: Lines, death: str, act: Callable[..., Any], *args: Any) -> Any:
    if death in CRASHES:
        threading.Thread(target=_crash_when_told, args=(lines, death), daemon=True).start()
    return act(lines.tell, *args)


def _crash_when_told(lines: Lines, death: str) -> None:
    os.read(os.open(lines.down, os.O_RDWR), 1)
    CRASHES[death]()


def stay() -> None:
    """Wait for the end."""
    while True:
        signal.pause() if threading.current_thread() is threading.main_thread() else time.sleep(9)


def kill_each(*kinds: str, times_out: bool = False) -> Any:
    """Parametrize with each kind and each death; a time-out takes its time: one has to do."""
    cells = [
        (kind, death)
        for kind in kinds
        for death in ENDS
        if death != "timeout" or (times_out and kind == kinds[0])
    ]
    return pytest.mark.parametrize(("kind", "death"), cells, ids=["-".join(c) for c in cells])
