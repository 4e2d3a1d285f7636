"""Bugs that the exploration of the pool's state machine must notice.

By the scenario that notices: what is changed in the source of `process/state.py` or
`process/waiting.py`, and into what.
"""

MUTATIONS: dict[str, dict[str, tuple[str, str]]] = {
    "retired workers are replaced": {
        "a closed pool takes more": (
            "if self.closed or self.broken:\n            return [Finish",
            "if self.broken:\n            return [Finish",
        ),
        "a busy worker retires": (
            "if worker not in self._idle:\n            return []",
            "if worker not in self._idle:\n            return [Stop(worker)]",
        ),
        "a hurried worker is asked again": (
            "worker] = deque()\n        return [Kill",
            "worker] = deque()\n        return [Stop",
        ),
        "over before the killed are gone": (
            "or self._stopping or self._dying)",
            "or self._stopping)",
        ),
    },
    "spares of a pool that breaks": {
        "a broken pool gives a call away": (
            "not self.has_room or self.closed or self.broken",
            "not self.has_room or self.closed",
        ),
        "a call given away brings no spare": (
            "if self.spares and self._strength < self.size + self.spares:",
            "if False:",
        ),
        "spares are let go": (
            "while self._idle and self._strength > self.size + self.spares:",
            "while self._idle and self._strength > self.size:",
        ),
        "a broken pool starts spares": (
            "self._strength < self.size + self.spares and not self.broken",
            "self._strength < self.size + self.spares",
        ),
        "no spares": ("            wanted += self.spares\n", "            pass\n"),
        "spares do the work": (
            "while self._idle and self._waiting and len(self._busy) < self.size:",
            "while self._idle and self._waiting:",
        ),
        "a spare is room": (
            "return bool(self._idle) and len(self._busy) < self.size and",
            "return bool(self._idle) and",
        ),
    },
    "some of a batch were cancelled a moment before": {
        "an unsent call stays with its worker": ("        held.remove(call)\n", "        pass\n"),
    },
    "the last is killed": {
        "a kill forgets whom it is for": (
            "        self._targets.setdefault(worker, set()).add(call)\n",
            "",
        ),
        "a kill does not look first": ("if len(self._busy[worker]) == 1:", "if True:"),
        "a killed call ends before its worker": (
            "return [*self._condemn(worker), *self._advance()]",
            'return [*self._condemn(worker), Finish([call], "killed", worker)]',
        ),
        "the last call is taken for the first": ("done = [held.popleft()", "done = [held.pop()"),
        "a call that has begun is taken back": (
            "rest = [call for call in held if call is not begun]",
            "rest = list(held)",
        ),
        "what is taken back is kept as well": (
            "deque(call for call in held if call is begun)",
            "deque(held)",
        ),
        "a kill hits whoever runs": (
            "if begun is not None and begun in targets:",
            "if begun is not None and targets:",
        ),
        "a late answer saves a killed call": ("            self._targets[worker] = {begun}\n", ""),
        "nobody goes on": ("orders.append(Resume(worker))", "pass"),
        "a slow worker gets more": (
            "                self._slow.add(worker)\n",
            "                pass\n",
        ),
        "one that is held up rests": (
            "if self._busy[worker] or worker in self._held_up:",
            "if self._busy[worker]:",
        ),
        "a condemned worker works on": (
            "self._dying[worker] = self._busy.pop(worker, deque())",
            "self._dying[worker] = self._busy.get(worker, deque())",
        ),
        "a doomed worker is believed": (
            "            if call in targets:\n                self._settled",
            "            if False:\n                self._settled",
        ),
        "those who answered too late are forgotten": (
            "*self._busy.values(), *self._dying.values(), *self._settled.values()",
            "*self._busy.values(), *self._dying.values()",
        ),
    },
    "two are killed in one worker": {
        "a worker is held twice": (
            "if worker in self._held_up or worker in self._dying:",
            "if worker in self._dying:",
        ),
    },
    "aborted with calls in hand": {
        "a worker is told to die twice": (
            "if worker in self._held_up or worker in self._dying:",
            "if worker in self._held_up:",
        ),
        "what waits survives a kill": ("if cancel or kill:", "if cancel:"),
        "a condemned idle worker stays": (
            "            self._idle.remove(worker)\n        self._forget_habits",
            "            pass\n        self._forget_habits",
        ),
        "a condemned starting worker stays": (
            "        self._starting.discard(worker)\n        if worker in",
            "        if worker in",
        ),
        "a doomed worker is never believed": (
            "            if call in targets:\n                self._settled",
            "            if True:\n                self._settled",
        ),
        "a death after the end takes back": (
            "            elif self._aborted:\n",
            "            elif False:\n",
        ),
    },
    "a window for calls that never share": {
        "any call may share a worker": ("        if kind == ALONE:\n", "        if False:\n"),
        "a window may be shut": ("max(1, window)", "window"),
    },
    "no worker ever begins": {
        "failures are never forgiven": (
            "            self._fresh.remove(worker)\n            self._failed_starts = 0\n",
            "            self._fresh.remove(worker)\n",
        ),
        "a crash is no progress": (
            "            if begun is not None:\n                self._failed_starts = 0\n",
            "",
        ),
        "a crash is a failed start": (
            "(worker in self._fresh and begun is None)",
            "worker in self._fresh",
        ),
        "endless respawn": (
            "or worker in self._starting:\n            self._failed_starts += not excused",
            "or worker in self._starting:\n            pass",
        ),
        "endless respawn of idle workers": ("(worker in self._fresh and begun is None) or ", ""),
        "failures break nothing": (
            "            self.broken = True  # rule 7\n",
            "            pass\n",
        ),
        "a broken pool strands what waits": ('orders += self._drop_waiting("refused")', "pass"),
    },
    "nobody starts while a call waits for another": {
        "who waits for what waits is waited for": (
            "len(self._busy) == self._strength <= self._lent",
            "False",
        ),
        "who works is not waited for": (
            "len(self._busy) == self._strength <= self._lent",
            "True",
        ),
        "nobody is preferred": (
            "        if self._waiting.remove(call):\n            self._waiting.put_back([call])\n",
            "",
        ),
    },
    "spares never start": {
        "an answer forgives nothing": (
            "self._failed_starts = min(self._failed_starts, MAX_FAILED_STARTS - 1)",
            "pass",
        ),
        "failures break a pool that still works": (
            "self._failed_starts >= MAX_FAILED_STARTS and not self._strength",
            "self._failed_starts >= MAX_FAILED_STARTS",
        ),
        "one start too many": (
            "and self._failed_starts < MAX_FAILED_STARTS",
            "and self._failed_starts <= MAX_FAILED_STARTS",
        ),
    },
    "served its time with calls in hand": {
        "a slow worker is slow for ever": ("        self._slow.discard(worker)\n", ""),
        "a worker that served its time goes on": (
            "            self._leaving.add(worker)\n",
            "            pass\n",
        ),
        "one that should go rests": (
            "        if worker in self._leaving:\n            return self._dismiss(worker)\n",
            "",
        ),
        "one that is to go gets more": (
            " or worker in self._leaving:\n                continue",
            ":\n                continue",
        ),
    },
    "breaks with calls in hand": {
        "a broken pool loses what is taken back": ("if self.broken and rest:", "if False:"),
        "held while the pool is broken": (
            "or self.broken or len(self._busy) >= self.size",
            "or len(self._busy) >= self.size",
        ),
    },
    "ends and drops what waits": {
        "what is taken back goes to the end": (
            "        self._waiting.put_back(rest)\n        return orders + self._advance()",
            "        self._waiting.add(rest)\n        return orders + self._advance()",
        ),
        "one that is held gets more": (
            "if worker in self._held_up or worker in self._slow or",
            "if worker in self._slow or",
        ),
    },
    "stuck": {
        "a lone call is held up": (
            "alone = len(self._busy.get(worker, ())) < 2",
            "alone = worker not in self._busy",
        ),
        "held while nobody else is free": (
            "self.broken or len(self._busy) >= self.size",
            "self.broken",
        ),
        "held while it is held": ("if alone or worker in self._held_up or", "if alone or"),
    },
    "priority given up and taken up again": {
        "one that crashes was killed": (
            'self._busy.pop(worker), begun, "crashed"',
            'self._busy.pop(worker), begun, "killed"',
        ),
        "a dead idle worker is given work": (
            "            self._idle.remove(worker)\n        if (worker",
            "            pass\n        if (worker",
        ),
        "never over": ("        self._stopping.discard(worker)\n", ""),
        "a death leaves something behind": (
            "        self._stopping.discard(worker)\n        self._forget_habits(worker)\n",
            "        self._stopping.discard(worker)\n",
        ),
        "a death frees no slot": (
            "        self._forget_habits(worker)\n        return orders + self._advance()",
            "        self._forget_habits(worker)\n        return orders",
        ),
        "a death ends all that its worker held": (
            "            elif call is begun:\n",
            "            elif True:\n",
        ),
        "a death sends all to the end": (
            "        self._waiting.put_back(rest)\n        return orders\n",
            "        self._waiting.add(rest)\n        return orders\n",
        ),
        "nobody stops at the end": (
            "if self.closed and not self._waiting and (self._idle or self._starting):",
            "if False:",
        ),
        "all stop too early": (
            "if self.closed and not self._waiting and (self._idle or self._starting):",
            "if self.closed and (self._idle or self._starting):",
        ),
        "the end looks usual": (
            "not self._waiting and not self.closed and self._strength ==",
            "not self._waiting and self._strength ==",
        ),
        "a worker too many": (
            "len(self._idle) + len(self._starting) < wanted",
            "len(self._idle) + len(self._starting) <= wanted",
        ),
        "a slot too many": ("            and self._strength < self.size + self.spares\n", ""),
        "a batch larger than its window": (
            "min(share - len(batch), room - len(held))",
            "share - len(batch)",
        ),
        "lowest priority first": (
            "insort(self._priorities, -priority)",
            "insort(self._priorities, priority)",
        ),
        "those put back go to the end": (
            "self._lines[call.priority].move_to_end(call, last=False)",
            "pass",
        ),
        "nobody counts those taken": ("        self._count -= len(calls)\n", ""),
        "an empty line stays first": (
            "            del self._lines[-self._priorities.pop(0)]\n",
            "            pass\n",
        ),
        "a cancelled call keeps its place": (
            "        del line[call]\n        self._count -= 1\n",
            "        self._count -= 1\n",
        ),
        "a cancelled call is counted": (
            "        del line[call]\n        self._count -= 1\n",
            "        del line[call]\n",
        ),
    },
    "everybody is killed": {
        "some are spared": (
            "for worker in sorted(self.alive) for",
            "for worker in sorted(self._busy) for",
        ),
    },
    "shrinks and grows": {
        "growing changes nothing": (
            "size, lent\n        return self._advance()",
            "size, lent\n        return []",
        ),
    },
    "spares of a pool that ends": {
        "spares of a closed pool": ("0 if self.closed else spares", "spares"),
        "spares outlive the pool": ("        self.spares = 0\n        orders", "        orders"),
    },
    "shut down at once": {
        "those who stop are spared": (
            "                orders += self.hurry(worker)\n",
            "                ...\n",
        ),
    },
    "a spare takes over from a killed batch": {
        "a shrunken pool keeps its workers": (
            "while self._idle and self._strength > self.size + self.spares:",
            "while False:",
        ),
    },
    "spares come and go": {
        "too many look usual": (
            "self._strength == self.size + self.spares:\n            return orders",
            "self._strength >= self.size + self.spares:\n            return orders",
        ),
    },
    "a longer call in the middle": {
        "nobody's hands are filled up": (
            "if 2 * len(held) <= (room := self._room(worker, held)):",
            "if False:",
        ),
        "only the last call counts": (
            "room = min(windows.get(held[0].kind, 1), windows.get(held[-1].kind, 1))\n        if",
            "return windows.get(held[-1].kind, 1)\n        if",
        ),
        "only the first call counts": (
            "room = min(windows.get(held[0].kind, 1), windows.get(held[-1].kind, 1))\n        if",
            "return windows.get(held[0].kind, 1)\n        if",
        ),
        "only the call itself counts": (
            "room = min(room, self._windows.get(waiting.first().kind, 1))",
            "room = self._windows.get(waiting.first().kind, 1)",
        ),
        "calls of two kinds are alike": (
            "takewhile(lambda call: call.kind == kind, islice(line, most))",
            "islice(line, most)",
        ),
    },
    "a longer call between two batches": {
        "only the first call and the last count": (
            "if worker in self._mixed and 2 * len(held) <= room:",
            "if False:",
        ),
        "what is held always passes for calls of one kind": (
            "                self._mixed.add(worker)\n",
            "                ...\n",
        ),
    },
    "aborted, two slots": {
        "one worker takes it all": (
            "share = max(1, -(-len(waiting) // self.size))",
            "share = len(waiting)",
        ),
    },
}
