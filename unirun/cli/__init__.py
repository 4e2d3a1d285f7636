"""The command line: ``python -m unirun`` and the ``unirun`` script."""
