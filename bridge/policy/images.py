"""Image references: taken apart, brought to the engine's full form, compared field by field.

The one rule: there is no pattern over a whole reference. A pattern lets `python:5000/evil/image` (a registry's host) or
`python:3.13@sha256:<anything>` through; here registry, repository, tag and digest are each compared exactly, and `*`
means "any tag" and nothing else. The grammar is that of
https://pkg.go.dev/github.com/distribution/reference, without what has two meanings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

ANY_TAG = "*"

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_REGISTRY = re.compile(
    r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*(?::[1-9][0-9]{0,4})?",
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{6,64}")
_HUB = frozenset({"docker.io", "index.docker.io"})
_MAX_NAME = 255  # of registry and repository together; the engine's own limit
_HOW = "write NAME:TAG or NAME@sha256:DIGEST, like kernel-bridge/python:3.13"


class Rule(Protocol):
    """What one entry of a policy's `images` says."""

    @property
    def repository(self) -> str:
        """A name without tag or digest."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags in full, or `*` alone."""
        ...

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests in full."""
        ...


@dataclass(frozen=True)
class Reference:
    """One image, in full: exactly one of `tag` and `digest` is there."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Registry and repository, e.g. `docker.io/library/python`."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse(text: str) -> Reference:
    """`python:3.13` → docker.io/library/python:3.13. ValueError, with a sentence, for what has no one meaning."""
    short = text[:80]
    if _HEX.fullmatch(text) or text.startswith("sha256:"):
        raise ValueError(f"{short!r} looks like an image id, which a tag can imitate; {_HOW}")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError(f"{short!r} has a digest that is not 'sha256:' and 64 hexadecimal digits; {_HOW}")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise ValueError(f"{short!r} has a tag that is not valid; {_HOW}")
    if at and colon:
        raise ValueError(f"{short!r} has both a tag and a digest, and the engine ignores the tag; leave the tag out")
    if not at and not colon:
        raise ValueError(f"{short!r} has no tag, and none is implied; {_HOW}")
    registry, repository = parse_name(f"{head}{slash}{last}")
    return Reference(registry, repository, tag=tag or None, digest=digest or None)


def parse_name(text: str) -> tuple[str, str]:
    """A name without tag and digest → registry and repository in full. ValueError, with a sentence."""
    short = text[:80]
    if text != text.lower():
        raise ValueError(f"{short!r} has upper-case letters, which image names do not have; write it in lower case")
    first, slash, rest = text.partition("/")
    # the engine's own rule for telling a registry from the first part of a repository
    has_registry = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    registry, repository = (first, rest) if has_registry else ("docker.io", text)
    if not _REGISTRY.fullmatch(registry) or not all(_COMPONENT.fullmatch(part) for part in repository.split("/")):
        raise ValueError(
            f"{short!r} is not an image's name; write REPOSITORY or REGISTRY/REPOSITORY in the letters a-z, "
            "digits and single . _ - between them, like kernel-bridge/python"
        )
    if registry in _HUB:
        registry = "docker.io"
        repository = repository if "/" in repository else f"library/{repository}"
    if len(registry) + 1 + len(repository) > _MAX_NAME:
        raise ValueError(f"{short!r}… is longer than {_MAX_NAME} characters, the engine's limit for a name")
    return registry, repository


def full_name(repository: str) -> str:
    """`kernel-bridge/python` → `docker.io/kernel-bridge/python`. ValueError as `parse_name`."""
    return "/".join(parse_name(repository))


def check_tag(text: str) -> str:
    """A tag as a rule may hold it. ValueError, with a sentence."""
    if text != ANY_TAG and not _TAG.fullmatch(text):
        raise ValueError(f'{text[:80]!r} is not a tag; write it in full, like "3.13", or "*" alone for any tag')
    return text


def check_digest(text: str) -> str:
    """A digest as a rule may hold it. ValueError, with a sentence."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a digest; write 'sha256:' and 64 hexadecimal digits in lower case")
    return text


def allows(rules: Iterable[Rule], reference: Reference) -> bool:
    """Whether some rule names this repository and this tag, or this digest. A tag rule never admits a digest."""
    for rule in rules:
        if full_name(rule.repository) != reference.name:
            continue
        if reference.digest:
            if reference.digest in rule.digests:
                return True
        elif reference.tag in rule.tags or ANY_TAG in rule.tags:
            return True
    return False


def describe(rules: Iterable[Rule]) -> str:
    """What a policy's images allow, in one line."""
    parts: list[str] = []
    for rule in rules:
        parts += [
            f"{rule.repository} with any tag" if tag == ANY_TAG else f"{rule.repository}:{tag}" for tag in rule.tags
        ]
        parts += [f"{rule.repository}@{digest}" for digest in rule.digests]
    return ", ".join(parts)
