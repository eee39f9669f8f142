"""Which image: from a reference that the policy allowed to the id that is started, and which of ours are there.

The one rule: a reference is resolved once, what is checked is the image of that id, and a start never pulls or builds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge.errors import ImageNotFound, LaunchError
from bridge.launchers.docker import owner

TAGS: Mapping[str, str] = {"python": "kernel-bridge/python:3.13", "scipy": "kernel-bridge/scipy:3.13"}
"""The images that `kernel-bridge image build` builds: the folder's name in `images/` and the tag it gets."""

OURS = "kernel-bridge/"

PROGRAMS = "4"
"""The label's value: it rises where the programs inside and the launcher only fit each other."""
LABEL = f"{owner.IMAGE}={PROGRAMS}"
_EARLIER = ("1", "2", "3")
"""What an image that is made for sandboxes is marked with; built on one of ours, it has it by itself."""

DOCKERFILE = f"""\
FROM {TAGS["python"]}
RUN pip install --no-cache-dir numpy pandas
"""
"""An image of one's own on top of ours; images/README.md explains it."""

_HOW_TO_MAKE_ONE = f"""\
Make one that can with `kernel-bridge image build --requirements FILE`, or with this Dockerfile \
(docker build -t kernel-bridge/python:NAME DIRECTORY):
{DOCKERFILE}"""

_STARTED = ("/opt/kernel/bin/python", "/opt/kernel-bridge/supervisor.py", "/opt/kernel-bridge/gateway.py")


@dataclass(frozen=True)
class Image:
    """An image that may be started."""

    id: str
    environment: tuple[str, ...]
    """The names that its ENV sets."""


@dataclass(frozen=True)
class Built:
    """An image with our label, as the engine lists it."""

    reference: str
    """With its tag, or where it was pulled by its digest with that."""
    id: str
    bytes: int
    created: str
    """ISO 8601, UTC."""


def missing(reference: str) -> ImageNotFound:
    """Return the error that says what to type; `reference` is in its full form."""
    short = reference.removeprefix("docker.io/").removeprefix("library/")
    return ImageNotFound(
        f"The engine has no image {short}. Nothing was started, because a start never pulls or builds. Type: "
        f"{how_to_get(reference)}"
    )


def how_to_get(reference: str) -> str:
    """Return the command that brings an image into the engine."""
    short = reference.removeprefix("docker.io/").removeprefix("library/")
    if not short.startswith(OURS):
        return f"docker pull {short}"
    name = next((name for name, tag in TAGS.items() if tag == short), None)
    if name is None:
        return f"kernel-bridge image build --requirements FILE --tag {short}"
    return "kernel-bridge image build" + ("" if name == "python" else f" {name}")


def checked(reference: str, inspected: Mapping[str, Any]) -> Image:
    """Return the image behind an inspect (GET /images/{name}/json); raises `LaunchError` where it must not run."""
    config = inspected.get("Config") or {}
    environment = names(inspected)
    problems = []
    mark = (config.get("Labels") or {}).get(owner.IMAGE)
    if mark in _EARLIER:
        raise LaunchError(
            f"The image {reference} was built by an earlier kernel-bridge, whose programs inside do not fit this one. "
            f"Nothing was started. Type: {how_to_get(reference)}"
        )
    unmarked = mark != PROGRAMS
    if unmarked:
        problems.append(f"it has no label {LABEL}, so it was not made for this")
    if config.get("Volumes"):
        problems.append(
            f"it declares volumes ({', '.join(config['Volumes'])}), which are writable without a bound (remove VOLUME)"
        )
    loader = sorted(name for name in environment if name.startswith("LD_"))
    if loader:
        problems.append(
            f"it sets {', '.join(loader)}, which changes every program that is started (remove them from ENV)"
        )
    if problems:
        how = f" {_HOW_TO_MAKE_ONE}".rstrip() if unmarked else ""
        raise LaunchError(f"The image {reference} cannot be started as a sandbox: {'; '.join(problems)}.{how}")
    return Image(str(inspected["Id"]), environment)


def incomplete(reference: str, said: str) -> LaunchError | None:
    """Return the error for an image that has our label and not our programs, from what its start ended with."""
    if not any(program in said for program in _STARTED) or "no such file" not in said.lower():
        return None
    return LaunchError(
        f"The image {reference} has the label {LABEL}, but not the programs that a sandbox is started with "
        f"({', '.join(_STARTED)}). Nothing was started. {_HOW_TO_MAKE_ONE}".rstrip()
    )


def names(inspected: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that the image's ENV sets."""
    return tuple(dict.fromkeys(entry.partition("=")[0] for entry in (inspected.get("Config") or {}).get("Env") or []))


def built(listed: Iterable[Mapping[str, Any]]) -> list[Built]:
    """Read the engine's list (GET /images/json): one row for each name; what a later build replaced has none."""
    return sorted(
        (
            Built(name, str(each["Id"]), int(each.get("Size") or 0), _time(each.get("Created")))
            for each in listed
            for name in _named(each.get("RepoTags")) or _named(each.get("RepoDigests"))
        ),
        key=lambda row: row.reference,
    )


def _named(references: Iterable[str] | None) -> list[str]:
    return [each for each in references or () if "<none>" not in each]


def _time(seconds: object) -> str:
    return datetime.fromtimestamp(float(str(seconds or 0)), UTC).isoformat()
