"""The connection files on this host that the policy lets us use, and what a person may call each of them.

The one rule: a path is resolved first and checked against the policy after, so that no symlink leads outside.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bridge.connection import ConnectionInfo, load, runtime_directories
from bridge.errors import BadConnectionFile, NoSuchKernel, PolicyRefused
from bridge.policy import Attach

SANDBOX_PREFIX = "kernel-bridge-"


@dataclass(frozen=True)
class KernelFile:
    """A connection file that can be read."""

    path: Path
    info: ConnectionInfo
    told: tuple[str, ...] | None = None
    """Which notebooks and consoles use the kernel now, where its IDE could be asked."""

    @property
    def notebooks(self) -> tuple[str, ...]:
        """The paths of the notebooks and consoles that use this kernel, as far as known."""
        written = self.info.jupyter_session
        return self.told if self.told is not None else (written,) if written else ()

    @property
    def kernel_id(self) -> str:
        """What a Jupyter server calls this kernel, if it started it."""
        return self.path.stem.removeprefix("kernel-")

    @property
    def name(self) -> str:
        """What this kernel is called: the sandbox's name, or the file's name without `.json`."""
        return self.path.stem.removeprefix(SANDBOX_PREFIX)

    @property
    def is_sandbox(self) -> bool:
        """A launcher wrote it."""
        return self.path.name.startswith(SANDBOX_PREFIX)

    @staticmethod
    def sandbox_name(file_name: str) -> str | None:
        """Return the name of the sandbox that a launcher would write such a file for; None for any other file."""
        if not file_name.startswith(SANDBOX_PREFIX):
            return None
        return file_name.removeprefix(SANDBOX_PREFIX).removesuffix(".json")

    def answers_to(self, text: str) -> bool:
        """Tell whether `text` is this kernel's name, file name, kernel id or notebook; never a part of one."""
        names = {self.name, self.path.stem, self.path.name, self.kernel_id}
        return text in names or self.notebook_named(text) is not None

    def notebook_named(self, text: str) -> str | None:
        """Return the notebook or console that uses this kernel and is called so: by its path, or its name alone."""
        return next(
            (each for each in self.notebooks if text == Path(each).name or _is_notebook(text, each)),
            None,
        )


def _is_notebook(text: str, notebook: str) -> bool:
    """Tell whether a person's path, absolute or relative to where they are, leads to a notebook."""
    if not text.endswith(".ipynb"):
        return False
    typed = os.path.abspath(_expanded(text))  # noqa: PTH100 - as the server wrote it: links are not followed
    return typed == notebook or os.path.realpath(typed) == os.path.realpath(notebook)


def directories(attach: Attach) -> list[Path]:
    """Return the directories in which the policy allows connection files, symlinks resolved."""
    named = (runtime_directories() if each == "runtime" else [Path(each).expanduser()] for each in attach.directories)
    return [each.resolve() for several in named for each in several]


def kernel_files(attach: Attach) -> Iterator[KernelFile]:
    """Yield every connection file of this user's that is complete, newest first."""
    if not attach.allowed:
        return
    roots = directories(attach)
    found = {path.resolve() for root in roots if root.is_dir() for path in root.glob("*.json")}
    for path in sorted(found, key=_age):
        if not any(path.is_relative_to(root) for root in roots):
            continue
        try:
            yield KernelFile(path, load(path))
        except BadConnectionFile:
            # a runtime directory holds other JSON files too; one that is named outright is told its fault by `by_path`
            continue


def real(text: str) -> Path:
    """Return the path that a person typed, with `~` and symlinks resolved; raises `BadConnectionFile` for none."""
    path = _expanded(text)
    try:
        return path.resolve(strict=True)
    except (RuntimeError, OSError) as error:
        # Python 3.13 says it as the operating system does; before, it was an error of its own
        if isinstance(error, RuntimeError) or error.errno == errno.ELOOP:
            raise BadConnectionFile(
                f"{text[:200]!r} is not a path that can be followed: its symlinks lead in a circle."
            ) from None
    return path.resolve()


def _expanded(text: str) -> Path:
    if "\0" in text:
        raise BadConnectionFile(f"{text[:200]!r} is not a path: it holds a NUL character.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise BadConnectionFile(f"{text[:200]!r} is not a path: there is no such user's home directory.") from None


def by_path(path: Path, attach: Attach) -> KernelFile:
    """Read the connection file at a path; raises `PolicyRefused` or `BadConnectionFile`."""
    real = path.expanduser().resolve()
    allowed(attach)
    roots = directories(attach)
    if not any(real.is_relative_to(root) for root in roots):
        raise PolicyRefused(
            f"The policy allows connection files only below {', '.join(map(str, roots))}; {real} is not there. "
            "Its owner can add the directory to attach.directories."
        )
    return checked(KernelFile(real, load(real)), attach)


def matching(text: str, attach: Attach) -> list[KernelFile]:
    """Return the kernels that `text` names, by any form but a path, as far as their files tell."""
    return [each for each in kernel_files(attach) if each.answers_to(text)]


def checked(file: KernelFile, attach: Attach) -> KernelFile:
    """Return the file if the policy lets us connect to its address; else raise `PolicyRefused`."""
    if not ("loopback" in attach.addresses and file.info.is_loopback()):
        raise PolicyRefused(
            f"The kernel of {file.path} listens on {file.info.ip}; the policy allows only addresses of these kinds: "
            f"{', '.join(attach.addresses) or 'none'}."
        )
    return file


def allowed(attach: Attach) -> None:
    """Raise `PolicyRefused` where the policy allows no host kernels at all."""
    if not attach.allowed:
        raise PolicyRefused("The policy does not allow host kernels (attach.allowed: false); use start_sandbox.")


def is_path(text: str) -> bool:
    """Tell whether a person means a place in the file system: it has a slash or a tilde, and is no notebook."""
    return ("/" in text or text.startswith("~")) and not text.endswith(".ipynb")


def none_matches(text: str, known: Iterable[str], trouble: str | None = None) -> NoSuchKernel:
    """Return the error for a name that fits nothing, with what there is, and why sandboxes are not among it."""
    names = ", ".join(known) or "none"
    return NoSuchKernel(
        f"No kernel is called {text!r}. There are: {names}. "
        f"{f'Sandboxes could not be looked for: {trouble} ' if trouble else ''}"
        "Give a name, a connection file's path, a kernel id or a notebook."
    )


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
