"""How a test and its workers wait for one another. Light: every worker imports it."""

import os
import select
import time
from typing import Any

PATIENCE = 20.0  # seconds; far more than anything takes, so that only a bug runs into it
RECORD = 64


class Line:
    """A named pipe of short texts; whoever knows it can send and wait, in any process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._kept: int | None = None

    def keep_open(self) -> None:
        """What was sent stays in the pipe, whoever comes and goes."""
        self._kept = os.open(self.path, os.O_RDWR)

    def close(self) -> None:
        if self._kept is not None:
            os.close(self._kept)
            self._kept = None

    def __reduce__(self) -> Any:
        return Line, (self.path,)

    def send(self, text: object = "") -> None:
        fd = os.open(self.path, os.O_RDWR)
        os.write(fd, str(text).encode().ljust(RECORD))
        os.close(fd)

    def wait(self, timeout: float = PATIENCE) -> str:
        """The next text; TimeoutError if none comes."""
        fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        try:
            return self._next(fd, time.monotonic() + timeout)
        finally:
            os.close(fd)

    def _next(self, fd: int, end: float) -> str:
        while (left := end - time.monotonic()) > 0:
            select.select([fd], [], [], left)
            try:
                return os.read(fd, RECORD).decode().strip()
            except BlockingIOError:
                continue  # another waiter was quicker
        raise TimeoutError(f"nothing came through {self.path}")
