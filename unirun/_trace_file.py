"""The file of a trace: lines that are a JSON array as soon as it is closed, and nearly before.

Every write ends with a whole line, and the format permits a missing end: what a program that is
killed has written by then can be read.  A name that ends in `.gz` is compressed, in pieces that
can be read likewise.  No buffer of Python's: a forked child must not write it a second time.
"""

from __future__ import annotations

import os
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["InUse", "TraceFile", "named"]


class InUse(Exception):
    """Another trace, of this program or another one, writes to that file."""


def named(pattern: str, pid: int) -> str:
    """The name that `pattern` stands for: `%p` and `{pid}` are the number of the process."""
    parts = [part.replace("%p", str(pid)) for part in pattern.split("%%")]
    return "%".join(parts).replace("{pid}", str(pid))


class TraceFile:
    """One file, open for writing; used by one thread at a time.

    Raises OSError where it cannot be made, and InUse while another trace writes to it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        # Not emptied before it is known to be nobody else's.
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._fd = os.open(path, flags, 0o666)  # ours until `close`, or `forget` in a forked child
        try:
            self._claim()
            if os.path.isfile(path):
                os.ftruncate(self._fd, 0)
        except BaseException:
            os.close(self._fd)
            raise
        self._packer = zlib.compressobj(6, wbits=31) if path.endswith(".gz") else None
        self._is_first = True

    def _claim(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise InUse(self.path) from exc
        except OSError:
            return  # a file system without locks

    def write(self, lines: Sequence[str]) -> None:
        """Add these objects; they are there when it returns. Raises OSError."""
        if lines:
            self._put(("[\n" if self._is_first else ",\n") + ",\n".join(lines))
            self._is_first = False

    def close(self, lines: Sequence[str]) -> None:
        """Add the last ones and the end. Raises OSError; it is closed all the same."""
        try:
            self.write(lines)
            self._put("\n]\n", last=True)
        finally:
            self.forget()

    def forget(self) -> None:
        """Close the descriptor, as it is."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _put(self, text: str, *, last: bool = False) -> None:
        data = text.encode("utf-8", "replace")
        if self._packer is not None:
            data = self._packer.compress(data)
            data += self._packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]
