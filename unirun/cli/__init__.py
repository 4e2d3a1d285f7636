"""The command line: ``python -m unirun`` and the ``unirun`` script.

Each command is a module of this package with a DESCRIPTION, `add_arguments(parser)` and
`run(options)`, which returns the exit status.  It is imported when it is asked for, and the
engines by it: `unirun --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from unirun.cli.status import INTERRUPTED, PIPE_CLOSED, STATUSES, WRONG_USE, WrongUse

__all__ = ["main"]

COMMANDS = {
    "map": "run a function over inputs, in parallel; a JSON line for each",
    "config": "the settings that hold here, where each comes from, and what is wrong",
    "info": "this installation, this machine, and the settings that hold here",
    "dump": "what a running program is doing: calls, workers, waits, stacks",
    "report": "what a trace tells: figures, advice, and one page with the timeline",
    "top": "a live view of a running program, which can kill calls",
    "explain": "where calls of a function would run, and why; runs nothing",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name) and return its exit status.

    Raises SystemExit where argparse does: for --help, --version and arguments it cannot use.
    """
    try:
        try:
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
        finally:
            if sys.stdout is not None:  # as it is where a program starts without one
                sys.stdout.flush()  # now, while a closed pipe can still be answered
    except WrongUse as exc:
        print(f"unirun: error: {exc}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return PIPE_CLOSED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in COMMANDS:
        _answer_without_command(arguments)
    name = arguments[0]
    command = import_module(f"{__name__}.{name}")
    parser = _parser(f"unirun {name}", command.DESCRIPTION)
    command.add_arguments(parser)
    # Intermixed: options may also stand between the function and its inputs.
    status: int = command.run(parser.parse_intermixed_args(arguments[1:]))
    return status


def _answer_without_command(arguments: list[str]) -> NoReturn:
    """--help and --version; anything else is a mistake."""
    from unirun import __version__

    commands = "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
    parser = _parser(
        "unirun", f"Run functions on threads, processes and event loops.\n\n{commands}"
    )
    parser.usage = "unirun [-h] [--version] COMMAND ..."
    parser.epilog = f"'unirun COMMAND --help' tells more.\n\n{STATUSES}"
    parser.add_argument("--version", action="version", version=f"unirun {__version__}")
    parser.add_argument("command", help=argparse.SUPPRESS)
    if not arguments:
        parser.print_help(sys.stderr)
        raise SystemExit(WRONG_USE)
    word: str = parser.parse_known_args(arguments)[0].command
    if word in COMMANDS:
        parser.error(f"cannot use {arguments[0]!r} before the command; write it after {word!r}")

    from unirun._settings import unknown  # only mistakes pay for it

    parser.error(unknown("command", word, COMMANDS))


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an option added later shall not change what a script means
    )


def _discard_output() -> None:
    """Nobody reads it any more: let the interpreter's last flush go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
