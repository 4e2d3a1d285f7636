"""How the value of a setting may look: parsers, and the words for what they accept.

A value means the same wherever it is written, so every parser takes Python and TOML values as well
as text.  `_settings` has the table of what is read with which of them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

from unirun._errors import ConfigError
from unirun._hints import Kind, Requirement
from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any

__all__ = [
    "AUTO",
    "BACKEND",
    "BAR",
    "BARS",
    "COPIES",
    "KIND",
    "KINDS",
    "MODULES",
    "MOMENT",
    "NAME",
    "NOT_NEGATIVE",
    "ONE_OR_MORE",
    "OUTPUT",
    "PENDING",
    "PLACE",
    "PLACES",
    "REQUIRE",
    "REQUIREMENTS",
    "RESOURCES",
    "RETRIES",
    "ROOM",
    "ROUTES",
    "SECONDS",
    "SILENCE",
    "SITES",
    "SIZE",
    "START_METHOD",
    "START_METHODS",
    "STRING",
    "THREADS_OR_AUTO",
    "TRUTH_VALUE",
    "WHEN_FULL",
    "WHOLE",
    "WORKERS",
    "Form",
    "one_of",
    "or_none",
    "shown",
    "unknown",
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


def _silence(value: Any) -> float:
    seconds = _seconds(value)
    if not 1 <= seconds <= 86400:
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
        return or_none(ONE_OR_MORE).parse(count), or_none(SIZE).parse(size)
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


def one_of(what: str, words: Collection[str], many: str = "") -> Callable[[Any], str]:
    def read(value: Any) -> str:
        for word in words:  # the plain str of the table, also for a member of a StrEnum
            if word == _text(value):
                return word
        raise ConfigError(unknown(what, _text(value), words, many))

    return read


_kind = one_of("kind", KINDS)
_requirement = one_of("requirement", REQUIREMENTS)
_named_start_method = one_of("start method", START_METHODS)


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


# -- the forms ------------------------------------------------------------------------------------


@record
class Form:
    """How a value is read, and the end of the sentence "it must be ..." for when it is not."""

    parse: Callable[[Any], Any]
    allowed: str


def or_none(form: Form) -> Form:
    """None too, which TOML and the environment, having none, spell "none"."""

    def read(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
            return None
        return form.parse(value)

    return Form(read, f"{form.allowed}, or none")


STRING = Form(_plain, "a string")
TRUTH_VALUE = Form(_truth, "true or false")
SECONDS = Form(_seconds, "a number of seconds, 0 or more, such as 30, '500ms', '2m' or '1h'")
SILENCE = Form(_silence, "a number of seconds from 1 to 86400, such as 30, '2m' or '1h'")
MOMENT = Form(_moment, "a moment on the clock of time.monotonic()")
SIZE = Form(_bytes, "a number of bytes, 1 or more, such as 1e6, '512MB' or '2GiB'")
WHOLE = Form(_whole, "a whole number")
NOT_NEGATIVE = Form(_at_least(0), "a whole number, 0 or more")
# These two begin like the texts of concurrent.futures, which people match.
WORKERS = Form(_workers, "greater than 0: a whole number, 'all' or 'half'")
THREADS_OR_AUTO = Form(_threads_or_auto, ">= 1: a whole number, or 'auto'")
ONE_OR_MORE = Form(_at_least(1), ">= 1: a whole number")
PENDING = Form(
    _pending, "a number of calls, of bytes with their unit, or both: 1000, '64MiB', '1000, 64MiB'"
)
WHEN_FULL = Form(one_of("choice of when_full", ("block", "raise"), "choices"), "block or raise")
RETRIES = Form(_retries, "a whole number, 0 or more, or in code a Retry")
MODULES = Form(_modules, "names of modules, such as ['numpy', 'package.module']")
START_METHOD = Form(_start_method, f"one of {', '.join(START_METHODS)}")
PLACE = Form(one_of("place of the manager", PLACES, "places"), f"one of {', '.join(PLACES)}")
BACKEND = Form(_word, "the name of a backend, such as 'thread' or 'process'")
NAME = Form(_word, "a string that is not empty")
KIND = Form(_kind, f"one of {', '.join(KINDS)}")
_WAYS = ("learn", "frozen", "off")
AUTO = Form(one_of("choice of auto", _WAYS, "choices"), "learn, frozen or off")
OUTPUT = Form(one_of("choice of output", ("relay", "direct"), "choices"), "relay or direct")
SITES = Form(
    one_of("choice of call_sites", ("auto", "always", "never"), "choices"), "auto, always or never"
)
COPIES = Form(one_of("choice of arrays", ("view", "copy"), "choices"), "view or copy")
BARS = ("auto", "rich", "tqdm", "plain")
BAR = Form(one_of("kind of progress bar", BARS, "bars"), f"one of {', '.join(BARS)}")
ROOM = Form(_room, "a number of bytes, 0 or more, such as 1e6, '512MB' or '2GiB'")
ROUTES = Form(_routes, "kinds and backends, such as {cpu = 'process'} or 'cpu=process,io=thread'")
REQUIRE = Form(_requirements, f"some of {', '.join(REQUIREMENTS)}")
RESOURCES = Form(_resources, "names and amounts, such as {gpu = 1} or 'gpu=1,cpu=2'")


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
