"""Which setting holds: the layers, and what won in each.

Highest first; for each key, the first layer that has it gives its value::

    1  UNIRUN_BACKEND           forces the backend of everything
    2  options() at the call    then what the Executor was made with
    3  with config()            innermost first
    4  rules for this task      of the settings file; longest matching pattern first
    5  @task                    then Executor(kind=...), meant for functions without a hint
    6  configure()
    7  UNIRUN_* variables
    8  the settings file        [tool.unirun.profile.NAME] if UNIRUN_PROFILE=NAME, then its rest
    9  defaults

Only `routes` is merged over the layers, kind by kind.  Within a layer, what it says for one
backend wins over what it says for all.

`load` freezes 7 and 8.  3 and 6 are read whenever a call is resolved, and `stamp` tells cheaply
whether they are what they were.  A worker process starts with its parent's 6 and 8; 3
comes with each call, which the worker outlives, and holds for what that call submits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from unirun import _context, _seeds
from unirun._errors import ConfigError
from unirun._payload import dumps, loads
from unirun._records import record
from unirun._settings import KEYS, POOL_KEYS, UnknownOption, unknown
from unirun._sources import (
    Section,
    check_mix,
    check_options,
    forget_files,
    from_code,
    from_environment,
    settings_file,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Unpack

    from unirun._keywords import Settings
else:
    Any = object  # 3 ms to import, for a word in the bases of a class

__all__ = [
    "Layers",
    "Resolution",
    "UnknownOption",
    "carried",
    "check_options",
    "config",
    "configure",
    "load",
    "reset",
    "snapshot",
    "stamp",
]

DEFAULTS = Section("default", {name: key.default for name, key in KEYS.items()})
_NOTHING: Mapping[str, Any] = {}


@record
class _Inherited:
    """What a worker process got from its parent; `blob` is what it was read from."""

    blob: bytes | None = None
    files: tuple[Section, ...] | None = None


# Held while _configured or _inherited is replaced, so that no change is lost. Reading needs no
# lock: both are replaced whole.
_lock = threading.Lock()
_configured = Section("configure()", {})
_inherited = _Inherited()
# The with-blocks this context is in. A tuple, not a token per block: a block that is left takes
# out its own section even if generators leave theirs out of order.
_active = _context.blocks
# What was made of the bytes a call came with, for the calls that come with the same ones: only
# ever replaced whole.
_arrived: tuple[bytes, tuple[Section, ...]] = (b"", ())


# -- what users call ---------------------------------------------------------------------------


def configure(**keys: Unpack[Settings]) -> None:
    """Set these settings for the whole process, on top of earlier calls.

    None is a value like any other: it hides what the environment or a file says. Thread-safe.
    Raises ConfigError for a bad value and UnknownOption, a TypeError, for a keyword there is not;
    then nothing is changed.
    """
    global _configured
    section = from_code(keys, "configure()")
    _inherit()
    with _lock:
        both = _configured.under(section)
        check_mix(both.values, lambda *_: "configure()")
        _configured = both


class config:
    """These settings for the calls submitted inside a `with` block.

    They hold in this thread or asyncio task and in the tasks it starts, not in other threads. What
    those calls submit has them too, in threads and in worker processes, and a map that is made in
    the block for all its items. Settings of a pool hold for pools that start in the block.
    Blocks nest, and one object can be entered again. Raises what `configure` raises, at once.
    """

    def __init__(self, **keys: Unpack[Settings]) -> None:
        self._section = from_code(keys, "with config()")

    def __enter__(self) -> None:
        _active.set((*_blocks(), self._section))
        if (seed := self._section.values.get("seed")) is not None:
            _seeds.begin(self._section, seed)

    def __exit__(self, exc_type: object = None, *_: object) -> None:
        sections = _blocks()
        if self._section not in sections:
            if exc_type is not None:  # which says more; or a generator that nobody reads any more
                return
            raise RuntimeError(
                "a config() block was left in another thread or context than it was entered in; "
                "leave it where it was entered"
            )
        last = len(sections) - 1 - sections[::-1].index(self._section)
        _active.set(sections[:last] + sections[last + 1 :])
        if "seed" in self._section.values:
            _seeds.end(self._section)


for _public in (configure, config):  # a traceback and a pickle show the public name
    _public.__module__ = "unirun"
del _public


# -- what the executor calls -------------------------------------------------------------------


def stamp() -> tuple[object, object]:
    """Equal to an earlier one as long as `configure()` and `config()` say the same; hashable."""
    return (_configured, _active.get())


def renew() -> None:
    """Have every plan that was made looked at again: something else decides about calls now."""
    global _configured
    with _lock:
        _configured = _configured.under(Section("configure()", {}))


def load() -> Layers:
    """The environment and the settings file as they are now.

    Reads a file again only if its time or size has changed. Raises ConfigError.
    """
    _inherit()
    environment = from_environment(os.environ)
    if _inherited.files is not None:  # the parent's file, wherever this process works
        return Layers(environment, _inherited.files)
    return Layers(environment, _file_sections(os.environ))


def snapshot(layers: Layers | None = None) -> bytes:
    """Everything but the environment, which travels by itself, for `inherited_settings`.

    Raises SerializationError for a value that no worker could read.
    """
    layers = layers or load()
    # A deadline belongs to the calls made now, and travels with each; a worker outlives it.
    state = (_configured.without("deadline"), layers._files)
    return dumps(state, "a setting of configure()")


def carried() -> bytes | None:
    """The `with config()` blocks this is in, for a call that runs in another process.

    None if there are none. Raises SerializationError for a value that no worker could read.
    """
    active = _active.get()
    if isinstance(active, bytes):
        return active
    said = [section.without("deadline").without("seed") for section in active]
    said = [section for section in said if section.values or section.tables]
    return dumps(tuple(said), "a setting of config()") if said else None


def _blocks() -> tuple[Section, ...]:
    """The `with config()` blocks this is in, those of the caller first."""
    global _arrived
    active = _active.get()
    if not isinstance(active, bytes):
        blocks: tuple[Section, ...] = active
        return blocks
    data, sections = _arrived
    if data != active:
        sections = _read(active, "the config() blocks this call was submitted in")
        _arrived = (active, sections)
    return sections


def _read(data: bytes, what: str) -> Any:
    try:
        return loads(data)
    except Exception as exc:
        text = f"{what} cannot be read here ({type(exc).__name__}: {exc})"
        raise ConfigError(f"{text}; import what they need where workers find it") from exc


def reset() -> None:
    """Forget configure(), what was inherited, and the files that were read; for tests."""
    global _configured, _inherited
    forget_files()
    with _lock:
        _configured = Section("configure()", {})
        _inherited = _Inherited(_context.inherited_settings)


class Layers:
    """The environment and the settings file at one moment; immutable. Get it from `load()`."""

    __slots__ = ("_environment", "_files", "_forced")

    def __init__(self, environment: Section, files: tuple[Section, ...]) -> None:
        forced = environment.values.get("backend")
        self._forced = () if forced is None else (Section("UNIRUN_BACKEND", {"backend": forced}),)
        self._environment = environment.without("backend")
        self._files = files

    @property
    def forced(self) -> str | None:
        """The backend that UNIRUN_BACKEND forces on everything."""
        return self._forced[0].values["backend"] if self._forced else None

    def resolve(
        self,
        *,
        call: Mapping[str, Any] = _NOTHING,
        executor: Mapping[str, Any] = _NOTHING,
        decorator: Mapping[str, Any] = _NOTHING,
        task: str | None = None,
    ) -> Resolution:
        """The settings for one call.

        `call`, `executor` and `decorator` are what `check_options` returned for each; `task` is
        "module:qualname", which the rules of the file are matched with.
        """
        own = {name: value for name, value in executor.items() if name != "kind"}
        hint = {name: value for name, value in executor.items() if name == "kind"}
        sections = (
            *self._forced,
            Section("options()", call),
            Section("Executor()", own),
            *reversed(_blocks()),
            *self._rules(task),
            Section("@task", decorator),
            Section("Executor()", hint),
            _configured,
            self._environment,
            *self._files,
            DEFAULTS,
        )
        return Resolution(tuple(part for part in sections if part.values or part.tables))

    def _rules(self, task: str | None) -> list[Section]:
        rules = [
            (pattern, rule)
            for section in self._files
            for pattern, rule in section.rules.items()
            if task is not None and fnmatchcase(task, pattern)
        ]
        # The sort is stable: of two equal patterns the one of the profile stays first.
        return [rule for _, rule in sorted(rules, key=lambda found: -len(found[0]))]

    def rules(self) -> list[tuple[str, str, Any, str]]:
        """Every (pattern, key, value, source) of the rules for tasks, in the order they hold."""
        found = [item for section in self._files for item in section.rules.items()]
        found.sort(key=lambda item: -len(item[0]))
        return [
            (pattern, key, value, rule.where(key))
            for pattern, rule in found
            for key, value in rule.values.items()
        ]

    def backend_names(self) -> dict[str, str]:
        """The backends that code, environment or file name, rules too; and where each is first."""
        found: dict[str, str] = {}
        rules = [rule for section in self._files for rule in section.rules.values()]
        for part in (*self.resolve()._sections[:-1], *rules):
            for kind, name in part.values.get("routes", {}).items():
                found.setdefault(name, part.where("routes", kind))
            for name, options in part.tables.items():
                found.setdefault(name, part.where("backend", name, *list(options)[:1]))
            if part.values.get("backend") is not None:
                found.setdefault(part.values["backend"], part.where("backend"))
        return found


class Resolution(Mapping[str, Any]):
    """Every key and the value that won; `source` and `explain` say which layer gave it."""

    __slots__ = ("_sections", "_values")

    def __init__(self, sections: tuple[Section, ...]) -> None:
        self._sections = sections  # highest first
        self._values: dict[str, Any] = {}
        routes: dict[str, str] = {}
        for section in reversed(sections):
            self._values.update(section.values)
            routes.update(section.values.get("routes", _NOTHING))
        self._values["routes"] = routes

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(KEYS)

    def __len__(self) -> int:
        return len(KEYS)

    def __repr__(self) -> str:
        changed = {key: value for key, value in self.items() if value != KEYS[key].default}
        return f"<unirun settings {changed}>"

    def backend_options(self, name: str) -> dict[str, Any]:
        """What this backend is to be made with: every pool key, and the options of its own."""
        options: dict[str, Any] = {}
        for section in reversed(self._sections):
            options |= {key: section.values[key] for key in POOL_KEYS if key in section.values}
            options |= section.tables.get(name, _NOTHING)
        return options

    def source(self, key: str) -> str:
        """Where the value comes from: "UNIRUN_GRACE", "@task", "default" and the like.

        `key` may also be "routes.cpu" or "backend.process.max_workers".
        """
        if key == "routes":
            sources = [self.source(f"routes.{kind}") for kind in self["routes"]]
            return ", ".join(dict.fromkeys(sources))
        for _, source in self._said_of(key):
            return source
        raise KeyError(unknown("key", key, [key for key, _ in self.said()]))

    def explain(self) -> list[tuple[str, Any, str]]:
        """Every (key, value, source); routes and the options of single backends one by one."""
        return [(key, *said[0]) for key, said in self.said()]

    def said(self) -> list[tuple[str, list[tuple[Any, str]]]]:
        """For each of these keys, every (value, source), highest first: the others are hidden."""
        keys = [key for key in self if key != "routes"]
        at = keys.index("kind") + 1
        keys[at:at] = [f"routes.{kind}" for kind in self["routes"]]
        for name in sorted({name for section in self._sections for name in section.tables}):
            own = {option for section in self._sections for option in section.tables.get(name, ())}
            keys += [f"backend.{name}.{option}" for option in sorted(own)]
        return [(key, list(self._said_of(key))) for key in keys]

    def _said_of(self, key: str) -> Iterator[tuple[Any, str]]:
        table, _, rest = key.partition(".")
        for section in self._sections:
            if table == "routes" and rest:
                if rest in section.values.get("routes", _NOTHING):
                    yield section.values["routes"][rest], section.where("routes", rest)
                continue
            name = key
            if table == "backend" and rest:
                backend, _, name = rest.rpartition(".")
                if name in section.tables.get(backend, _NOTHING):
                    yield section.tables[backend][name], section.where("backend", backend, name)
                if name not in POOL_KEYS:
                    continue
            if name in section.values:
                yield section.values[name], section.where(name)


# -- what a worker gets ------------------------------------------------------------------------


def _file_sections(environ: Mapping[str, str]) -> tuple[Section, ...]:
    found = settings_file(environ)
    profile = environ.get("UNIRUN_PROFILE", "").strip()
    if profile and (found is None or profile not in found.profiles):
        place = f"in {found.path}" if found else "no settings file was found"
        what = unknown("profile", profile, found.profiles if found else ())
        raise ConfigError(f"UNIRUN_PROFILE: {what} ({place})")
    if found is None:
        return ()
    return (found.profiles[profile], found.base) if profile else (found.base,)


def _inherit() -> None:
    """In a worker process, take over what the parent said; once.

    Not on import: a module that is preloaded before the worker is told may import this one.
    """
    global _configured, _inherited
    blob = _context.inherited_settings
    if blob is _inherited.blob or blob is None:
        return
    configured, files = _read(blob, "the settings of the parent process")
    with _lock:  # two threads may do this one after the other; the second changes nothing
        _configured = configured.under(_configured)
        _inherited = _Inherited(blob, files)
