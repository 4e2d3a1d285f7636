"""Every setting there is: its name, what it accepts, its default, and who may set it.

One table, `KEYS`; `_config` layers the sources over it. A value means the same wherever it is
written: `timeout="2m"` in code, `UNIRUN_TIMEOUT=2m` and `timeout = "2m"` in a file are one
setting, so every parser takes Python and TOML values as well as text.
"""

from __future__ import annotations

from unirun._errors import ConfigError
from unirun._forms import (
    AUTO,
    BACKEND,
    BAR,
    COPIES,
    KIND,
    KINDS,
    MODULES,
    MOMENT,
    NAME,
    NOT_NEGATIVE,
    ONE_OR_MORE,
    OUTPUT,
    PENDING,
    PLACE,
    REQUIRE,
    REQUIREMENTS,
    RESOURCES,
    RETRIES,
    ROOM,
    ROUTES,
    SECONDS,
    SILENCE,
    SITES,
    SIZE,
    START_METHOD,
    STRING,
    THREADS_OR_AUTO,
    TRUTH_VALUE,
    WHEN_FULL,
    WHOLE,
    WORKERS,
    Form,
    or_none,
    shown,
    unknown,
)
from unirun._hints import DEFAULT_ROUTES
from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, TypeAlias

    Scope: TypeAlias = Literal["pool", "routing", "call"]

__all__ = [
    "CALL_KEYS",
    "KEYS",
    "KINDS",
    "OWN_OPTIONS",
    "POOL_KEYS",
    "PROGRAM_KEYS",
    "REQUIREMENTS",
    "ROUTING_KEYS",
    "Key",
    "UnknownOption",
    "misplaced",
    "parse",
    "parse_option",
    "shown",
    "unknown",
    "whose",
    "worker_count",
]


class UnknownOption(ConfigError, TypeError):
    """A keyword that no setting has; a `TypeError` too, as for every unexpected keyword."""


UnknownOption.__module__ = "unirun"  # where users find it


# -- the table ---------------------------------------------------------------------------------


@record
class Key:
    """One setting; `scope` says what it belongs to."""

    name: str
    scope: Scope
    form: Form
    default: Any
    doc: str
    code_only: bool = False


_TABLE = (
    Key(
        "max_workers",
        "pool",
        or_none(WORKERS),
        None,
        "how many calls may run at once; none: by kind",
    ),
    Key(
        "blas_threads",
        "pool",
        or_none(THREADS_OR_AUTO),
        "auto",
        "how many threads BLAS and OpenMP may use in each worker; auto: its share of the cores",
    ),
    Key(
        "start_method",
        "pool",
        or_none(START_METHOD),
        None,
        "how worker processes start; none: zygote",
    ),
    Key("grace", "pool", SECONDS, 3.0, "how long a killed call may clean up before SIGKILL"),
    Key("idle_timeout", "pool", or_none(SECONDS), 60.0, "how long an idle worker is kept"),
    Key("preload", "pool", MODULES, (), "modules that workers import before their first call"),
    Key(
        "max_tasks_per_child",
        "pool",
        or_none(ONE_OR_MORE),
        None,
        "how many calls a worker process runs before it is replaced",
    ),
    Key(
        "max_worker_rss",
        "pool",
        or_none(SIZE),
        None,
        "how much memory a worker process may keep after a call before it is replaced",
    ),
    Key("thread_name_prefix", "pool", STRING, "", "what the names of worker threads begin with"),
    Key(
        "max_pending",
        "pool",
        or_none(PENDING),
        None,
        "how many calls may be submitted and not ended, or how many bytes of arguments",
    ),
    Key("when_full", "pool", WHEN_FULL, "block", "what a submit does when max_pending is reached"),
    Key("exit_grace", "pool", SECONDS, 10.0, "how long the interpreter's exit waits for calls"),
    Key("dump", "pool", TRUTH_VALUE, False, "`unirun dump PID` may ask what the program is doing"),
    Key("monitor", "pool", TRUTH_VALUE, False, "`unirun top` may show what the program is doing"),
    Key("trace", "pool", or_none(NAME), None, "a file for a trace of the run, with %p for the pid"),
    Key("progress", "pool", BAR, "auto", "what draws the bar of map(progress=True)"),
    Key("call_sites", "pool", SITES, "auto", "whether errors say where their call was submitted"),
    Key("ship", "pool", MODULES, (), "modules that machines which lack them are sent"),
    Key("output", "pool", OUTPUT, "relay", "where what worker processes print goes"),
    Key("logs", "pool", TRUTH_VALUE, True, "what worker processes log and warn of is handled here"),
    Key(
        "hang_warning",
        "pool",
        or_none(SECONDS),
        5.0,
        "how long all may wait for one another before a warning says so",
    ),
    Key(
        "manager",
        "pool",
        PLACE,
        "thread",
        "what hosts objects that processes share: a thread of this process, or one of its own",
    ),
    Key("backend", "routing", or_none(BACKEND), None, "where calls run, whatever their kind"),
    Key("kind", "routing", KIND, "auto", "what the function spends its time on"),
    Key(
        "routes",
        "routing",
        ROUTES,
        dict(DEFAULT_ROUTES),
        "which backend a kind goes to; layers are merged, kind by kind",
    ),
    Key("auto", "routing", AUTO, "learn", "whether calls of kind 'auto' are measured to choose"),
    Key("require", "routing", REQUIRE, frozenset(), "what the backend must be able to do"),
    Key("timeout", "call", or_none(SECONDS), None, "how long the body may run"),
    Key("queue_timeout", "call", or_none(SECONDS), None, "how long a call may wait to begin"),
    Key("deadline", "call", or_none(MOMENT), None, "when the call must be over", code_only=True),
    Key("retries", "call", RETRIES, 0, "how often a call that failed is run again"),
    Key("priority", "call", WHOLE, 0, "who goes first; higher is earlier"),
    Key("memory", "call", or_none(SIZE), None, "how much memory the call may use"),
    Key("resources", "call", or_none(RESOURCES), None, "what the call occupies while it runs"),
    Key("name", "call", or_none(NAME), None, "what the call is called in reports"),
    Key("capture", "call", TRUTH_VALUE, False, "what the call prints is kept on its future"),
    Key("killable", "call", TRUTH_VALUE, False, "the call must run where it can be killed"),
    Key("seed", "call", or_none(NOT_NEGATIVE), None, "what current_task().seed comes from"),
    Key("seed_libraries", "call", TRUTH_VALUE, False, "each call seeds random and numpy before"),
    Key("context", "call", TRUTH_VALUE, True, "context variables travel to other processes"),
)

