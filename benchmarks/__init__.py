"""Benchmarks and a stress run; see README.md. Never installed.

What is measured is the unirun that this interpreter has installed. `python -m benchmarks` puts the
root of the checkout first on `sys.path`, where the sources would hide an installed wheel, so it is
moved to the end here, before any module of this package can import unirun.

Light by rule: a worker of a spawning pool imports it before its first call, and what is measured is
the pool, not `pathlib`.
"""

import os
import sys

_root = os.path.realpath(__file__).rsplit(os.sep, 2)[0]

sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != _root]
sys.path.append(_root)  # for this package; worker processes get the whole list


def __getattr__(name: str) -> object:
    if name != "ROOT":
        raise AttributeError(name)
    from pathlib import Path

    return Path(_root)
