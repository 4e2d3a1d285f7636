"""The engines behind :class:`unirun.Executor`, one module or package each."""

# This directory is installed as unirun.backends. Under any other name its modules
# would exist twice in one process, each copy with its own classes and its own state.
if __name__ != "unirun.backends":
    raise ImportError(
        f"this directory is the package 'unirun.backends', imported here as {__name__!r}; "
        "run: pip install -e . and import unirun.backends"
    )
