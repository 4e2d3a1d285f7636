"""Check that this interpreter imports unirun and its backends from its own environment."""

import sys
from pathlib import Path

import unirun
import unirun.backends

for module in (unirun, unirun.backends):
    if not Path(module.__file__).is_relative_to(sys.prefix):
        sys.exit(f"{module.__name__} comes from {module.__file__}, not from {sys.prefix}")
print(f"unirun comes from {Path(unirun.__file__).parent}")
