"""Every exception unirun raises, and why each has the bases it has.

Each one is a `UnirunError` *and* the type that code written for `concurrent.futures`,
`pickle` or the built-ins already catches::

    UnirunError
    ├── ConfigError(ValueError)                    a setting that cannot be used
    │   └── UnknownBackend                         no backend of that name
    ├── BackendUnavailable(ImportError)            its engine is not installed, or not reached
    │   └── VersionMismatch                        its workers run other versions
    ├── BackendLost(BrokenExecutor)                its cluster is gone
    ├── NoSuitableWorker(ValueError)               no worker of a cluster has what a call needs
    ├── UnsupportedByBackend(ValueError)           asked of a backend that cannot do it
    │   └── NotKillable(RuntimeError)              kill() of a running thread call
    ├── ExecutorShutdown(RuntimeError)             submit after shutdown
    ├── SerializationError(PicklingError, TypeError)   an argument or result cannot be pickled
    │   └── DeserializationError(BrokenProcessPool)    ... or cannot be unpickled on the other side
    ├── TaskKilled(CancelledError)                 ended by kill()
    ├── TaskCancelled(CancelledError)              the task noticed its own cancellation
    ├── TaskTimeout(TimeoutError)                  ran longer than it may
    │   └── QueueTimeout                           waited longer than it may, never started
    ├── ScopeTimeout(TimeoutError)                 a scope was not done in time
    ├── TaskMemoryExceeded(MemoryError)            used more memory than it may
    ├── WorkerCrashed(BrokenProcessPool)           its worker died by itself
    │   └── ResultLost                             ... or its machine did, with the outcome
    ├── InitializerFailed(BrokenProcessPool, BrokenThreadPool)
    ├── NotReplayable(RuntimeError)                replay() of a call that cannot be run again
    ├── RemoteError                                stands for an exception that cannot be rebuilt
    ├── ManagerLost(ConnectionError)               the host of a shared object is gone
    ├── LockAbandoned(RuntimeError)                a lock whose owner died holding it
    ├── BarrierTooLarge(BrokenBarrierError)        more parties than can run at once
    └── DeadlockError(RuntimeError)                a wait that could never end

Every one of them pickles: a task that submits other tasks may let them pass through.
Those that are a BrokenProcessPool live in `_broken`, and are imported when first asked for.
"""

from __future__ import annotations

from _pickle import PicklingError
from concurrent.futures import BrokenExecutor, CancelledError
from threading import BrokenBarrierError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._broken import DeserializationError, InitializerFailed, ResultLost, WorkerCrashed

__all__ = [
    "BackendLost",
    "BackendUnavailable",
    "BarrierTooLarge",
    "ConfigError",
    "DeadlockError",
    "DeserializationError",
    "ExecutorShutdown",
    "InitializerFailed",
    "LockAbandoned",
    "ManagerLost",
    "NoSuitableWorker",
    "NotKillable",
    "NotReplayable",
    "QueueTimeout",
    "RemoteError",
    "ResultLost",
    "ScopeTimeout",
    "SerializationError",
    "TaskCancelled",
    "TaskKilled",
    "TaskMemoryExceeded",
    "TaskTimeout",
    "UnirunError",
    "UnknownBackend",
    "UnsupportedByBackend",
    "VersionMismatch",
    "WorkerCrashed",
]


