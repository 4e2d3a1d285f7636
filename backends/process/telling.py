"""What the pool tells those who watch (`unirun._observe`), and the figures of calls it gets.

A call that is the first one its worker holds is told as started: it is, or will be in a moment.
When exactly it was comes with its answer.
"""

from __future__ import annotations

import time
from marshal import loads as marshal_loads

from unirun import _observe
from unirun._payload import is_reference

from . import wire
from .control import BEGUN_AT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from unirun.backend import CallOptions

    from .future import ProcessFuture
    from .peer import Peer
    from .state import PoolState

__all__ = ["began", "begun", "gone", "keep_figures", "keep_last", "size_of_payload"]
__all__ += ["submitted", "told", "worker"]


def submitted(future: ProcessFuture, **known: Any) -> None:
    """Its call is encoded, and will be handed in."""
    if not known:
        known["packing"] = time.monotonic() - future._since
    if "submitted" in _observe.wanted:
        known["bytes_in"] = size_of_payload(future._payload)
    profile = future._profile
    _observe.submitted(future, profile.name, profile.options, **known)


def began(state: PoolState, peer: Peer) -> None:
    """The first of the calls that worker holds, if that was not told."""
    held = state.held(peer.number)
    if held and not held[0].told_begun and held[0].running():
        held[0].told_begun = True
        _observe.started(held[0], time.monotonic())


def worker(what: str, peer: Peer, source: int, exitcode: int | None = None) -> None:
    pid = peer.pid
    name = f"worker {peer.number}" if pid is None else f"pid {pid}"
    known: dict[str, Any] = {"worker": name, "pid": pid, "exitcode": exitcode}
    _observe.tell(what, backend="process", source=source, **known)


def gone(peer: Peer, source: int) -> None:
    """That worker has ended."""
    status = None if peer.obituary is None else peer.obituary.status
    if peer.doomed is not None:
        what = "worker_killed"
    else:
        what = "worker_ended" if peer.tasks < 0 else "worker_died"
    worker(what, peer, source, status)


# -- figures --------------------------------------------------------------------------------------


def keep_figures(held: Sequence[ProcessFuture], answered: int, message: wire.Message) -> None:
    """Of calls that were answered; `answered`: of those a worker got, so many before `held`."""
    before, answers, figures = message[1], message[3], message[5]
    for number, measured in figures.items():
        if 0 <= number - answered < len(held):
            future = held[number - answered]
            size = _size_of_answer(answers[number - before])
            future.figures = (*measured, size_of_payload(future._payload), size)


def keep_last(future: ProcessFuture, peer: Peer) -> None:
    """Of the call that its worker has died in: as far as is known."""
    if peer.control is not None:
        began, now = peer.control.words[BEGUN_AT], time.perf_counter_ns()
        size = size_of_payload(future._payload)
        future.figures = (int(began), now, None, None, None, None, size, None)


def told(
    options: CallOptions,
    name: str,
    pid: int | None,
    since: float,
    told_begun: bool,  # the parts of `ProcessFuture._tell_later`
    figures: tuple[Any, ...] | None,
) -> dict[str, Any]:
    """For `_tell_info`."""
    worker = None if pid is None else f"pid {pid}"
    known = {"options": options, "function": name, "worker": worker, "pid": pid}
    known |= {"queued": since, "told_begun": told_begun}
    if figures is None:
        return known
    began, ended, cpu, peak, unpacking, repacking, bytes_in, bytes_out = figures
    known["begun"] = began / 1e9
    known["ended"] = ended and ended / 1e9
    known["cpu"] = cpu
    known["peak"] = peak
    known["unpacking"] = unpacking
    known["repacking"] = repacking
    known["bytes_in"] = bytes_in
    known["bytes_out"] = bytes_out
    return known


def begun(future: ProcessFuture) -> tuple[Any, ...] | None:
    """The figures of a call that runs: since when."""
    peer = future._peer
    if peer is None or peer.control is None or future.done() or peer.at != future._index:
        return None
    began = peer.control.words[BEGUN_AT]
    return (int(began), *[None] * 7) if peer.at == future._index else None


def size_of_payload(payload: Any) -> int:
    """Bytes of encoded arguments."""
    if not payload:
        return 0  # plain arguments: none; or it has ended
    if isinstance(payload, tuple):  # plain arguments, each of them short
        return sum(len(arg) if isinstance(arg, str | bytes) else 8 for arg in payload)
    return int(getattr(payload, "size", len(payload)))  # a large one has its own place


def _size_of_answer(answer: Any) -> int:
    if type(answer) is not tuple:
        return len(answer) if isinstance(answer, str | bytes) else 8
    data: bytes = answer[1]
    if answer[0] == wire.RETURNED and is_reference(data):
        return int(marshal_loads(memoryview(data)[1:])[1])
    return len(data)
