"""The bearer token: one file, made once, that only its owner can read.

The one rule: the token itself is only ever in that file, in memory and in a request's header; everything else names the
file. A file that others could have read or written is refused, not mended: its token may be known already.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bridge.errors import UsageError
from bridge.policy import Policy
from bridge.policy.places import holds, state_home

BYTES = 32
# what a header may hold as a bearer token (RFC 6750, section 2.1), and no less than nobody guesses
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{32,1024}=*")
_LONGEST = 4096


def default_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the token is if no other file is named."""
    return state_home(environ) / "kernel-bridge" / "http-token"


def refuse_mounted(file: Path, policy: Policy) -> None:
    """Raise `UsageError` where a sandbox may be given the directory in which a secret of this server is."""
    for mount in policy.sandbox.mounts:
        if holds(mount.source, file):
            raise UsageError(
                f"{file} lies in {mount.source}, which sandboxes may be given {policy.rule('sandbox.mounts')}, so code "
                "in one could read this server's secret. Nothing was started. Name a file outside of the policy's "
                "mounts."
            )


def token(file: Path) -> str:
    """Return the token in a file, which is made where it is missing; raises `UsageError` where it is not private."""
    try:
        if not os.path.lexists(file):
            _make(file)
        return _read(file)
    except OSError as error:
        raise UsageError(
            f"The token file {file} cannot be used: {error.strerror}. Nothing was started; name another one with "
            "--token-file."
        ) from None


def _make(file: Path) -> None:
    """Write a new token; of two servers that start at once both use the one that was first."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes the file 0600; a link to it appears whole, and never in another one's place
    handle, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-", suffix=".part")
    try:
        with os.fdopen(handle, "w") as writing:
            writing.write(secrets.token_urlsafe(BYTES) + "\n")
        try:
            Path(file).hardlink_to(draft)
        except FileExistsError:
            return
    finally:
        Path(draft).unlink()


def _read(file: Path) -> str:
    # not blocking: a pipe in its place must not keep the server from its start
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as reading:
        about = os.fstat(reading.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise UsageError(f"The token file {file} is not a file. Nothing was started; name another one.")
        if about.st_uid != os.geteuid() or about.st_mode & 0o077:
            who = f"belongs to uid {about.st_uid}" if about.st_uid != os.geteuid() else "can be read by others"
            raise UsageError(
                f"The token file {file} {who}, so its token may be known. Nothing was started. Remove it: the next "
                "start makes a new one, and clients must be told that; or, if you know that nobody has read it, make "
                f"it private: chmod 600 {file}" + (f"; chown {os.geteuid()} {file}" if "uid" in who else "")
            )
        text = reading.read(_LONGEST).decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(text):
        raise UsageError(
            f"The token file {file} holds no token: one line of at least 32 letters, digits and -._~+/ is needed. "
            "Nothing was started. Remove it: the next start makes a new one."
        )
    return text
