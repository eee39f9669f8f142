"""A file that a command writes where the person said.

The one rule: all of it or nothing; a reader sees the old file or the new one, what exists is replaced only where that
was asked for, and no link is followed that code in a sandbox may have put in the way: none at the file's own name, and
in a workspace none before it either.
"""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from bridge.errors import UsageError
from bridge.looking.files import printable

PRIVATE, USUAL = 0o600, 0o666
"""Who may read it: the owner only, or whom the umask lets and, of a file that is replaced, whoever could before."""
NOTHING = "Nothing was written."
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


def must_be_writable(file: Path, *, force: bool) -> None:
    """Refuse, before any work, what could not be written to its end; raises `UsageError`."""
    if file.is_dir():
        raise UsageError(f"{file} is a directory; name a file in it. {NOTHING}")
    if not file.parent.is_dir():
        raise UsageError(f"There is no directory {file.parent}; make it first. {NOTHING}")
    if file.exists() and not file.is_file():
        raise UsageError(f"{file} is no regular file, which cannot be replaced; write to `-`. {NOTHING}")
    if file.is_symlink():
        raise UsageError(f"{_leads(file)}, and is neither followed nor replaced; name that file itself. {NOTHING}")
    if file.exists() and not force:
        raise _exists(file)


@contextlib.contextmanager
def saved(file: Path, *, force: bool, mode: int, workspaces: Sequence[Path] = ()) -> Iterator[IO[bytes]]:
    """Write a file, which is there once the block has ended without an error; raises `UsageError` as above.

    `workspaces`: directories in which code in sandboxes writes, see `folder_of`.
    """
    draft = f".kernel-bridge-{uuid.uuid4().hex}.part"
    try:
        with folder_of(file, workspaces) as folder:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                with os.fdopen(os.open(draft, flags, mode, dir_fd=folder), "wb") as out:
                    yield out
                    if force and mode != PRIVATE:
                        _keep_mode(out.fileno(), file.name, folder)
                _place(draft, file.name, folder, force=force)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=folder)
    except FileExistsError:
        raise _exists(file) from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written ({error.strerror}). {NOTHING}") from None


def must_have_room(out: IO[bytes], file: Path, size: int) -> None:
    """Refuse what the file system of a file that is written has no room for; raises `UsageError`."""
    state = os.statvfs(out.fileno())
    free = state.f_bavail * state.f_frsize
    if state.f_blocks and size > free:  # some network file systems do not tell
        raise UsageError(
            f"{file} would have {in_units(size)}, and where it is to be, {in_units(free)} are free. {NOTHING}"
        )


@contextlib.contextmanager
def folder_of(file: Path, workspaces: Sequence[Path]) -> Iterator[int]:
    """Open the directory that a file is in, following links as the person laid them, but none in a workspace.

    There code in a sandbox may have laid them, or swap a directory for one at any time: so each step from the
    workspace on is opened by itself. Raises `UsageError` for a link, and `OSError`.
    """
    steps = file.parent.absolute().parts
    entered = next((n for n in range(1, len(steps)) if _is_in(Path(*steps[:n]), workspaces)), len(steps))
    handle = os.open(Path(*steps[:entered]), _DIRECTORY)
    try:
        for number, step in enumerate(steps[entered:], entered + 1):
            try:
                below = os.open(step, _DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            except NotADirectoryError:
                link = Path(*steps[:number])
                if not link.is_symlink():
                    raise
                raise UsageError(
                    f"{_leads(link)}. It is in a sandbox's workspace, where code in the sandbox may have made it, so "
                    f"it is not followed; name what it leads to, if that is meant. {NOTHING}"
                ) from None
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def in_units(size: int) -> str:
    """Write a number of bytes for a person."""
    if size < 1024:
        return f"{size} bytes"
    unit = min((size.bit_length() - 1) // 10, 6)
    number = size / (1 << unit * 10)
    digits = f"{number:.3g}" if number < 999.5 else f"{number:.0f}"  # else with an exponent
    return f"{digits} {' KMGTPE'[unit]}iB"


def link_refused(file: Path) -> UsageError:
    """Say that a link is not read."""
    return UsageError(f"{_leads(file)}, and is not followed; name that file itself. {NOTHING}")


def _leads(link: Path) -> str:
    try:
        return f"{link} is a link to {printable(link.readlink())}"
    except OSError:  # no longer
        return f"{link} is a link"


def _is_in(path: Path, workspaces: Sequence[Path]) -> bool:
    return any(path.resolve().is_relative_to(each.resolve()) for each in workspaces)


def _exists(file: Path) -> UsageError:
    return UsageError(f"{file} exists and was left as it is; --force replaces it.")


def _keep_mode(handle: int, name: str, folder: int) -> None:
    """Give a file the permissions of the one that it is to replace, if there is one and they can be given."""
    with contextlib.suppress(OSError):
        before = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISREG(before):
            os.fchmod(handle, before & 0o777)


def _place(draft: str, name: str, folder: int, *, force: bool) -> None:
    """Give a file its name; neither way follows a link there.

    Unlike a rename, a hard link replaces nothing. On a file system without them it is looked once more, and what comes
    in the moment after that look is replaced.
    """
    if not force:
        try:
            os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=folder, follow_symlinks=False)
                raise FileExistsError from None
        else:
            return
    os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
