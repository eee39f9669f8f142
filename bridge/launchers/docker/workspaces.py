"""A workspace: whose it is, whether the kernel may use it, and giving back what a kernel made in it.

The one rule: the kernel is never root, and what it makes in a person's directory is the person's in the end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from bridge.errors import LaunchError, PolicyRefused
from bridge.launchers import COMPOSE_DIRECTORY
from bridge.launchers.docker.places import User
from bridge.launchers.docker.verification import Directory
from bridge.policy import Workspace
from bridge.policy.places import related


def owner_of(workspace: Workspace) -> User:
    """Return who owns the workspace; raises `LaunchError` where it is not any more what the policy checked."""
    try:
        about = workspace.path.stat()
    except OSError as error:
        raise LaunchError(f"The workspace {workspace.path} cannot be looked at: {error.strerror}.") from None
    if (about.st_dev, about.st_ino) != (workspace.device, workspace.inode):
        raise LaunchError(
            f"The workspace {workspace.path} was replaced while it was being checked; nothing was started."
        )
    return User(about.st_uid, about.st_gid)


def refuse_private(workspace: Workspace, engine: Path, kernels: Path, keys: Path) -> None:
    """Raise `PolicyRefused` where the engine's socket, or kernels' sockets or connection files, would be seen inside.

    The policy knows the usual places of all three; which are in use, only the launcher does.
    """
    for place, what in (
        (engine, "the container engine's socket"),
        (kernels, "the sockets of other kernels"),
        (keys, "the keys of other kernels"),
    ):
        if related(workspace.path, place):
            raise PolicyRefused(
                f"The workspace {workspace.path} is, holds or lies in {place}, {what}, and who has that has more than "
                "a sandbox may have. Nothing was started. Ask for a directory without it."
            )
    if COMPOSE_DIRECTORY in workspace.path.parts:
        raise PolicyRefused(
            f"The workspace {workspace.path} is or lies in {COMPOSE_DIRECTORY}, with the keys of a docker compose "
            "kernel. Nothing was started. Ask for a directory elsewhere."
        )


def to_hide(workspace: Workspace, known: Iterable[Path]) -> list[Directory]:
    """Return the directories in a workspace that hold a docker compose kernel's key and its MCP server's token.

    A project is a workspace all the same: there the kernel sees an empty directory. Looked for are the workspace's own
    and the `known` ones, not all that lie below it, which may be millions.
    """
    found = {}
    for directory in (workspace.path / COMPOSE_DIRECTORY, *known):
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a loop of symlinks, before Python 3.13
            real = directory.resolve(strict=True)
            if real.is_dir() and workspace.path in real.parents:
                about = real.stat()
                found[real] = Directory(str(real), about.st_dev, about.st_ino)
    return list(found.values())


def check_access(workspace: Workspace, user: User | None, caller: User) -> None:
    """Raise `LaunchError` where the kernel could not even list the workspace, or not write what it is given to write.

    `user` is None where the engine maps uids: the kernel is neither the owner of any file then, nor in its group. A
    kernel with the caller's own uid may write what the caller may, which is not asked here.
    """
    path, about = workspace.path, workspace.path.stat()
    shift = 0
    if user is not None:
        shift = 6 if about.st_uid == user.uid else 3 if about.st_gid == user.gid else 0
    may = about.st_mode >> shift
    if may & 0o5 != 0o5:
        raise LaunchError(_closed(path, user))
    if workspace.mode == "rw" and user not in (None, caller) and not may & 0o2:
        raise LaunchError(
            f"The workspace {path} may not be written by the uid {user.uid if user else ''}, which the kernel would "
            f"run as (it is never root). Nothing was started. Give it to a user (chown -R USER {path}), open it "
            f"(chmod o+w {path}), or ask for it read-only."
        )


def give_back(path: Path, made_by: int, to: User) -> None:
    """Make what one uid made below a directory another user's; for root, once no process of that uid is left.

    No symlink is followed, and what other uids own is left alone. The operating system takes setuid and setgid bits
    away when a file changes its owner (chown(2)).
    """
    with contextlib.suppress(OSError):
        if path.stat().st_uid == made_by:
            return  # it is the workspace's owner, whose files they are
        for _, directories, files, handle in os.fwalk(path):
            for name in (*directories, *files):
                with contextlib.suppress(OSError):
                    if os.stat(name, dir_fd=handle, follow_symlinks=False).st_uid == made_by:
                        os.chown(name, to.uid, to.gid, dir_fd=handle, follow_symlinks=False)


def _closed(path: Path, user: User | None) -> str:
    if user is None:
        return (
            f"The workspace {path} is closed to others than its owner and group, and this engine maps the uids of its "
            f"containers, so the kernel is one of the others. Nothing was started. Open it (chmod o+rx {path}), or use "
            "an engine that does not map uids."
        )
    return (
        f"The workspace {path} is closed to the uid {user.uid}, which the kernel would run as (it is never root). "
        f"Nothing was started. Open it (chmod o+rx {path}), or give it to another user."
    )
