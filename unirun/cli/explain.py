"""`unirun explain`: where calls of a function would run, and why."""

from __future__ import annotations

import argparse
import json

from unirun._executor import Executor
from unirun.cli import options as call_options
from unirun.cli import streams, target
from unirun.cli.status import FINE, STATUSES

__all__ = ["DESCRIPTION", "add_arguments", "run"]

DESCRIPTION = f"""\
Tell which backend calls of FUNCTION go to, why, and where each setting that is not
the default was made. The options are those of 'unirun map'. Runs nothing.

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
    if not options.json:
        print(found)
        return FINE
    settings = [dict(zip(("key", "value", "source"), row, strict=True)) for row in found.settings]
    report = {
        "function": found.function,
        "backend": found.backend,
        "reasons": found.reasons,
        "settings": settings,
    }
    print(json.dumps(report, indent=2, default=call_options.plain))
    return FINE
