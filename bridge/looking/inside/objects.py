"""One object in full: the way to it, and what can be told of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.arrays import corner, extent, is_array
    from bridge.looking.inside.describing import (
        BUILTIN,
        CONTAINERS,
        FUNCTION,
        GETSET,
        MEMBER,
        MODULE,
        SCALARS,
        Refused,
        bound,
        describe,
        elements,
        exact,
        in_class,
        is_a,
        is_one_of,
        known,
        lookup,
        mro,
        name_of,
        own,
        part,
        plain,
        state,
    )
    from bridge.looking.inside.signatures import signature_of, unwrapped
    from bridge.looking.inside.sources import LONGEST, block_at, cells_of, class_line, lines_of
    from bridge.looking.inside.tables import numbers_of, rows_of, taken_apart

ELEMENTS = 50  # of a container, names of a module, members of a class
SOURCE = 80  # lines
DOCUMENTATION = 4000  # characters
NEAR = 1000  # names that are compared with a misspelt one
WALKED = 100_000  # keys of a dict that are gone through in some ten milliseconds
READ_ITEMS = "Only items of Python's own dict, list and tuple can be read without running code: execute_code can."


class Missing(Exception):
    """There is no such name; the names that there are stand in `args`."""


def inspected(shell: Any, steps: list[tuple[str, Any, str]], start: int) -> dict[str, Any]:
    """All that can be told of what a way leads to: each step its kind, its name or key, and the way so far."""
    try:
        value = followed(shell, steps)
    except Missing as missing:
        return dict(zip(("missing", "wanted", "names"), missing.args))
    told: dict[str, Any] = {"object": describe(steps[-1][2], value), "notes": []}
    if type(value) is property:
        told["notes"].append("A property: its value is not told, because reading it runs code; this is its getter.")
        value = value.fget
    elif len(steps) > 1 and is_a_descriptor(value):
        told["notes"].append("A descriptor: it was not called, so this is the object in the class.")
    table = taken_apart(value)
    if table is not None:
        told["rows"], told["numbers"] = rows_of(table, start), numbers_of(table)
        told["total"] = len(table.index)
    elif is_array(value):
        told["numbers"], told["rows"] = extent(value), corner(value)
    elif is_one_of(type(value), CONTAINERS):
        told["members"], told["total"] = elements(value, ELEMENTS, start), len(value)
    elif is_one_of(type(value), (str, bytes)):
        told["rows"], told["total"] = repr(value[start : start + DOCUMENTATION]), len(value)
    elif exact(value) is None:
        tell_of_code(shell, value, start, told)
    return told


def is_a_descriptor(value: Any) -> bool:
    """Whether Python would have called something to get at the value; functions and classes are told as they are."""
    kind = type(value)
    return bool(in_class(kind, "__get__")) and not is_one_of(kind, (FUNCTION, BUILTIN, type)) and not is_callable(value)


def is_callable(value: Any) -> bool:
    """Whether it can be called, as its type says."""
    return bool(in_class(type(value), "__call__"))


# -- the way


def followed(shell: Any, steps: list[tuple[str, Any, str]]) -> Any:
    """The object at the end of the way; raises `Missing`, `Refused`."""
    first = steps[0][1]
    names = bound(shell.user_ns)
    found = lookup(names, first) or lookup(bound(vars(sys.modules["builtins"])), first)
    if not found:
        raise Missing(first, first, near(first, (name for name, _ in names)))
    value = found[0]
    for (kind, key, way), (_, _, before) in zip(steps[1:], steps):
        if type(value) is property:
            raise Refused("%s is a property: reading it would run its code, which execute_code can." % before)
        value = attribute(value, key, way) if kind == "attribute" else item(value, key, way)
    return value


def near(name: str, names: Iterable[str]) -> list[str]:
    """Those that may be meant, few enough to be compared."""
    return [each for each in names if abs(len(each) - len(name)) <= 3][:NEAR]


def attribute(value: Any, name: str, way: str) -> Any:
    """An attribute as it lies there; whatever Python would compute is not computed."""
    kind = type(value)
    if is_a(value, type):
        found = in_class(value, name)
        names = [each for base in mro(value) for each, _ in bound_in(base)]
    else:
        kept = dict(bound(MODULE.__dict__["__dict__"].__get__(value))) if is_a(value, MODULE) else state(value)
        of_class = in_class(kind, name)
        computed = bool(of_class) and bool(in_class(type(of_class[0]), "__set__"))
        found = of_class if computed or name not in kept else (kept[name],)
        names = [*kept, *(each for base in mro(kind) for each, _ in bound_in(base))]
    if not found:
        if in_class(kind, "__getattr__") or (is_a(value, MODULE) and "__getattr__" in names):
            raise Refused("%s is not there; a `__getattr__` may make it, which is not called: execute_code can." % way)
        raise Missing(way, name, near(name, names))
    return lain(found[0], value, way)


def lain(found: Any, value: Any, way: str) -> Any:
    """What lies behind a name of a class, where getting at it takes no one's code."""
    kind = type(found)
    if kind is staticmethod or kind is classmethod:
        return kind.__dict__["__func__"].__get__(found)
    if is_a(value, type):
        return found
    if kind is MEMBER:
        try:
            return MEMBER.__get__(found, value)
        except AttributeError:
            raise Refused("%s is a slot in which nothing lies yet." % way) from None
    if kind is GETSET:
        raise Refused("%s is computed when it is read, so it is not told: execute_code can." % way)
    return found


