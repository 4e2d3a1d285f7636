"""The home of shared objects in a process of its own, where nothing the owner does slows it down.

    owner                                       manager process (`_manager_server`)
      starts a light interpreter ──────────────▶
      its pid, the key, where to listen ───────▶  by a socket: arguments and variables can be seen
      ◀─────────── the address, or what is wrong
      ◀─────── (task, locks that it left behind)  for whoever looks at the owner's warnings
      that this was said ──────────────────────▶
      ◀───── (barrier, its parties, who stands in it)  to be compared with the owner's pools
      that nobody will pass, and why ──────────▶
      keeps the socket open ───────────────────▶  whose end is the owner's end: then it ends too

The owner's threads talk to it by connections, like everybody else.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from unirun import _channel, _connect, _hangs, _leftovers, _links, _segments
from unirun._channel import FrameReader, frame
from unirun._closing import close_at_exit
from unirun._crowding import hopeless
from unirun._deferral import in_finalizer
from unirun._errors import ManagerLost
from unirun._leavings import warn_of
from unirun._machine import python_executable
from unirun._manager import create_at

if TYPE_CHECKING:
    from unirun._connect import Address

__all__ = ["ManagerProcess"]

START_PATIENCE: Final = 30.0  # seconds; it takes a twentieth of one
END_PATIENCE: Final = 5.0  # seconds until a manager that does not end is killed
SAID: Final = 0  # what we answer


class ManagerProcess:
    """Hosts shared objects as `Manager` does, and has the same methods; in another process.

    Raises ManagerLost if that cannot be started.
    """

    is_home = False  # the objects are elsewhere, whoever asks

    def __init__(self, *, family: str | None = None, key: bytes | None = None) -> None:
        self.key: bytes = _connect.run_key() if key is None else key
        self._server = server = Server(self.key, family)
        self.address: Address = server.address
        _connect.keys[self.address] = self.key
        _channel.homes[self.address] = self  # our handles keep us alive by this
        # Nothing of the server refers to us.
        self._finalizer = weakref.finalize(self, in_finalizer, server.stop)
        self._finalizer.atexit = False  # `close_at_exit` also waits

    @property
    def pid(self) -> int:
        """The process that hosts the objects."""
        return self._server.pid

    def close(self) -> None:
        """End the process and remove the socket; whoever waits gets ManagerLost.  Idempotent."""
        self._finalizer()
        self._server.join()

    def has_ended(self, patience: float) -> bool:
        """Whether the process is gone, at the latest in `patience` seconds, or was never ours."""
        return self._server.has_ended(patience)

    def create(self, kind: str, *params: Any) -> int:
        """Make an object of that kind and return its id."""
        return create_at(self.address, kind, params)

    def request(
        self, op: str, object_id: int, args: tuple[Any, ...], timeout: float | None
    ) -> tuple[str, Any]:
        """As `_channel.request`."""
        return _channel.request(self.address, op, object_id, args, timeout)

    def tell(self, patience: float) -> list[str]:
        """Lines about its objects, for a dump; waits no longer than that.  Raises ManagerLost."""
        status, lines = _channel.request_at_once(self.address, "tell", patience)
        return list(lines) if status == "ok" else ["their manager does not answer"]

    @property
    def objects(self) -> int:
        """How many objects it hosts; those that nobody refers to any more go within seconds.

        Raises ManagerLost.
        """
        return int(_channel.request(self.address, "count", 0, (), None)[1])

    def __repr__(self) -> str:
        state = "closed, was" if self.has_ended(0.0) else f"process {self.pid}"
        return f"<unirun ManagerProcess, {state} at {self.address!r}>"


class Server:
    """The process: how it comes to life, what it has to say, and how it ends.

    A thread listens to it, and closes everything when it has ended.
    """

    def __init__(self, key: bytes, family: str | None) -> None:
        self.pid = -1
        self.address: Address
        self._process: subprocess.Popen[bytes] | None = None  # None in a fork: not its child
        self._thread = threading.Thread(target=self._listen, name="unirun-manager-ear", daemon=True)
        self._reader = FrameReader()
        # Ours is the thread's, once that runs, but for telling the process that we go.
        self._socket, theirs = socket.socketpair()
        close_at_exit(self)
        try:
            with theirs:
                self._process = _start(theirs)
            self.pid = self._process.pid
            told = (os.getpid(), key, family, _leftovers.temporary_directory(), _hangs.warn_after)
            self._socket.sendall(frame(told))
            self.address = self._hear_address()
            self._thread.start()
        except BaseException as exc:
            self._end(0.0)
            if isinstance(exc, OSError | EOFError) and not isinstance(exc, ManagerLost):
                raise ManagerLost(_cannot_start(str(exc) or type(exc).__name__)) from exc
            raise

    def _hear_address(self) -> Address:
        self._socket.settimeout(START_PATIENCE)
        said: list[Any] = []
        while not said:
            said = self._reader.receive(self._socket)
        self._socket.settimeout(None)
        ((succeeded, answer),) = said
        if not succeeded:
            raise ManagerLost(_cannot_start(answer))
        address: Address = answer
        return address

    def has_ended(self, patience: float) -> bool:
        self.join(patience)
        return self._process is None or not self._thread.is_alive()

    def stop(self) -> None:
        """Tell it to end; safe in a finalizer, whatever is locked."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended before

    def join(self, patience: float | None = None) -> None:
        """Wait until nothing is left of it, at most so many seconds."""
        if self._process is not None and self._thread is not threading.current_thread():
            self._thread.join(patience)

    def disown(self) -> None:
        """In a forked child: the process is our parent's."""
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # it is not to be waited for, nor to be missed
        self._socket.close()

    # -- the thread ------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Say what only the owner can say, for those who wait for it to be said."""
        try:
            while True:
                for asked in self._reader.receive(self._socket):
                    answer = _answer_to(*asked)
                    if answer is not None:
                        self._socket.sendall(frame(answer))
        except (OSError, EOFError):
            pass  # it has ended, or is to end
        finally:
            self._end(END_PATIENCE)

    def _end(self, patience: float) -> None:
        self.stop()
        process, address = self._process, getattr(self, "address", None)
        if process is not None:
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()  # stopped, say
                process.wait()
        if address is not None:
            _connect.keys.pop(address, None)
            _links.forget(address)
            _segments.lost(address)
        if isinstance(address, str):
            _leftovers.remove(address)  # if it was killed
        self._socket.close()


