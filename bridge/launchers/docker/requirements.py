"""A person's list of packages, from a requirements.txt or a pyproject.toml, as an image's build can install it.

The one rule: what pip would look for on this machine, or be told of it, is refused before anything is built: the build
sees the list and nothing else, so it would fail later, or install something else.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.errors import UsageError

LARGEST = 1 << 20
"""Bytes; a lock of a thousand packages with all their hashes is smaller."""
_OPTIONS = {
    ("-e", "--editable"): "an editable package lies on this machine; name its published version, or build a wheel",
    ("-r", "--requirement"): "another file is not there in the build; write its lines here",
    ("-c", "--constraint"): "another file is not there in the build; write its lines here",
    ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host", "--no-index"): (
        "where packages come from is said with --pip-config FILE, which leaves no trace in the image"
    ),
}
_NOT_IN_TAG = re.compile(r"[^a-z0-9_.-]+")


def read(file: Path, extras: Sequence[str] = ()) -> str:
    """Return the text of a requirements.txt for the build; `extras` are those of a pyproject.toml.

    Raises `UsageError` with one sentence: a file that cannot be read, that names no package, or that the build cannot
    follow.
    """
    try:
        raw = file.read_bytes()
        text = raw.decode()
    except UnicodeDecodeError:
        raise _wrong(file, "is not UTF-8 text") from None
    except OSError as error:
        raise _wrong(file, f"cannot be read ({error.strerror})") from None
    if len(raw) > LARGEST:
        raise _wrong(file, f"is larger than {LARGEST // 1024} KiB, too large for a list of packages")
    if file.suffix == ".toml":
        text = "\n".join(_from_project(file, text, extras)) + "\n"
    elif extras:
        raise UsageError("--extra is for a pyproject.toml; a requirements.txt has none. Nothing was built.")
    if not any(_words(line) for line in text.splitlines()):
        raise _wrong(file, "names no package")
    for number, line in enumerate(text.splitlines(), 1):
        _check(file, number, _words(line))
    return text


def name_of(file: Path) -> str:
    """Return what an image with these packages is called after: the project, or the directory of the file."""
    name = ""
    if file.suffix == ".toml":
        try:
            project = tomllib.loads(file.read_text(encoding="utf-8")).get("project")
        except (OSError, ValueError):
            project = None
        name = str(project.get("name") or "") if isinstance(project, dict) else ""
    name = name or file.resolve().parent.name
    return _NOT_IN_TAG.sub("-", name.lower()).strip("-.")[:60] or "packages"


def _from_project(file: Path, text: str, extras: Sequence[str]) -> list[str]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(file, f"is not valid TOML ({error})") from None
    project = content.get("project")
    if not isinstance(project, dict):
        raise _wrong(file, "has no [project] table, so it names no packages")
    if "dependencies" in (project.get("dynamic") or ()):
        raise _wrong(file, "has dynamic dependencies, which only its build knows; give a requirements.txt")
    wanted = [project.get("dependencies") or []]
    known = project.get("optional-dependencies") or {}
    for extra in extras:
        if extra not in known:
            raise _wrong(file, f"has no extra {extra!r}; it has {', '.join(sorted(known)) or 'none'}")
        wanted.append(known[extra])
    lines = [each for group in wanted for each in (group if isinstance(group, list) else [group])]
    if not all(isinstance(each, str) for each in lines):
        raise _wrong(file, "has dependencies that are not a list of text")
    elsewhere = sorted({_plain(each) for each in lines} & {_plain(each) for each in _sources(content)})
    if elsewhere:
        # by its name alone the build would get whatever the public index calls so
        raise _wrong(
            file, f"has {', '.join(elsewhere)} in [tool.uv.sources], which only uv follows; give a requirements.txt"
        )
    return lines


def _sources(content: dict[str, Any]) -> Sequence[str]:
    tool = content.get("tool")
    uv = tool.get("uv") if isinstance(tool, dict) else None
    sources = uv.get("sources") if isinstance(uv, dict) else None
    return list(sources) if isinstance(sources, dict) else ()


def _plain(requirement: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]).lower()


def _words(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line).strip()


def _check(file: Path, number: int, line: str) -> None:
    for options, why in _OPTIONS.items():
        if any(re.match(rf"{re.escape(option)}(\s|=|$)", line) for option in options):
            raise _wrong(file, f"has in line {number} `{line[:60]}`: {why}")
    target = line.partition("@")[2].strip() if re.match(r"[\w.\[\], -]+@", line) else line
    if target.startswith((".", "/", "~", "file:")) or re.match(r"[\w.-]+/", target):
        raise _wrong(file, f"has in line {number} `{line[:60]}`: that lies on this machine; name a published version")


def _wrong(file: Path, what: str) -> UsageError:
    return UsageError(f"{file} {what}. Nothing was built.")
