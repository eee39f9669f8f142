"""Code that would end an ipykernel: `exit` and `quit`, which people type by habit.

The one rule: nothing is executed to find out; what a name has come to mean in the kernel is not known here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Literal

REMARK = "# exit"
"""What runs in the place of a cell that is nothing else: it has its turn, its number and its place in the history."""
# IPython takes `exit` for `exit()`, and its argument keeps the kernel (`ZMQExitAutocall`)
_ALONE = re.compile(r"\s*%?(exit|quit)\s*(\([^()]*\))?[\s;]*")
_NAMES = {"exit", "quit"}


def of(code: str) -> Literal["", "alone", "among other code"]:
    """Tell whether code is a call of `exit` or `quit`, has one that runs when it does, or has none."""
    if not any(each in code for each in _NAMES):
        return ""
    if _ALONE.fullmatch(code):
        return "alone"
    try:
        return "among other code" if any(map(_is_exit, _run_at_once(ast.parse(code)))) else ""
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""  # IPython's own syntax, or none that runs


def _run_at_once(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is evaluated when the code runs: the bodies of functions are not."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _run_at_once(child)


def _is_exit(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _NAMES
