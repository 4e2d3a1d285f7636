"""How the command line ends: its exit statuses, and the error that means wrong use."""

__all__ = [
    "FINE",
    "INTERRUPTED",
    "PIPE_CLOSED",
    "SOME_FAILED",
    "STATUSES",
    "WRONG_USE",
    "WrongUse",
]

FINE = 0
SOME_FAILED = 1
WRONG_USE = 2  # as argparse does
INTERRUPTED = 130  # 128 + SIGINT and 128 + SIGPIPE: what a shell says of a program they ended
PIPE_CLOSED = 141

STATUSES = """\
exit status:
  0    all fine
  1    some inputs failed
  2    wrong use, or input or output does not work
  130  ended by Ctrl-C
  141  nobody reads the output any more"""


class WrongUse(Exception):
    """What was asked for makes no sense or cannot be done; the text says why."""
