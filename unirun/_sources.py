"""What each place says: code, the environment, a settings file; read, checked, and traceable.

Every place becomes a `Section`: checked values, and for each the text that says where it was
written.  Which section wins is no matter of this file; see `_config`.

    keywords -> from_code        os.environ -> from_environment        TOML -> settings_file
                       \\                  |                  /
                                       Section
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping

from unirun._errors import ConfigError, UnsupportedByBackend
from unirun._hints import Hint, check_hint, required
from unirun._records import record
from unirun._settings import (
    KEYS,
    UnknownOption,
    misplaced,
    parse,
    parse_option,
    shown,
    unknown,
    whose,
)

__all__ = [
    "FileSettings",
    "Section",
    "check_mix",
    "check_options",
    "forget_files",
    "from_code",
    "from_environment",
    "from_file",
    "passed_over",
    "settings_file",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Tables: TypeAlias = Mapping[str, Mapping[str, Any]]
    Where: TypeAlias = Callable[..., str]
    """Takes the path of a key inside its section, returns where it was written."""

# Variables of ours that are no settings; each is read by the module it concerns.
NOT_SETTINGS = frozenset({"CONFIG", "PROFILE", "WITHOUT", "WORKER"})
_NOT_FOR_USERS = {"WORKER"}  # a mark of ours
FILE_NAMES = ("unirun.toml", "pyproject.toml")  # in one directory, the first wins
LARGEST = 1_000_000
"""Characters of a settings file: more would hold up the program that reads it by mistake."""
_OR_NONE = "set UNIRUN_CONFIG='' to read no file"
_FOR_ONE_CALL = frozenset({"routing", "call"})
_FOR_ALL = frozenset({"pool", "routing", "call"})


class Section:
    """What one place says; never changed once made, and equal only to itself.

    Attributes: `values` (by key), `tables` (backend name -> its options), `rules` (pattern ->
    Section), and `where()`, which says where a key was written.
    """

    __slots__ = ("_label", "_sources", "rules", "tables", "values")

    def __init__(
        self,
        label: str,
        values: Mapping[str, Any],
        tables: Tables | None = None,
        rules: Mapping[str, Section] | None = None,
        sources: Mapping[tuple[str, ...], str] | None = None,
    ) -> None:
        self._label = label
        self._sources = sources or {}
        self.values = values
        self.tables = tables or {}
        self.rules = rules or {}

    def where(self, *path: str) -> str:
        return self._sources.get(path, self._label)

    def without(self, name: str) -> Section:
        """The same but for one key."""
        values = {key: value for key, value in self.values.items() if key != name}
        return Section(self._label, values, self.tables, self.rules, self._sources)

    def under(self, upper: Section) -> Section:
        """Both in one, labelled as `upper`, which wins."""
        values = {**self.values, **upper.values}
        if "routes" in values:
            values["routes"] = {**self.values.get("routes", {}), **upper.values.get("routes", {})}
        tables = {
            name: {**self.tables.get(name, {}), **upper.tables.get(name, {})}
            for name in (*self.tables, *upper.tables)
        }
        return Section(upper._label, values, tables)


# -- code --------------------------------------------------------------------------------------


def check_options(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keywords given in code, each in its normal form.

    `where` names the place in errors; what begins with "options()" or "@task" takes no pool keys.
    Raises UnknownOption (a TypeError) for a keyword that there is not, else ConfigError.
    """
    scopes = _FOR_ONE_CALL if where.startswith(("options()", "@task")) else _FOR_ALL
    return _checked(options, lambda *_: where, "option", scopes, UnknownOption)


def from_code(keys: Mapping[str, Any], where: str) -> Section:
    """The keywords of `configure()` and `config()`; `backend` may be a name or options by name."""
    rest, tables = _split_backend(keys, lambda *_: where)
    values = check_options(rest, where)
    check_mix(values, lambda *_: where)
    return Section(where, values, tables)


def check_mix(values: Mapping[str, Any], where: Where) -> None:
    """Refuse what no backend could keep together."""
    try:
        check_hint(Hint(backend=values.get("backend"), require=required(values)))
    except UnsupportedByBackend as exc:
        guilty = next(key for key in ("require", "killable", "memory") if values.get(key))
        raise ConfigError(f"{where(guilty)}: {exc}") from None


