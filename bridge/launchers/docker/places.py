"""What a start needs of the host: a uid for the kernel, the time zone, and a private directory for its sockets.

The one rule: a directory is used or removed only where it is ours beyond doubt: no symlink, owned by us, closed to
everyone else, and named as we name them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import LaunchError
from bridge.launchers.docker import underway
from bridge.locks import is_locked
from bridge.policy import SandboxSpec
from bridge.replacing import DRAFT

OWN_UIDS = range(200_000, 1_000_000)
"""Above what accounts and the usual subordinate ranges begin with. Some of Linux's limits are counted by uid."""
MAPPED_UIDS = range(20_000, 60_000)
"""Where the engine maps uids (rootless, userns-remap), 65536 of them are there."""

LONGEST_SOCKET_PATH = 100
"""Bytes; sun_path has 108 on Linux and 104 on macOS."""
_DIRECTORY = re.compile(rf"[0-9a-f]{{8}}({re.escape(DRAFT)})?")
_TRIES = 3
_TIMEZONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+/-]{0,63}")


@dataclass(frozen=True)
class User:
    """Whom the kernel runs as."""

    uid: int
    gid: int


def choose_user(
    spec: SandboxSpec, caller: User, workspace_owner: User | None, uids: range, taken: Collection[int]
) -> User:
    """Choose the kernel's uid.

    With a workspace, or with network none, files are shared with the caller: so it is the caller's own. A root caller's
    kernel is never root: it gets the uid of the workspace's owner, or one of its own.
    """
    shares_files = spec.workspace is not None or spec.network == "none"
    if shares_files and caller.uid != 0:
        return caller
    if spec.workspace and workspace_owner and workspace_owner.uid != 0:
        return User(workspace_owner.uid, workspace_owner.gid or workspace_owner.uid)
    return own_user(uids, taken)


def own_user(uids: range, taken: Collection[int]) -> User:
    """Choose a uid that no other sandbox has."""
    uid = next(uid for uid in iter(lambda: uids[secrets.randbelow(len(uids))], None) if uid not in taken)
    return User(uid, uid)


def timezone(environ: Mapping[str, str] = os.environ, localtime: Path = Path("/etc/localtime")) -> str:
    """Return the host's time zone by its name; UTC where it cannot be told."""
    name = environ.get("TZ", "")
    if not name:
        with contextlib.suppress(OSError):
            name = str(localtime.resolve()).partition("/zoneinfo/")[2]
    return name if _TIMEZONE.fullmatch(name) else "UTC"


def socket_parent(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the socket directories of this user lie: short, on this machine, emptied by a reboot."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and _is_ours(Path(runtime)):
        return Path(runtime) / "kernel-bridge"
    return Path(f"/tmp/kernel-bridge-{os.geteuid()}")  # noqa: S108 - checked to be ours before it is used


def make_socket_directory(user: User, held: contextlib.ExitStack, environ: Mapping[str, str] = os.environ) -> Path:
    """Make a private directory for one kernel's sockets, owned by the kernel's uid; raises `LaunchError`.

    Until a container names it, it is what is `held` that keeps it from being swept: its lock.
    """
    parent = socket_parent(environ)
    if len(os.fsencode(_named(parent) / "k-5")) >= LONGEST_SOCKET_PATH:
        raise LaunchError(
            f"A socket's path in {parent} would be too long for a Unix socket (100 bytes). Nothing was started. Set "
            "XDG_RUNTIME_DIR to a short path, or use network isolated."
        )
    try:
        with contextlib.suppress(FileExistsError):
            parent.mkdir(mode=0o700)
        if not _is_ours(parent):
            raise LaunchError(
                f"{parent} is not a directory that belongs to this user alone (mode 0700), so no kernel's sockets are "
                "put there. Remove it, or set XDG_RUNTIME_DIR to your own runtime directory."
            )
        for _ in range(_TRIES - 1):
            # swept in the moment before it was locked, by somebody who took it for left behind
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                return _make(_named(parent), user, held)
        return _make(_named(parent), user, held)
    except OSError as error:
        raise LaunchError(
            f"No directory for the kernel's sockets could be made in {parent}: {error.strerror}."
        ) from None


def _named(parent: Path) -> Path:
    return parent / secrets.token_hex(4)


def _make(directory: Path, user: User, held: contextlib.ExitStack) -> Path:
    draft = directory.with_suffix(DRAFT)  # locked before it has its name, so that nobody ever sees it unlocked
    draft.mkdir(mode=0o700)
    lock = underway.hold(draft)
    if lock is not None:
        held.callback(os.close, lock)
    if user.uid != os.geteuid():  # only root comes here; the parent stays closed to that uid on the host
        os.chown(draft, user.uid, user.gid)
    return draft.rename(directory)


def remove_socket_directory(directory: Path) -> None:
    """Remove a kernel's socket directory; anything that is not certainly one is left alone.

    The parent is not compared with today's: the one who starts may have another environment than the one who stops.
    """
    parent = directory.parent
    named = parent.name in ("kernel-bridge", f"kernel-bridge-{os.geteuid()}") and _DIRECTORY.fullmatch(directory.name)
    if named and _is_ours(parent):
        shutil.rmtree(directory, ignore_errors=True)


def stale_socket_directories(used: Collection[Path], environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the directories whose gateway is gone and that no container names, and drafts that nobody makes.

    Another engine's sandboxes have theirs here too, so it is the socket itself that is asked.
    """
    parent = socket_parent(environ)
    if not _is_ours(parent):
        return []
    return [
        each
        for each in parent.iterdir()
        if _DIRECTORY.fullmatch(each.name) and each not in used and _is_left(each) and not listens(each / "k-5")
    ]


def _is_left(directory: Path) -> bool:
    """Tell whether the start that made it is over; where the file system has no locks its age tells."""
    held = is_locked(directory)
    if held is not None:
        return not held
    with contextlib.suppress(OSError):
        return abs(time.time() - directory.stat().st_mtime) > underway.YOUNG
    return False


def listens(path: Path) -> bool:
    """Tell whether a process listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full: somebody is there
            return True
        except OSError:
            return False
    return True


def _is_ours(directory: Path) -> bool:
    try:
        about = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o077
