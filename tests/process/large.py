"""What workers do with large objects in the tests, and what a pool holds of them."""

import gc
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from process.line import Line

MIB = 1 << 20

_kept: list[Any] = []


def array(size: int = MIB) -> Any:
    return np.arange(size // 8)


# -- what workers run -----------------------------------------------------------------------------


def echo(*values: Any) -> Any:
    return values[0] if len(values) == 1 else values


def total(values: Any) -> int:
    return int(values.sum())


def total_or_hold(values: Any, ready: Line | None = None, go_on: Line | None = None) -> int:
    if ready is not None and go_on is not None:
        ready.send()
        go_on.wait()
    return int(values.sum())


def zeroed(values: Any) -> Any:
    values[:] = 0
    return values


def keep(values: Any) -> int:
    _kept.append(values)
    return os.getpid()


def kept_total() -> int:
    return sum(int(each.sum()) for each in _kept)


def drop() -> None:
    _kept.clear()
    gc.collect()


def make(size: int) -> Any:
    return np.ones(size, np.uint8)


def fail(values: Any) -> None:
    raise ValueError(len(values))


def hold(line: Line, values: Any) -> None:
    line.send(os.getpid())
    signal.pause()


def crash(values: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def let_a_child_overwrite(values: Any) -> Any:
    pid = os.fork()
    if pid == 0:
        values[:] = 0
        os._exit(0)
    os.waitpid(pid, 0)
    return values


def leave_a_child(go_on: Line, told: Line, values: Any) -> None:
    """Its child looks at the argument long after the call has returned."""
    if os.fork() == 0:
        try:
            go_on.wait()
            told.send(total(values))
        finally:
            os._exit(0)


class Bad:
    def __reduce__(self) -> Any:
        return int, ("no number",)


# -- what the pool has ----------------------------------------------------------------------------


class Insight:
    """What a pool holds, seen from inside."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    @property
    def _backend(self) -> Any:
        return self._executor._backends["process"]

    @property
    def arguments(self) -> tuple[int, int]:
        """Blocks and bytes."""
        used: tuple[int, int] = self._backend._exchange.arena.used()
        return used

    @property
    def memory(self) -> int:
        """Bytes that the file of arguments has."""
        return os.fstat(self._backend._exchange.arena.fd).st_blocks * 512

    def sides(self) -> list[Any]:
        return [peer.side for peer in list(self._backend._pool._crew.peers.values())]

    @property
    def results(self) -> int:
        """Blocks that something here looks at."""
        return sum(side._reader.leases for side in self.sides())


def mapped() -> int:
    """Bytes of address space that show shared memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in lines if "/memfd:unirun" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)
