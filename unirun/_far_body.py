"""What runs in a worker process at a place of an engine, around each call.

Light: every such worker imports this.  The process was started by a place (`_far_host`), and what
its calls know of the program comes by here: the one door for whatever is to travel with calls.
"""

from __future__ import annotations

import marshal
import os
import sys

from unirun import _context, _opaque
from unirun._deferral import imported
from unirun._payload import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["prepare", "run_call"]

# Set by `prepare`, before any call.
_place = ""  # what is added to the name of this worker: its machine, if that is not the program's
_levels = b""  # what was followed last, marshalled


def prepare(
    key: bytes,
    engine: str,
    place: str,
    levels: bytes,
    path: list[str],
    is_ours: bool,
    directory: str | None,
    tunnel: str,
    shipped: str,
    initializer: bytes | None,
) -> None:
    """Make this worker one of the program's; then run its initializer.

    `levels`: what the program wants to hear of (`_log_levels`), marshalled; b"": nothing of that.
    `is_ours`: this machine is that of the program, so its paths are the same files here; `tunnel`:
    the way to its shared objects, if there is no shorter one; `shipped`: a directory with modules
    that came from there.
    """
    global _place
    _place, _context.engine = place, engine
    _context.authkey, _context.is_far = key, True
    _follow(levels)
    os.environ["_UNIRUN_TUNNEL"] = tunnel  # see `_connect`, which is not needed yet
    _context.at_home = _context.at_home | {engine}
    if is_ours:
        sys.path[:] = path
    else:
        sys.path += [entry for entry in path if entry not in sys.path and os.path.exists(entry)]
    if shipped:
        sys.path.insert(0, shipped)
    if directory is not None and is_ours:
        try:
            os.chdir(directory)
        except OSError:
            pass  # it was removed: workers stay where they are
    if initializer is not None:
        fn, args = loads(initializer)
        fn(*args)


def _follow(levels: bytes) -> None:
    global _levels
    if levels != _levels and _context.follow is not None:
        _levels = levels
        _context.follow(marshal.loads(levels))


def run_call(
    payload: bytes, number: int, parent: int | None, variables: bytes | None, levels: bytes
) -> tuple[int, bytes]:
    """Run one call; its outcome as `_opaque` says.

    `parent` and `variables` are what it comes with (`_carried`); the rest of that comes with the
    options of the call.
    """
    if levels != _levels:
        _follow(levels)
    task: Any = _context.current_task()
    _ = task.attempt  # worked out at first use, and then it can be changed
    task.id, task.worker = number, f"{task.worker}{_place}"
    task._parent = parent
    if variables is not None:
        imported("unirun._variables").arrive(variables)
    return _opaque.run(payload)
