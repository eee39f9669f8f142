"""Files below the directory in which the kernel was started, which is the workspace where there is one, and below its
home directory, which can be written where the workspace is read-only. A relative path is from the former.

That nothing outside of them is reached is a fence against accidents, not a boundary: whoever may ask this may also run
code here. The boundary is the container. So what a path really leads to is asked of the opened file itself, and only
a regular file is opened for more than that: a FIFO would wait for its other end, a device may act on being opened.
"""

from __future__ import annotations

import binascii
import errno
import hashlib
import os.path
import posix  # the user's code, or a test library that it uses, may have put other functions into `os`
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.describing import Refused

MOST_NAMES_NEAR = 1000  # of a directory, in which a missing file is looked for
MOST_NAMES_SWEPT = 10000  # among which old drafts are looked for
DRAFT, PART, LONG = ".kernel-bridge-", ".part", 52  # how the name of every draft begins and ends, and its length
OLD = 3600  # seconds since a draft was written; nobody goes on with it any more
READ_ONLY = (
    " The workspace is read-only; write to %s, or have the sandbox started with the workspace as rw, which the policy "
    "must allow."
)
DIRECTORY = posix.O_PATH | posix.O_DIRECTORY
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def opening() -> Iterator[list[int]]:
    """Descriptors that are closed again, whatever happens."""
    handles: list[int] = []
    try:
        yield handles
    finally:
        for each in handles:
            posix.close(each)


def opened(handles: list[int], path: str, flags: int, at: int | None = None) -> int:
    """Open, relative to a directory; what is made can be read by all, as far as the umask lets it."""
    handles.append(posix.open(path, flags, 0o644, dir_fd=at))
    return handles[-1]


def true_path(handle: int) -> str:
    """Where an opened file is, whatever links and renames there were on the way."""
    return posix.readlink("/proc/self/fd/%d" % handle)


def tops(handles: list[int], shell: Any) -> dict[int, str]:
    """The opened directories below which files are, each with the name it was opened by; the first is the kernel's."""
    found = {opened(handles, shell.starting_dir, DIRECTORY): shell.starting_dir}
    home = os.path.expanduser("~")
    with suppress(OSError):
        found[opened(handles, home, DIRECTORY)] = home
    return found


def only_below(found: dict[int, str]) -> str:
    """The rule, for who asked for what is elsewhere."""
    return "Files are read and written below %s only" % " or ".join(dict.fromkeys(map(true_path, found)))


def inside(handle: int, found: dict[int, str]) -> int:
    """Refuse what is opened but lies elsewhere."""
    place = true_path(handle)
    if not any((place + "/").startswith(true_path(each).rstrip("/") + "/") for each in found):
        raise Refused("It leads to %s. %s." % (place, only_below(found)))
    return handle


def located(path: str, found: dict[int, str]) -> tuple[int, str]:
    """The top that a path is below, and the path from there."""
    path = os.path.expanduser(path)
    if not path.startswith("/"):
        return next(iter(found)), path
    for top, name in found.items():
        for each in (true_path(top), name):
            if path.startswith(each.rstrip("/") + "/"):
                return top, path[len(each.rstrip("/")) :].lstrip("/")
    raise Refused("%s, and %s is elsewhere." % (only_below(found), path))


def stepped(handles: list[int], name: str, at: int, found: dict[int, str], flags: int = 0) -> int:
    """Open a directory in a directory, which is closed: a path may have more steps than there are descriptors."""
    below = opened(handles, name, DIRECTORY | flags, at)
    if at not in found:
        handles.remove(at)
        posix.close(at)
    return inside(below, found)


def folder_of(handles: list[int], shell: Any, path: str, *, make: bool) -> tuple[int, str]:
    """The opened directory that a file is in, made where it is to be, and the file's name."""
    found = tops(handles, shell)
    at, whole = located(path, found)
    way, _, name = whole.rpartition("/")
    for step in way.split("/"):
        if step not in ("", "."):
            try:
                at = stepped(handles, step, at, found)
            except FileNotFoundError:
                if not make:
                    raise
                posix.mkdir(step, 0o755, dir_fd=at)
                at = stepped(handles, step, at, found, posix.O_NOFOLLOW)
    return at, name


def special(mode: int) -> str:
    """What it is, where it is no regular file; else empty."""
    return "" if stat.S_ISREG(mode) else next((kind for is_kind, kind in KINDS if is_kind(mode)), "no regular file")


def sha256(data: bytes) -> str:
    """What both sides compare."""
    return hashlib.sha256(data).hexdigest()


def version(state: Any) -> str:
    """What is another text for another file, or the same with other content."""
    return "%d %d %d %d" % (state.st_dev, state.st_ino, state.st_size, state.st_ctime_ns)


def piece(shell: Any, path: str, start: int, size: int) -> dict[str, Any]:
    """At most `size` bytes of a file, with what tells whether it was changed since another piece was read."""
    try:
        with opening() as handles:
            below = tops(handles, shell)
            top, way = located(path, below)
            found = inside(opened(handles, way, posix.O_PATH, top), below)
            kind = special(posix.fstat(found).st_mode)
            if kind:
                raise Refused("%s is %s, and only regular files are read." % (path, kind))
            # this opens the very file that was looked at, whatever has its name by now
            file = opened(handles, "/proc/self/fd/%d" % found, posix.O_RDONLY | posix.O_NONBLOCK)
            before = posix.fstat(file)
            data = pread(file, start, size)
            steady = version(before) == version(posix.fstat(file))
            return {
                "size": before.st_size,
                "version": version(before) if steady else "",
                "data": binascii.b2a_base64(data, newline=False).decode(),
                "sha256": sha256(data),
            }
    except FileNotFoundError:
        return missing(shell, path)
    except OSError as error:
        raise Refused("%s cannot be read: %s." % (path, error.strerror)) from None


