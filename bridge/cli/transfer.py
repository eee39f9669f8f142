"""`kernel-bridge put` and `get`: files of any size into a sandbox and out of it.

The one rule: on this side only what the person named is opened, past no link that code in a sandbox may have made, and
both ends are all or nothing; what was read here or there is held against its digest piece by piece.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path

import click

from bridge.cli import descriptors, engine_option, policy_option, say
from bridge.cli.completion import sandbox_names
from bridge.cli.kernels import with_kernels
from bridge.cli.progress import Progress
from bridge.cli.saving import USUAL, folder_of, in_units, link_refused, must_be_writable, must_have_room, saved
from bridge.errors import BridgeError, LaunchError, UsageError
from bridge.kernels.registry import Kernels
from bridge.kernels.transfers import Put
from bridge.looking.files import PIECE, named

STDIN, STDOUT = 0, 1


@click.command()
@click.argument("name", shell_complete=sandbox_names)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("dest", required=False)
@click.option("--force", is_flag=True, help="Replace DEST where it exists.")
@policy_option
@engine_option
def put(*, name: str, file: Path, dest: str | None, force: bool, policy_file: Path | None, engine: str | None) -> None:
    """Copy FILE, or with `-` standard input, into the sandbox NAME as DEST; also while a cell runs.

    DEST is relative to the sandbox's workspace, else to its home directory; '~/x', in quotes, or a whole path: below
    either, so also where the workspace is read-only. Left out, FILE's own name; with a `/` at its end, a directory.
    Missing directories are made. All of it is written or nothing. A FILE that is a link is not read: name what it leads
    to.

    Example: kernel-bridge put analysis data.csv input/
    """
    if str(file) == "-" and (dest is None or dest.endswith("/")):
        raise UsageError("Standard input has no name, so give DEST, a file. Nothing was written.")
    target = dest or ""
    if not target or target.endswith("/"):
        target += file.name
    with _opened(file) as (handle, size), Progress() as progress:

        async def source() -> AsyncIterator[bytes]:
            read = 0
            while data := await _read(file, handle):
                yield data
                read += len(data)
                progress.count(_so_far(read, size))

        opened = None if str(file) == "-" else (file, handle)
        work = partial(_put, source=source(), opened=opened, progress=progress, name=name, target=target, force=force)
        done = with_kernels(policy_file, engine, work)
    say(f"Wrote {in_units(done.size)} to {done.path} in {name} (sha256 {done.sha256}).")


@click.command()
@click.argument("name", shell_complete=sandbox_names)
@click.argument("file")
@click.argument("dest", type=click.Path(path_type=Path, allow_dash=True), required=False)
@click.option("--force", is_flag=True, help="Replace DEST where it exists.")
@policy_option
@engine_option
def get(*, name: str, file: str, dest: Path | None, force: bool, policy_file: Path | None, engine: str | None) -> None:
    """Copy FILE out of the sandbox NAME to DEST, or with `-` to standard output; also while a cell runs.

    FILE is relative to the sandbox's workspace, else to its home directory; '~/x', in quotes, or a whole path: below
    either. DEST left out is FILE's name in this directory; a directory, that name in it; a link is neither followed nor
    replaced. All of it is written or nothing; only `-` has what came by then.

    Example: kernel-bridge get analysis result.parquet
    """
    target = dest or Path()
    if str(target) != "-":
        if target.is_dir():
            target /= named(file).rpartition("/")[2]
        must_be_writable(target, force=force)
    with Progress() as progress:
        work = partial(_get, progress=progress, name=name, file=file, target=target, force=force)
        size, digest = with_kernels(policy_file, engine, work)
    if str(target) != "-":
        say(f"Wrote {in_units(size)} to {target} (sha256 {digest}).")


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tuple[int, int | None]]:
    """The descriptor of what is to be read, and its size where that is known."""
    if str(file) == "-":
        if sys.stdin is None:
            raise UsageError("Standard input is closed. Nothing was written.")
        yield STDIN, None
        return
    try:
        handle = os.open(file, os.O_RDONLY | (0 if _is_of_the_system(file) else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP and file.is_symlink():
            raise link_refused(file) from None
        raise _unreadable(file, error) from None
    try:
        state = os.fstat(handle)
        if stat.S_ISDIR(state.st_mode):
            raise UsageError(
                f"{file} is a directory, and only files are copied; `tar -c {file} | kernel-bridge put NAME - DEST` "
                "makes it one. Nothing was written."
            )
        yield handle, state.st_size if stat.S_ISREG(state.st_mode) else None
    finally:
        os.close(handle)


def _is_of_the_system(file: Path) -> bool:
    """Whether it is a link that the system itself laid: `/dev/stdin`, or what a shell gives for `<(...)`."""
    return file == Path("/dev/stdin") or file.parent == Path("/dev/fd")


def _must_be_reached(file: Path, handle: int, workspaces: Sequence[Path]) -> None:
    """Refuse what was opened past links in a workspace; raises `UsageError`."""
    if _is_of_the_system(file):
        return
    try:
        with folder_of(file, workspaces) as folder:
            found = os.stat(file.name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        raise _unreadable(file, error) from None
    if not os.path.samestat(found, os.fstat(handle)):
        raise UsageError(f"{file} is another file than it was a moment ago; try again. Nothing was written.")


async def _workspaces(kernels: Kernels) -> list[Path]:
    """Return the directories of this host in which code in a sandbox may write; none where no engine answers."""
    try:
        return [Path(each.workspace) for each in await kernels.launcher.sandboxes() if each.workspace]
    except LaunchError:
        return []


def _unreadable(file: Path, error: OSError) -> UsageError:
    return UsageError(f"{file} cannot be read ({error.strerror}). Nothing was written.")


async def _read(file: Path, handle: int) -> bytes:
    try:
        return await descriptors.read(handle, PIECE)
    except OSError as error:
        raise _unreadable(file, error) from None


async def _put(
    kernels: Kernels,
    *,
    source: AsyncIterator[bytes],
    opened: tuple[Path, int] | None,
    progress: Progress,
    name: str,
    target: str,
    force: bool,
) -> Put:
    status, _ = await kernels.connect(name)
    if opened:
        _must_be_reached(*opened, await _workspaces(kernels))
    done = await kernels.put_file(target, source, status.name, replace=force, to_replace="--force replaces it")
    for each in done.notices:
        progress.say(f"kernel-bridge: {each}")
    return done


async def _get(
    kernels: Kernels, *, progress: Progress, name: str, file: str, target: Path, force: bool
) -> tuple[int, str]:
    status, _ = await kernels.connect(name)
    done, digest = 0, hashlib.sha256()
    workspaces = await _workspaces(kernels)
    async with contextlib.AsyncExitStack() as stack:
        out = None
        if str(target) != "-":
            out = stack.enter_context(saved(target, force=force, mode=USUAL, workspaces=workspaces))
        pieces = await stack.enter_async_context(contextlib.aclosing(kernels.pieces_of_file(file, status.name)))
        async for piece in pieces:
            if out is None:
                await _print(piece.data)
            else:
                if not done:
                    must_have_room(out, target, piece.size)
                out.write(piece.data)
            digest.update(piece.data)
            done += len(piece.data)
            progress.count(_so_far(done, piece.size))
    return done, digest.hexdigest()


async def _print(data: bytes) -> None:
    try:
        await descriptors.write(STDOUT, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BridgeError(f"Standard output could not be written ({error.strerror}).") from None


def _so_far(done: int, size: int | None) -> str:
    return in_units(done) if size is None else f"{in_units(done)} of {in_units(size)}"
