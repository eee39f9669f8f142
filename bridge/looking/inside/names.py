"""Which objects the names are bound to.

An object is told by its address, and a number by its value too, because its place is soon taken by the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.describing import bound

MOST_NAMES = 10_000  # an answer is a megabyte at the most
LONGEST_NAME = 100  # characters


def mark(value: Any) -> str:
    """What is another text for another object."""
    kind = type(value)
    told = hex(id(value))
    if kind is float or kind is bool or kind is complex or (kind is int and value.bit_length() <= 64):
        told += " " + repr(value)
    return told


def names(shell: Any) -> dict[str, Any]:
    """All that the user's code has bound; what IPython itself put there is left out."""
    hidden = {name: id(value) for name, value in bound(shell.user_ns_hidden)}
    mine = {
        name: value
        for name, value in bound(shell.user_ns)
        if len(name) <= LONGEST_NAME and not name.startswith("_") and hidden.get(name) != id(value)
    }
    shown = sorted(mine)[:MOST_NAMES]
    return {"names": {name: mark(mine[name]) for name in shown}, "left_out": len(mine) - len(shown)}
