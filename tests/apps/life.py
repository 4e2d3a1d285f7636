"""A program that uses a bit of everything, and says how each step ended: one line for each.

    python life.py [--start METHOD] [--manager WHERE] [STEP ...]

Where nothing is wrong each line is "STEP: fine".  Tests run it in bad worlds.
"""

import argparse
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import unirun

PATIENCE = 20.0


def double(number: int) -> int:
    return 2 * number


def echo(data: bytes) -> bytes:
    return data


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    time.sleep(1000)


def put(queue: Any, count: int) -> None:
    for number in range(count):
        queue.put(number)


def hold(lock: Any) -> int:
    with lock:
        return os.getpid()


class Life:
    """The steps; each is a method that fails by an exception."""

    def __init__(self, method: str | None, manager: str) -> None:
        options = {"mp_context": method, "manager": manager, "grace": 0.2}
        self.executor = unirun.Executor(2, backend="process", **options)
        self._submit = self.executor.submit

    def step_map(self) -> None:
        assert list(self.executor.map(double, range(300))) == [2 * n for n in range(300)]

    def step_lambda(self) -> None:
        assert self._submit(lambda number: number + 1, 3).result(PATIENCE) == 4

    def step_crash(self) -> None:
        assert type(self._submit(die).exception(PATIENCE)) is unirun.WorkerCrashed

    def step_kill(self) -> None:
        future = self._submit(sleep)
        while not future.running():
            time.sleep(0.001)
        assert future.kill()
        assert future.cancelled()

    def step_timeout(self) -> None:
        late = self.executor.options(timeout=0.1).submit(sleep)
        assert type(late.exception(PATIENCE)) is unirun.TaskTimeout

    def step_large(self) -> None:
        for size in (100_000, 20_000_000):
            data = os.urandom(size)
            assert self._submit(echo, data).result(PATIENCE) == data

    def step_shared(self) -> None:
        queue, lock, event = self.executor.Queue(), self.executor.Lock(), self.executor.Event()
        putting = self._submit(put, queue, 50)
        assert [queue.get(timeout=PATIENCE) for _ in range(50)] == list(range(50))
        putting.result(PATIENCE)
        assert all(self._submit(hold, lock).result(PATIENCE) for _ in range(5))
        setting = self._submit(event.set)
        assert event.wait(PATIENCE)
        setting.result(PATIENCE)

    def step_threads(self) -> None:
        with unirun.Executor(2, backend="thread") as threads:
            assert list(threads.map(double, range(5))) == [0, 2, 4, 6, 8]

    def step_again(self) -> None:
        assert self._submit(double, 4).result(PATIENCE) == 8

    def step_shutdown(self) -> None:
        self.executor.shutdown(timeout=PATIENCE)


STEPS = [name.removeprefix("step_") for name in vars(Life) if name.startswith("step_")]


def tell(name: str, step: Callable[[], None]) -> None:
    try:
        step()
        text = "fine"
    except BaseException as exc:  # it is told
        text = f"{type(exc).__name__}: {exc}"
    print(f"{name}: {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", default=None)
    parser.add_argument("--manager", default="thread")
    parser.add_argument("steps", nargs="*")
    options = parser.parse_args()
    life = Life(options.start, options.manager)
    for name in options.steps or STEPS:
        tell(name, getattr(life, f"step_{name}"))


if __name__ == "__main__":
    main()
