"""What to do where the system has nothing more to give, or not what it should have.

Only for errors that are about to be told: the system says what is missing, this says whom to ask.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun._errors import InitializerFailed

__all__ = ["for_error", "for_number", "no_thread"]

_PROCESSES = (
    "raise the limit of processes and threads (ulimit -u; pids.max of the container), "
    "or use fewer workers"
)
_DISK = "set TMPDIR to a directory that can be written to and has room"
_BY_NUMBER = {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer workers",
    errno.ENFILE: "the whole system has too many files open; close some, or use fewer workers",
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: "allow the program more memory (ulimit -v; the container's), "
    "or use fewer workers",
    errno.EFBIG: "raise the limit of the size of files (ulimit -f)",
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
    errno.EROFS: _DISK,
}


def for_number(number: int | None) -> str:
    """What to do about that errno, with a semicolon before it; "" where nothing is known."""
    remedy = _BY_NUMBER.get(number or 0)
    return f"; {remedy}" if remedy else ""


def for_error(error: BaseException | None) -> str:
    """The same about an exception."""
    if isinstance(error, MemoryError):
        return for_number(errno.ENOMEM)
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return f"; {_PROCESSES}"
    if not isinstance(error, OSError):
        return ""
    if isinstance(error, FileNotFoundError) and error.filename == os.devnull:
        return f"; make a {os.devnull} here: workers have it as their standard input"
    if "temporary directory" in str(error):  # `tempfile` has tried them all
        return f"; {_DISK}"
    return for_number(error.errno)


def no_thread(error: RuntimeError) -> InitializerFailed:
    """What a pool raises that could not start its first thread; a RuntimeError as well."""
    from unirun._errors import InitializerFailed  # 20 ms, and rarely needed

    return InitializerFailed(f"no worker can be started: {error}{for_error(error)}")
