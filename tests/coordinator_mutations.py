"""Bugs in the coordinator and its objects that random programs must notice.

By name: what is changed in the source of `coordinator.py` or one of `_hosted_*.py`, and into what.
"""

MUTATIONS: dict[str, tuple[str, str]] = {
    # coordinator.py
    "the dead wait on": ("            request.subject.lost(request)\n", "            pass\n"),
    "the dead keep what they hold": (
        "            subject.owner_lost(session)\n",
        "            pass\n",
    ),
    "nobody goes on after a death": (
        "            subject.resume()\n        return self._taken()\n\n    def end_task",
        "            pass\n        return self._taken()\n\n    def end_task",
    ),
    "what was granted cannot be undone": (
        'self.answer(request, "ok", value, keep=True)',
        'self.answer(request, "ok", value)',
    ),
    "what was granted can be undone for ever": (
        "            self.settle(self._grants.pop(session))\n        for waiting",
        "            pass\n        for waiting",
    ),
    "a request of the past is answered": (
        '        if request.state != "open":\n            return  # gone',
        "        if False:\n            return  # gone",
    ),
    "who gave up stays in line": (
        "            request.subject.withdrawn(request)\n            request.subject.resume()",
        "            request.subject.resume()",
    ),
    "nobody goes on after one gave up": (
        "            request.subject.withdrawn(request)\n            request.subject.resume()",
        "            request.subject.withdrawn(request)",
    ),
    "a deadline is too late": ("self._deadlines[0][0] <= now", "self._deadlines[0][0] < now"),
    "who may not wait waits": ("if request.deadline == NOW:", "if False:"),
    "nobody has a deadline": (
        "if request.deadline is not None and not request.timed:",
        "if False:",
    ),
    "who has a deadline is in a circle": (
        "if request.deadline is not None or owner is None or owner == request.session:",
        "if owner is None or owner == request.session:",
    ),
    "no circle is found": ("        if not circle:\n", "        if True:\n"),
    "who has to come back is refused": (
        "victim = free[0] if free else request",
        "victim = circle[-1]",
    ),
    "nothing is ever delivered": (
        "request.held is not None:\n            self.settle(request)",
        "request.held is not None:\n            pass",
    ),
    "a task's end is another one's": (
        "if subject is not None and subject.left_behind(session, times):",
        "if subject is not None and subject.left_behind(subject.owner, times):",
    ),
    "what is lost is never told": ('return [(session, request_id, "lost", None)]', "return []"),
    # _hosted_locks.py
    "abandoned for ever": ("            self._abandoned = False\n", "            pass\n"),
    "never abandoned": (
        "        self._abandoned = True\n        self._become_free()",
        "        self._become_free()",
    ),
    "a dead owner's lock stays": (
        "        self._abandoned = True\n        self._become_free()",
        "        self._abandoned = True",
    ),
    "last come, first served": (
        "self._serve(self._waiting.popleft())",
        "self._serve(self._waiting.pop())",
    ),
    "a lock for two": (
        "        if self._depth == 0:\n            self._serve(request)\n        elif",
        "        if True:\n            self._serve(request)\n        elif",
    ),
    "an rlock for two": (
        "elif self.reentrant and self.owner == request.session:",
        "elif self.reentrant:",
    ),
    "an rlock anybody releases": (
        "        if self.reentrant and self.owner != request.session:\n            raise",
        "        if False:\n            raise",
    ),
    "what another released is released again": (
        "            if self.owner == request.session:  # else",
        "            if True:  # else",
    ),
    "a notification is lost with its receiver": (
        "        if request.detail.condition is not None and request.detail.value:\n",
        "        if False:\n",
    ),
    "a wait comes back one deep": (
        "        self.depths[session] = self._depth\n",
        "        self.depths[session] = 1\n",
    ),
    "who timed out was notified": (
        "self._wait_for_lock(request, False)",
        "self._wait_for_lock(request, True)",
    ),
    "everybody is notified": (
        "min(number, len(self._waiting))",
        "len(self._waiting)",
    ),
    "an abandoned lock is taken unasked": (
        "if self._abandoned and request.detail.raises:",
        "if False:",
    ),
    "who leaves a lock keeps its place": (
        "            self._waiting.remove(request)\n        else:\n            return\n",
        "            pass\n        else:\n            return\n",
    ),
    "permits for those who push": (
        "        self._waiting.append(request)\n        self.resume()\n",
        "        self._waiting.appendleft(request)\n        self.resume()\n",
    ),
    "permits of the dead count twice": (
        "max(self._value, min(self._initial, self._value + permits))",
        "self._value + 2 * permits",
    ),
    "permits die with their holder": (
        "max(self._value, min(self._initial, self._value + permits))",
        "self._value",
    ),
    "a permit given back goes nowhere": ("        self._value += number\n", "        pass\n"),
    "one permit too many": ("while self._value > 0 and", "while self._value >= 0 and"),
    # _hosted_barriers.py
    "an event wakes nobody": (
        '        for each in waiting:\n            self._answer(each, "ok", True)\n',
        "",
    ),
    "an event does not stay set": (
        "self._is_set = self._was_set = True",
        "self._was_set = True",
    ),
    "a time-out breaks no barrier": (
        '        self.lost(request)\n        self._answer(request, "broken")',
        '        self.withdrawn(request)\n        self._answer(request, "broken")',
    ),
    "a death breaks no barrier": (
        "request in self._waiting:\n            self._break()",
        "request in self._waiting:\n            self.withdrawn(request)",
    ),
    "a barrier of one more": (
        "len(self._waiting) < self._parties:",
        "len(self._waiting) <= self._parties:",
    ),
    "broken for ever": ("        self._broken, self._reason = False, None\n", ""),
    # _hosted_queues.py
    "an item is lost with its getter": (
        "                self._items.put_back(entry)\n",
        "                pass\n",
    ),
    "an item comes back at the end": (
        "while index < len(self) and self[index][1] < entry[1]:",
        "while index < len(self):",
    ),
    "one item too many": (
        "0 < self._maxsize <= len(self._items)",
        "0 < self._maxsize < len(self._items)",
    ),
    "an item is delivered when it is sent": (
        'self._answer(getter, "item", value, keep=True)',
        'self._answer(getter, "item", value)',
    ),
    "who timed out still gets": (
        '        self._leave(request)\n        self._answer(request, "timeout"',
        '        self._answer(request, "timeout"',
    ),
    "the dead still get": (
        "        if request.held is None:\n            self._leave(request)",
        "        if request.held is None:\n            pass",
    ),
    "getters in any order": (
        "self._hand_out(self._getters.popleft())",
        "self._hand_out(self._getters.pop())",
    ),
    "putters wait for ever": (
        "                self._let_in(self._putters[0])\n            if not",
        "                break\n            if not",
    ),
}
