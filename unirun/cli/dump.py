"""`unirun dump PID`: what a running program is doing."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Iterator

import psutil

from unirun import _dump_signal
from unirun._dump_server import address_of, peer_of
from unirun.cli.status import FINE, STATUSES, WrongUse

__all__ = ["DESCRIPTION", "add_arguments", "run"]

DESCRIPTION = f"""\
Show every call of a running program, its workers, the shared objects, who waits for what,
and all stacks. The program must allow it: start it with UNIRUN_DUMP=1, or with the setting
dump = true, or have it call unirun.enable_dump(). Where its interpreter cannot answer, since
C code holds the GIL, only stacks are shown.

{STATUSES}"""

PATIENCE = 5.0
"""Seconds for the program to answer; a dump of stopped workers takes one."""
STACKS_PATIENCE = 3.0
"""Seconds for all its processes to write their stacks; mostly they take a tenth of one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pid", type=int, metavar="PID", help="of the program")
    parser.add_argument(
        "--timeout",
        type=float,
        default=PATIENCE,
        metavar="SECONDS",
        help="how long to wait for its answer before asking for stacks alone (default: 5)",
    )


def run(options: argparse.Namespace) -> int:
    if sys.platform != "linux":
        raise WrongUse("a running program can be asked on Linux only")
    text = _ask(options.pid, options.timeout)
    if text is None:
        text = "\n".join(_stacks(options.pid)) + "\n"
    sys.stdout.write(text)
    return FINE


def _ask(pid: int, patience: float) -> str | None:
    """Its own words; None if it is there and says nothing."""
    received = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(patience)
        try:
            sock.connect(address_of(pid))
            if peer_of(sock)[0] != pid:
                raise WrongUse(f"somebody else answers in the name of process {pid}")
            while data := sock.recv(1 << 16):
                received.append(data)
        except TimeoutError:
            return None
        except OSError as exc:
            raise WrongUse(_why_not(pid)) from exc
    if not received:
        raise WrongUse(f"process {pid} answers its own user and root only; run this as one of them")
    return b"".join(received).decode("utf-8", "replace")


def _why_not(pid: int) -> str:
    if not psutil.pid_exists(pid):
        return f"there is no process {pid}"
    return (
        f"process {pid} cannot be asked; start it with UNIRUN_DUMP=1, or have it call "
        "unirun.enable_dump()"
    )


def _stacks(pid: int) -> Iterator[str]:
    yield f"unirun: process {pid} does not answer; its stacks and those of its children:"
    try:
        family = [pid, *(each.pid for each in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        family = [pid]
    for each, answer in _dump_signal.ask_all(family, STACKS_PATIENCE, deaf=True).items():
        if each != pid and answer.startswith("no stacks"):
            continue  # a process of somebody else's, or one that makes workers
        yield ""
        yield f"stacks of process {each}:"
        yield from answer.rstrip().splitlines()
