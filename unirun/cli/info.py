"""`unirun info`: this installation, this machine, and the settings that hold here."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import unirun
from unirun import _config, _machine, _named_backends, _registry, _sources
from unirun._errors import UnirunError
from unirun._hints import DEFAULT_ROUTES
from unirun.cli import options as call_options
from unirun.cli.columns import table
from unirun.cli.status import FINE, STATUSES, WRONG_USE

__all__ = ["DESCRIPTION", "add_arguments", "run"]

DESCRIPTION = f"""\
Show the versions, the backends and what they can do, the cores that may be used, and
every setting with the place it comes from. Starts nothing.

{STATUSES}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(options: argparse.Namespace) -> int:
    found = collect()
    if options.json:
        print(json.dumps(found, indent=2, default=call_options.plain))
    else:
        print("\n".join(_text(found)))
    return FINE if found["configuration"]["error"] is None else WRONG_USE


# -- what is known ------------------------------------------------------------------------------


def collect() -> dict[str, Any]:
    """Everything that is shown."""
    configuration = _configuration()
    names = sorted({*_registry.names(), *configuration["routes"].values()})
    return {
        "version": unirun.__version__,
        "location": str(Path(unirun.__file__).parent),
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
            "platform": platform.platform(),
            "gil": _machine.gil_enabled(),
        },
        "cores": _cores(),
        "backends": [_backend(name, configuration["routes"]) for name in names],
        "configuration": configuration,
    }


def _cores() -> dict[str, Any]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "usable": _machine.cpu_count(),
        "affinity": affinity,
        "cgroup_quota": _machine.cgroup_quota(),
        "machine": os.cpu_count(),
    }


def _backend(name: str, routes: Mapping[str, str]) -> dict[str, Any]:
    missing = _registry.available(name)
    return {
        "name": name,
        "available": missing is None,
        "missing": missing,
        "capabilities": sorted(_registry.load(name).capabilities) if missing is None else [],
        "kinds": [kind for kind, backend in routes.items() if backend == name],
    }


def _configuration() -> dict[str, Any]:
    """The settings; or, as "error", why there are none: the rest is worth showing all the same."""
    try:
        layers = _config.load()
        _named_backends.check_names(layers)
        resolution = layers.resolve()
        file = _sources.settings_file(os.environ)
    except UnirunError as exc:
        return {"file": None, "error": str(exc), "routes": DEFAULT_ROUTES, "settings": []}
    rows = [dict(zip(("key", "value", "source"), row, strict=True)) for row in resolution.explain()]
    return {
        "file": None if file is None else file.path,
        "error": None,
        "routes": resolution["routes"],
        "settings": rows,
    }


# -- how it is shown ------------------------------------------------------------------------------


def _text(found: dict[str, Any]) -> Iterator[str]:
    python, cores, configuration = found["python"], found["cores"], found["configuration"]
    yield f"unirun {found['version']} ({found['location']})"
    yield f"{python['implementation']} {python['version']} ({python['executable']})"
    yield f"{python['platform']}"
    yield f"GIL: {'enabled' if python['gil'] else 'disabled, so threads compute in parallel'}"
    yield ""
    yield f"cores: {cores['usable']} usable"
    yield from _core_lines(cores)
    yield ""
    yield "backends:"
    yield from table([_backend_row(backend) for backend in found["backends"]])
    yield ""
    yield f"settings file: {configuration['file'] or 'none'}"
    yield from _setting_lines(configuration)


def _core_lines(cores: dict[str, Any]) -> Iterator[str]:
    unlimited = cores["cgroup_quota"] is None
    yield from table(
        [
            ("this machine", str(cores["machine"])),
            ("CPU affinity", "not known here" if cores["affinity"] is None else cores["affinity"]),
            ("cgroup quota", "none" if unlimited else f"{cores['cgroup_quota']:g}"),
        ]
    )


def _backend_row(backend: dict[str, Any]) -> tuple[Any, ...]:
    if not backend["available"]:
        return backend["name"], f"not available: {backend['missing']}"
    can = ", ".join(backend["capabilities"]) or "-"
    return backend["name"], can, f"for {', '.join(backend['kinds'])}" if backend["kinds"] else ""


def _setting_lines(configuration: dict[str, Any]) -> Iterator[str]:
    if configuration["error"] is not None:
        yield f"settings: unusable: {configuration['error']}"
        return
    yield "settings:"
    rows = configuration["settings"]
    shown = [(row["key"], json.dumps(row["value"], default=call_options.plain)) for row in rows]
    yield from table([(*pair, row["source"]) for pair, row in zip(shown, rows, strict=True)])
