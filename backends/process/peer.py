"""A worker process as its pool sees it: its pipes, what it has, how it is to end."""

from __future__ import annotations

import fcntl
import os
import select
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from unirun import _context, _log_levels, _observe

from . import wire
from .arena import Parcel
from .control import BEGUN, FILLED, PID, WATCHED, Control
from .functions import MAX_KNOWN
from .limits import Doomed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun.backend import WorkerSpec

    from .exchange import Side
    from .future import ProcessFuture
    from .news import Heard
    from .obituary import Obituary

FRAME_BYTES = 1 << 16
"""Pickled arguments that are sent in one frame, about: the first call must not wait for the last"""


_PROCESS = "multiprocessing.process"


class Peer:
    """Whoever holds the pool's role uses it. Owns our ends of the two pipes and the shared memory.

    Writing never blocks: what the pipe does not take waits in `_out` until the selector says so.
    """

    def __init__(
        self,
        number: int,
        tasks: int,
        results: int,
        control: Control | None,
        selector: selectors.BaseSelector,
        side: Side | None = None,
    ) -> None:
        self.number = number
        self.tasks = tasks  # -1 once closed
        self.results = results  # likewise
        self.side = side  # for large objects; None as `control`
        self.control = control  # None where it could not be started
        self.told_pid: int | None = None  # what the launcher said
        self.written = 0  # bytes so far
        self.sent = 0  # calls so far, which is the index of the last
        self.answered = 0  # answers so far
        self.seen_at = 0  # the index it was at when the pool last watched
        self.left_with = 0  # index of the call that it was left with when it was looked at
        self.kills_before = 0  # how many the kernel had killed for want of memory at its start
        self.acquitted_until = 0.0  # when the memory it keeps is to be looked at again, ...
        self.acquitted_below = 0  # ... or once it seems to be more than this
        self.obituary: Obituary | None = None  # once it is gone
        self.heard: Heard | None = None  # how much of its news was dealt with
        self.led: object = None  # stands for the waiting thread that reads its answers
        self.muted = False  # the selector does not look at `results`
        self.muted_at = 0.0  # since when
        self.idle_since = self.born = time.monotonic()
        self.doomed: Doomed | None = None
        self.grace: float | None = None  # set once it was told to die
        self.orphan = False  # its zygote died: nobody will tell how it ends
        self.is_excused = False  # if it does not come up, that is no failure of its own
        self._selector = selector
        self._reader = wire.FrameReader()
        self._out: deque[memoryview] = deque()
        self._is_brisk = False  # the last answer came soon
        self._known: set[int] = set()  # functions it has
        # The sys.path and the key it has; it is told right after this.
        self._path, self._key = list(sys.path), authkey()
        self.follows = False  # it is to be told which levels loggers have, and which ...
        self._heard = _log_levels.version  # ... of them it knows

    def be_watched(self) -> None:
        """Have its calls measured while somebody watches."""
        if self.control is not None:
            self.control.words[WATCHED] = bool(_observe.watchers)

    def listen(self, on_readable: Callable[[], object]) -> None:
        os.set_blocking(self.tasks, False)
        os.set_blocking(self.results, False)
        self._selector.register(self.results, selectors.EVENT_READ, on_readable)
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(self.results, select.POLLIN)

    # -- calls ----------------------------------------------------------------------------------

    def send_one(self, future: ProcessFuture) -> bool:
        """A call that it lacks nothing for, and that shares it with others; the usual case."""
        profile = future._profile
        if profile.about is None or profile.function_id not in self._known:
            return False
        side, payload = self.side, future._payload
        if self._path != sys.path or len(payload) > FRAME_BYTES or type(payload) is Parcel:
            return False
        if self.follows and (_log_levels.changed() or self._heard != _log_levels.version):
            return False
        if not self._key and _PROCESS in sys.modules:
            return False
        if side is None or side.finished:
            return False
        self.sent += 1
        future._peer = self
        future._side = side
        future._index = self.sent
        call = (profile.function_id, None, profile.about, (future.number,), (payload,))
        self.write(wire.pack(wire.CALLS, self.sent, (call,)))
        return True

    def send(self, futures: list[ProcessFuture]) -> list[tuple[ProcessFuture, Exception]]:
        """Calls, and before them whatever the worker lacks; returns those too large to be sent."""
        unheard = self.follows and (_log_levels.changed() or self._heard != _log_levels.version)
        if unheard or self._path != sys.path or (not self._key and _PROCESS in sys.modules):
            self._path, self._key, self._heard = list(sys.path), authkey(), _log_levels.version
            heard = _log_levels.snapshot if self.follows else None
            self.write(wire.pack(wire.PATH, text_of(self._path), self._key, heard))
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self.write(wire.pack(wire.FORGET))
        batch, size = [], 0
        failed: list[tuple[ProcessFuture, Exception]] = []
        for future in futures:
            batch.append(future)
            size += len(future._payload)
            if size > FRAME_BYTES:
                failed += self._send_frame(batch)
                batch, size = [], 0
        return failed + self._send_frame(batch)

    def teach(self, functions: dict[int, bytes]) -> None:
        """Let one that has nothing to do get ready for calls of these functions."""
        news = {number: data for number, data in functions.items() if number not in self._known}
        if news:
            self._known.update(news)
            self.write(wire.pack(wire.LEARN, news))

    def _send_frame(self, futures: list[ProcessFuture]) -> list[tuple[ProcessFuture, Exception]]:
        if not futures:
            return []
        first = self.sent + 1
        groups = self._group(futures)
        try:
            frame = wire.pack(wire.CALLS, first, groups)
        except (MemoryError, ValueError) as exc:  # larger than memory, or than marshal can write
            if len(futures) == 1:
                return [(futures[0], exc)]
            return [each for future in futures for each in self._send_frame([future])]
        self._known.update([group[0] for group in groups])
        self.write(self._returned() + frame)
        return []

    def return_blocks(self) -> None:
        """Now rather than with the next call."""
        self.write(self._returned())

    def _returned(self) -> bytes:
        """What it can have back of the memory of its results, as a frame."""
        side = self.side
        if side is None or not side.finished:
            return b""
        return wire.pack(wire.FREE, side.collect())

    def _group(self, futures: list[ProcessFuture]) -> list[tuple[Any, ...]]:
        groups: list[tuple[Any, ...]] = []
        profile, index, side = None, self.sent, self.side
        for future in futures:
            index += 1
            future._peer = self
            future._side = side
            future._index = index
            if future._profile is not profile:
                profile = future._profile
                ids: list[int] = []
                payloads: list[Any] = []
                number = profile.function_id
                function = None if number in self._known else profile.function
                groups.append((number, function, future.about(), ids, payloads))
            ids.append(future.number)
            payload = future._payload
            payloads.append(payload)
            if type(payload) is Parcel and side is not None:
                side.sent(index, payload)
        self.sent = index
        return groups

    def receive(self) -> list[wire.Message]:
        """As `FrameReader.receive`."""
        return self._reader.receive(self.results)

    def mute(self) -> None:
        """Have the selector look away: somebody is there who reads. Only epoll can do that.

        The death of the worker is told nevertheless.
        """
        if not self.muted and self.results >= 0:
            self.muted = True
            self._selector._selector.modify(self.results, 0)  # type: ignore[attr-defined]
        self.muted_at = time.monotonic()

    def unmute(self) -> None:
        if self.muted:
            self.muted = False
            if self.results >= 0:
                self._selector._selector.modify(self.results, select.EPOLLIN)  # type: ignore[attr-defined]

    def wait(self, seconds: float) -> bool:
        """Whether there is something to receive, within that time; for the thread that leads."""
        begun = time.perf_counter()
        if self._is_brisk and wire.spin(self._poll, begun):
            return True
        heard = bool(self._poll.poll(max(0.0, seconds) * 1000))
        self._is_brisk = time.perf_counter() - begun < wire.SPIN_SECONDS
        return heard

    def news_of(self, message: wire.Message) -> Sequence[Any]:
        """The answers in a message that were not known yet."""
        before: int = message[1]
        answers: list[Any] = message[3]
        if message[4] and self.side is not None:
            self.side.done_with(message[4])
        if self.answered > before:
            answers = answers[self.answered - before :]
        self.answered += len(answers)
        return answers

    def take_unsent(self) -> Sequence[Any]:
        """The answers that are not in the pipe yet, from one that is dead, held or stuck."""
        if self.control is None or not self.control.words[FILLED]:
            return ()
        answers = self.control.unsent(self.answered)
        self.answered += len(answers)
        return answers

    def hold(self) -> None:
        """Keep it from beginning another call."""
        if self.control is not None:
            self.control.hold()

    def resume(self) -> None:
        """Let it go on, with no call but the one that it was left with when it was looked at."""
        self.grace = None  # whoever was to be killed there had not begun
        if self.control is not None:
            self.control.release(self.at, self.sent, self.left_with)
            if self.side is not None:
                self.side.taken_back(self.left_with + 1 if self.left_with else self.at, self.sent)

    @property
    def received(self) -> int:
        """Bytes so far."""
        return self._reader.received

    @property
    def pid(self) -> int | None:
        """Its process, as soon as it runs, or as soon as the launcher has told."""
        if self.told_pid is None and self.control is not None:
            return int(self.control.words[PID]) or None
        return self.told_pid

    @property
    def record(self) -> memoryview:
        """What the worker writes there about a call with many items; it must have been started."""
        assert self.control is not None
        return self.control.record

    @property
    def at(self) -> int:
        """Index of the call that it has begun last."""
        return int(self.control.words[BEGUN]) if self.control is not None else 0

    @property
    def is_at(self) -> int:
        """Index of the call that it has begun last, while it is held or dead; 0 if it is parked."""
        return self.control.begun() if self.control is not None else 0

    # -- the pipes ------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        if self.tasks < 0:
            return
        self.written += len(frame)
        view = memoryview(frame)
        if not self._out:
            view = view[self._try_write(view) :]
            if not view:
                return
            self._selector.register(self.tasks, selectors.EVENT_WRITE, self._flush)
        self._out.append(view)

    def _try_write(self, view: memoryview) -> int:
        try:
            return os.write(self.tasks, view)
        except BlockingIOError:
            return 0
        except OSError:
            return len(view)  # it is gone: the launcher will tell, nothing is lost by this

    def _flush(self) -> None:
        while self._out:
            view = self._out[0]
            count = self._try_write(view)
            if count < len(view):
                self._out[0] = view[count:]
                return
            self._out.popleft()
        self._selector.unregister(self.tasks)

    def close_tasks(self) -> None:
        """The worker reads what is in the pipe, and then leaves."""
        if self.tasks >= 0:
            if self._out:
                self._selector.unregister(self.tasks)
                self._out.clear()
            fd, self.tasks = self.tasks, -1  # first, so that nobody closes it a second time
            os.close(fd)

    def close_results(self) -> None:
        if self.results >= 0:
            if self.results in self._selector.get_map():
                self._selector.unregister(self.results)
            fd, self.results = self.results, -1
            os.close(fd)


