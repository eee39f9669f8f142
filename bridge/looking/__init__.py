"""Looking into a kernel without touching it: the expressions that are sent, and what their answers mean.

The one rule: the code that runs in the kernel is that of `inside/`, as it stands; it leaves no name in the user's
namespace, and its answer, which comes from a place that nobody vouches for, is read as data.
"""

from __future__ import annotations

import ast
import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bridge.errors import KernelError, UsageError

# What every look needs, from the lowest up; then what each kind of look adds.
_COMMON = ("describing", "arrays", "tables")
_OBJECTS = (*_COMMON, "sources", "signatures", "objects")
_EXCEPTIONS = (*_COMMON, "sources", "exceptions")
# Names among which a misspelt one is looked for; an honest kernel sends no more.
_NAMES = 1000
# Of these, how many it is compared with, and characters of each: some milliseconds, where all of them are a minute.
_COMPARED, _ALIKE = 100, 64


@dataclass(frozen=True)
class Column:
    """One column of a data frame."""

    name: str
    dtype: str


@dataclass(frozen=True)
class Variable:
    """One variable, as far as it can be told without calling code of the user's."""

    name: str
    type: str
    value: str | None = None
    """Of numbers, text and the like: as Python writes it, cut where it is long; of containers the first elements."""
    length: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    bytes: int | None = None
    """Its own memory, without that of what it refers to."""
    columns: tuple[Column, ...] | None = None


