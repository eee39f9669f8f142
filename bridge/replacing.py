"""A file of ours put in the place of another: a reader sees the old one or the new one, never a half.

The one rule: it is readable by its owner only from its first byte on. Until it has its name it is a draft, whose lock
says that somebody still writes it: who holds the lock of a draft may remove it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bridge.locks import lock

DRAFT = ".part"
"""How the name of a draft ends; it begins with a dot and the file's own."""
_TRIES = 3


def replace(path: Path, content: bytes) -> None:
    """Write a file; raises `OSError` where the directory cannot be written."""
    handle, _ = put(path, content)
    os.close(handle)


def put(path: Path, content: bytes = b"") -> tuple[int, bool]:
    """Write a file and return it, open, and whether it is locked, which it is wherever the file system has locks."""
    for again in reversed(range(_TRIES)):
        # mkstemp makes the file 0600; the name must not look like the file's to a program that lists the directory
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem.lstrip('.')}-", suffix=DRAFT)
        draft = Path(name)
        try:
            locked = lock(handle)
            with open(handle, "wb", closefd=False) as file:
                file.write(content)
            draft.replace(path)
        except BaseException as error:
            os.close(handle)
            draft.unlink(missing_ok=True)
            # swept in the moment before it was locked, by somebody who took it for left behind
            if not (isinstance(error, BlockingIOError | FileNotFoundError) and again):
                raise
        else:
            return handle, locked
    raise AssertionError  # the last one raises
