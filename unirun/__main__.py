"""``python -m unirun``: the command line."""

import sys

from unirun.cli import main

if __name__ == "__main__":  # a process that a task starts may import this file again
    sys.exit(main())