@dataclass(frozen=True)
class Variables:
    """Some of a kernel's variables, by name."""

    total: int
    variables: tuple[Variable, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """One object in full; what does not apply to it is empty."""

    object: Variable
    signature: str = ""
    documentation: str = ""
    file: str = ""
    line: int = 0
    source: str = ""
    bases: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    """A module's or class's public names, an instance's attributes, a container's elements."""
    rows: str = ""
    """The first rows of a table, a corner of an array, more of a text."""
    numbers: str = ""
    """What describes the numeric columns of a table, or an array."""
    total: int = 0
    """How many lines of source, members or rows there are, of which some are shown."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One frame of a traceback, with its lines of source, the failing one marked."""

    number: int
    function: str
    file: str
    line: int
    source: str


@dataclass(frozen=True)
class Raised:
    """The last exception of a kernel, and the names in one of its frames."""

    type: str
    message: str
    cell: int | None
    """The `In[...]` number of the cell, the newest of those with the same text; None where it is not known."""
    cells_since: int | None
    """How many cells have run after it."""
    causes: tuple[str, ...]
    total: int
    """How many frames there are, of which the first and the last are shown."""
    frames: tuple[Frame, ...]
    frame: int | None
    """The number of the frame whose variables these are."""
    variables: tuple[Variable, ...]
    notes: tuple[str, ...]


# -- what is sent


def variables_expression(*, limit: int, start: int = 0) -> str:
    """Return the expression whose value is `limit` of the variables from the `start`-th on, as JSON."""
    return _expression((*_COMMON, "variables"), f"variables(shell, {limit:d}, {start:d})")


def object_expression(name: str, *, start: int = 0) -> str:
    """Return the expression whose value is all about the object of that name; raises `UsageError` for no name."""
    return _expression(_OBJECTS, f"inspected(shell, {_steps(name)!r}, {start:d})")


def error_expression(*, frame: int | None = None) -> str:
    """Return the expression whose value is all about the last exception, and the names in one of its frames."""
    return _expression(_EXCEPTIONS, f"raised(shell, {None if frame is None else int(frame)!r})")


@cache
def _inside(modules: tuple[str, ...]) -> list[str]:
    home = Path(__file__).with_name("inside")
    return [(home / f"{each}.py").read_text(encoding="utf-8") for each in modules]


def _expression(modules: tuple[str, ...], call: str) -> str:
    # A dictionary of its own takes every name, and is emptied: its functions would keep it alive, and it the rest.
    # Builtins are taken from a frame, past what the user's namespace may call so.
    return (
        "(lambda b, n: ([b['exec'](b['compile'](each, '<kernel-bridge>', 'exec'), n) "
        f"for each in {_inside(modules)!r}],"
        " n.__setitem__('shell', b['__import__']('IPython').get_ipython()),"
        f" b['eval']({f'answer(lambda: {call})'!r}, n), n.clear())[2])((0 for _ in ()).gi_frame.f_builtins, {{}})"
    )


def _steps(name: str) -> list[tuple[str, str | int | float | bytes | None, str]]:
    """Return the way to an object: each step its kind, its name or key, and the text up to there."""
    try:
        return _way(ast.parse(name.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError(
            f"{name[:200]!r} is not a name, nor a way from one like `np.linalg.norm`, `obj.attribute`, `d['key']` or "
            "`xs[3]`. Nothing was looked at; execute_code evaluates expressions."
        ) from None


def _way(node: ast.expr) -> list[tuple[str, str | int | float | bytes | None, str]]:
    match node:
        case ast.Name(id=name):
            return [("name", name, name)]
        case ast.Attribute(value=before, attr=name):
            return [*_way(before), ("attribute", name, ast.unparse(node))]
        case ast.Subscript(value=before, slice=key):
            item = ast.literal_eval(key)
            if not isinstance(item, str | int | float | bytes | None):
                raise ValueError(item)  # noqa: TRY004 - what `literal_eval` itself raises of what is none
            return [*_way(before), ("item", item, ast.unparse(node))]
    raise ValueError


# -- what is answered


def read_variables(answer: str) -> Variables:
    """Read the text form of that value; raises `KernelError` where it is none."""
    content = _content(answer)
    try:
        return Variables(int(content["total"]), tuple(map(_variable, content["variables"])))
    except _MALFORMED:
        raise _unreadable() from None


def read_object(answer: str) -> Inspection:
    """Read what is told of an object; raises `UsageError` where there is none, `KernelError` for no answer."""
    content = _content(answer)
    try:
        if "missing" in content:
            raise _missing(str(content["missing"]), str(content["wanted"]), list(content["names"]))
        return Inspection(
            object=_variable(content["object"]),
            line=int(content.get("line", 0)),
            bases=_texts(content.get("bases", ())),
            members=_texts(content.get("members", ())),
            total=int(content.get("total", 0)),
            notes=_texts(content["notes"]),
            **{each: _text(content.get(each)) or "" for each in _INSPECTED},
        )
    except _MALFORMED:
        raise _unreadable() from None


_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_INSPECTED = ("signature", "documentation", "file", "source", "rows", "numbers")


def read_error(answer: str) -> Raised:
    """Read what is told of an exception; raises `UsageError` where none is, `KernelError` for no answer."""
    content = _content(answer)
    try:
        return Raised(
            type=str(content["type"]),
            message=_text(content["message"]) or "",
            cell=_number(content["cell"]),
            cells_since=_number(content.get("cells_since")),
            causes=_texts(content["causes"]),
            total=int(content["total"]),
            frames=tuple(
                Frame(int(f["number"]), str(f["function"]), str(f["file"]), int(f["line"]), str(f["source"]))
                for f in content["frames"]
            ),
            frame=_number(content.get("frame")),
            variables=tuple(map(_variable, content.get("variables", ()))),
            notes=_texts(content["notes"]),
        )
    except _MALFORMED:
        raise _unreadable() from None


def _content(answer: str) -> dict[str, Any]:
    try:
        content = json.loads(ast.literal_eval(answer))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise _unreadable() from None
    if not isinstance(content, dict):
        raise _unreadable()
    if "refused" in content:
        raise UsageError(str(content["refused"]))
    return content


def _missing(way: str, wanted: str, names: list[Any]) -> UsageError:
    close = _near(wanted, names)
    meant = f"Near it: {', '.join(close)}." if close else "list_variables shows what there is."
    return UsageError(f"There is no {way[:200]} in the kernel. {meant}")


def _near(wanted: str, names: list[Any]) -> list[str]:
    likely = sorted(map(str, names[:_NAMES]), key=lambda name: name[:1] != wanted[:1])[:_COMPARED]
    whole = {name[:_ALIKE]: name for name in likely}
    return [whole[each] for each in difflib.get_close_matches(wanted[:_ALIKE], whole, n=5)]


def _variable(row: Any) -> Variable:
    shape, columns = row.get("shape"), row.get("columns")
    return Variable(
        name=str(row["name"]),
        type=str(row["type"]),
        value=_text(row.get("value")),
        length=_number(row.get("length")),
        shape=None if shape is None else tuple(int(each) for each in shape),
        dtype=_text(row.get("dtype")),
        bytes=_number(row.get("bytes")),
        columns=None if columns is None else tuple(Column(str(c["name"]), str(c["dtype"])) for c in columns),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(each) for each in values)


def _unreadable() -> KernelError:
    return KernelError(
        "What the kernel told of itself cannot be read: something in it has changed how text is shown. "
        "execute_code can look instead."
    )
