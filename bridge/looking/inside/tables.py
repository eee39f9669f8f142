"""pandas' data frames and series, read from the arrays that hold them: its own methods would call what they hold.

Whatever of it may be of a user's class (index, extension array, an attribute in a method's place) is checked first;
where one is, only the type is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from bridge.looking.inside.arrays import dtype_text, is_array, summary
    from bridge.looking.inside.describing import is_one_of, known, name_of, part, state

COLUMNS = 50
ROWS = 10
SHOWN_COLUMNS = 20  # of the rows and the numbers
DESCRIBED = 200_000  # cells that are sorted in some ten milliseconds
INDEXES = ("Index", "DatetimeIndex", "TimedeltaIndex", "PeriodIndex", "CategoricalIndex", "IntervalIndex")
STRINGS = ("StringArray", "ArrowStringArray")
ARROW = ("ArrowStringArray", "ArrowExtensionArray")
MASKED = ("BooleanArray", "FloatingArray", "IntegerArray")
CATEGORICAL, PERIOD = ("Categorical",), ("PeriodArray",)
TIMES = ("DatetimeArray", "TimedeltaArray")
# those that hold one of numpy's, which is shown, but for a period's
HOLDING = (*CATEGORICAL, *PERIOD, *TIMES, "StringArray", "NumpyExtensionArray", "PandasArray")
ARRAYS = (*MASKED, *HOLDING, *ARROW, "IntervalArray", "SparseArray")


class Table(NamedTuple):
    """A frame's or series' parts, each of them of pandas' own type."""

    index: Any
    columns: Any
    """None of a series."""
    blocks: Any
    """Arrays; of two axes, they hold a column a row."""
    where: list[tuple[int, int]]
    """For each of the first columns its block, and its row there."""
    name: Any


def taken_apart(value: Any) -> Table | None:
    """The parts of exactly a data frame or a series; None of anything else, or where a part of it is the user's."""
    kind = type(value)
    frame = kind is known("pandas.core.frame", "DataFrame")
    if not frame and kind is not known("pandas.core.series", "Series"):
        return None
    manager: Any = state(value).get("_mgr")
    managers = "pandas.core.internals.managers"
    if type(manager) is not known(managers, "BlockManager" if frame else "SingleBlockManager"):
        return None
    blocks = [each.values for each in manager.blocks]
    if not all(map(ours, blocks)) or not all(map(our_index, manager.axes)):
        return None
    if not frame:
        return Table(manager.axes[0], None, blocks, [(0, 0)], state(value).get("_name"))
    where = zip(manager.blknos[:COLUMNS].tolist(), manager.blklocs[:COLUMNS].tolist())
    return Table(manager.axes[1], manager.axes[0], blocks, list(where), None)


def one_of(array: Any, names: tuple[str, ...]) -> bool:
    """Whether it is exactly one of pandas' arrays of these names."""
    return any(type(array) is known("pandas.arrays", name) for name in names)


def ours(array: Any) -> bool:
    """Whether it is numpy's array or one of pandas' own, to the bottom."""
    if one_of(array, CATEGORICAL):
        return type(array.dtype) is known("pandas", "CategoricalDtype") and our_index(array.dtype.categories)
    return is_array(array) or one_of(array, ARRAYS)


def our_index(index: Any) -> bool:
    """Whether it is one of pandas' own indexes, to the bottom."""
    kind = type(index)
    if kind is known("pandas", "RangeIndex"):
        return type(state(index).get("_range")) is range
    if kind is known("pandas", "MultiIndex"):
        return all(map(our_index, state(index).get("_levels", ())))
    return is_one_of(kind, [known("pandas", name) for name in INDEXES]) and ours(state(index).get("_data"))


def label(index: Any, place: int) -> str:
    """One label."""
    kept = state(index)
    if "_range" in kept:
        return str(kept["_range"][place])
    if "_levels" in kept:
        codes = [int(each[place]) for each in kept["_codes"]]
        return "(" + ", ".join(label(each, c) if c >= 0 else "nan" for each, c in zip(kept["_levels"], codes)) + ")"
    return cell(kept["_data"], 0, place)


