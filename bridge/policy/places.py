"""Host directories: which of them a sandbox may see at all, whatever a policy says.

The one rule: a path is judged after its symlinks are resolved. What gives the machine away (the engine's socket and
data, the system's own trees, the keys of other kernels, the policy itself) is refused here, in code, so that no file
can allow it. A directory is mounted at the same path inside, so what would hide the container's own files is refused
too.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bridge.policy.characters import invisible

SYSTEM_POLICY = Path("/etc/kernel-bridge/policy.yaml")

_MACHINE = tuple(map(Path, ("/proc", "/sys", "/dev", "/run", "/boot")))
# /run and /var/run hold the sockets of every engine, Podman and containerd too; the rest is where engines keep the
# file systems, secrets and volumes of all containers
_ENGINE = ("/var/run", "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/lib/kubelet")
_ENGINE_IN_HOME = (
    ".docker/run",
    ".docker/desktop",
    ".colima",
    ".lima",
    ".orbstack",
    ".rd",
    ".local/share/docker",
    ".local/share/containers",
)
_IMAGE_TREES = tuple(
    map(Path, ("/bin", "/etc", "/home/kernel", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/sbin", "/usr"))
)
_IMAGE_PLACES = tuple(map(Path, ("/home", "/tmp", "/var", "/var/tmp")))  # noqa: S108 - only compared with
_MAX_LINKS = 40
"""Linux follows no more on one way."""


def user_home(environ: Mapping[str, str] = os.environ) -> Path:
    """The caller's home directory: $HOME, or the account's where that is not set."""
    home = environ.get("HOME", "")
    return Path(home) if home.startswith("/") else _account_home()


def config_home(environ: Mapping[str, str] = os.environ) -> Path:
    """$XDG_CONFIG_HOME, or ~/.config; a relative value is ignored, as that specification demands."""
    return _xdg("XDG_CONFIG_HOME", ".config", environ)


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """$XDG_STATE_HOME, or ~/.local/state; a relative value is ignored, as that specification demands."""
    return _xdg("XDG_STATE_HOME", ".local/state", environ)


def user_policy(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the user's own policy is, if there is one."""
    return config_home(environ) / "kernel-bridge" / "policy.yaml"


def journal_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Where each bridge keeps what it saw in the kernels, in a directory of its own."""
    return state_home(environ) / "kernel-bridge" / "journal"


def expanded(written: str | Path, environ: Mapping[str, str] = os.environ) -> Path:
    """A path with `~` or `~/…` put in full; other users' homes (`~name`) are not looked up."""
    parts = Path(written).parts
    return user_home(environ).joinpath(*parts[1:]) if parts[:1] == ("~",) else Path(written)


def real_directory(written: str | Path) -> Path:
    """An absolute path or one with `~`, resolved. ValueError, with a sentence, where it is no directory that exists."""
    text = str(written)
    found = next(invisible(text), None)
    if found:
        raise ValueError(f"the path holds the character {found[1]}, which cannot be seen; rename the directory")
    path = expanded(text)
    if not path.is_absolute():
        raise ValueError(f"{text!r} is not a full path; write one that starts with / or ~/")
    try:
        real = path.resolve(strict=True)
        is_directory = real.is_dir()
    except FileNotFoundError:
        raise ValueError(f"{text!r} does not exist; write a directory that is there") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symlinks, before Python 3.13
        raise ValueError(f"{text!r} cannot be looked at ({_reason(error)}); write one that can") from None
    if not is_directory:
        raise ValueError(f"{text!r} is not a directory; write a directory")
    return real


def audit_file(written: str | Path, environ: Mapping[str, str] = os.environ) -> Path:
    """A full path or one with `~`, as it is written; ValueError, with a sentence, where no audit can be."""
    text = str(written)
    found = next(invisible(text), None)
    if found:
        raise ValueError(f"the path holds the character {found[1]}, which cannot be seen; name another file")
    path = expanded(text, environ)
    if not path.is_absolute() or not path.name or ".." in path.parts:
        raise ValueError(f"{text!r} is not a file's full path; write one that starts with / or ~/, without ..")
    for tree in _MACHINE:
        if path.is_relative_to(tree):
            raise ValueError(f"{text!r} belongs to the machine ({tree}); write a file elsewhere")
    for place, what in _key_places():
        if holds(place, path):
            raise ValueError(f"{text!r} lies in {place}, {what}; write a file elsewhere")
    return path


def refuse_root_and_home(real: Path) -> None:
    """ValueError, with a sentence, for `/` and the home directory itself."""
    if real == Path("/"):
        raise ValueError("the root directory is the whole machine; write a directory below it")
    if real in _homes():
        raise ValueError(
            f"{str(real)!r} is the home directory itself, with every key in it; write a directory below it"
        )


