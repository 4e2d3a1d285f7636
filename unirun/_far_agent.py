"""The process that talks to an engine on behalf of this one.

An engine's client brings threads, an event loop and hooks of its own, and some end the process that
they are in when the cluster is lost.  So it lives in a process of its own, which asks for leases
and says what has become of them; calls and outcomes do not pass through it.

    Agent.send(...) ──pipe──▶ agent: "connect", "ask", "drop", "close"
    heard(...)      ◀──pipe── agent: "ready", "info", "gone", "lost", "failed"

When this process ends, however it does, the pipe ends, and with it the agent and what it started.
"""

from __future__ import annotations

import marshal
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

from unirun._prompt import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Agent", "Pipe", "SharedAgent", "share"]

POLITE = 3.0
"""Seconds in which an agent closes what it has started; then it is killed, with its group."""
_HEAD = 8


class Pipe:
    """Both ends of the pipes between a process and its agent; owns the two descriptors."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = threading.Lock()  # held while one frame is written

    def send(self, *message: Any) -> None:
        """Raises OSError once nobody reads."""
        body = marshal.dumps(message)
        data = memoryview(len(body).to_bytes(_HEAD, "little") + body)
        with self._sending:
            if self._writer < 0:
                raise BrokenPipeError("the pipe was closed")
            while data:
                data = data[os.write(self._writer, data) :]

    def receive(self) -> tuple[Any, ...]:
        """Raises EOFError once nobody writes."""
        size = int.from_bytes(self._read(_HEAD), "little")
        return tuple(marshal.loads(self._read(size)))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = os.read(self._reader, size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def stop_sending(self) -> None:
        with self._sending:
            writer, self._writer = self._writer, -1
        if writer >= 0:
            os.close(writer)

    def close(self) -> None:
        self.stop_sending()
        reader, self._reader = self._reader, -1
        if reader >= 0:
            os.close(reader)


class Agent:
    """The process, the pipe to it, and the thread that hears it; ended by `close`."""

    def __init__(
        self,
        module: str,
        settings: Mapping[str, Any],
        heard: Callable[..., None],
        name: str,
        environment: Mapping[str, str],
    ) -> None:
        """`module` has `main(pipe, settings)`; `heard(what, *args)` is called in our thread, and
        at the end with "ended"."""
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._pipe = Pipe(ours_in, ours_out)
        code = _PROGRAM.format(path=sys.path, module=module, reader=theirs_in, writer=theirs_out)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        except BaseException:
            self._pipe.close()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        self._heard = heard
        self._home = os.getpid()
        self._thread = Thread(self._hear, name)
        self._thread.start()
        self.send("connect", dict(settings))

    def send(self, *message: Any) -> None:
        """Nothing happens if it has gone: it has been said, then, or is about to be."""
        try:
            self._pipe.send(*message)
        except OSError:
            pass

    def _hear(self) -> None:
        try:
            while True:
                self._heard(*self._pipe.receive())
        except (EOFError, OSError, ValueError):
            self._heard("ended")

    def close(self) -> None:
        """Have it close what it has started, and wait for it; forced if that takes too long."""
        if os.getpid() != self._home:
            return
        self._pipe.stop_sending()
        try:
            self._process.wait(POLITE)
        except subprocess.TimeoutExpired:
            pass
        self._kill_group()
        self._process.wait()
        self._thread.ends_within(POLITE)
        self._pipe.close()

    def _kill_group(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # all of them have gone

    def disown(self) -> None:
        """In a forked child."""
        self._pipe.close()


class SharedAgent:
    """What one backend has of an agent: several attach to one cluster by one process.

    `heard` gets what concerns this run; "ready" comes in a thread, however long it is known.
    """

    def __init__(self, run: str, heard: Callable[..., None], agent: _AgentOfMany) -> None:
        self._run = run
        self._heard = heard
        self._agent = agent

    def send(self, *message: Any) -> None:
        self._agent.agent.send(*message)

    def close(self) -> None:
        """The last of them ends the process."""
        self._agent.leave(self._run)

    def disown(self) -> None:
        self._agent.agent.disown()


class _AgentOfMany:
    def __init__(self, key: Any) -> None:
        self._key = key
        self._users: dict[str, Callable[..., None]] = {}  # by run; guarded by _sharing
        self._known: Any = None  # what it said last of the cluster
        self.agent: Agent

    def enter(self, run: str, heard: Callable[..., None]) -> SharedAgent:
        """With _sharing held."""
        self._users[run] = heard
        if self._known is not None:
            Thread(heard, "unirun-agent-ready", ("ready", self._known)).start()
        return SharedAgent(run, heard, self)

    def hear(self, what: str, *args: Any) -> None:
        with _sharing:
            if what == "gone":
                users = [self._users[args[0]]] if args[0] in self._users else []
            else:
                users = list(self._users.values())
            if what in ("ready", "info"):
                self._known = {**(self._known or {}), **args[0]}
            elif what != "gone" and _agents.get(self._key) is self:
                del _agents[self._key]  # who comes next makes another attempt
        for heard in users:
            heard(what, *args)

    def leave(self, run: str) -> None:
        with _sharing:
            self._users.pop(run, None)
            last = not self._users
            if last and _agents.get(self._key) is self:
                del _agents[self._key]
        if last:
            self.agent.close()


_sharing = threading.RLock()  # guards the table; held while an agent is started, which is short
_agents: dict[Any, _AgentOfMany] = {}


def share(
    module: str,
    settings: Mapping[str, Any],
    run: str,
    heard: Callable[..., None],
    name: str,
    environment: Mapping[str, str],
) -> SharedAgent:
    """The agent of this process that has these settings, started if need be."""
    key = module, marshal.dumps(sorted(settings.items()))
    with _sharing:
        found = _agents.get(key)
        if found is None:
            found = _AgentOfMany(key)
            found.agent = Agent(module, settings, found.hear, name, environment)
            _agents[key] = found
        return found.enter(run, heard)


def _forget_in_forked_child() -> None:
    global _sharing
    _sharing = threading.RLock()
    _agents.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)


_PROGRAM = """
import sys
sys.path[:] = {path!r}
from importlib import import_module
from unirun._far_agent import Pipe
pipe = Pipe({reader}, {writer})
import_module({module!r}).main(pipe, pipe.receive()[1])
"""
