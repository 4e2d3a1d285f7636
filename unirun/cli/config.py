"""`unirun config`: the settings that hold here, where each comes from, and what it hides."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

from unirun import _config, _named_backends, _registry, _sources
from unirun.cli import options as call_options
from unirun.cli.columns import table
from unirun.cli.status import FINE, STATUSES

__all__ = ["DESCRIPTION", "add_arguments", "run"]

DESCRIPTION = f"""\
Show the settings that hold in this directory, with the place each comes from and the
places it hides; the rules for tasks; and what is wrong, if something is. Starts nothing.

{STATUSES}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="the defaults, too")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs: everything")


def run(options: argparse.Namespace) -> int:
    with call_options.misuse():
        found = collect()
    if options.json:
        print(json.dumps(found, indent=2, default=call_options.plain))
    else:
        print("\n".join(_text(found, with_defaults=options.all)))
    return FINE


# -- what is known ------------------------------------------------------------------------------


def collect() -> dict[str, Any]:
    """Everything that is shown; raises what is wrong."""
    layers = _config.load()
    _named_backends.check_names(layers)
    file = _sources.settings_file(os.environ)
    return {
        "file": None if file is None else file.path,
        "profile": os.environ.get("UNIRUN_PROFILE", "").strip() or None,
        "profiles": [] if file is None else sorted(file.profiles),
        "settings": [_setting(*said) for said in layers.resolve().said()],
        "rules": [
            {"task": pattern, "key": key, "value": value, "source": source}
            for pattern, key, value, source in layers.rules()
        ],
        "notes": [*_passed_over(file), *_missing(layers)],
    }


def _setting(key: str, said: list[tuple[Any, str]]) -> dict[str, Any]:
    (value, source), *hidden = said
    hides = [{"value": value, "source": source} for value, source in hidden if source != "default"]
    return {"key": key, "value": value, "source": source, "hides": hides}


def _passed_over(file: _sources.FileSettings | None) -> Iterator[str]:
    if file is not None and (other := _sources.passed_over(file.path)) is not None:
        yield f"{other} has settings, too, and is not read: unirun.toml beside it comes first"


def _missing(layers: _config.Layers) -> Iterator[str]:
    for name, where in layers.backend_names().items():
        if (why := _registry.available(name)) is not None:
            yield f"{where}: {why}"


# -- how it is shown ------------------------------------------------------------------------------


def _text(found: dict[str, Any], *, with_defaults: bool) -> Iterator[str]:
    yield f"settings file: {found['file'] or 'none'}"
    others = ", ".join(found["profiles"])
    if found["profile"] or others:
        yield f"profile: {found['profile'] or 'none'} (of {others})"
    shown = [row for row in found["settings"] if with_defaults or row["source"] != "default"]
    yield "settings:" if shown else "settings: all default (--all shows them)"
    yield from table([row for setting in shown for row in _rows(setting)])
    if found["rules"]:
        yield "rules for tasks, the first that has a key wins:"
        cells = ("task", "key", "value", "source")
        yield from table([_row(*(rule[cell] for cell in cells)) for rule in found["rules"]])
    if found["notes"]:
        yield "to be looked at:"
        yield from (f"  {note}" for note in found["notes"])


def _rows(setting: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield _row(setting["key"], setting["value"], setting["source"])
    for hidden in setting["hides"]:
        yield _row("", hidden["value"], f"hidden, of {hidden['source']}")


def _row(*cells: Any) -> tuple[str, ...]:
    *names, value, source = cells
    return *names, json.dumps(value, default=call_options.plain), source
