"""What a cell has put out, asked of the kernel afterwards: the expression that is sent, and what its answer means.

The one rule: the kernel has it as text alone, so it stands for what nobody heard, never for what was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bridge.looking import _COMMON, _MALFORMED, _content, _expression, _unreadable
from bridge.outputs import Error, ExecuteResult, Output, Stream


@dataclass(frozen=True)
class PutOut:
    """All that a kernel has kept of a cell's output."""

    outputs: tuple[Output, ...]
    left_out: int
    """Characters of its middle that were too many."""


def outputs_expression(count: int) -> str:
    """Return the expression whose value is what the cell `In [count]` has put out, as JSON."""
    return _expression((*_COMMON, "outputs"), f"outputs(shell, {count:d})")


def read_outputs(answer: str, count: int) -> PutOut:
    """Read the text form of that value; raises `UsageError` where no output is kept, `KernelError` for no answer."""
    content = _content(answer)
    try:
        return PutOut(tuple(_outputs(content["outputs"], count)), int(content["left_out"]))
    except _MALFORMED:
        raise _unreadable() from None


def _outputs(rows: Any, count: int) -> Iterator[Output]:
    for kind, content in rows:
        if kind == "result":
            yield ExecuteResult({str(form): str(each) for form, each in content.items()}, {}, count)
        elif kind == "error":
            ename, evalue, lines = content
            yield Error(str(ename), str(evalue), tuple(map(str, lines)))
        else:
            yield Stream("stderr" if kind == "stderr" else "stdout", str(content))
