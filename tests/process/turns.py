"""The whole process backend in one process, its threads taking turns as a test says.

Workers are threads that run the real worker's code on real pipes and memory.  Every access to the
memory shared with the pool, every read and write of a pipe, and whatever a call does is one step;
between two steps of one thread any other may do as many as the schedule gives it.  Clocks tick by
the step.  So what a schedule shows does not depend on the machine, and can be shown again.
"""

import contextlib
import itertools
import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from process.line import PATIENCE

from unirun import _context
from unirun._records import replace
from unirun.backend import WorkerSpec
from unirun.backends.process import alarms, control, crew, launch, wire, worker
from unirun.backends.process.backend import ProcessBackend

Schedule = Iterable[tuple[int, int]]
"""Whose turn it is (modulo those there are), and for how many steps."""


TURNS = 20_000
"""Of the pool's loop, within which whatever is to happen has happened."""


class Died(BaseException):
    """What ends a thread that plays a worker, between any two of its steps."""


class Turns:
    """Lets one of its threads run at a time."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = iter(schedule)
        self._parties: dict[int, threading.Semaphore] = {}  # by thread
        self._left = 1
        self._fair = 0

    def join(self) -> None:
        """The calling thread is one of them from now on; the first one has the turn."""
        self._parties[threading.get_ident()] = threading.Semaphore(0)

    def wait(self) -> None:
        assert self._parties[threading.get_ident()].acquire(timeout=PATIENCE), "no turn came"

    def leave(self) -> None:
        del self._parties[threading.get_ident()]
        if self._parties:
            self._next().release()

    def play(self, schedule: Schedule) -> None:
        """From the next step on."""
        self._schedule = iter(schedule)
        self._left = 1

    def step(self) -> None:
        mine = self._parties.get(threading.get_ident())
        if mine is None:
            return  # not one of them
        self._left -= 1
        if self._left > 0:
            return
        if (other := self._next()) is not mine:
            other.release()
            self.wait()

    def _next(self) -> threading.Semaphore:
        """By the schedule; when that is over, all in turn."""
        self._fair += 1
        whose, self._left = next(self._schedule, (self._fair, 7))
        return list(self._parties.values())[whose % len(self._parties)]


class Stepwise:
    """A view of shared memory; each access is a step."""

    def __init__(self, view: Any, step: Callable[[], None]) -> None:
        self._view = view
        self._step = step

    def __getitem__(self, key: Any) -> Any:
        self._step()
        return self._view[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._step()
        self._view[key] = value


class World(launch.Launcher):
    """The pool, and the threads that play its workers."""

    def __init__(self, schedule: Schedule, workers: int) -> None:
        self.turns = Turns(schedule)
        self.began: list[int] = []  # numbers of calls
        self.now = 0.0
        self.nanoseconds = 0
        self.failures: list[BaseException] = []
        self.dead: set[int] = set()  # workers that are to die at their next step
        self._number = threading.local()  # of the worker that a thread plays
        self._news: list[Any] = []
        self._threads: list[threading.Thread] = []
        spec = WorkerSpec(max_workers=workers, idle_timeout=None, grace=0.0, blas_threads=None)
        spec = replace(spec, output="direct", logs=False)  # they share our streams
        self.backend = ProcessBackend(spec)
        self.pool = self.backend._pool
        self.backend._started = self.pool.open = True  # the test turns the loop
        self._look = self.pool._selector.select
        self.pool._selector.select = self._select  # type: ignore[method-assign]
        self.turns.join()

    # -- the pool's side --------------------------------------------------------------------------

    def turn(self) -> None:
        self.pool.role.do(self.pool._crew.news)
        self.pool._turn()

    def _select(self, timeout: float | None = None) -> Any:
        self.step()
        self.now += 0.001
        return self._look(0)

    def start(self, number: int, fds: tuple[int, ...]) -> None:
        own = tuple(map(os.dup, fds))
        joined = threading.Event()
        thread = threading.Thread(target=self._work, args=(number, own, joined), daemon=True)
        thread.start()
        self._threads.append(thread)
        assert joined.wait(PATIENCE)
        self._news.append(launch.Started(number, number))

    def news(self) -> list[Any]:
        news, self._news = self._news, []
        return news

    def fds(self) -> list[int]:
        return []

    def close(self) -> None:
        pass

    def end(self) -> None:
        """Have the pool end by itself, and see that it does."""
        self.pool.post(self.pool.close, False, False, RuntimeError())
        for _ in range(TURNS):
            if self.pool._state.finished:
                break
            self.turn()
        ended = self.pool._state.finished
        self.clean_up()
        assert ended, "the pool does not end"
        assert not self.failures

    def clean_up(self) -> None:
        self.dead |= set(range(1000))  # if there are any
        self.turns.leave()
        for thread in self._threads:
            thread.join(PATIENCE)
        self.pool._clean_up()

    # -- the worker's side ------------------------------------------------------------------------

    def _work(self, number: int, fds: tuple[int, ...], joined: threading.Event) -> None:
        self._number.is_ = number
        self.turns.join()
        joined.set()
        self.turns.wait()
        try:
            worker.main(*fds)
        except Died:
            pass
        for fd in {*fds} - {fds[3]}:  # which `open_control` closes
            os.close(fd)
        self._news.append(launch.Exited(number, -9))
        self.turns.leave()

    def step(self) -> None:
        self.turns.step()
        if getattr(self._number, "is_", None) in self.dead:
            raise Died

    def is_worker(self) -> bool:
        """Whether the calling thread plays one."""
        return getattr(self._number, "is_", None) is not None

    def die(self) -> None:
        """A call ends its worker."""
        self.dead.add(self._number.is_)
        self.step()

    def take_time(self, steps: int, nanoseconds: int) -> None:
        """A call does something that takes so long."""
        self.nanoseconds += nanoseconds
        for _ in range(steps):
            self.step()

    def report(self) -> None:
        """Something has ended a worker that should not."""
        if not isinstance(exc := sys.exception(), Died):
            assert exc is not None
            self.failures.append(exc)


class Doomed:
    """As in `limits`, for threads."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number

    def kill(self) -> None:
        self._world.dead.add(self._number)

    terminate = kill

    def sweep(self) -> None:
        pass


