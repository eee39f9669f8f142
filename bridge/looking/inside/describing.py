"""The description of one object, as every look gives it; and the static reading of types that all of it stands on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.arrays import array_row, scalar_text
    from bridge.looking.inside.tables import table_row

SHORT = 80  # characters of a value
NAME = 200  # characters of a name
PARTS = 5  # elements of a container that are shown
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the type was made by Python code, so it may lie about its name

SCALARS = (int, float, complex, bool, type(None), str, bytes)
CONTAINERS = (list, tuple, set, frozenset, dict)
MODULE: Any = type(sys)
FUNCTION: Any = type(lambda: 0)
BUILTIN: Any = type(len)
MEMBER, GETSET = type(MODULE.__dict__["__dict__"]), type(type.__dict__["__dict__"])
KNOWN: dict[tuple[str, str], Any] = {}  # for this look only
QUIET = (MODULE, type, FUNCTION, BUILTIN)


class Refused(Exception):
    """What was asked for cannot be told; the text says why."""


def plain(text: Any) -> str:
    """Text without the methods that a subclass of str may have given it; of anything else nothing."""
    return str.__str__(text)[:NAME] if is_a(text, str) else ""


def mro(kind: type) -> tuple[type, ...]:
    """The type and its bases, read past the metaclass."""
    found: tuple[type, ...] = type.__dict__["__mro__"].__get__(kind)
    return found


def own(kind: type) -> Any:
    """What the class's body has bound, read past the metaclass; to be gone through, not to be looked up in."""
    return type.__dict__["__dict__"].__get__(kind)


def heap(kind: type) -> bool:
    """Whether Python code may have made the type."""
    return bool(type.__dict__["__flags__"].__get__(kind) & HEAP_TYPE)


def lookup(items: Iterable[tuple[Any, Any]], name: str) -> tuple[Any, ...]:
    """The value under a name as the one element of a tuple, or none; no key of the user's is compared."""
    return next(((value,) for key, value in items if type(key) is str and key == name), ())


def in_class(kind: type, name: str) -> tuple[Any, ...]:
    """What the class or one of its bases has bound to a name, as `lookup`; no descriptor is called."""
    return next((found for base in mro(kind) for found in [lookup(own(base).items(), name)] if found), ())


def state(value: Any) -> dict[str, Any]:
    """The instance's own attributes, in a dictionary of ours; empty where it has none."""
    for base in mro(type(value)):
        found = lookup(own(base).items(), "__dict__")
        if found and type(found[0]) in (GETSET, MEMBER):  # not what the user's class may have put in its place
            attributes = found[0].__get__(value)
            return dict(bound(attributes)) if is_a(attributes, dict) else {}
    return {}


def name_of(kind: type) -> str:
    """The type's own name and module, read past whatever its metaclass would say."""
    name = plain(type.__dict__["__qualname__"].__get__(kind))
    # for a class of Python's this would be looked up in its dictionary, beside the user's keys
    found = lookup(own(kind).items(), "__module__") if heap(kind) else (type.__dict__["__module__"].__get__(kind),)
    module = plain(found[0]) if found else ""
    return name if module in ("", "builtins") else module + "." + name


def exact(value: Any) -> str | None:
    """The text of a scalar, cut where it is long; None for anything else."""
    kind = type(value)
    if kind is int and value.bit_length() > 256:
        return "an integer of %d bits" % value.bit_length()
    if (kind is str or kind is bytes) and len(value) > SHORT:
        return repr(value[:SHORT]) + "..."
    if any(kind is each for each in SCALARS):  # `in` would ask a metaclass whether it is equal
        return repr(value)
    return scalar_text(value)


def part(value: Any) -> str:
    """An element in short: a scalar's text, or the name of its type."""
    text = exact(value)
    return name_of(type(value)) if text is None else text


def is_a(value: Any, kind: type) -> bool:
    """As `isinstance`, which would ask the value what its class is."""
    return any(base is kind for base in mro(type(value)))


def is_one_of(kind: type, kinds: Iterable[type]) -> bool:
    """Whether it is exactly one of these types, without asking its metaclass."""
    return any(kind is each for each in kinds)


def elements(value: Any, count: int, start: int = 0) -> list[str]:
    """A container's elements from the `start`-th on; none where another thread changes it meanwhile."""
    try:
        if type(value) is dict:  # not by key: looking one up would call its __hash__ and __eq__
            return [part(key) + ": " + part(each) for key, each in islice(dict.items(value), start, start + count)]
        return [part(each) for each in islice(value, start, start + count)]
    except RuntimeError:
        return []


def describe(name: str, value: Any) -> dict[str, Any]:
    """One variable."""
    kind = type(value)
    row: dict[str, Any] = {"name": name[:NAME], "type": name_of(kind)}
    text = exact(value)
    if text is not None:
        row["value"] = text
    contains = is_one_of(kind, CONTAINERS)
    if contains or is_one_of(kind, (str, bytes, bytearray)):
        row["length"] = len(value)
    if contains:
        row["value"] = ", ".join(elements(value, PARTS) + (["..."] if len(value) > PARTS else []))
    if contains or is_one_of(kind, SCALARS) or kind is bytearray:
        row["bytes"] = sys.getsizeof(value)
    elif not is_one_of(kind, QUIET):
        array_row(value, row) or table_row(value, row)  # the first that knows it
    return row


def known(module: str, name: str) -> Any:
    """What a module that is imported already has under a name; None where it has not."""
    if (module, name) not in KNOWN:
        found = sys.modules.get(module)
        names = list(vars(found).items()) if type(found) is MODULE else []
        KNOWN[module, name] = (lookup(names, name) or (None,))[0]
    return KNOWN[module, name]


def bound(names: Any) -> list[tuple[str, Any]]:
    """The pairs of a namespace whose name is exactly text, taken in one step: a cell may be changing it."""
    return [(name, value) for name, value in dict.copy(names).items() if type(name) is str]


def answer(look: Callable[[], dict[str, Any]]) -> str:
    """What a look tells, as JSON; nothing may escape from here."""
    try:
        return json.dumps(look())
    except Refused as error:
        return json.dumps({"refused": error.args[0]})
    except Exception as error:  # noqa: BLE001 - IPython would keep it as the user's last exception
        return json.dumps(
            {"refused": "It changed while it was looked at, or is not what it seems (%s)." % name_of(type(error))}
        )