def _answer_to(about: str | int, *more: Any) -> Any:
    if isinstance(about, str) and not more:
        _hangs.warn(about)
        return None
    if isinstance(about, str):  # a task, and what it left behind
        warn_of(about, *more)
        return SAID
    parties, standing = more
    reason = hopeless(parties, standing)
    return None if reason is None else (about, reason, standing)


def _command() -> list[str]:
    """An interpreter that can import the standard library and `unirun`; it needs no more."""
    options = ["-I", "-S"]  # no variable, no `site`, no directory of somebody else's
    if sys.dont_write_bytecode:
        options.append("-B")
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [python_executable(), *options, "-c", _PROGRAM, home]


_PROGRAM: Final = """
import sys
sys.path.append(sys.argv[1])
try:
    from unirun._manager_server import main
except Exception as exc:
    import marshal, os
    said = marshal.dumps((False, f"{type(exc).__name__}: {exc}"))
    os.write(0, len(said).to_bytes(4, "little") + said)
else:
    main()
"""


def _start(conversation: socket.socket) -> subprocess.Popen[bytes]:
    """It gets none of our streams and descriptors, and a Ctrl-C in the terminal is not for it."""
    return subprocess.Popen(
        _command(),
        stdin=conversation.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _cannot_start(why: str) -> str:
    return (
        f"a process for shared objects could not be started ({why}); "
        "use manager='thread' to host them in a thread of this process"
    )
