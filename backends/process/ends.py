"""How a worker ended, as a status, and how whoever made it finds out.

Light by rule: every worker process imports this file.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in worker.py
import os
import sys

__all__ = ["FAILED_START", "NEVER_MADE", "STOPPED", "UNKNOWN", "finish_threads", "flush"]
__all__ += ["gone", "kill_group", "status_of_fork"]

STOPPED = 83
"""Exit status of a worker that ended because it was asked to."""
FAILED_START = 84
"""Exit status of a worker whose initializer failed, after it has said why."""
UNKNOWN = -999
"""The status of a child that somebody else has reaped."""
NEVER_MADE = -1000
"""At and below this, a status says that a worker was not made: minus that, the errno."""


def gone(pid: int) -> int | None:
    """The exit status of our child `pid` if it has ended (negative: a signal), else None.

    Its process group is killed before the child is reaped, while its number cannot be taken by
    anybody else; except after an orderly end, which leaves what the tasks started in peace.
    """
    if hasattr(os, "waitid"):
        try:
            info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return UNKNOWN
        if info is None:
            return None
        exited = info.si_code == os.CLD_EXITED
        if not (exited and info.si_status in (STOPPED, FAILED_START)):
            kill_group(pid)
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return UNKNOWN
    return os.waitstatus_to_exitcode(status) if reaped else None


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, _signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left in it


def finish_threads() -> None:
    """For a process that ends without the interpreter's own end."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()


def flush() -> None:
    """What was printed is to be seen."""
    for name in ("stdout", "stderr"):
        try:
            stream = getattr(sys, name, None)
            if stream is not None:
                stream.flush()
        except BaseException:  # noqa: BLE001  # the task closed it, or put its own there
            continue


def status_of_fork(raised: bytes | None) -> int:
    """Of a child that a task has forked, and that came back as if it were the task; says on stderr
    what it has raised, which are the bytes of an exception."""
    if raised is None:
        return 0
    from unirun._remote import decode

    exc = decode(raised)
    if isinstance(exc, SystemExit):
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    sys.excepthook(type(exc), exc, exc.__traceback__)
    return 1
