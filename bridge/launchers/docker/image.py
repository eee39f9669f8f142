"""Which image: from a reference that the policy allowed to the id that is started.

The one rule: a reference is resolved once, what is checked is the image of that id, and a start never pulls or builds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bridge.errors import ImageNotFound, LaunchError
from bridge.launchers.docker import owner

OURS = "docker.io/kernel-bridge/"
HOW_TO_BUILD_ON_OURS = r"`FROM kernel-bridge/python:3.13\nRUN pip install --no-cache-dir PACKAGES`"
"""Two lines, written as one."""


@dataclass(frozen=True)
class Built:
    """An image with our label, as the engine lists it."""

    reference: str
    """With its tag."""
    id: str
    bytes: int
    created: str
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class Image:
    """An image that may be started."""

    id: str
    environment: tuple[str, ...]
    """The names that its ENV sets."""


def missing(reference: str) -> ImageNotFound:
    """Return the error that says what to type; `reference` is in its full form."""
    short = reference.removeprefix("docker.io/").removeprefix("library/")
    how = "kernel-bridge image build" if reference.startswith(OURS) else f"docker pull {short}"
    return ImageNotFound(
        f"The engine has no image {short}. Nothing was started, because a start never pulls or builds. Type: {how}"
    )


def checked(reference: str, inspected: Mapping[str, Any]) -> Image:
    """Return the image behind an inspect (GET /images/{name}/json); raises `LaunchError` where it must not run."""
    config = inspected.get("Config") or {}
    environment = names(inspected)
    problems = []
    if (config.get("Labels") or {}).get(owner.IMAGE) != "1":
        problems.append(
            f"it has no label {owner.IMAGE}=1, so there is no supervisor of ours in it (build one on ours, with this "
            f"Dockerfile: {HOW_TO_BUILD_ON_OURS}; or `kernel-bridge image build --requirements FILE`)"
        )
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
        raise LaunchError(f"The image {reference} cannot be started as a sandbox: {'; '.join(problems)}.")
    return Image(str(inspected["Id"]), environment)


def names(inspected: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that the image's ENV sets."""
    return tuple(dict.fromkeys(entry.partition("=")[0] for entry in (inspected.get("Config") or {}).get("Env") or []))


def built(listed: Iterable[Mapping[str, Any]]) -> list[Built]:
    """Read the engine's list (GET /images/json): one row for each tag."""
    return sorted(
        (
            Built(tag, str(each["Id"]), int(each.get("Size") or 0), _time(each.get("Created")))
            for each in listed
            for tag in each.get("RepoTags") or ()
            if tag != "<none>:<none>"
        ),
        key=lambda row: row.reference,
    )


def _time(seconds: object) -> str:
    return datetime.fromtimestamp(float(str(seconds or 0)), UTC).isoformat()