def item(value: Any, key: Any, way: str) -> Any:
    """An item of exactly a dict, list or tuple."""
    if is_one_of(type(value), (list, tuple)) and type(key) is int:
        if not -len(value) <= key < len(value):
            raise Refused("%s is not there: the %s has %d elements." % (way, name_of(type(value)), len(value)))
        return value[key]
    if type(value) is not dict:
        raise Refused("%s is an item of a %s. %s" % (way, name_of(type(value)), READ_ITEMS))
    # a lookup compares, so it is only done among keys of Python's own
    if {id(each) for each in SCALARS}.issuperset(map(id, map(type, value))):
        if key in value:
            return value[key]
    elif len(value) > WALKED:
        raise Refused("%s is in a dict with too many entries to be gone through: execute_code can." % way)
    else:
        for each, found in dict.copy(value).items():
            if type(each) is type(key) and each == key:
                return found
    wanted = key if type(key) is str else ""
    raise Missing(way, wanted, near(wanted, (each for each in islice(value, WALKED) if type(each) is str)))


# -- what is told


def tell_of_code(shell: Any, value: Any, start: int, told: dict[str, Any]) -> None:
    """The signature, documentation, source, bases and members of whatever was written, not computed."""
    kind = type(value)
    if is_a(value, MODULE):
        names = bound(MODULE.__dict__["__dict__"].__get__(value))
        listed = ["%s: %s" % (name, name_of(type(each))) for name, each in sorted_names(names)]
        told["documentation"] = documented((lookup(names, "__doc__") or (None,))[0])
        told["file"] = plain((lookup(names, "__file__") or (None,))[0]) or None
        told["members"], told["total"] = listed[start : start + ELEMENTS], len(listed)
        return
    code = unwrapped(value)
    told["signature"] = signature_of(value)
    if is_a(value, type):
        told["bases"] = [name_of(base) for base in mro(value)[1:]]
        told["documentation"] = documented((lookup(bound_in(value), "__doc__") or (static_doc(value),))[0])
        told["members"] = ["%s: %s" % (name, name_of(type(each))) for name, each in sorted_names(bound_in(value))][
            :ELEMENTS
        ]
        tell_source(told, class_source(shell, value), start)
    elif code is not None:
        told["documentation"] = documented(FUNCTION.__dict__["__doc__"].__get__(code))
        about = FUNCTION.__dict__["__code__"].__get__(code)
        tell_source(told, (about.co_filename, about.co_firstlineno), start)
    else:
        told["documentation"] = documented(static_doc(value))
        kept = state(value)
        if kept:
            told["members"] = ["%s: %s" % (name, part(each)) for name, each in kept.items()][start : start + ELEMENTS]
            told["total"] = len(kept)
        if not is_callable(value) or not told["documentation"]:
            of_class = lookup(bound_in(kind), "__doc__")
            told["documentation"] = told["documentation"] or documented(of_class[0] if of_class else None)
    where = told.get("file")
    if where in cells_of(shell):
        told["notes"].append("The file is cell In[%d]." % cells_of(shell)[where])


def bound_in(kind: type) -> list[tuple[str, Any]]:
    """What a class's own body has bound."""
    return [(name, value) for name, value in list(own(kind).items()) if type(name) is str]


def sorted_names(names: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The public ones, by name."""
    return sorted(((name, value) for name, value in names if not name.startswith("_")), key=lambda pair: pair[0])


def static_doc(value: Any) -> str | None:
    """The documentation of something of C code."""
    kind = type.__dict__["__doc__"] if is_a(value, type) else (in_class(type(value), "__doc__") or (None,))[0]
    if type(kind) is not GETSET and type(kind) is not MEMBER:
        return None
    if is_a(value, type) and type.__dict__["__flags__"].__get__(value) & (1 << 9):
        return None
    found = kind.__get__(value)
    return found if type(found) is str else None


def documented(text: Any) -> str | None:
    """Documentation without its indentation, cut where it is long."""
    if type(text) is not str or not text.strip():
        return None
    whole: str = known("inspect", "cleandoc")(text[: 4 * DOCUMENTATION])
    return whole if len(whole) <= DOCUMENTATION else whole[:DOCUMENTATION] + "\n(cut)"


def class_source(shell: Any, kind: type) -> tuple[Any, int] | None:
    """Where a class's text begins: in the file of its methods, of its module, or in a cell."""
    name = plain(type.__dict__["__name__"].__get__(kind))
    codes = [FUNCTION.__dict__["__code__"].__get__(each) for _, each in bound_in(kind) if type(each) is FUNCTION]
    inside = [each for each in codes if ("." + each.co_name) in getattr(each, "co_qualname", "." + each.co_name)]
    module = known_module(plain((lookup(bound_in(kind), "__module__") or (None,))[0]))
    places: list[tuple[Any, int | None]] = [(each.co_filename, each.co_firstlineno) for each in inside[:3]]
    places += [(module, None)] if module else [(each, None) for each in reversed(list(cells_of(shell)))]
    for file, before in places:
        line = class_line(lines_of(file), name, before)
        if line:
            return file, line
    return None


def known_module(name: str) -> str | None:
    """The file of a module that is imported; None where it has none."""
    file = known(name, "__file__")
    return file if type(file) is str else None


def tell_source(told: dict[str, Any], where: tuple[Any, int] | None, start: int) -> None:
    """File, line and text of a definition, in pages."""
    if where is None or type(where[0]) is not str:
        return
    told["file"], told["line"] = where
    lines = block_at(lines_of(where[0]), where[1])
    if lines:
        told["source"], told["total"] = "\n".join(lines[start : start + SOURCE]), len(lines)
        if len(lines) == LONGEST:
            told["notes"].append("The source is longer than the lines in `total`: the file has the rest.")