def authkey() -> bytes:
    """The key of this run, for shared objects and the proxies of `multiprocessing`'s managers.

    None until that is imported.  A worker's pool passes on what the worker was told, so that
    handles go from any depth to any other.
    """
    if _context.authkey is not None:
        return _context.authkey
    process = sys.modules.get(_PROCESS)
    # Another thread may be importing it, and is not that far yet: then nobody has set a key.
    current = getattr(process, "current_process", None)
    return bytes(current().authkey) if current is not None else b""


def text_of(path: Iterable[object]) -> list[str]:
    return [str(entry) for entry in path]


def make_pipe(made: list[int]) -> tuple[int, int]:
    """A pipe; its ends are noted in `made`, and are no standard streams.

    Where the program has closed its own, a worker would take ours for them.
    """
    reader, writer = os.pipe()
    pair = (above_standard(reader), above_standard(writer))
    made += pair
    return pair


def above_standard(fd: int) -> int:
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved


def relayed(spec: WorkerSpec, method: str) -> tuple[bool, bool, bool, tuple[Any, ...]] | None:
    """What a new worker is told of what it prints and logs; None: that both stay there."""
    if spec.output != "relay" and not spec.logs:
        return None
    _log_levels.changed()
    return spec.output == "relay", spec.logs, method == "fork", _log_levels.snapshot
