"""One executor API over threads, processes and event loops: kill, time out, share, stream.

Every name is imported on first use: `import unirun` costs next to nothing, which a worker process
pays for every time it starts.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import as_completed as as_completed
    from concurrent.futures import wait as wait

    from unirun import profile as profile
    from unirun._api import Barrier as Barrier
    from unirun._api import BoundedSemaphore as BoundedSemaphore
    from unirun._api import Condition as Condition
    from unirun._api import Dict as Dict
    from unirun._api import Event as Event
    from unirun._api import LifoQueue as LifoQueue
    from unirun._api import List as List
    from unirun._api import Lock as Lock
    from unirun._api import PriorityQueue as PriorityQueue
    from unirun._api import Queue as Queue
    from unirun._api import RLock as RLock
    from unirun._api import Semaphore as Semaphore
    from unirun._api import SimpleQueue as SimpleQueue
    from unirun._api import Value as Value
    from unirun._api import drain_on_sigterm as drain_on_sigterm
    from unirun._api import local as local
    from unirun._api import map as map
    from unirun._api import run as run
    from unirun._api import scope as scope
    from unirun._api import submit as submit
    from unirun._choice import Explanation as Explanation
    from unirun._config import config as config
    from unirun._config import configure as configure
    from unirun._context import TaskContext as TaskContext
    from unirun._context import current_task as current_task
    from unirun._current import Activity as Activity
    from unirun._current import Timer as Timer
    from unirun._drain import Drain as Drain
    from unirun._dump import dump as dump
    from unirun._dump_server import enable_dump as enable_dump
    from unirun._errors import BackendLost as BackendLost
    from unirun._errors import BackendUnavailable as BackendUnavailable
    from unirun._errors import BarrierTooLarge as BarrierTooLarge
    from unirun._errors import ConfigError as ConfigError
    from unirun._errors import DeadlockError as DeadlockError
    from unirun._errors import DeserializationError as DeserializationError
    from unirun._errors import ExecutorShutdown as ExecutorShutdown
    from unirun._errors import InitializerFailed as InitializerFailed
    from unirun._errors import LockAbandoned as LockAbandoned
    from unirun._errors import ManagerLost as ManagerLost
    from unirun._errors import NoSuitableWorker as NoSuitableWorker
    from unirun._errors import NotKillable as NotKillable
    from unirun._errors import NotReplayable as NotReplayable
    from unirun._errors import QueueTimeout as QueueTimeout
    from unirun._errors import RemoteError as RemoteError
    from unirun._errors import ResultLost as ResultLost
    from unirun._errors import ScopeTimeout as ScopeTimeout
    from unirun._errors import SerializationError as SerializationError
    from unirun._errors import TaskCancelled as TaskCancelled
    from unirun._errors import TaskKilled as TaskKilled
    from unirun._errors import TaskMemoryExceeded as TaskMemoryExceeded
    from unirun._errors import TaskTimeout as TaskTimeout
    from unirun._errors import UnirunError as UnirunError
    from unirun._errors import UnknownBackend as UnknownBackend
    from unirun._errors import UnsupportedByBackend as UnsupportedByBackend
    from unirun._errors import VersionMismatch as VersionMismatch
    from unirun._errors import WorkerCrashed as WorkerCrashed
    from unirun._events import Subscription as Subscription
    from unirun._executor import Executor as Executor
    from unirun._executor import current_executor as current_executor
    from unirun._executor import explain as explain
    from unirun._future import Future as Future
    from unirun._hangs import HangWarning as HangWarning
    from unirun._hints import Kind as Kind
    from unirun._hints import Requirement as Requirement
    from unirun._info import CallInfo as CallInfo
    from unirun._log_filter import TaskFilter as TaskFilter
    from unirun._machine import cpu_count as cpu_count
    from unirun._monitor import enable_monitor as enable_monitor
    from unirun._observe import CallEvent as CallEvent
    from unirun._output import Output as Output
    from unirun._pdb import set_trace as set_trace
    from unirun._pending import QueueFull as QueueFull
    from unirun._put import Reference as Reference
    from unirun._reports import Progress as Progress
    from unirun._retry import Retry as Retry
    from unirun._scope import Scope as Scope
    from unirun._settings import UnknownOption as UnknownOption
    from unirun._strict import StrictWarning as StrictWarning
    from unirun._task import Task as Task
    from unirun._task import task as task
    from unirun._trace import trace as trace
    from unirun._variables import ContextWarning as ContextWarning
    from unirun.sync import ShutDown as ShutDown
else:
    _HOME = {
        "unirun._api": "Barrier BoundedSemaphore Condition Dict Event LifoQueue List Lock "
        "PriorityQueue Queue RLock Semaphore SimpleQueue Value drain_on_sigterm local map "
        "run scope submit",
        "unirun._choice": "Explanation",
        "unirun._config": "config configure",
        "unirun._context": "TaskContext current_task",
        "unirun._current": "Activity Timer",
        "unirun._drain": "Drain",
        "unirun._dump": "dump",
        "unirun._dump_server": "enable_dump",
        "unirun._errors": "BackendLost BackendUnavailable BarrierTooLarge ConfigError "
        "DeadlockError DeserializationError ExecutorShutdown InitializerFailed LockAbandoned "
        "ManagerLost NoSuitableWorker NotKillable NotReplayable QueueTimeout RemoteError "
        "ResultLost ScopeTimeout SerializationError TaskCancelled TaskKilled TaskMemoryExceeded "
        "TaskTimeout UnirunError UnknownBackend UnsupportedByBackend VersionMismatch "
        "WorkerCrashed",
        "unirun._executor": "Executor current_executor explain",
        "unirun._future": "Future",
        "unirun._hangs": "HangWarning",
        "unirun._hints": "Kind Requirement",
        "unirun._events": "Subscription",
        "unirun._info": "CallInfo",
        "unirun._observe": "CallEvent",
        "unirun._log_filter": "TaskFilter",
        "unirun._machine": "cpu_count",
        "unirun._output": "Output",
        "unirun._monitor": "enable_monitor",
        "unirun._pdb": "set_trace",
        "unirun._pending": "QueueFull",
        "unirun._put": "Reference",
        "unirun._reports": "Progress",
        "unirun._retry": "Retry",
        "unirun.profile": "profile",
        "unirun._scope": "Scope",
        "unirun._settings": "UnknownOption",
        "unirun._strict": "StrictWarning",
        "unirun._variables": "ContextWarning",
        "unirun._task": "Task task",
        "unirun._trace": "trace",
        "unirun.sync": "ShutDown",
        "concurrent.futures": "as_completed wait",
    }
    _HOME = {name: home for home, names in _HOME.items() for name in names.split()}

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home = import_module(_HOME[name])
        value = globals()[name] = home if _HOME[name] == f"unirun.{name}" else getattr(home, name)
        return value

    def __dir__():
        return sorted({*globals(), *_HOME})


__version__ = "0.1.0"

__all__ = [
    "Activity",
    "BackendLost",
    "BackendUnavailable",
    "Barrier",
    "BarrierTooLarge",
    "BoundedSemaphore",
    "CallEvent",
    "CallInfo",
    "Condition",
    "ConfigError",
    "ContextWarning",
    "DeadlockError",
    "DeserializationError",
    "Dict",
    "Drain",
    "Event",
    "Executor",
    "ExecutorShutdown",
    "Explanation",
    "Future",
    "HangWarning",
    "InitializerFailed",
    "Kind",
    "LifoQueue",
    "List",
    "Lock",
    "LockAbandoned",
    "ManagerLost",
    "NoSuitableWorker",
    "NotKillable",
    "NotReplayable",
    "Output",
    "PriorityQueue",
    "Progress",
    "Queue",
    "QueueFull",
    "QueueTimeout",
    "RLock",
    "Reference",
    "RemoteError",
    "Requirement",
    "ResultLost",
    "Retry",
    "Scope",
    "ScopeTimeout",
    "Semaphore",
    "SerializationError",
    "ShutDown",
    "SimpleQueue",
    "StrictWarning",
    "Subscription",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskFilter",
    "TaskKilled",
    "TaskMemoryExceeded",
    "TaskTimeout",
    "Timer",
    "UnirunError",
    "UnknownBackend",
    "UnknownOption",
    "UnsupportedByBackend",
    "Value",
    "VersionMismatch",
    "WorkerCrashed",
    "as_completed",
    "config",
    "configure",
    "cpu_count",
    "current_executor",
    "current_task",
    "drain_on_sigterm",
    "dump",
    "enable_dump",
    "enable_monitor",
    "explain",
    "local",
    "map",
    "profile",
    "run",
    "scope",
    "set_trace",
    "submit",
    "task",
    "trace",
    "wait",
]