def _checked(
    raw: Mapping[str, Any],
    where: Where,
    what: str,
    scopes: frozenset[str],
    error: type[ConfigError] = ConfigError,
) -> dict[str, Any]:
    values = {}
    for name, value in raw.items():
        key = KEYS.get(name)
        if key is None:
            raise error(f"{where(name)}: {whose(name) or unknown(what, name, KEYS)}")
        if key.scope not in scopes:
            raise error(f"{where(name)}: {misplaced(key)}")
        if key.code_only and error is not UnknownOption:
            raise ConfigError(f"{where(name)}: {_in_code_only(name)}")
        values[name] = parse(key, value, where(name))
    return values


def _split_backend(raw: Mapping[str, Any], where: Where) -> tuple[dict[str, Any], Tables]:
    """`raw` without its tables for single backends, and those, checked."""
    rest = dict(raw)
    if not isinstance(rest.get("backend"), Mapping):
        return rest, {}
    found = {}
    for backend, options in rest.pop("backend").items():
        name = parse(KEYS["backend"], backend, where("backend"))
        table = _table(options, f"backend.{name}", where("backend", name))
        found[name] = {
            option: parse_option(name, option, value, where("backend", name, option))
            for option, value in table.items()
        }
    return rest, found


def _table(value: Any, name: str, where: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    name = name if name.isprintable() else shown(name)
    text = f"cannot use {shown(value)} as {name}; {name} must be a table of keys"
    raise ConfigError(f"{where}: {text}")


def _in_code_only(name: str) -> str:
    return f"{name} is a moment of this process and can be set in code only; use timeout instead"


# -- environment -------------------------------------------------------------------------------


def from_environment(environ: Mapping[str, str]) -> Section:
    """The UNIRUN_* variables; an empty one is as good as none."""
    values: dict[str, Any] = {}
    for variable in environ:
        if not variable.startswith("UNIRUN_") or variable[7:] in NOT_SETTINGS:
            continue
        name, text = variable[7:].lower(), environ.get(variable, "")
        key = KEYS.get(name)
        if key is None or variable != variable.upper():
            known = [f"UNIRUN_{key.upper()}" for key in KEYS if not KEYS[key].code_only]
            known += [f"UNIRUN_{name}" for name in sorted(NOT_SETTINGS - _NOT_FOR_USERS)]
            # They all begin alike, which makes any two of them close.
            raise ConfigError(unknown("environment variable", variable, known, alike=0.8))
        if key.code_only:
            raise ConfigError(f"{variable}: {_in_code_only(name)}")
        if text.strip():
            values[name] = parse(key, text, variable)
    check_mix(values, lambda key: f"UNIRUN_{key.upper()}")
    sources = {path: f"UNIRUN_{path[0].upper()}" for path in _paths(values, {})}
    return Section("the environment", values, sources=sources)


# -- settings file -----------------------------------------------------------------------------


@record
class FileSettings:
    """A settings file: what it says, and what each of its profiles says above that."""

    base: Section
    profiles: Mapping[str, Section]
    path: str


# path -> (what it looked like, what is in it). Only ever replaced entry by entry, so that it needs
# no lock: at worst two threads read the same file.
_read_files: dict[str, tuple[tuple[int, ...], FileSettings | None]] = {}


def forget_files() -> None:
    """Read every file again when it is next needed; for tests."""
    _read_files.clear()


def settings_file(environ: Mapping[str, str]) -> FileSettings | None:
    """The file UNIRUN_CONFIG names, else the nearest one upward of the current directory."""
    named = environ.get("UNIRUN_CONFIG")
    if named is None:
        return _nearest()
    if not named.strip():
        return None
    path = os.path.abspath(os.path.expanduser(named.strip()))
    if not os.path.isfile(path):
        raise ConfigError(f"UNIRUN_CONFIG: there is no file {path!r}; name one, or '' for none")
    found = _cached(path)
    if found is None:
        raise ConfigError(f"UNIRUN_CONFIG: {path!r} has no [tool.unirun]; add it, or unset it")
    return found


def _nearest() -> FileSettings | None:
    try:
        directory = os.getcwd()
    except OSError:  # it was deleted under our feet, or is closed to us: no file can be near
        return None
    while True:
        for name in FILE_NAMES:
            found = _cached(os.path.join(directory, name))
            if found is not None:
                return found
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent


def passed_over(path: str) -> str | None:
    """The pyproject.toml beside that unirun.toml which has settings that are not read."""
    directory, name = os.path.split(path)
    other = os.path.join(directory, FILE_NAMES[1])
    if name != FILE_NAMES[0]:
        return None
    try:
        return other if _cached(other) is not None else None
    except ConfigError:
        return other  # nobody minds what is wrong with it


def _cached(path: str) -> FileSettings | None:
    try:
        status = os.stat(path)
    except OSError:  # not there; or in a directory closed to us, which says nothing to us
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    # Not time and size alone: a file that was put in the place of another may have both.
    version = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)
    known = _read_files.get(path)
    if known is None or known[0] != version:
        known = _read_files[path] = (version, from_file(path))
    return known[1]


