"""The zygote, started ahead of need: it comes up while this process imports what else it needs.

Light by rule, so that there is something left to overlap with.
"""

from __future__ import annotations

import _socket
import os

from .forks import making
from .interpreter import reap, spawn_python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Begun: TypeAlias = tuple[int, _socket.socket]
    """Its pid, and our end of its socket."""

__all__ = ["begin", "claim", "end", "start"]

_begun: list[
    Begun
] = []  # started, and not claimed yet; who claims one, or `begin` returned, ends it


def begin() -> Callable[[], None]:
    """Start one; returns what ends it if nobody has claimed it by then."""
    with making:
        made = start()
        _begun.append(made)

    def drop() -> None:
        try:
            _begun.remove(made)
        except ValueError:
            return  # it has another owner
        end(*made)

    return drop


def claim() -> Begun | None:
    """One that was begun, if there is any."""
    try:
        return _begun.pop(0)
    except IndexError:
        return None


def start() -> Begun:
    """A new one; with `making` or the role, until somebody closes its socket in forks."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        call = "from unirun.backends.process.zygote import main; main(3)"
        return spawn_python(call, [theirs.fileno()]), ours
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


def end(pid: int, control: _socket.socket) -> None:
    try:
        control.send(b"Q" + bytes(8))  # else it would take us for dead
    except OSError:
        pass  # it is dead, or so far behind that nobody is left whom that could harm
    control.close()
    reap(pid)


def _forget_in_forked_child() -> None:
    while _begun:
        _begun.pop()[1].close()  # else it would outlive its owner as long as the child lives


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