@contextlib.contextmanager
def make_world(schedule: Schedule, workers: int = 2) -> Iterator[World]:
    """A pool and its workers, all put back where they were at the end."""
    world = World.__new__(World)
    with pytest.MonkeyPatch.context() as patch:
        _share_memory_stepwise(patch, world)
        _share_pipes_stepwise(patch, world)
        _stop_clocks(patch, world)
        patch.setattr(launch, "make", lambda *_: world)
        patch.setattr(crew, "Doomed", lambda number: Doomed(world, number))
        patch.setattr(crew, "is_alive", lambda number: number not in world.dead)
        patch.setattr(worker, "_settle_in", lambda _: None)
        patch.setattr(worker, "_leave", lambda _: None)
        patch.setattr(worker, "_print_traceback", world.report)
        patch.setattr(os, "register_at_fork", lambda **_: None)  # no process comes to an end here
        for name in ("authkey", "inherited_settings", "depth", "home", "tell"):
            patch.setattr(_context, name, getattr(_context, name))
        world.__init__(schedule, workers)  # type: ignore[misc]
        try:
            yield world
        except BaseException:
            world.clean_up()
            raise
        world.end()


def _share_memory_stepwise(patch: pytest.MonkeyPatch, world: World) -> None:
    class Control(control.Control):
        def __init__(self, fd: int) -> None:
            super().__init__(fd)
            self.words: Any = Stepwise(self.words, world.step)
            self.journal: Any = Stepwise(self.journal, world.step)

    def open_control(fd: int) -> Control:
        try:
            return Control(fd)
        finally:
            os.close(fd)

    patch.setattr(crew, "Control", Control)
    patch.setattr(worker, "open_control", open_control)


def _share_pipes_stepwise(patch: pytest.MonkeyPatch, world: World) -> None:
    receive, write_all = wire.FrameReader.receive, wire.write_all

    def stepwise_receive(reader: Any, fd: int) -> Any:
        world.step()
        while world.is_worker() and not select.select([fd], [], [], 0)[0]:
            world.step()  # it waits here; the pool does not
        return receive(reader, fd)

    def stepwise_write(fd: int, data: bytes) -> None:
        world.step()
        write_all(fd, data)

    patch.setattr(wire.FrameReader, "receive", stepwise_receive)
    patch.setattr(wire, "write_all", stepwise_write)


def _stop_clocks(patch: pytest.MonkeyPatch, world: World) -> None:
    seconds = itertools.count()
    hold = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None)

    def nanoseconds() -> int:
        world.nanoseconds += 1000
        return world.nanoseconds

    patch.setattr(control, "time", hold)
    patch.setattr(alarms, "time", SimpleNamespace(monotonic=lambda: world.now))
    late = itertools.count().__next__  # nothing comes so soon that a worker would spin
    clock = SimpleNamespace(perf_counter_ns=nanoseconds, perf_counter=late)
    patch.setattr(worker, "time", clock)
