"""Context variables of others that travel in a form of their own, since theirs means nothing there.

    decimal         the current context, unless it is as at the start   numbers and names
    numpy           what `numpy.errstate` has set                       numbers and names
    opentelemetry   the current span, and the baggage                   as in HTTP (W3C)
    asgiref         what belongs to a request of Django, and to nobody elsewhere        not at all
    asyncio         an event loop, in whatever variable: it belongs to its thread       not at all

Nothing is imported here that the program has not imported, in a worker what has arrived needs.
"""

from __future__ import annotations

import sys

from unirun._deferral import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BY_NAME", "Decimal", "Form", "Locals", "NumpyErrors", "Trace", "stays"]


class Form:
    """How one variable travels."""

    module: str

    def fits(self, value: Any) -> bool:
        """Whether it is that one, and not another of the same name."""
        return str(type(value).__module__).startswith(self.module)

    def leave(self, value: Any) -> Any:
        """Something that marshal can write; None: there is nothing to send."""
        raise TypeError("each form has its own")

    def arrive(self, sent: Any) -> None:
        """Set it, in the current context."""
        raise TypeError("each form has its own")


class Decimal(Form):
    """What `decimal` computes with: C code has the variable, no module."""

    module = "decimal"
    _AT_START = (28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0)
    _TRAPS_AT_START = ("DivisionByZero", "InvalidOperation", "Overflow")

    def leave(self, value: Any) -> Any:
        _, (*numbers, _flags, traps) = value.__reduce__()[:2]
        names = tuple(sorted(trap.__name__ for trap in traps))
        if tuple(numbers) == self._AT_START and names == self._TRAPS_AT_START:
            return None
        return tuple(numbers), names

    def arrive(self, sent: Any) -> None:
        decimal: Any = imported("decimal")
        numbers, names = sent
        traps = [getattr(decimal, name) for name in names]
        decimal.setcontext(decimal.Context(*numbers, [], traps))


class NumpyErrors(Form):
    """What numpy does about an overflow and the like: the value is an object of C."""

    def fits(self, value: Any) -> bool:
        return type(value).__name__ == "PyCapsule"

    def leave(self, value: Any) -> Any:
        return dict(imported("numpy").geterr())

    def arrive(self, sent: Any) -> None:
        imported("numpy").seterr(**sent)


class Trace(Form):
    """The current span of OpenTelemetry: the keys of its context are made anew in each process."""

    module = "opentelemetry.context"

    def leave(self, value: Any) -> Any:
        carrier: dict[str, str] = {}
        for propagator in self._propagators():
            propagator.inject(carrier, context=value)
        return carrier or None

    def arrive(self, sent: Any) -> None:
        context: Any = None
        for propagator in self._propagators():
            context = propagator.extract(sent, context=context)
        imported("opentelemetry.context").attach(context)  # until the context of the call is gone

    def _propagators(self) -> tuple[Any, Any]:
        module = "opentelemetry.trace.propagation.tracecontext"
        trace = imported(module).TraceContextTextMapPropagator()
        return trace, imported("opentelemetry.baggage.propagation").W3CBaggagePropagator()


class Locals(Form):
    """Storage for one thread or task, as asgiref calls it: by design, nobody else is to see it."""

    def fits(self, value: Any) -> bool:
        return True

    def leave(self, value: Any) -> None:
        return None


BY_NAME: dict[str, Form] = {
    "decimal_context": Decimal(),
    "numpy.ufunc.extobj": NumpyErrors(),
    "current_context": Trace(),
    "asgiref.local": Locals(),
}


def stays(value: Any) -> bool:
    """Whether it means nothing elsewhere, so that nobody needs to hear of it.

    Libraries keep event loops in variables without a word to their users, as Jupyter does.
    """
    events: Any = sys.modules.get("asyncio.events")
    return events is not None and isinstance(value, events.AbstractEventLoop)
