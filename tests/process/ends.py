"""Both ends of a file for large objects, in the process of the test."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unirun._payload import encode, is_reference
from unirun.backends.process.arena import Arena
from unirun.backends.process.buffers import Reader
from unirun.backends.process.system import make_memory

MIB = 1 << 20


class Ends:
    """Both ends of one file, in this process."""

    def __init__(self, fd: int, arrays: str = "view", **limits: Any) -> None:
        self.fd = fd
        self.arena = Arena(os.dup(fd), **limits)
        self.reader = Reader(fd, arrays)

    def send(self, obj: object) -> Any:
        return self.receive(self.put(obj))

    def put(self, obj: object) -> bytes:
        reference = encode(obj, store=self.arena.store)
        assert is_reference(reference), "it was not stored"
        return reference

    def receive(self, reference: bytes) -> Any:
        return self.reader.load(reference)

    def blocks(self) -> int:
        """Blocks that are taken, once the writer was told what is done with."""
        for offset in self.reader.collect():
            self.arena.free(offset)
        return self.arena.used()[0]

    def memory(self) -> int:
        """Bytes that the file has in memory."""
        return os.fstat(self.fd).st_blocks * 512

    def close(self) -> None:
        self.reader.close()
        self.arena.close()
        os.close(self.fd)


def makers() -> Iterator[Callable[..., Ends]]:
    """The body of a fixture: makes them, and closes them at the end."""
    made = []

    def make(**options: Any) -> Ends:
        made.append(Ends(make_memory(0), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def array(size: int = MIB) -> Any:
    return np.arange(size // 8, dtype=np.int64)


@contextlib.contextmanager
def forked(body: Callable[[], object], ends_by: int = 0) -> Iterator[int]:
    """A child that runs `body` and is reaped at the end; it must end well, or by that signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        assert os.waitpid(pid, 0)[1] == ends_by
