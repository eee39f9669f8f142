"""Runs inside the kernel, in a subshell, while the user's cell may run: tells which objects the names are bound to.

The one rule: nothing of the user's is called; an object is told by its address, and a number by its value too, because
its place is soon taken by the next one. It uses the standard library only and runs on Python 3.8 and later.
"""

from __future__ import annotations

import json
from typing import Any

MOST = 10_000  # names; an answer is a megabyte at the most
LONGEST = 100  # characters of a name


def mark(value: Any) -> str:
    """What is another text for another object."""
    kind = type(value)
    told = hex(id(value))
    if kind is float or kind is bool or kind is complex or (kind is int and value.bit_length() <= 64):
        told += " " + repr(value)
    return told


def names(shell: Any) -> str:
    """All that the user's code has bound, as JSON; what IPython itself put there is left out."""
    values = dict.copy(shell.user_ns)  # one step, so that the cell that runs cannot change it meanwhile
    # gone through, not looked up in: a key may be of a class that compares itself
    hidden = {key: value for key, value in shell.user_ns_hidden.items() if type(key) is str}
    mine = {
        key: value
        for key, value in values.items()
        if type(key) is str
        and len(key) <= LONGEST
        and not key.startswith("_")
        and not (key in hidden and hidden[key] is value)
    }
    shown = sorted(mine)[:MOST]
    return json.dumps({"names": {key: mark(mine[key]) for key in shown}, "left_out": len(mine) - len(shown)})
