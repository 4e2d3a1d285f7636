"""The instructions of a function, and which of its parameters they may change.

What is known of a variable is known of all its values at once, wherever they were stored: that is
coarse, and errs on the side of a change.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

__all__ = ["ANY", "ATTRIBUTES", "Body", "Step", "steps_of"]

ANY = "*"
"""Stands for any of the parameters."""
_MADE: tuple[str, ...] = (
    "BUILD_",
    "COMPARE_OP",
    "CONTAINS_OP",
    "IS_OP",
    "UNARY_",
    "LOAD_CONST",
    "FORMAT_",
)
_MADE += ("LIST_EXTEND", "SET_UPDATE", "DICT_UPDATE", "LIST_APPEND", "CONVERT_VALUE", "LOAD_SMALL")
_LOCALS = {"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW"}
ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
_NUMBERS = (int, float, bool, type(None))
_NOT_STRAIGHT: tuple[str, ...] = ("BUILD_",)
_NOT_STRAIGHT += (
    "FOR_ITER",
    "JUMP_BACKWARD",
    "SEND",
    "IMPORT_",
    "MAKE_FUNCTION",
    "CALL_FUNCTION_EX",
)


class Step:
    """An instruction; those that do two things at once are two of these."""

    __slots__ = ("arg", "effect", "is_jump", "line", "name")

    def __init__(self, name: str, arg: Any, effect: int, line: int, is_jump: bool) -> None:
        self.name, self.arg, self.effect, self.line, self.is_jump = name, arg, effect, line, is_jump


class Body:
    """The instructions of one body, and which parameters they change."""

    def __init__(self, steps: list[Step], params: set[str]) -> None:
        self.steps = steps
        self.params = params
        self.changed: set[str] = set()
        self._made = self._made_here()

    def attributes(self, at: int) -> list[str]:
        """What is looked up, one behind the other, in what is loaded there."""
        found = []
        while at + 1 < len(self.steps) and self.steps[at + 1].name in ATTRIBUTES:
            at += 1
            found.append(self.steps[at].arg)
        return found

    def owner(self, at: int) -> str | None:
        """The variable that the instruction acts on, if that is a parameter or was made here."""
        before = self.steps[at - 1]
        known = before.name in _LOCALS and (before.arg in self.params or before.arg in self._made)
        return before.arg if known else None

    def change(self, at: int, above: int) -> None:
        """Something is changed that lies `above` values deep on the stack."""
        for _ in range(above):
            at = self._start_of_value(at)
        before = self.steps[at - 1] if at > 0 else None
        if before is None or before.name not in _LOCALS:
            if before is not None and before.name in ("BUILD_LIST", "BUILD_MAP", "BUILD_SET"):
                return
            self.changed.add(ANY)
        elif before.arg in self.params:
            self.changed.add(before.arg)
        elif before.arg not in self._made:
            self.changed.add(ANY)

    def is_straight(self) -> bool:
        """No loop, no power, nothing whose time depends on how large a number is."""
        for step in self.steps:
            if step.name.startswith(_NOT_STRAIGHT) or step.name in ATTRIBUTES:
                return False
            if step.name == "BINARY_OP" and str(step.arg).rstrip("=") in ("**", "<<", "@"):
                return False
            if step.name == "LOAD_CONST" and type(step.arg) not in _NUMBERS:
                return False  # a text can be repeated very often, as can a list; a number cannot
        return True

    def _start_of_value(self, at: int) -> int:
        """Where the instructions begin that put a value on the stack, given where they end."""
        height = 0
        while at > 0:
            at -= 1
            if self.steps[at].is_jump:
                return 0  # not to be told by going back; whose owner is nobody
            height += self.steps[at].effect
            if height == 1:
                return at
        return 0

    def _made_here(self) -> set[str]:
        """Variables that only ever hold what this body has made."""
        stores: dict[str, bool] = {}
        for at, step in enumerate(self.steps):
            if step.name == "STORE_FAST":
                stores[step.arg] = stores.get(step.arg, True) and self._is_made(at)
        return {name for name, made in stores.items() if made} - self.params

    def _is_made(self, at: int) -> bool:
        before = self.steps[at - 1]
        if before.name != "BINARY_OP":
            return before.name.startswith(_MADE)
        if not str(before.arg).endswith("="):
            return "[" not in str(before.arg)
        left = self.steps[self._start_of_value(at - 1) - 1]
        return left.name in _LOCALS and left.arg == self.steps[at].arg  # x += 1 leaves it x's own


def steps_of(code: CodeType) -> list[Step]:
    import dis  # 3 ms to import; only functions that have computed for a while are judged

    found: list[Step] = []
    jumps = {*dis.hasjrel, *dis.hasjabs}
    line = code.co_firstlineno
    for each in dis.get_instructions(code):
        line = each.positions.lineno or line if each.positions else line
        is_jump = each.opcode in jumps
        names, args = [each.opname], [each.argval]
        if each.opname == "BINARY_OP":
            args = [each.argrepr]
        if "_FAST_" in each.opname and isinstance(each.argval, tuple):  # since Python 3.13
            names = _halves(each.opname)
            args = list(each.argval)
        if len(names) == 2:
            for name, arg in zip(names, args, strict=True):
                effect = 1 if name.startswith("LOAD") else -1
                found.append(Step(name, arg, effect, line, False))
            continue
        arg = each.arg if each.opcode >= dis.HAVE_ARGUMENT else None
        found.append(Step(names[0], args[0], _effect(dis, each.opcode, arg), line, is_jump))
    return [
        step for step in found if step.name not in ("RESUME", "CACHE", "NOP", "PRECALL")
    ] or found


def _effect(dis: Any, opcode: int, arg: int | None) -> int:
    try:
        effect: int = dis.stack_effect(opcode, arg, jump=False)
    except ValueError:
        return 0
    return effect


def _halves(name: str) -> list[str]:
    """LOAD_FAST_STORE_FAST is LOAD_FAST, STORE_FAST."""
    first, _, second = name.partition("_FAST_")
    return [f"{first}_FAST", second if second.endswith("_FAST") else f"{second.split('_')[0]}_FAST"]
