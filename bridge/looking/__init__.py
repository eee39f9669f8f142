"""Looking into a kernel's variables without touching them: the expression that is sent, and what its answer means.

The one rule: the code that runs in the kernel is `inside.py`, as it stands; it leaves no name in the user's namespace,
and its answer, which comes from a place that nobody vouches for, is read as data.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bridge.errors import KernelError


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


def variables_expression(*, limit: int, start: int = 0) -> str:
    """Return the expression whose value is `limit` of the variables from the `start`-th on, as JSON."""
    return _expression(f"variables(shell, {limit:d}, {start:d})")


def read_variables(answer: str) -> Variables:
    """Read the text form of that value; raises `KernelError` where it is none."""
    content = _content(answer)
    try:
        return Variables(int(content["total"]), tuple(_variable(each) for each in content["variables"]))
    except (KeyError, TypeError, ValueError):
        raise _unreadable() from None


@cache
def _inside() -> str:
    return Path(__file__).with_name("inside.py").read_text(encoding="utf-8")


def _expression(call: str) -> str:
    # A dictionary of its own takes every name. Builtins are taken past what the user's namespace may call so.
    return (
        f"(lambda b, n: (b.exec(b.compile({_inside()!r}, '<kernel-bridge>', 'exec'), n), b.eval({call!r}, n))[1])"
        "(__import__('builtins'), {'shell': __import__('IPython').get_ipython()})"
    )


def _content(answer: str) -> dict[str, Any]:
    try:
        content = json.loads(ast.literal_eval(answer))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise _unreadable() from None
    if not isinstance(content, dict):
        raise _unreadable()
    return content


def _variable(row: Any) -> Variable:
    shape, columns = row.get("shape"), row.get("columns")
    return Variable(
        name=str(row["name"]),
        type=str(row["type"]),
        value=None if row.get("value") is None else str(row["value"]),
        length=None if row.get("length") is None else int(row["length"]),
        shape=None if shape is None else tuple(int(each) for each in shape),
        dtype=None if row.get("dtype") is None else str(row["dtype"]),
        bytes=None if row.get("bytes") is None else int(row["bytes"]),
        columns=None if columns is None else tuple(Column(str(c["name"]), str(c["dtype"])) for c in columns),
    )


def _unreadable() -> KernelError:
    return KernelError(
        "What the kernel told of its variables cannot be read: something in it has changed how text is shown. "
        "execute_code can look instead."
    )
