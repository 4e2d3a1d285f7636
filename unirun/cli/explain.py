"""`unirun explain`: where calls of a function would run, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from unirun._choice import Explanation
from unirun._executor import Executor
from unirun._machine import cpu_count
from unirun.cli import options as call_options
from unirun.cli import streams, target
from unirun.cli.status import FINE, STATUSES

__all__ = ["DESCRIPTION", "add_arguments", "run"]

DESCRIPTION = f"""\
Tell which backend calls of FUNCTION go to, why, where each setting that is not the
default was made, and how many workers that means on this machine. The options are
those of 'unirun map'. Imports the module of FUNCTION, and runs nothing else.

{STATUSES}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("function", metavar="MODULE:FUNCTION", help=target.HELP)
    call_options.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, with all settings")


def run(options: argparse.Namespace) -> int:
    given = call_options.call_options(options)
    with streams.private_stdout():  # importing the function may print
        fn = target.find(options.function)
    with call_options.misuse(), Executor(name="unirun-explain") as executor:
        found = executor.options(**given).explain(fn)
    if options.json:
        print(json.dumps(_report(found), indent=2, default=call_options.plain))
    else:
        print(found)
        print("\n".join(_on_this_machine(found)))
    return FINE


def _on_this_machine(found: Explanation) -> Iterator[str]:
    """What depends on the number of cores."""
    yield "on this machine:"
    yield f"  usable cores: {cpu_count()}"
    if found.workers is not None:
        yield f"  workers: {found.workers}"
    if found.library_threads is not None:
        yield f"  threads of BLAS, OpenMP and the like: {found.library_threads} in each worker"


def _report(found: Explanation) -> dict[str, Any]:
    settings = [dict(zip(("key", "value", "source"), row, strict=True)) for row in found.settings]
    return {
        "function": found.function,
        "backend": found.backend,
        "kind": found.kind,
        "reasons": found.reasons,
        "cores": cpu_count(),
        "workers": found.workers,
        "library_threads": found.library_threads,
        "profile": dict(found.profile),
        "settings": settings,
    }
