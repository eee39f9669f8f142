"""The addresses of what can be read as a resource: `kernel-bridge://kernels/NAME/…`.

The one rule: whoever links to something and whoever reads it have the address from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

_ROOT = "kernel-bridge://kernels/"
# As RFC 6570 writes them.
ACTIVITY = f"{_ROOT}{{kernel}}/activity"
EXECUTION_OUTPUT = f"{_ROOT}{{kernel}}/executions/{{execution}}/outputs/{{place}}"
CELL_OUTPUT = f"{_ROOT}{{kernel}}/cells/{{cell}}/outputs/{{place}}"


@dataclass(frozen=True)
class ActivityAddress:
    """What the others do in a kernel."""

    kernel: str

    def __str__(self) -> str:
        """Write it as a URI."""
        return f"{_ROOT}{quote(self.kernel, safe='')}/activity"


@dataclass(frozen=True)
class OutputAddress:
    """One output of one cell."""

    kernel: str
    cell: int
    """The execution's number, or where it is someone else's the number that the journal gave it."""
    place: int
    is_execution: bool = True

    def __str__(self) -> str:
        """Write it as a URI."""
        kind = "executions" if self.is_execution else "cells"
        return f"{_ROOT}{quote(self.kernel, safe='')}/{kind}/{self.cell}/outputs/{self.place}"


@dataclass(frozen=True)
class FileAddress:
    """A file in a sandbox. It only names what comes with it: get_file reads on, not this address."""

    kernel: str
    path: str

    def __str__(self) -> str:
        """Write it as a URI."""
        return f"{_ROOT}{quote(self.kernel, safe='')}/files/{quote(self.path, errors='replace').lstrip('/')}"


def read(uri: str) -> ActivityAddress | OutputAddress | None:
    """Read a URI; None for one that is not of this form."""
    if not uri.startswith(_ROOT):
        return None
    kernel, *rest = uri.removeprefix(_ROOT).split("/")
    match rest:
        case ["activity"] if kernel:
            return ActivityAddress(unquote(kernel))
        case ["executions" | "cells" as kind, cell, "outputs", place] if kernel and _is_number(cell, place):
            return OutputAddress(unquote(kernel), int(cell), int(place), kind == "executions")
    return None


def _is_number(*texts: str) -> bool:
    # fits a column of SQLite's
    return all(text.isascii() and text.isdigit() and len(text) <= 18 for text in texts)
