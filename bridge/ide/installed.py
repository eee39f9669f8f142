"""The kernelspecs of ours among the user's: found, written, removed, and whether what they lead to is still there.

The one rule: only a kernelspec that carries our mark is changed or removed, and of it only our own files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bridge.errors import NoSuchKernel, NotOurs, UsageError
from bridge.ide.kernelspec import CONNECTION_FILE, MARK, Target
from bridge.replacing import replace

SPEC = "kernel.json"
LOGO = Path(__file__).with_name("logo.svg")
LOGOS = {"logo-svg.svg": None, "logo-32x32.png": 32, "logo-64x64.png": 64}
"""By Jupyter's names for them, with their side in pixels."""


@dataclass(frozen=True)
class Fault:
    """Why nothing can be started by a kernelspec."""

    found: str
    cure: str
    """What to type."""


@dataclass(frozen=True)
class Installed:
    """A kernelspec of ours."""

    directory: Path
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called on our command line: its directory's name without what all have in common."""
        return self.directory.name.removeprefix(MARK).removeprefix("-")

    @property
    def display_name(self) -> str:
        """What a picker shows."""
        return str(self.content.get("display_name", self.directory.name))

    @property
    def target(self) -> Target:
        """The kernel that it leads to."""
        mark = self.content["metadata"][MARK]
        kernel = mark.get("kernel")
        return Target(kernel if isinstance(kernel, str) else None, self.name, mark.get("owner") is True)

    @property
    def argv(self) -> list[str]:
        """What an IDE starts."""
        found = self.content.get("argv")
        return [str(each) for each in found] if isinstance(found, list) else []

    def answers_to(self, text: str) -> bool:
        """Tell whether a person means it: by the kernel, the directory's name or what a picker shows."""
        names = {self.name, self.directory.name, self.display_name, self.target.kernel}
        return text in names or os.path.abspath(text) == self.target.kernel  # noqa: PTH100 - the path as it is written

    def fault(self) -> Fault | None:
        """Return why an IDE that picks it gets no kernel, as far as can be seen without starting anything."""
        again = f"kernel-bridge ide install {self._asked()}".rstrip()
        if not self.argv or shutil.which(self.argv[0]) is None:
            program = self.argv[0] if self.argv else "its program"
            return Fault(f"{program} is not there, as after its Python environment was removed", again)
        away = f"kernel-bridge ide remove {shlex.quote(self.name)}".removesuffix(" ''")
        policy = next((file for option, file in pairwise(self.argv) if option == "--policy"), self._policy_variable())
        if policy and not Path(policy).exists():
            return Fault(f"its policy {policy} is not there", f"{away}    (or put the policy back)")
        kernel = self.target.kernel
        if kernel and not self.target.is_sandbox and not Path(kernel).exists():
            what = "its notebook" if kernel.endswith(".ipynb") else "its kernel has ended: the connection file"
            return Fault(f"{what} {kernel} is not there", away)
        return None

    def _policy_variable(self) -> str | None:
        variables = self.content.get("env")
        return variables.get("KERNEL_BRIDGE_POLICY") if isinstance(variables, dict) else None

    def _asked(self) -> str:
        """Return the words by which `ide install` would write it again."""
        words = self.argv[self.argv.index("relay") + 1 :] if "relay" in self.argv else []
        words = words[: words.index(CONNECTION_FILE)] if CONNECTION_FILE in words else words
        if "--kernel" in words:  # which `install` takes as an argument
            at = words.index("--kernel")
            words = [*words[at + 1 : at + 2], *words[:at], *words[at + 2 :]]
        provisioned = ["--provisioner"] if "kernel_provisioner" in self.content["metadata"] else []
        return shlex.join([*words, *provisioned])


def place() -> Path:
    """Return where the user's kernelspecs are; raises `UsageError` where that cannot be known."""
    from jupyter_core.paths import jupyter_data_dir  # noqa: PLC0415 - not needed before a kernelspec is looked for

    try:
        return Path(os.path.abspath(jupyter_data_dir())) / "kernels"  # noqa: PTH100 - the name as it is
    except RuntimeError:
        raise UsageError(
            "This user has no home directory, so Jupyter has no place for kernelspecs. Nothing was changed. Set HOME, "
            "or JUPYTER_DATA_DIR to a directory of yours."
        ) from None