def cell(array: Any, row: int, place: int) -> str:
    """One element; where telling it would take code of what it holds, the name of its type."""
    if is_array(array):
        return part(array[row, place] if array.ndim == 2 else array[place])
    kept = inner(array)
    if one_of(array, CATEGORICAL):
        code = int(kept[place])
        return "nan" if code < 0 else label(array.dtype.categories, code)
    if one_of(array, MASKED):
        return "<NA>" if state(array)["_mask"][place] else part(kept[place])
    if kept is not None and not one_of(array, PERIOD):
        return cell(kept, row, place)
    return "<%s>" % array_dtype(array) if arrow(array) is None else part(arrow(array)[place].as_py())


def inner(array: Any) -> Any:
    """numpy's array in one of pandas'; None where there is none."""
    if one_of(array, MASKED):
        return state(array)["_data"]
    return array._ndarray if one_of(array, HOLDING) else None


def arrow(array: Any) -> Any:
    """Arrow's array in one of pandas', of a type that Arrow itself has; None where there is none."""
    kept = array._pa_array if one_of(array, ARROW) else None
    return kept if kept is not None and type(kept.type) is known("pyarrow.lib", "DataType") else None


def array_dtype(array: Any) -> str:
    """The dtype of a column; the name of its type where its own text would show what it holds."""
    if is_array(array):
        return dtype_text(array.dtype)
    if one_of(array, CATEGORICAL):
        return "category"
    if one_of(array, TIMES):
        zoned = type(array.dtype) is known("pandas", "DatetimeTZDtype")
        return dtype_text(inner(array).dtype) + (" with a time zone, shown in UTC" if zoned else "")
    if one_of(array, (*MASKED, *STRINGS)):
        return part(array.dtype.name).strip("'")
    return str(arrow(array).type) if arrow(array) is not None else name_of(type(array)).rpartition(".")[2]


def numbers(array: Any, row: int) -> Any:
    """A column's numbers, without those that are missing; None where it has none."""
    if is_array(array):
        column = array[row] if array.ndim == 2 else array
    elif one_of(array, MASKED):
        column = inner(array)[~state(array)["_mask"]]
    else:
        return None
    return column if column.dtype.kind in "iuf" else None


def memory(array: Any) -> int:
    """Its own bytes, as far as they lie in arrays of numpy's."""
    kept = array if is_array(array) else inner(array)
    return 0 if kept is None else int(kept.nbytes)


def table_row(value: Any, row: dict[str, Any]) -> bool:
    """A data frame's shape, size and columns with their types, or a series' shape, size and type."""
    table = taken_apart(value)
    if table is None:
        return False
    row["bytes"] = sum(map(memory, table.blocks))
    if table.columns is None:
        row["shape"], row["dtype"] = [len(table.index)], array_dtype(table.blocks[0])
        return True
    row["shape"] = [len(table.index), len(table.columns)]
    row["columns"] = [
        {"name": label(table.columns, place), "dtype": array_dtype(table.blocks[block])}
        for place, (block, _) in enumerate(table.where)
    ]
    return True


def rows_of(table: Table, start: int) -> str:
    """Some rows, a line each, the first with the columns' names."""
    shown = table.where[:SHOWN_COLUMNS]
    lines = [["", *(titles(table)[: len(shown)])]]
    lines += [
        [label(table.index, place), *(cell(table.blocks[block], row, place) for block, row in shown)]
        for place in range(min(start, len(table.index)), min(start + ROWS, len(table.index)))
    ]
    return "\n".join(" | ".join(each) for each in lines)


def titles(table: Table) -> list[str]:
    """The names of the columns; of a series its name."""
    if table.columns is None:
        return [part(table.name)]
    return [label(table.columns, place) for place in range(len(table.where))]


def numbers_of(table: Table) -> str:
    """Of each numeric column what `describe` tells, a line each; or that it is too large for a look."""
    columns = [
        (title, numbers(table.blocks[block], row))
        for title, (block, row) in zip(titles(table)[:SHOWN_COLUMNS], table.where)
    ]
    found = [(title, column) for title, column in columns if column is not None]
    if sum(len(column) for _, column in found) > DESCRIBED:
        return "Too large for a look to compute: execute_code can."
    return "\n".join(
        title + ": " + ", ".join("%s %s" % pair for pair in summary(column).items()) for title, column in found
    )
