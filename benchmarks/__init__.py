"""Benchmarks and a stress run; see README.md. Never installed.

What is measured is the unirun that this interpreter has installed. `python -m benchmarks` puts the
root of the checkout first on `sys.path`, where the sources would hide an installed wheel, so it is
moved to the end here, before any module of this package can import unirun.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
sys.path.append(str(ROOT))  # for this package; worker processes get the whole list
