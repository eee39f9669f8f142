"""What became of a cell that a test has run, in the form that tests make assertions on.

The one rule: pure values. What was printed and shown stands here as the cell has made it, so that equality holds; the
errors' texts are for people, without colours and with whatever is long cut in its middle.
"""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge import terminal
from bridge.kernels.listing import Outcome
from bridge.outputs import Error, ExecuteResult, Output, Result, Stream

# Of each part of an error's text: some screens.
LONGEST = 16 * 1024
BINARY = ("image/", "audio/", "video/", "application/pdf")


class CellExecutionError(Exception):
    """Code that a test has run in a kernel has raised; its text holds the kernel's traceback and the code."""

    def __init__(self, text: str, ename: str = "", evalue: str = "", traceback: str = "") -> None:
        super().__init__(text)
        self.ename = ename
        """The exception's class: `ZeroDivisionError`."""
        self.evalue = evalue
        """Its text."""
        self.traceback = traceback
        """As IPython shows it, without colours."""


class CellTimeoutError(TimeoutError):
    """A cell did not end in time and was interrupted; its text holds the output so far."""

    def __init__(self, text: str, cell: Cell | None = None) -> None:
        super().__init__(text)
        self.cell = cell
        """What it had put out; its `error` is what the interrupt made of it."""


@dataclass(frozen=True)
class Cell:
    """One cell that was run."""

    code: str
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    """The last expression's value as text, like `'42'`; None where there is none."""
    displays: tuple[Mapping[str, Any], ...] = ()
    """Every rich output in its order, the last expression's too: MIME type to content, binary content as bytes."""
    error: CellExecutionError | None = None
    """What the code raised."""
    notes: tuple[str, ...] = ()
    """Sentences about the run that are not its output, such as why a kernel is a new one."""
    printed: str = field(default="", repr=False)
    """All output together as a person would see it: stdout, stderr and the text of each rich output, in their order."""

    @property
    def images(self) -> tuple[bytes, ...]:
        """Each image that was shown, as the bytes of its first form; an SVG is text, and in `displays`."""
        forms = (
            [content for form, content in each.items() if form.startswith("image/") and isinstance(content, bytes)]
            for each in self.displays
        )
        return tuple(found[0] for found in forms if found)


def dedented(code: str) -> str:
    """Return code as it would stand in a cell, where it was indented with the test around it."""
    code = code.strip("\n")
    # only then: code that begins at the margin may have indented text in it that is meant as it is
    return textwrap.dedent(code) if code[:1] in (" ", "\t") else code


def made(code: str, outcome: Outcome) -> Cell:
    """Return what became of a cell: its result, and what must be said about it first."""
    result = outcome.result or Result(0, "lost")
    rich = [each for each in result.outputs if not isinstance(each, Stream | Error)]
    values = [each.data for each in rich if isinstance(each, ExecuteResult)]
    left_out = f"{result.left_out} bytes of the output are missing in its middle: it was more than is kept."
    notes = (*outcome.notices, *result.notes, *([left_out] if result.left_out else []))
    # a cell may also show errors that it has caught
    errors = [each for each in result.outputs if isinstance(each, Error)] if result.status == "error" else []
    raised = errors[-1] if errors else Error("Error", "") if result.status == "error" else None
    texts = (_shown(each).rstrip("\n") for each in result.outputs if each is not raised)
    printed = "\n".join(filter(None, texts))
    return Cell(
        code=code,
        stdout=_written(result.outputs, "stdout"),
        stderr=_written(result.outputs, "stderr"),
        value=str(values[-1].get("text/plain", "")) if values else None,
        displays=tuple({form: _content(form, content) for form, content in each.data.items()} for each in rich),
        error=_error(code, printed, raised, notes) if raised else None,
        notes=notes,
        printed=printed,
    )


def timed_out(cell: Cell, how: str) -> CellTimeoutError:
    """Return the error for a cell that was late; `how` tells what was done."""
    traceback = cell.error.traceback if cell.error else ""
    return CellTimeoutError(told(how, cell, traceback), cell)


def told(headline: str, cell: Cell, traceback: str = "") -> str:
    """Return a text for people: what happened, the code, its output until then, and where it was."""
    return _text([headline, *cell.notes], cell.code, cell.printed, traceback)


def _text(told_first: Iterable[str], code: str, printed: str, traceback: str) -> str:
    indented = {"The cell:": code.rstrip(), "Its output:": printed}
    parts = [
        "\n".join(told_first),
        *(f"{name}\n{textwrap.indent(_cut(text), '    ')}" for name, text in indented.items() if text),
        _cut(traceback),
    ]
    return "\n\n".join(filter(None, parts))


def _cut(text: str) -> str:
    return terminal.cut([text], LONGEST)[0]


def _error(code: str, printed: str, raised: Error, notes: Iterable[str]) -> CellExecutionError:
    raising = f"{raised.ename}: {raised.evalue}" if raised.evalue else raised.ename
    traceback = terminal.shown("\n".join(raised.traceback)) or raising
    told_first = [terminal.first_line(raising), *notes]
    if raised.ename == "KeyboardInterrupt":  # that is what was done; why stands in the notes
        told_first = [*told_first[1:], told_first[0]]
    text = _text(told_first, code, printed, traceback)
    return CellExecutionError(text, raised.ename, raised.evalue, traceback)


def _written(outputs: Iterable[Output], name: str) -> str:
    return "".join(each.text for each in outputs if isinstance(each, Stream) and each.name == name)


def _shown(output: Output) -> str:
    if isinstance(output, Stream):
        return terminal.shown(output.text)
    if isinstance(output, Error):
        return terminal.shown("\n".join(output.traceback))
    return terminal.shown(str(output.data.get("text/plain") or f"[{', '.join(output.data)}]"))


def _content(form: str, content: Any) -> Any:
    """Return bytes for what Jupyter sends as base64; what only says that it is such stays as it is."""
    if not isinstance(content, str) or not form.startswith(BINARY) or form.startswith("image/svg"):
        return content
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except ValueError:
        return content
