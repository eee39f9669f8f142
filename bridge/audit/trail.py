"""The audit's file: lines that any number of processes append to it, and the older files that it made room for.

The one rule: when `append` returns the line is in the file, whole; when it raises, nothing of it is. Every line is
written under a lock on the very file that has the name then, so none is torn, and none goes into a file that was just
moved away. A line whose writer was killed in the middle is taken out by the next one: what it tells of was not done.

The file is only ever opened to append, so it may be made append-only (`chattr +a`). Then the system refuses to move it,
and it grows beyond its size rather than that a line is lost or everybody is locked out. What was appended survives the
end of the process, not that of the machine: it is not waited for the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bridge.policy.loading import distrust_directory
from bridge.policy.places import way_to

BEGIN = b'{"version":'
"""Of every line, and so of every file that is an audit."""
MAX_LINE = 512 * 1024
"""Bytes; far beyond what the bounds of each field add up to, so that the end of a file can be judged."""
PATIENCE = 2.0
"""Seconds. A line is written in a tenth of a millisecond; whoever holds the lock for longer was stopped."""
ASK_AGAIN = 0.001

_CURES = {
    errno.ENOENT: "make its directory: mkdir -p -m 700 {parent}",
    errno.ENOTDIR: "name a file in a directory",
    errno.EISDIR: "name a file, not a directory",
    errno.ELOOP: "name the file itself, not a symlink to it",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "name a file on a file system that can be written",
}

log = logging.getLogger(__name__)


class Unwritten(Exception):
    """A line could not be written; the text is why, and then what to do."""


class Trail:
    """One file, by its full path, at most `max_size` bytes long; `keep` older ones of it stay beside it."""

    def __init__(self, file: Path, *, max_size: int, keep: int) -> None:
        self.file = file
        self._max_size, self._keep = max_size, keep
        self._older = re.compile(re.escape(file.name) + r"\.[0-9]{8}T[0-9]{12}Z")
        self._grows = False

    def append(self, line: bytes) -> None:
        """Append a line, which ends with its only line break; raises `Unwritten`."""
        try:
            with self._directory() as directory:
                self._append(directory, line)
        except OSError as error:
            raise self._unwritten(error) from None

    def trouble(self) -> str | None:
        """Tell why a line could not be appended now and what to do, as far as a look tells; nothing is written."""
        try:
            with self._directory() as directory:
                try:
                    descriptor = self._opened(directory, 0)
                except FileNotFoundError:
                    if not os.access(self.file.parent, os.W_OK | os.X_OK):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
                    return None
                with _closing(descriptor):
                    self._require_audit(descriptor)
        except OSError as error:
            return str(self._unwritten(error))
        except Unwritten as error:
            return str(error)
        return None

    def is_too_long(self) -> bool:
        """Whether the file is longer than it should ever be: the system does not let it be moved."""
        try:
            return self.file.lstat().st_size > self._max_size
        except OSError:
            return False

    # -- under the lock

    def _append(self, directory: int, line: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._locked(directory, deadline) as descriptor:
                size = self._require_audit(descriptor)
                size, line = _mended(descriptor, size, line)
                if size and size + len(line) > self._max_size and self._make_room(directory):
                    continue
                _write(descriptor, size, line)
                return

    @contextlib.contextmanager
    def _locked(self, directory: int, deadline: float) -> Iterator[int]:
        """Open the file that has the name, and lock it: while one waits, another may have moved it away."""
        while time.monotonic() < deadline:
            with _closing(self._opened(directory, os.O_CREAT)) as descriptor:
                _lock(descriptor, deadline)
                if self._has_the_name(directory, descriptor):
                    yield descriptor
                    return
        raise Unwritten(f"for {PATIENCE:g} s it was moved away again and again; see who does that")

    def _has_the_name(self, directory: int, descriptor: int) -> bool:
        try:
            named = os.stat(self.file.name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor))

    def _make_room(self, directory: int) -> bool:
        """Move the file away and remove the oldest of those; False where the system does not let it be moved."""
        names = set(os.listdir(directory))
        while (older := f"{self.file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z") in names:
            pass  # a microsecond later it is another
        try:
            os.rename(self.file.name, older, src_dir_fd=directory, dst_dir_fd=directory)
        except PermissionError as error:
            if not self._grows:
                self._grows = True
                log.warning(
                    "the audit %s is longer than the policy says, and grows: the system does not let it be moved (%s)",
                    self.file, error.strerror,
                )  # fmt: skip
            return False
        moved = sorted(each for each in {*names, older} if self._older.fullmatch(each))
        for each in moved[: -self._keep]:
            with contextlib.suppress(OSError):  # one that stays takes room, and is tried again with the next
                os.unlink(each, dir_fd=directory)
        return True

    # -- trust

    @contextlib.contextmanager
    def _directory(self) -> Iterator[int]:
        """Open the file's directory; what others could put there in the file's place would be written to."""
        parent = self.file.parent
        with _closing(os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
            about = os.fstat(directory)
            if about.st_uid not in {0, os.geteuid()}:
                raise Unwritten(f"its directory belongs to user {about.st_uid}; name one that is yours or root's")
            if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise Unwritten(f"others may replace files in its directory; take that away: chmod go-w {parent}")
            for above in {step.parent for step in way_to(self.file)}:
                if reason := distrust_directory(above.stat()):
                    raise Unwritten(f"of its directory {above}: {reason}")
            yield directory

    def _opened(self, directory: int, flags: int) -> int:
        # not blocking: opening a FIFO would wait for a reader
        flags |= os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.file.name, flags, 0o600, dir_fd=directory)
        if reason := _distrust(os.fstat(descriptor), self.file):
            os.close(descriptor)
            raise Unwritten(reason)
        return descriptor

    def _require_audit(self, descriptor: int) -> int:
        """Return the file's size; a file of something else is not written into."""
        head = os.pread(descriptor, len(BEGIN), 0)
        if not BEGIN.startswith(head):
            raise Unwritten("it holds something else than an audit; name another file")
        return os.fstat(descriptor).st_size

    def _unwritten(self, error: OSError) -> Unwritten:
        cure = _CURES.get(error.errno or 0, "see what is the matter with it")
        return Unwritten(f"{error.strerror or type(error).__name__}; {cure.format(parent=self.file.parent)}")