def installed() -> list[Installed]:
    """Return the kernelspecs of ours, by name. Raises `UsageError` where the directory cannot be read."""
    kernels = place()
    try:
        directories = sorted(kernels.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{kernels} cannot be read: {error.strerror}. Nothing was changed.") from None
    return [found for each in directories if (found := _read(each))]


def find(which: str | None) -> Installed:
    """Return the one that a person means; None means that of a new sandbox. Raises `NoSuchKernel`."""
    ours = installed()
    found = [each for each in ours if (each.target.kernel is None if which is None else each.answers_to(which))]
    if which is not None and not found:
        # as the kernel is named elsewhere: without `.json` and `kernel-`
        found = [each for each in ours if which in {Path(each.name).stem, Path(each.name).stem.removeprefix("kernel-")}]
    if len(found) == 1:
        return found[0]
    there = ", ".join(each.directory.name for each in found or ours) or "none"
    if found:
        raise NoSuchKernel(f"{which!r} fits several kernelspecs; name one by its directory: {there}.")
    foreign = place() / (which or MARK)
    what = f"{foreign} is not ours" if foreign.is_dir() else f"No kernelspec of ours is called {which or MARK!r}"
    raise NoSuchKernel(f"{what}. Ours are: {there}.")


def slot(target: Target) -> tuple[Path, str]:
    """Return the directory for a kernelspec and its name for the picker: those it has, or else the first free ones.

    Raises `NotOurs` where somebody else's kernelspec is there.
    """
    kernels, ours = place(), installed()
    names = list(target.names())
    taken = {each.directory.name: each.target.kernel for each in ours}
    own = [pair for pair in names if pair[0] in taken and taken[pair[0]] == target.kernel]
    directory, shown = next(iter([*own, *(pair for pair in names if pair[0] not in taken)]), names[-1])
    found = kernels / directory
    if directory not in taken and (os.path.lexists(found / SPEC) or found.is_symlink()):
        raise NotOurs(
            f"{found} is a kernelspec that kernel-bridge did not write, so it is left as it is. Nothing was installed. "
            f"Remove it (jupyter kernelspec remove {directory}), or give the kernel another name."
        )
    return found, shown


def write(directory: Path, content: Mapping[str, Any]) -> Installed:
    """Write a kernelspec into the directory that `slot` named; a reader sees the old one or the new one, never a half.

    Only the user can read it: the values of variables may stand in it. Raises `UsageError`.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # before these it is no kernelspec, so nobody sees one without its logos
        for name, side in LOGOS.items():
            replace(directory / name, _logo(side))
        replace(directory / SPEC, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise UsageError(
            f"{error.filename or directory} cannot be written: {error.strerror}. Nothing was installed. Make "
            f"{directory.parent} writable, or set JUPYTER_DATA_DIR to a directory of yours."
        ) from None
    return Installed(directory, content)


def remove(spec: Installed) -> None:
    """Remove a kernelspec of ours; a file that somebody else put beside it stays. Raises `UsageError`."""
    try:
        for name in (SPEC, *LOGOS):  # the first one first: without it no picker shows it
            (spec.directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{spec.directory} cannot be removed: {error.strerror}.") from None
    with contextlib.suppress(OSError):
        spec.directory.rmdir()


def _read(directory: Path) -> Installed | None:
    """Return a kernelspec if it is ours; one that cannot be read is somebody else's."""
    if directory.is_symlink() or not directory.name.startswith(MARK):
        return None
    try:
        content = json.loads((directory / SPEC).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    metadata = content.get("metadata") if isinstance(content, dict) else None
    ours = isinstance(metadata, dict) and isinstance(metadata.get(MARK), dict)
    return Installed(directory, content) if ours else None


def _logo(side: int | None) -> bytes:
    """Return our logo, drawn with a side of so many pixels, or as it is."""
    svg = LOGO.read_text()
    if side is None:
        return svg.encode()
    import resvg_py  # noqa: PLC0415 - only an installation pays for it

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))
