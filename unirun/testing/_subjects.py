"""What the tests submit: functions, exceptions and objects that a worker can import.

Light, since every worker process under test imports it: slow imports stand where they are needed.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import unirun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HOLD_PATIENCE = 30.0
"""Seconds a body waits at a gate; longer than any test waits for it."""


# -- where and when -------------------------------------------------------------------------------


def hold(gate: tuple[str, int], value: Any = None) -> Any:
    """Arrive at a gate, wait to be let through, return `value`."""
    wait_at(gate)
    return value


def wait_at(gate: tuple[str, int]) -> None:
    import socket

    try:
        with socket.create_connection(gate, HOLD_PATIENCE) as connection:
            connection.sendall(os.getpid().to_bytes(8, "little"))
            connection.recv(1)
    except ConnectionError:
        return  # the gate was opened for all


_kept: list[Any] = []


def step(gate: tuple[str, int], held: int, path: str | None, n: int) -> int:
    """Note `n`; wait at the gate if it is the one that is held."""
    if path is not None:
        note(path, f"{n},")
    if n == held:
        wait_at(gate)
    return n


def attend(gate: tuple[str, int]) -> int:
    """Return at once, but keep the connection to the gate for as long as this process lives."""
    import socket

    connection = socket.create_connection(gate, HOLD_PATIENCE)
    connection.sendall(os.getpid().to_bytes(8, "little"))
    _kept.append(connection)
    return os.getpid()


def meet_until_cancelled(gate: tuple[str, int]) -> str:
    """Arrive, then go on until cancelled; returns what it noticed."""
    import socket
    import time

    task = unirun.current_task()
    assert task is not None
    if task.cancelled:
        return "cancelled from the start"
    with socket.create_connection(gate, HOLD_PATIENCE) as connection:
        connection.sendall(os.getpid().to_bytes(8, "little"))
        end = time.monotonic() + HOLD_PATIENCE
        while not task.cancelled and time.monotonic() < end:
            connection.settimeout(0.01)  # a body that polls, as bodies do
            try:
                connection.recv(1)
            except TimeoutError:
                continue
    return "cancelled" if task.cancelled else "not cancelled"


def sleep_until_cancelled(gate: tuple[str, int]) -> str:
    """Arrive, then sleep with `current_task().sleep()` until that raises."""
    import socket

    task = unirun.current_task()
    assert task is not None
    task.check()  # nothing yet
    with socket.create_connection(gate, HOLD_PATIENCE) as connection:
        connection.sendall(os.getpid().to_bytes(8, "little"))
        task.sleep(HOLD_PATIENCE)
    return "slept to the end"


def pid(_: Any = None) -> int:
    return os.getpid()


def where(_: Any = None) -> tuple[int, int]:
    """The process and the thread this runs in."""
    return os.getpid(), threading.get_ident()


# -- values ---------------------------------------------------------------------------------------


def same(value: Any) -> Any:
    return value


def nothing(*_: Any) -> None:
    return


def square(x: int) -> int:
    return x * x


def inverse(x: float) -> float:
    return 1 / x


def keywords(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def arguments(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


async def square_later(x: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return x * x


async def fail_later(text: str) -> None:
    raise Refused(text)


def are_one(first: Any, second: Any) -> bool:
    return first is second


class Adder:
    """A callable object, with methods of every kind."""

    def __init__(self, base: int) -> None:
        self.base = base

    def __call__(self, x: int) -> int:
        return self.base + x

    def add(self, x: int) -> int:
        return self.base + x

    @classmethod
    def made(cls, base: int) -> Adder:
        return cls(base)

    @staticmethod
    def plain(x: int) -> int:
        return x + 1


# -- effects on a file, which tell how often a body ran -------------------------------------------


def note(path: str, text: str = ".") -> str:
    """Append `text` and return it."""
    with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123  # pathlib costs a worker 10 ms
        file.write(text)
    return text


def appears(path: str) -> bool:
    """Wait until there is something in that file; False if that takes too long."""
    import time

    end = time.monotonic() + HOLD_PATIENCE
    while not (os.path.exists(path) and os.path.getsize(path)):  # noqa: PTH110, PTH202  # as above
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def note_and_raise(path: str, error: BaseException) -> None:
    note(path)
    raise error


def succeed_at_attempt(path: str, wanted: int) -> int:
    """Raise until `path` says that this is attempt number `wanted`; returns the attempt."""
    note(path)
    task = unirun.current_task()
    assert task is not None
    if os.path.getsize(path) < wanted:  # noqa: PTH202  # as above
        raise Refused(f"attempt {task.attempt}")
    return task.attempt


# -- exceptions -----------------------------------------------------------------------------------


class Refused(Exception):
    """A plain exception."""


class TwoArguments(Exception):
    """Breaks pickle: rebuilt with one argument, it wants two."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class KeywordOnly(Exception):
    """Breaks pickle: rebuilt without keywords, it wants one."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Holder(Exception):
    """Holds something that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.lock = threading.Lock()


class LockInArguments(Exception):
    """Cannot be pickled, nor can its args."""

    def __init__(self) -> None:
        super().__init__("locked", threading.Lock())


class BrokenText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text today")


class Leaving(BaseException):
    """Not an Exception."""


def fail(error: BaseException) -> None:
    raise error


