"""Runs inside the kernel, in a subshell, while the user's cell may run: tells of variables without touching them.

The one rule: nothing of the user's is ever called, no `__repr__`, `__len__`, property or metaclass. Only objects whose
type is exactly one of Python's own, of numpy's static types or of pandas' are described; of others their type's name.
It uses the standard library only, imports nothing that is not imported already, and runs on Python 3.8 and later.
"""

from __future__ import annotations

import json
import sys
from typing import Any

SHORT = 80  # characters of a value
PARTS = 5  # elements of a container that are shown
COLUMNS = 50
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the type was made by Python code, so it may lie about its name

SCALARS = (int, float, complex, bool, type(None), str, bytes)
CONTAINERS = (list, tuple, set, frozenset, dict)
QUIET = (type(sys), type, type(lambda: 0), type(len))


def name_of(kind: type) -> str:
    """The type's own name and module, read past whatever its metaclass would say."""
    name: str = type.__dict__["__qualname__"].__get__(kind)
    module = type.__dict__["__module__"].__get__(kind)
    if type(module) is not str or module == "builtins":
        return name
    return module + "." + name


def exact(value: Any) -> str | None:
    """The text of a scalar, cut where it is long; None for anything else."""
    kind = type(value)
    if kind is int and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if kind in (str, bytes) and len(value) > SHORT:
        return repr(value[:SHORT]) + "..."
    return repr(value) if kind in SCALARS else None


def part(value: Any) -> str:
    """An element in short: a scalar's text, or the name of its type."""
    text = exact(value)
    return name_of(type(value)) if text is None else text


def some(value: Any) -> str | None:
    """A container's first elements; one that another thread changes meanwhile has none to show."""
    shown: list[str] = []
    pairs = type(value) is dict  # not by key: looking one up would call its __hash__ and __eq__
    try:
        for element in value.items() if pairs else value:
            if len(shown) == PARTS:
                shown.append("...")
                break
            shown.append(part(element[0]) + ": " + part(element[1]) if pairs else part(element))
    except RuntimeError:
        return None
    return ", ".join(shown)


def numpy_row(value: Any, row: dict[str, Any]) -> bool:
    """Only static types of numpy's C code: what they answer is computed by no one else's code."""
    kind = type(value)
    module = type.__dict__["__module__"].__get__(kind)
    if type.__dict__["__flags__"].__get__(kind) & HEAP_TYPE or type(module) is not str or module != "numpy":
        return False
    if name_of(kind) != "numpy.ndarray":
        row["value"] = str(value)[:SHORT] if kind.__name__ != "object_" else None
        return True
    row["shape"], row["dtype"], row["bytes"] = list(value.shape), str(value.dtype)[:200], int(value.nbytes)
    return True


def pandas_row(value: Any, row: dict[str, Any]) -> bool:
    """A data frame's and a series' shape and types; only where pandas is what it was imported as."""
    pandas = sys.modules.get("pandas")
    if type(pandas) is not type(sys):
        return False
    kind = type(value)
    frame, series = (vars(pandas).get(each) for each in ("DataFrame", "Series"))
    if kind is frame:
        row["shape"] = [int(each) for each in value.shape]
        dtypes = value.dtypes
        row["columns"] = [
            {"name": part(column), "dtype": str(dtypes.iloc[place])}
            for place, column in enumerate(list(value.columns[:COLUMNS]))
        ]
        row["bytes"] = int(value.memory_usage(index=True, deep=False).sum())
        return True
    if kind is series:
        row["shape"], row["dtype"] = [int(value.shape[0])], str(value.dtype)
        row["bytes"] = int(value.memory_usage(index=True, deep=False))
        return True
    return False


def describe(name: str, value: Any) -> dict[str, Any]:
    """One variable."""
    kind = type(value)
    row: dict[str, Any] = {"name": name, "type": name_of(kind)}
    text = exact(value)
    if text is not None:
        row["value"] = text
    if kind in (str, bytes, bytearray) or kind in CONTAINERS:
        row["length"] = len(value)
    if kind in CONTAINERS:
        row["value"] = some(value)
    if kind in SCALARS or kind in CONTAINERS or kind is bytearray:
        row["bytes"] = sys.getsizeof(value)
    elif kind not in QUIET:
        numpy_row(value, row) or pandas_row(value, row)  # the first that knows it
    return row


def variables(shell: Any, limit: int, start: int) -> str:
    """All that the user's code has bound, by name, as JSON; what IPython itself put there is left out."""
    namespace, hidden = shell.user_ns, shell.user_ns_hidden
    values = dict.copy(namespace)  # one step, so that the cell that runs cannot change it meanwhile
    mine = sorted(
        name
        for name, value in values.items()
        if type(name) is str and not name.startswith("_") and not (name in hidden and hidden[name] is value)
    )
    rows = [describe(name, values[name]) for name in mine[start : start + limit]]
    return json.dumps({"total": len(mine), "variables": rows})