# What built-in backends can be told beyond that, each by its own table; a test compares it with
# what they say themselves. For those of others, only they know.
OWN_OPTIONS: dict[str, dict[str, Form]] = {
    "coroutine": {},
    "dask": {
        **dict.fromkeys(("address", "scheduler_file", "ca", "cert", "key"), NAME),
        **dict.fromkeys(("linger", "wait_for_workers"), SECONDS),
        "lost_after": SILENCE,
        "insecure": TRUTH_VALUE,
        "worker_resources": RESOURCES,
    },
    "inline": {"copy": TRUTH_VALUE, "strict": TRUTH_VALUE},
    "process": {"window": ONE_OR_MORE, "arrays": COPIES, "arena_limit": or_none(ROOM)},
    "ray": {
        "address": NAME,
        **dict.fromkeys(("linger", "wait_for_workers"), SECONDS),
        "lost_after": SILENCE,
        "insecure": TRUTH_VALUE,
        "worker_resources": RESOURCES,
    },
    "thread": {},
}

KEYS: dict[str, Key] = {key.name: key for key in _TABLE}
POOL_KEYS = tuple(key.name for key in _TABLE if key.scope == "pool")
ROUTING_KEYS = tuple(key.name for key in _TABLE if key.scope == "routing")
CALL_KEYS = tuple(key.name for key in _TABLE if key.scope == "call")
PROGRAM_KEYS = (
    *("call_sites", "dump", "exit_grace", "hang_warning", "max_pending", "monitor", "progress"),
    *("trace", "when_full"),
)
"""Those of the pool that the executor keeps to itself: no backend is told of them."""


def parse(key: Key, value: Any, where: str) -> Any:
    """`value` in the normal form of `key`; ConfigError names `where` it was written."""
    return _parsed(key.form, key.name, value, where)


def parse_option(backend: str, name: str, value: Any, where: str) -> Any:
    """The same for what the table of one backend says.

    What a backend of others is told beyond the keys of every pool only it can judge.
    """
    if name in POOL_KEYS:
        return parse(KEYS[name], value, where)
    if backend not in OWN_OPTIONS:
        return value
    form = OWN_OPTIONS[backend].get(name)
    if form is None:
        known = (*POOL_KEYS, *OWN_OPTIONS[backend])
        what = f"option of the {backend!r} backend"
        raise ConfigError(f"{where}: {unknown(what, str(name), known, many='its options')}")
    return _parsed(form, name, value, where)


def _parsed(form: Form, name: str, value: Any, where: str) -> Any:
    try:
        return form.parse(value)
    except ConfigError as exc:
        # `from None`: the cause is the same sentence without the place.
        raise ConfigError(f"{where}: {exc}") from None
    except (ValueError, TypeError, KeyError, OverflowError):
        text = f"cannot use {shown(value)} as {name}; {name} must be {form.allowed}"
        raise ConfigError(f"{where}: {text}") from None


def whose(name: str) -> str | None:
    """The text for an option of one backend that was given for all; None if none has it."""
    owners = [backend for backend, options in OWN_OPTIONS.items() if name in options]
    if not owners:
        return None
    return f"{name} is an option of one backend; write it as backend.{owners[0]}.{name}"


def misplaced(key: Key) -> str:
    """The text for a `key` of the pool that was given for a single call or task."""
    return (
        f"{key.name} belongs to a whole pool, not to a call; set it in Executor(), in configure(),"
        f" as UNIRUN_{key.name.upper()} or in [tool.unirun]"
    )


def worker_count(setting: int | str | None, cores: int) -> int | None:
    """The number that `max_workers` means on a machine with so many usable `cores`."""
    if setting == "all":
        return cores
    if setting == "half":
        return max(1, cores // 2)
    assert not isinstance(setting, str)
    return setting