def from_file(path: str) -> FileSettings | None:
    """What it says to us; None for a pyproject.toml that says nothing."""
    try:
        with open(path, encoding="utf-8-sig") as file:  # editors of Windows put a mark before it
            text = file.read(LARGEST + 1)
    except UnicodeDecodeError as exc:
        text = f"{path}: cannot be read ({exc}); save it as UTF-8, or {_OR_NONE}"
        raise ConfigError(text) from exc
    except OSError as exc:
        text = f"{path}: cannot be read ({exc}); make it readable, or {_OR_NONE}"
        raise ConfigError(text) from exc
    if len(text) > LARGEST:
        limit = f"it has more than {LARGEST} characters"
        raise ConfigError(f"{path}: is no settings file, {limit}; make it shorter, or {_OR_NONE}")
    if os.path.basename(path) != "pyproject.toml":
        return _TomlFile(path, text).settings(())
    # Most projects say nothing to us; do not import a parser for those.
    return _TomlFile(path, text).settings(("tool", "unirun")) if "unirun" in text else None


class _TomlFile:
    """One TOML file and the line on which each of its keys stands."""

    def __init__(self, path: str, text: str) -> None:
        import tomllib  # only who has a settings file pays for these

        from unirun._toml_lines import line_numbers

        self._path = path
        self._name = os.path.basename(path)
        try:
            self._data: Mapping[str, Any] = tomllib.loads(text)
        except (ValueError, RecursionError) as exc:  # also a number with too many digits
            raise ConfigError(f"{path}: malformed TOML: {exc}; mend it, or {_OR_NONE}") from exc
        self._lines = line_numbers(text)

    def where(self, *path: str) -> str:
        """Such as "pyproject.toml [tool.unirun] (line 3 of /home/me/pyproject.toml)"."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                number, header = self._lines[path[:length]]
                return f"{self._name}{header} (line {number} of {self._path})"
        return f"{self._name} ({self._path})"

    def settings(self, prefix: tuple[str, ...]) -> FileSettings | None:
        table: Any = self._data
        for part in prefix:
            table = table.get(part) if isinstance(table, Mapping) else None
        if table is None:
            return None
        base = dict(_table(table, ".".join(prefix), self.where(*prefix)))
        profiles = self._tables(base, prefix, "profile")
        return FileSettings(
            self._section(base, prefix),
            {
                name: self._section(profile, (*prefix, "profile", name))
                for name, profile in profiles.items()
            },
            self._path,
        )

    def _tables(self, raw: dict[str, Any], prefix: tuple[str, ...], name: str) -> Tables:
        """The tables under `raw[name]`, which is taken out."""
        tables = _table(raw.pop(name, {}), name, self.where(*prefix, name))
        for key, value in tables.items():
            _table(value, f"{name}.{key}", self.where(*prefix, name, key))
        return tables

    def _section(self, table: Mapping[str, Any], prefix: tuple[str, ...]) -> Section:
        def where(*path: str) -> str:
            return self.where(*prefix, *path)

        raw = dict(table)
        rules = {
            pattern: self._rule(rule, (*prefix, "task", pattern))
            for pattern, rule in self._tables(raw, prefix, "task").items()
        }
        rest, tables = _split_backend(raw, where)
        values = _checked(rest, where, "key", _FOR_ALL)
        check_mix(values, where)
        sources = {path: where(*path) for path in _paths(values, tables)}
        return Section(self._name, values, tables, rules, sources)

    def _rule(self, table: Mapping[str, Any], prefix: tuple[str, ...]) -> Section:
        values = _checked(table, lambda *path: self.where(*prefix, *path), "key", _FOR_ONE_CALL)
        check_mix(values, lambda *path: self.where(*prefix, *path))
        sources = {path: self.where(*prefix, *path) for path in _paths(values, {})}
        return Section(self._name, values, sources=sources)


def _paths(values: Mapping[str, Any], tables: Tables) -> list[tuple[str, ...]]:
    """The path of everything that a section says."""
    found: list[tuple[str, ...]] = [(name,) for name in values]
    found += [("routes", kind) for kind in values.get("routes", {})]
    return found + [("backend", name, option) for name in tables for option in tables[name]]
