"""A file of ours put in the place of another: a reader sees the old one or the new one, never a half.

The one rule: it is readable by its owner only from its first byte on.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Write a file; raises `OSError` where the directory cannot be written."""
    # mkstemp makes the file 0600; the name must not look like the file's to a program that lists the directory
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(draft).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(draft).unlink()
        raise
