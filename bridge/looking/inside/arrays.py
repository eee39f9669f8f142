"""numpy's arrays and scalars: only static types of its C code, whose answers are computed by no one else's code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.describing import (
        NAME,
        SHORT,
        exact,
        heap,
        mro,
        name_of,
        part,
        plain,
    )

FIELDS = 20  # of a structured dtype
CORNER = 5  # elements along an axis
SUMMED = 1_000_000  # elements whose smallest, largest and mean take a few milliseconds
# The kinds of element that numpy shows by itself. Others may hold objects of the user's and would show those.
SHOWN = "?bBhHiIlLqQpPefdgFDGSUMmO"
REAL = "biuf"


def numpy_type(kind: type) -> bool:
    """Whether the type is of numpy's C code."""
    return not heap(kind) and name_of(kind).startswith("numpy.")


def is_array(value: Any) -> bool:
    """Whether it is exactly numpy's array."""
    return numpy_type(type(value)) and name_of(type(value)) == "numpy.ndarray"


def scalar_text(value: Any) -> str | None:
    """The text of one of numpy's scalars; none of a structured one or an object, which would show what they hold."""
    kind = type(value)
    if not numpy_type(kind) or not any(name_of(base) == "numpy.generic" for base in mro(kind)):
        return None
    if value.dtype.char in "SU":
        return exact(value.item())
    return str(value)[:SHORT] if value.dtype.char in SHOWN and value.dtype.char != "O" else None


def dtype_text(dtype: Any) -> str:
    """The dtype as numpy writes it; of a structured one its fields, because titles of fields may be anything."""
    if dtype.names is not None:
        # not looked up by name: titles are keys of the same table
        fields = {key: each[0] for key, each in dtype.fields.items() if type(key) is str}
        shown = ["%s: %s" % (plain(name), dtype_text(fields[name])) for name in dtype.names[:FIELDS]]
        return ("{" + ", ".join(shown + (["..."] if len(dtype.names) > FIELDS else [])) + "}")[:NAME]
    if dtype.subdtype is not None:
        return dtype_text(dtype.subdtype[0]) + str(list(dtype.subdtype[1]))
    if dtype.char == "V":
        return "V%d" % dtype.itemsize
    return str(dtype)[:NAME] if dtype.char in SHOWN else name_of(type(dtype))


def array_row(value: Any, row: dict[str, Any]) -> bool:
    """An array's shape, dtype and size."""
    if not is_array(value):
        return False
    row["shape"], row["dtype"], row["bytes"] = list(value.shape), dtype_text(value.dtype), int(value.nbytes)
    return True


def number(value: Any) -> str:
    """A number that was computed, short enough for a table."""
    return str(int(value)) if value.dtype.kind in "iub" else "%.6g" % float(value)


def summary(values: Any) -> dict[str, str]:
    """The count, mean, spread and quartiles of numbers, without NaNs, as `describe` of pandas has them."""
    numpy = sys.modules["numpy"]
    values = values[values == values]  # noqa: PLR0124 - a NaN is not equal to itself
    told = {"count": str(len(values))}
    if not len(values):
        return told
    with numpy.errstate(all="ignore"):  # a warning would be printed between the user's output
        told["mean"] = "%.6g" % float(values.mean(dtype="float64"))
        told["std"] = "%.6g" % float(values.std(dtype="float64", ddof=1)) if len(values) > 1 else "nan"
        ordered = numpy.sort(values)
    for label, share in (("min", 0.0), ("25%", 0.25), ("50%", 0.5), ("75%", 0.75), ("max", 1.0)):
        place = share * (len(ordered) - 1)
        low, rest = int(place), place - int(place)
        if rest:
            told[label] = "%.6g" % (float(ordered[low]) * (1 - rest) + float(ordered[low + 1]) * rest)
        else:
            told[label] = number(ordered[low])
    return told


def extent(value: Any) -> str:
    """An array's smallest, largest and mean element where they are soon computed, or why they are not told."""
    if value.dtype.kind not in REAL or not value.size:
        return ""
    if value.size > SUMMED:
        return "Too large for a look to compute min, max and mean: execute_code can."
    with sys.modules["numpy"].errstate(all="ignore"):
        low, high, mean = value.min(), value.max(), float(value.mean(dtype="float64"))
    return "min %s, max %s, mean %.6g" % (number(low), number(high), mean)


def corner(value: Any) -> str:
    """The first elements along the last two axes, as nested lists."""
    cut = value[(0,) * max(0, value.ndim - 2) + (slice(CORNER),) * min(2, value.ndim)] if value.size else value
    if value.ndim == 0:
        return part(value.item() if value.dtype.char in SHOWN else value)
    return nested(cut)


def nested(values: Any) -> str:
    """An array of one or two axes as text, element by element."""
    if values.ndim > 1:
        return "[" + ", ".join(nested(each) for each in values) + "]"
    shown: list[str] = [part(each) for each in values]
    return "[" + ", ".join(shown) + "]"