class UnirunError(Exception):
    """The base of every exception that unirun itself raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take keywords of their own; rebuilding through __new__ and the
        # instance's dict keeps any signature picklable.
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(cls: type[UnirunError], args: tuple[Any, ...], state: dict[str, Any]) -> UnirunError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(UnirunError, ValueError):
    """A setting that is unknown, malformed or impossible; names where it was written."""


class UnknownBackend(ConfigError):
    """There is no backend of that name; the text lists those there are."""


class BackendUnavailable(UnirunError, ImportError):
    """The backend exists, but what it needs is missing; the text says how to install it."""


class VersionMismatch(BackendUnavailable):
    """The workers of a cluster cannot run calls of this program; the text lists what differs."""


class BackendLost(UnirunError, BrokenExecutor):
    """The cluster is gone: what it ran ends with this, and so does every later submit."""


class NoSuitableWorker(UnirunError, ValueError):
    """No worker of the cluster has the resources that a call needs, or there is no worker."""


class UnsupportedByBackend(UnirunError, ValueError):
    """A backend was asked for something it cannot do; raised before anything is queued.

    Attributes: `backend`, `feature` and `remedy`, each a str.
    """

    def __init__(self, backend: str, feature: str, remedy: str) -> None:
        super().__init__(f"the {backend!r} backend cannot {feature}; {remedy}")
        self.backend = backend
        self.feature = feature
        self.remedy = remedy


class NotKillable(UnsupportedByBackend, RuntimeError):
    """`kill()` of a running call that lives in a thread: only processes can be killed."""


class ExecutorShutdown(UnirunError, RuntimeError):
    """A call was submitted after `shutdown()`."""


class SerializationError(UnirunError, PicklingError, TypeError):
    """An argument, function or result cannot be pickled; the text names the path to the culprit."""


class TaskKilled(UnirunError, CancelledError):
    """The call was ended by `kill()`: its body has no further effect."""

    exitcode: int | None = None
    """How its process ended, as in `subprocess`; None where there was none."""


class TaskCancelled(UnirunError, CancelledError):
    """Raised inside a task by `current_task().check()` once it is no longer wanted."""


class TaskTimeout(UnirunError, TimeoutError):
    """The call ran longer than its `timeout` or past its `deadline`.

    `abandoned` is True where the body could not be stopped and runs on unobserved (threads);
    False where it was killed (processes).
    """

    def __init__(self, message: str = "the call timed out", *, abandoned: bool = False) -> None:
        super().__init__(message)
        self.abandoned = abandoned


class QueueTimeout(TaskTimeout):
    """The call was still waiting for a worker when its `queue_timeout` or `deadline` passed."""


class ScopeTimeout(UnirunError, TimeoutError):
    """The time of a scope was up before all of its calls had ended; those were ended then.

    What was there in time is in `scope.results`; what had failed by then is the `__cause__`.
    """


class TaskMemoryExceeded(UnirunError, MemoryError):
    """The call used more than its `memory`, with all processes it had started, and was killed.

    Attributes: `task` (name of the function), `limit` and `used` (bytes; what was seen, so the
    peak may have been higher), `pid` (of its worker).
    """

    # That of MemoryError refuses every class that has another base before it.
    __new__: Any = Exception.__new__

    def __init__(self, task: str, pid: int, *, limit: int, used: int) -> None:
        self.task = task
        self.pid = pid
        self.limit = limit
        self.used = used
        super().__init__(
            f"{task} used {_size(used)} of memory in worker {pid}, where {_size(limit)} were "
            "allowed, and was killed; raise memory= or give it less to do at once"
        )


class NotReplayable(UnirunError, RuntimeError):
    """`replay()` of a call that has not failed, or whose arguments are gone."""


class RemoteError(UnirunError):
    """Stands for an exception that could not be rebuilt on this side.

    Where its class can be found, the object raised is also an instance of that class, so that
    `except` clauses written for it keep working. Attributes: `type_name` (module and qualified
    name of the original), `traceback_text` (the remote traceback).
    """

    type_name: str = ""
    traceback_text: str = ""
    _text: str = ""

    def __str__(self) -> str:
        return self._text or super().__str__()


class ManagerLost(UnirunError, ConnectionError):
    """The manager that hosts a shared object is gone, or cannot be reached."""


class LockAbandoned(UnirunError, RuntimeError):
    """A lock was not acquired because its last owner died holding it; see `on_abandoned`."""


class BarrierTooLarge(UnirunError, BrokenBarrierError):
    """A barrier broke since it has more parties than the pool of those that wait can run."""


class DeadlockError(UnirunError, RuntimeError):
    """A wait that could never have ended was refused; the text says who holds what."""


def _size(count: int) -> str:
    """A number of bytes for people; exact where it is small."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


_BROKEN = frozenset({"DeserializationError", "InitializerFailed", "ResultLost", "WorkerCrashed"})


def __getattr__(name: str) -> Any:
    if name not in _BROKEN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module("unirun._broken"), name)
    return value


for _name in set(__all__) - _BROKEN:  # a traceback and a pickle show the public name
    globals()[_name].__module__ = "unirun"
del _name
