"""Every setting there is: its name, what it accepts, its default, and who may set it.

One table, `KEYS`; `_config` layers the sources over it. A value means the same wherever it is
written: `timeout="2m"` in code, `UNIRUN_TIMEOUT=2m` and `timeout = "2m"` in a file are one
setting, so every parser takes Python and TOML values as well as text.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

from unirun._errors import ConfigError
from unirun._hints import DEFAULT_ROUTES, Kind, Requirement
from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any, Literal, TypeAlias

    Scope: TypeAlias = Literal["pool", "routing", "call"]

__all__ = [
    "CALL_KEYS",
    "KEYS",
    "KINDS",
    "OWN_OPTIONS",
    "POOL_KEYS",
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

KINDS = tuple(kind.value for kind in Kind)
REQUIREMENTS = tuple(requirement.value for requirement in Requirement)
START_METHODS = ("zygote", "spawn", "fork")
WORKER_WORDS = ("all", "half")
PLACES = ("thread", "process")

_DURATIONS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0}
_DURATIONS |= {"h": 3600.0, "d": 86400.0}
# "2G" is not here: half of the world reads it as 10^9, the other half as 2^30.
_SIZES: dict[str, float] = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_LONGEST = 1e9  # seconds, 31 years; the platform's waits overflow not far above
_TRUTH = {"1": True, "true": True, "yes": True, "on": True}
_TRUTH |= {"0": False, "false": False, "no": False, "off": False}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class UnknownOption(ConfigError, TypeError):
    """A keyword that no setting has; a `TypeError` too, as for every unexpected keyword."""


UnknownOption.__module__ = "unirun"  # where users find it


# -- what a value may look like ----------------------------------------------------------------
# A parser returns the value in its one normal form, or raises: a ConfigError that says
# everything itself, or any ValueError or TypeError, which `parse` completes from the table.


def _number(value: Any, units: Mapping[str, float]) -> float:
    if isinstance(value, bool | bytes):
        raise TypeError
    if not isinstance(value, str):
        return float(value)
    text = value.strip().lower()
    digits = text.rstrip(_LETTERS)  # "1e6" ends in a digit: an exponent is no unit
    return float(digits) * units[text[len(digits) :]]


def _seconds(value: Any) -> float:
    seconds = _number(value, _DURATIONS)
    if not 0 <= seconds <= _LONGEST:  # also refuses nan
        raise ValueError
    return seconds


def _moment(value: Any) -> float:
    moment = _number(value, {"": 1.0})
    if moment != moment or abs(moment) == float("inf"):
        raise ValueError
    return moment


def _bytes(value: Any) -> int:
    # A float, too: TOML reads 1e9 as one.
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    size = int(_number(value, _SIZES)) if isinstance(value, str | float) else _whole(value)
    if size < 1:
        raise ValueError
    return size


def _room(value: Any) -> int:
    return 0 if value in (0, "0") and not isinstance(value, bool) else _bytes(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return int(value) if isinstance(value, str) else operator.index(value)


def _at_least(minimum: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = _whole(value)
        if number < minimum:
            raise ValueError
        return number

    return read


def _workers(value: Any) -> int | str | None:
    if isinstance(value, str) and value.strip().lower() in WORKER_WORDS:
        return value.strip().lower()
    return None if value == "auto" else _at_least(1)(value)


def _threads_or_auto(value: Any) -> int | str:
    is_auto = isinstance(value, str) and value.strip().lower() == "auto"
    return "auto" if is_auto else _at_least(1)(value)


def _pending(value: Any) -> tuple[int | None, int | None]:
    """How many calls, and how many bytes; in text and code alike, a number with a unit is bytes."""
    if isinstance(value, tuple) and not any(isinstance(part, str) for part in value):
        count, size = value  # the normal form
        if count is None and size is None:
            raise ValueError
        return _or_none(_ONE_OR_MORE).parse(count), _or_none(_SIZE).parse(size)
    parts = value.split(",") if isinstance(value, str) else value
    counts: list[int] = []
    sizes: list[int] = []
    for part in [parts] if isinstance(parts, int) else list(parts):
        text = part.strip().lower() if isinstance(part, str) else part
        is_size = isinstance(text, str) and text.rstrip(_LETTERS) != text
        (sizes if is_size else counts).append(_bytes(text) if is_size else _at_least(1)(text))
    if len(counts) > 1 or len(sizes) > 1 or not (counts or sizes):
        raise ValueError
    return counts[0] if counts else None, sizes[0] if sizes else None


def _retries(value: Any) -> Any:
    # Known by name: importing the class here would make every program pay for it.
    for base in type(value).__mro__:
        if base.__name__ == "Retry" and base.__module__.partition(".")[0] == "unirun":
            return value
    return _at_least(0)(value)


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else _TRUTH[_text(value).lower()]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value.strip()


def _plain(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _word(value: Any) -> str:
    if not _text(value):
        raise ValueError
    return _text(value)


def _one_of(what: str, words: Collection[str], many: str = "") -> Callable[[Any], str]:
    def read(value: Any) -> str:
        for word in words:  # the plain str of the table, also for a member of a StrEnum
            if word == _text(value):
                return word
        raise ConfigError(unknown(what, _text(value), words, many))

    return read


_kind = _one_of("kind", KINDS)
_requirement = _one_of("requirement", REQUIREMENTS)
_named_start_method = _one_of("start method", START_METHODS)


def _start_method(value: Any) -> str | None:
    return None if value == "auto" else _named_start_method(value)


def _listed(value: Any) -> list[str]:
    items = value.split(",") if isinstance(value, str) else list(value)
    return [_text(item) for item in items if _text(item)]


def _requirements(value: Any) -> frozenset[str]:
    return frozenset(_requirement(word) for word in _listed(value))


def _modules(value: Any) -> tuple[str, ...]:
    names = tuple(_listed(value))
    if not all(part.isidentifier() for name in names for part in name.split(".")):
        raise ValueError
    return names


def _pairs(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {_word(name): item for name, item in value.items()}
    pairs = [item.partition("=") for item in _listed(value)]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError
    return {_word(name): item for name, _, item in pairs}


def _routes(value: Any) -> dict[str, str]:
    return {_kind(kind): _word(backend) for kind, backend in _pairs(value).items()}


def _resources(value: Any) -> dict[str, float]:
    return {name: _amount(name, item) for name, item in _pairs(value).items()}


def _amount(name: str, value: Any) -> float:
    amount = _bytes(value) if name == "memory" else _number(value, {"": 1.0})
    if not 0 <= amount < float("inf"):
        raise ValueError
    return int(amount) if amount == int(amount) else amount


# -- the table ---------------------------------------------------------------------------------


@record
class Form:
    """How a value is read, and the end of the sentence "it must be ..." for when it is not."""

    parse: Callable[[Any], Any]
    allowed: str


def _or_none(form: Form) -> Form:
    """None too, which TOML and the environment, having none, spell "none"."""

    def read(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
            return None
        return form.parse(value)

    return Form(read, f"{form.allowed}, or none")


_STRING = Form(_plain, "a string")
_TRUTH_VALUE = Form(_truth, "true or false")
_SECONDS = Form(_seconds, "a number of seconds, 0 or more, such as 30, '500ms', '2m' or '1h'")
_MOMENT = Form(_moment, "a moment on the clock of time.monotonic()")
_SIZE = Form(_bytes, "a number of bytes, 1 or more, such as 1e6, '512MB' or '2GiB'")
_WHOLE = Form(_whole, "a whole number")
# These two begin like the texts of concurrent.futures, which people match.
_WORKERS = Form(_workers, "greater than 0: a whole number, 'all' or 'half'")
_THREADS_OR_AUTO = Form(_threads_or_auto, ">= 1: a whole number, or 'auto'")
_ONE_OR_MORE = Form(_at_least(1), ">= 1: a whole number")
_PENDING = Form(
    _pending, "a number of calls, of bytes with their unit, or both: 1000, '64MiB', '1000, 64MiB'"
)
_WHEN_FULL = Form(_one_of("choice of when_full", ("block", "raise"), "choices"), "block or raise")
_RETRIES = Form(_retries, "a whole number, 0 or more, or in code a Retry")
_MODULES = Form(_modules, "names of modules, such as ['numpy', 'package.module']")
_START_METHOD = Form(_start_method, f"one of {', '.join(START_METHODS)}")
_PLACE = Form(_one_of("place of the manager", PLACES, "places"), f"one of {', '.join(PLACES)}")
_BACKEND = Form(_word, "the name of a backend, such as 'thread' or 'process'")
_NAME = Form(_word, "a string that is not empty")
_KIND = Form(_kind, f"one of {', '.join(KINDS)}")
_WAYS = ("learn", "frozen", "off")
_AUTO = Form(_one_of("choice of auto", _WAYS, "choices"), "learn, frozen or off")
_COPIES = Form(_one_of("choice of arrays", ("view", "copy"), "choices"), "view or copy")
_ROOM = Form(_room, "a number of bytes, 0 or more, such as 1e6, '512MB' or '2GiB'")
_ROUTES = Form(_routes, "kinds and backends, such as {cpu = 'process'} or 'cpu=process,io=thread'")
_REQUIRE = Form(_requirements, f"some of {', '.join(REQUIREMENTS)}")
_RESOURCES = Form(_resources, "names and amounts, such as {gpu = 1} or 'gpu=1,cpu=2'")


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
        _or_none(_WORKERS),
        None,
        "how many calls may run at once; none: by kind",
    ),
    Key(
        "blas_threads",
        "pool",
        _or_none(_THREADS_OR_AUTO),
        "auto",
        "how many threads BLAS and OpenMP may use in each worker; auto: its share of the cores",
    ),
    Key(
        "start_method",
        "pool",
        _or_none(_START_METHOD),
        None,
        "how worker processes start; none: zygote",
    ),
    Key("grace", "pool", _SECONDS, 3.0, "how long a killed call may clean up before SIGKILL"),
    Key("idle_timeout", "pool", _or_none(_SECONDS), 60.0, "how long an idle worker is kept"),
    Key("preload", "pool", _MODULES, (), "modules that workers import before their first call"),
    Key(
        "max_tasks_per_child",
        "pool",
        _or_none(_ONE_OR_MORE),
        None,
        "how many calls a worker process runs before it is replaced",
    ),
    Key(
        "max_worker_rss",
        "pool",
        _or_none(_SIZE),
        None,
        "how much memory a worker process may keep after a call before it is replaced",
    ),
    Key("thread_name_prefix", "pool", _STRING, "", "what the names of worker threads begin with"),
    Key(
        "max_pending",
        "pool",
        _or_none(_PENDING),
        None,
        "how many calls may be submitted and not ended, or how many bytes of arguments",
    ),
    Key("when_full", "pool", _WHEN_FULL, "block", "what a submit does when max_pending is reached"),
    Key("exit_grace", "pool", _SECONDS, 10.0, "how long the interpreter's exit waits for calls"),
    Key("dump", "pool", _TRUTH_VALUE, False, "`unirun dump PID` may ask what the program is doing"),
    Key(
        "hang_warning",
        "pool",
        _or_none(_SECONDS),
        5.0,
        "how long all may wait for one another before a warning says so",
    ),
    Key(
        "manager",
        "pool",
        _PLACE,
        "thread",
        "what hosts objects that processes share: a thread of this process, or one of its own",
    ),
    Key("backend", "routing", _or_none(_BACKEND), None, "where calls run, whatever their kind"),
    Key("kind", "routing", _KIND, "auto", "what the function spends its time on"),
    Key(
        "routes",
        "routing",
        _ROUTES,
        dict(DEFAULT_ROUTES),
        "which backend a kind goes to; layers are merged, kind by kind",
    ),
    Key("auto", "routing", _AUTO, "learn", "whether calls of kind 'auto' are measured to choose"),
    Key("require", "routing", _REQUIRE, frozenset(), "what the backend must be able to do"),
    Key("timeout", "call", _or_none(_SECONDS), None, "how long the body may run"),
    Key("queue_timeout", "call", _or_none(_SECONDS), None, "how long a call may wait to begin"),
    Key("deadline", "call", _or_none(_MOMENT), None, "when the call must be over", code_only=True),
    Key("retries", "call", _RETRIES, 0, "how often a call that failed is run again"),
    Key("priority", "call", _WHOLE, 0, "who goes first; higher is earlier"),
    Key("memory", "call", _or_none(_SIZE), None, "how much memory the call may use"),
    Key("resources", "call", _or_none(_RESOURCES), None, "what the call occupies while it runs"),
    Key("name", "call", _or_none(_NAME), None, "what the call is called in reports"),
    Key("killable", "call", _TRUTH_VALUE, False, "the call must run where it can be killed"),
)

# What built-in backends can be told beyond that, each by its own table; a test compares it with
# what they say themselves. For those of others, only they know.
OWN_OPTIONS: dict[str, dict[str, Form]] = {
    "coroutine": {},
    "inline": {"copy": _TRUTH_VALUE, "strict": _TRUTH_VALUE},
    "process": {"window": _ONE_OR_MORE, "arrays": _COPIES, "arena_limit": _or_none(_ROOM)},
    "thread": {},
}

KEYS: dict[str, Key] = {key.name: key for key in _TABLE}
POOL_KEYS = tuple(key.name for key in _TABLE if key.scope == "pool")
ROUTING_KEYS = tuple(key.name for key in _TABLE if key.scope == "routing")
CALL_KEYS = tuple(key.name for key in _TABLE if key.scope == "call")


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


def shown(value: object) -> str:
    """A value in an error: short, and whatever its own repr does."""
    try:
        text = repr(value)
    except Exception:  # the user's own; or a number with too many digits  # noqa: BLE001
        return f"this {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text)} characters)"


def unknown(
    what: str, word: str, known: Iterable[str], many: str = "", *, alike: float = 0.6
) -> str:
    """The text for a `word` that is not among the `known`, with the one that was meant.

    `many` is what the known ones are called; `alike`, from 0 to 1, how close that one must be.
    """
    from difflib import get_close_matches  # only mistakes pay for it

    words = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), words, n=1, cutoff=alike)
    hints = [f"did you mean {words[close[0]]!r}?"] if close else []
    if not close or len(words) <= 10:  # a long list would hide the answer
        hints.append(f"{many or f'{what}s'}: {', '.join(words.values()) or 'none'}")
    return f"unknown {what} {shown(word)}; {' '.join(hints)}"


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
