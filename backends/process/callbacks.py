"""The thread that runs the done-callbacks of a pool's futures; other backends have one, too."""

from unirun._callback_thread import CallbackThread

__all__ = ["CallbackThread"]