def _distrust(about: os.stat_result, file: Path) -> str | None:
    if not stat.S_ISREG(about.st_mode):
        return "it is not a regular file; name another one"
    if about.st_uid not in {0, os.geteuid()}:
        return f"it belongs to user {about.st_uid}, who could change it; remove it, or give it to yourself (chown)"
    # root may share a file with a group, so that all of it write into one
    others = stat.S_IRWXO if about.st_uid == 0 else stat.S_IRWXO | stat.S_IRWXG
    if about.st_mode & others:
        return f"others may read or write it; take that away: chmod {'o-rwx' if about.st_uid == 0 else '600'} {file}"
    return None


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unwritten(
                    f"another process has held it for {PATIENCE:g} s; see which one is stopped (fuser)"
                ) from None
            time.sleep(ASK_AGAIN)
        else:
            return


def _mended(descriptor: int, size: int, line: bytes) -> tuple[int, bytes]:
    """Return the size without a line that was not written to its end, and what to write behind it."""
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return size, line
    tail = os.pread(descriptor, MAX_LINE, max(0, size - MAX_LINE))
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn == MAX_LINE:
        raise Unwritten("its last line has no end, so it is no audit any more; move it away")
    try:
        os.ftruncate(descriptor, size - torn)
    except PermissionError:  # it is append-only: then the torn line gets an end
        return size, b"\n" + line
    return size - torn, line


def _write(descriptor: int, size: int, line: bytes) -> None:
    """Write all of it or nothing; a disk that is nearly full takes a part."""
    rest = line
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        if rest != line:
            with contextlib.suppress(OSError):  # else the next line's writer does it
                os.ftruncate(descriptor, size)
        raise


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