def pread(file: int, start: int, size: int) -> bytes:
    """All of a part of a file, or as much as there is."""
    parts = []
    while size > 0:
        part = posix.pread(file, size, start)
        if not part:
            break
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return b"".join(parts)


def missing(shell: Any, path: str) -> dict[str, Any]:
    """The names in the directory in which a file was looked for, where there is that."""
    try:
        with opening() as handles:
            folder, name = folder_of(handles, shell, path, make=False)
            with posix.scandir(opened(handles, ".", posix.O_RDONLY | posix.O_DIRECTORY, folder)) as entries:
                names = [each.name for each in islice(entries, MOST_NAMES_NEAR)]
            return {"missing": path, "wanted": name, "names": names, "place": true_path(folder)}
    except OSError:
        return {"missing": path, "wanted": "", "names": [], "place": ""}


def write(shell: Any, path: str, draft: str, start: int, data: str, *, last: bool, replace: bool) -> dict[str, Any]:
    """Write one piece of a file into a draft beside it; after the last one the draft takes the file's name."""
    try:
        with opening() as handles:
            folder, name = folder_of(handles, shell, path, make=start == 0)
            if not free(folder, path, name, replace=replace):
                return {"exists": path}
            flags = posix.O_CREAT | posix.O_EXCL if start == 0 else posix.O_NONBLOCK
            file = opened(handles, draft, posix.O_RDWR | posix.O_NOFOLLOW | flags, folder)
            if start == 0:
                sweep(handles, folder, posix.fstat(file).st_mtime)
            try:
                content = binascii.a2b_base64(data)
                go_on(file, path, start)
                pwrite(file, start, content)
                digest = sha256(pread(file, start, len(content)))
                if last:
                    keep_mode(file, folder, name)
                if last and not placed(folder, draft, name, replace=replace):
                    return {"exists": path}
            except BaseException:
                drop(folder, draft)
                raise
            return {"sha256": digest, "place": true_path(folder).rstrip("/") + "/" + name}
    except OSError as error:
        way = writable(shell, path) if error.errno == errno.EROFS else ""
        raise Refused("%s cannot be written: %s.%s Nothing was written." % (path, error.strerror, way)) from None


def writable(shell: Any, path: str) -> str:
    """What to do where a workspace is read-only; the whole path, because a shell would read `~` as its own."""
    home = os.path.expanduser("~")
    if home == shell.starting_dir or os.path.expanduser(path).startswith(home + "/"):
        return ""
    return READ_ONLY % (home + "/" + path.rpartition("/")[2])


def free(folder: int, path: str, name: str, *, replace: bool) -> bool:
    """Whether the file may be written; a name that is too long is told here, before anything of it is."""
    try:
        mode = posix.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return True
    kind = special(mode)
    if kind:
        raise Refused("%s is %s, which is not replaced." % (path, kind))
    return replace


def go_on(file: int, path: str, start: int) -> None:
    """Refuse to go on with a draft that is not what was left."""
    state = posix.fstat(file)
    if not stat.S_ISREG(state.st_mode) or state.st_size != start:
        raise Refused("What was written of %s was changed by something else in the sandbox." % path)


def pwrite(file: int, start: int, content: bytes) -> None:
    """Write all of it."""
    while content:
        count = posix.pwrite(file, content, start)
        content, start = content[count:], start + count


def keep_mode(file: int, folder: int, name: str) -> None:
    """Give a draft the permissions of the file that it is to replace, if there is one and they can be given."""
    with suppress(OSError):
        posix.fchmod(file, posix.stat(name, dir_fd=folder, follow_symlinks=False).st_mode & 0o777)


def placed(folder: int, draft: str, name: str, *, replace: bool) -> bool:
    """Give the draft its name; False where another has it: unlike a rename, a link replaces nothing.

    On a file system without links it is looked once more, and what comes in the moment after that look is replaced.
    """
    if not replace:
        try:
            posix.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError:
            if there(folder, name):
                drop(folder, draft)
                return False
        else:
            drop(folder, draft)
            return True
    posix.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def there(folder: int, name: str) -> bool:
    """Whether a name is taken, be it by a link that leads nowhere."""
    try:
        posix.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def sweep(handles: list[int], folder: int, now: float) -> None:
    """Remove the drafts that nobody could remove: whoever wrote them was killed. `now` is the file system's."""
    with suppress(OSError), posix.scandir(opened(handles, ".", posix.O_RDONLY | posix.O_DIRECTORY, folder)) as entries:
        names = [each.name for each in islice(entries, MOST_NAMES_SWEPT)]
        for name in names:
            if name.startswith(DRAFT) and name.endswith(PART) and len(name) == LONG:
                state = posix.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(state.st_mode) and state.st_mtime < now - OLD:
                    drop(folder, name)


def drop(folder: int, draft: str) -> None:
    """Remove a draft, if it is there."""
    with suppress(OSError):
        posix.unlink(draft, dir_fd=folder)


def discard(shell: Any, path: str, draft: str) -> dict[str, Any]:
    """Remove the draft of a file that is not written to its end."""
    with suppress(OSError), opening() as handles:
        drop(folder_of(handles, shell, path, make=False)[0], draft)
    return {}