def refuse_source(real: Path) -> None:
    """ValueError, with a sentence, for a directory below which no workspace may be asked for."""
    refuse_root_and_home(real)
    _refuse_characters(real)
    for home in _homes():
        if home.is_relative_to(real):
            raise ValueError(
                f"{str(real)!r} holds the home directory {home}, with every key in it; write one below that"
            )
    for tree in _MACHINE:
        if real.is_relative_to(tree):
            raise ValueError(f"{str(real)!r} belongs to the machine ({tree}); write a directory of your own files")
    for place in _engine_places():
        if related(real, place):
            raise ValueError(
                f"{str(real)!r} is, holds or lies in {place}, where the container engine's socket or data is, "
                "and who has that has the machine; write a directory without it"
            )
    for tree in _IMAGE_TREES:
        if real.is_relative_to(tree):
            raise ValueError(
                f"{str(real)!r} would hide the container's own {tree}, as it is mounted at the same path inside; "
                "write a directory elsewhere, e.g. below your home"
            )


def refuse_workspace(real: Path) -> None:
    """ValueError, with a sentence, for a directory that is never mounted, whatever the policy's mounts are."""
    refuse_source(real)
    for place, what in _private_places():
        if related(real, place):
            raise ValueError(f"{str(real)!r} is, holds or lies in {place}, {what}; ask for a directory without it")
    if real in _IMAGE_PLACES:
        raise ValueError(f"{str(real)!r} would hide the container's own {real}; ask for a directory below it")


def _refuse_characters(real: Path) -> None:
    text = str(real)
    if ":" in text or "," in text:
        raise ValueError(f"{text!r} holds ':' or ',', which separate the parts of a mount; rename the directory")
    found = next(invisible(text), None)
    if found:
        raise ValueError(f"the path holds the character {found[1]}, which cannot be seen; rename the directory")


def related(real: Path, place: Path) -> bool:
    """Whether one is the other, holds it or a link on the way to it, or lies in it, as written or as it resolves."""
    return holds(real, place) or any(real.is_relative_to(form) for form in (place, _resolved(place)))


def holds(real: Path, file: Path) -> bool:
    """Whether who may write in a directory could put something else in a file's place: the file, or a link to it."""
    return any(real in step.parents for step in way_to(file))


def way_to(path: Path) -> Iterator[Path]:
    """Yield every name that is followed from `/` to a file: each directory, each symlink, and what those lead to."""
    at, parts, links = Path("/"), list(path.parts), 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            at = at.parent
            continue
        step = at / part  # where the part is absolute it is all there is
        yield step
        try:
            target = step.readlink()
        except OSError:  # no link, or nothing at all
            at = step
            continue
        links += 1
        if links > _MAX_LINKS:
            return
        parts[:0] = target.parts


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path


def _account_home() -> Path:
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:  # a uid without an account, as in many containers
        return Path("/nonexistent")  # Debian's own name for having none


def _homes() -> frozenset[Path]:
    homes = (user_home(), _account_home())
    # some accounts have / as their home; that is refused by itself, and holds for nothing else
    return frozenset(form for home in homes for form in (home, _resolved(home)) if form != Path("/"))


def _engine_places() -> Iterable[Path]:
    yield from map(Path, _ENGINE)
    yield from (user_home() / part for part in _ENGINE_IN_HOME)
    for variable in ("KERNEL_BRIDGE_DOCKER_HOST", "DOCKER_HOST"):
        value = os.environ.get(variable, "").removeprefix("unix://")
        if value.startswith("/"):
            yield Path(value)


def _private_places() -> Iterable[tuple[Path, str]]:
    yield config_home() / "kernel-bridge", "where the user's policy is"
    yield state_home() / "kernel-bridge", "where the output of cells is kept"
    yield user_home() / ".docker", "where the engine's client keeps its passwords"
    yield from _key_places()


def _key_places() -> Iterable[tuple[Path, str]]:
    keys = "where the keys of this machine's kernels are"
    yield _xdg("XDG_DATA_HOME", ".local/share") / "jupyter", keys
    yield user_home() / "Library/Jupyter", keys
    for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        value = os.environ.get(variable, "")
        if value.startswith("/"):
            yield Path(value), keys


def _xdg(variable: str, default: str, environ: Mapping[str, str] = os.environ) -> Path:
    value = environ.get(variable, "")
    return Path(value) if value.startswith("/") else user_home(environ) / default


def _reason(error: Exception) -> str:
    return (error.strerror or "unknown reason") if isinstance(error, OSError) else "its symlinks form a loop"
