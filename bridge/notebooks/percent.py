"""A history as a Python script with `# %%` cells, which IDEs run one by one and Jupytext turns into a notebook again.

The one rule: each cell is valid Python. What only IPython understands becomes a comment, as Jupytext has it, and a cell
that is no Python even then becomes a comment as a whole. Output is not part of this format.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator

from bridge.journals import Entry, History
from bridge.notebooks.parts import Remark, by, sound

# `%magic`, `!shell`, `object?` and IPython's other signs at a line's start, and what a magic or shell line is given to.
_MAGIC = re.compile(r"\s*(?:[%!?]|[,;/](?=\w)|[\w.]+(?:\s*,\s*[\w.]+)*\s*=\s*[%!](?=\w)|[\w.*]+\?{1,2}\s*$)")
_CELL_MAGIC = re.compile(r"\s*%%(\w+)")
# Cell magics whose body is Python that runs in the same namespace.
_PYTHON_BODIES = {"time", "timeit", "capture", "prun"}
_LINE_END = re.compile(r"\r\n?")


def percent(history: History, parts: Iterable[Remark | Entry]) -> Iterator[str]:
    """Yield the script's text."""
    spec = json.dumps(sound(history.spec or "python3"))
    yield "# ---\n# jupyter:\n#   jupytext:\n#     text_representation:\n#       extension: .py\n"
    yield "#       format_name: percent\n#   kernelspec:\n"
    yield f"#     display_name: {spec}\n#     language: python\n#     name: {spec}\n# ---\n"
    for part in parts:
        if isinstance(part, Remark):
            yield f"\n# %% [markdown]\n{_commented(part.markdown)}\n"
        else:
            code = _LINE_END.sub("\n", sound(part.cell.code)).replace("\0", "\u2400").strip("\n")
            title = f"{_plain(by(part))}, {part.cell.began:%Y-%m-%d %H:%M:%S} UTC"
            yield f"\n# %% {title}\n{python(code)}\n"


def python(code: str) -> str:
    """Return a cell's code as Python."""
    if _parses(code):
        return code
    magic = _CELL_MAGIC.match(code)
    if magic and magic[1] not in _PYTHON_BODIES:
        return _commented(code)
    lines = _without_magics(code.split("\n"))
    return lines if _parses(lines) else _commented(code)


def _without_magics(lines: list[str]) -> str:
    written: list[str] = []
    # the lines since the last one at which no string and no bracket was open: a `%` within them is no magic
    pending: list[str] = []
    goes_on = False
    for line in lines:
        if goes_on or (_MAGIC.match(line) and not _is_open(pending)):
            indent = "" if goes_on else line[: len(line) - len(line.lstrip())]
            goes_on = line.endswith("\\")
            pending = []
            written.append(f"{indent}# {line[len(indent) :]}")
        else:
            pending.append(line)
            written.append(line)
    return "\n".join(written)


def _is_open(lines: list[str]) -> bool:
    """Tell whether a string or a bracket is open after these lines."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO("\n".join([*lines, ""])).readline):
            pass
    except tokenize.TokenError:
        return True
    except SyntaxError:  # an indentation that is odd by itself
        return False
    return False


def _parses(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


def _commented(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.split("\n"))


def _plain(name: str) -> str:
    """Return a name without what has a meaning in a cell's title."""
    return re.sub(r"[\[\]=\"'%{}]", "", name)