def fail_with(make: Callable[..., BaseException], *args: Any, **kwargs: Any) -> None:
    """Raise what could not be sent as an argument."""
    raise make(*args, **kwargs)


def fail_deep_inside() -> None:
    _inner_step()


def _inner_step() -> None:
    raise Refused("deep inside")  # the line that a traceback must show


nothing_at: dict[str, int] = {}


def fail_from_a_cause() -> None:
    try:
        nothing_at["missing"]
    except KeyError as exc:
        raise Refused("outer") from exc


def fail_in_a_context() -> None:
    try:
        nothing_at["missing"]
    except KeyError:
        raise Refused("outer")  # noqa: B904  # the context is the subject


def fail_from_none() -> None:
    try:
        nothing_at["missing"]
    except KeyError:
        raise Refused("outer") from None


def fail_from_something_unpicklable() -> None:
    raise Refused("outer") from Holder("inner")


def fail_with_notes() -> None:
    error = Refused("noted")
    error.add_note("first note")
    error.add_note("second note")
    raise error


def fail_with_attributes() -> None:
    error = Refused("rich")
    error.code = 7  # type: ignore[attr-defined]
    error.detail = {"a": [1]}  # type: ignore[attr-defined]
    raise error


def fail_as_a_group() -> None:
    inner = ExceptionGroup("inner", [TwoArguments(1, "one"), Holder("held")])
    raise ExceptionGroup("outer", [Refused("member"), inner])


def recurse_without_end(depth: int = 0) -> int:
    return recurse_without_end(depth + 1) + 1


def returned_error(make: Callable[..., BaseException], *args: Any) -> BaseException:
    return make(*args)


# -- what pickle stumbles over --------------------------------------------------------------------


class Exits:
    """Ends the program where it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit("pickled")


def unpicklable_at_3(x: Any) -> Any:
    return unpicklable() if x == 3 else x


class Raises:
    """Raises where it is unpickled."""

    def __init__(self, error: type[BaseException] = Refused) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return fail_with, (self.error, "unpickled")


def unpicklable() -> Any:
    return (x for x in [1])


def returned_unpicklable() -> list[Any]:
    return [1, unpicklable()]


def make_raises(error: type[BaseException]) -> Raises:
    return Raises(error)


def nest(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def depth_of(value: Any) -> int:
    depth = 0
    while value:
        value = value[0]
        depth += 1
    return depth


# -- a task about itself, and tasks that submit ---------------------------------------------------


def identity() -> dict[str, Any]:
    task = unirun.current_task()
    assert task is not None
    names = ("name", "id", "attempt", "kind", "backend", "worker", "deadline", "cancelled")
    return {name: getattr(task, name) for name in names}


def deadlines() -> tuple[float | None, float | None]:
    """Mine, and that of a call I make."""
    task = unirun.current_task()
    assert task is not None
    return task.deadline, unirun.submit(_deadline).result(HOLD_PATIENCE)


def _deadline() -> float | None:
    task = unirun.current_task()
    assert task is not None
    return task.deadline


def factorial(n: int) -> int:
    """Each step a call of its own that the step before waits for."""
    if n <= 1:
        return 1
    return n * unirun.submit(factorial, n - 1).result(HOLD_PATIENCE)


_initialized: list[Any] = []


def initialize(value: Any) -> None:
    _initialized.append(value)


def initialized() -> list[Any]:
    return list(_initialized)


# -- ends of processes ----------------------------------------------------------------------------


def die(number: int) -> None:
    """Kill this process by a signal, without a word."""
    import faulthandler

    faulthandler.disable()  # a forked worker has inherited pytest's
    os.kill(os.getpid(), number)
    threading.Event().wait(HOLD_PATIENCE)


def exit_now(status: int) -> None:
    os._exit(status)


def exit_unless_note(path: str) -> int:
    """Crash at the first attempt, return the attempt at the next."""
    note(path)
    if os.path.getsize(path) < 2:  # noqa: PTH202  # as above
        os._exit(9)
    task = unirun.current_task()
    assert task is not None
    return task.attempt


def exit_at(path: str, bad: int, x: int) -> int:
    """Note each item; crash at one."""
    note(path, f"{x},")
    if x == bad:
        os._exit(9)
    return x


# -- shared objects -------------------------------------------------------------------------------


def put_all(queue: Any, items: list[Any]) -> int:
    for item in items:
        queue.put(item)
    return len(items)


def take(queue: Any, count: int) -> list[Any]:
    return [queue.get(timeout=HOLD_PATIENCE) for _ in range(count)]


def arrive_and_take(gate: tuple[str, int], queue: Any) -> Any:
    """Arrive, and take an item while the connection shows that the body is there."""
    import socket

    with socket.create_connection(gate, HOLD_PATIENCE) as connection:
        connection.sendall(os.getpid().to_bytes(8, "little"))
        return queue.get(timeout=HOLD_PATIENCE)


def wait_for(event: Any) -> bool:
    return bool(event.wait(HOLD_PATIENCE))


def set_event(event: Any) -> None:
    event.set()


def pass_barrier(barrier: Any) -> int:
    return int(barrier.wait(HOLD_PATIENCE))


def in_containers(box: dict[str, Any]) -> Any:
    """Use a queue and an event that came inside a container."""
    box["pair"][0].put("through the box")
    box["pair"][1].set()


def give_back(shared: Any) -> Any:
    return shared
