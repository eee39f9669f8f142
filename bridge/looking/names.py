"""Which names were bound, bound anew or deleted between two looks at a kernel.

The one rule: names are compared by which objects they are bound to, so that nothing is called, and an object that was
changed in place is the same one as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bridge.looking import _COMMON, _content, _expression, _unreadable

# Names of one kind in an answer; so long a list is read by nobody.
SHOWN = 50
# Characters of them all.
LONG = 2000


@dataclass(frozen=True)
class Names:
    """The names in a kernel at one moment, each with a mark of the object that it is bound to."""

    marks: Mapping[str, str]
    left_out: int


@dataclass(frozen=True)
class NameChanges:
    """What became of the names between two looks, whoever did it; of very many some are left out."""

    bound: tuple[str, ...]
    rebound: tuple[str, ...]
    deleted: tuple[str, ...]
    left_out: int


def names_expression() -> str:
    """Return the expression whose value is the names and marks, as JSON."""
    return _expression((*_COMMON, "names"), "names(shell)")


def read_names(answer: str) -> Names:
    """Read the text form of that value; raises `KernelError` where it is none."""
    content = _content(answer)
    try:
        return Names({str(name): str(mark) for name, mark in content["names"].items()}, int(content["left_out"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _unreadable() from None


def changes(before: Names, after: Names) -> NameChanges:
    """Return what became of the names; of very many the first."""
    old, new = before.marks, after.marks
    kinds = (
        [name for name in new if name not in old],
        [name for name in new if name in old and old[name] != new[name]],
        [name for name in old if name not in new],
    )
    bound, rebound, deleted = map(_some, kinds)
    told = len(bound) + len(rebound) + len(deleted)
    return NameChanges(bound, rebound, deleted, sum(map(len, kinds)) - told + max(before.left_out, after.left_out))


def _some(names: Iterable[str]) -> tuple[str, ...]:
    shown, room = [], LONG
    for name in sorted(names)[:SHOWN]:
        room -= len(name)
        if room >= 0:
            shown.append(name)
    return tuple(shown)
