"""Image references are compared field by field after normalisation, so that nothing only looks allowed."""

from __future__ import annotations

import re

import pytest

from bridge.policy import ImageRule
from bridge.policy.images import allows, describe, full_name, parse

PIN = "sha256:" + "3f" * 32
OTHER = "sha256:" + "a1" * 32

RULES = (
    ImageRule(repository="python", tags=("3.12", "3.13")),
    ImageRule(repository="kernel-bridge/python", tags=("*",)),
    ImageRule(repository="ghcr.io/me/kernel", digests=(PIN,)),
    ImageRule(repository="registry.example.org:5000/team/kernel", tags=("1",), digests=(PIN,)),
)


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("python:3.13", "docker.io/library/python:3.13"),
        ("library/python:3.13", "docker.io/library/python:3.13"),
        ("docker.io/python:3.13", "docker.io/library/python:3.13"),
        ("docker.io/library/python:3.13", "docker.io/library/python:3.13"),
        ("index.docker.io/python:3.13", "docker.io/library/python:3.13"),
        ("kernel-bridge/python:3.13", "docker.io/kernel-bridge/python:3.13"),
        ("localhost/python:3.13", "localhost/python:3.13"),
        ("python:5000/evil/image:1", "python:5000/evil/image:1"),
        (f"ghcr.io/me/kernel@{PIN}", f"ghcr.io/me/kernel@{PIN}"),
        ("a/b_c.d-e__f:Tag_1.2-x", "docker.io/a/b_c.d-e__f:Tag_1.2-x"),
    ],
)
def test_a_reference_gets_the_full_form_that_the_engine_gives_it(written: str, full: str) -> None:
    assert str(parse(written)) == full
    assert str(parse(full)) == full


@pytest.mark.parametrize(
    ("written", "fragment"),
    [
        ("python", "has no tag, and none is implied"),
        ("ghcr.io:443/python", "has no tag"),
        ("a12bc557f32d", "looks like an image id"),
        ("3f" * 32, "looks like an image id"),
        (PIN, "looks like an image id"),
        ("Python:3.13", "upper-case letters"),
        ("GHCR.io/me/kernel:1", "upper-case letters"),
        ("pythоn:3.13", "is not an image's name"),  # noqa: RUF001 - the o is Cyrillic, which is the point
        (f"python:3.12@{PIN}", "both a tag and a digest"),
        ("python@sha256:abcd", "a digest that is not"),
        (f"python@sha512:{'a' * 128}", "a digest that is not"),
        (f"python@{PIN.upper()}", "a digest that is not"),
        (f"python@{PIN}@{PIN}", "a digest that is not"),
        ("python:", "a tag that is not valid"),
        ("python:*", "a tag that is not valid"),
        ("python:3.13\n", "a tag that is not valid"),
        ("python: 3.13", "a tag that is not valid"),
        ("python:" + "1" * 129, "a tag that is not valid"),
        ("python:latest/../x", "has no tag"),
        ("k/../../containers/x:1", "is not an image's name"),
        ("../volumes/x:1", "is not an image's name"),
        ("/python:1", "is not an image's name"),
        ("a//b:1", "is not an image's name"),
        ("a/b/:1", "is not an image's name"),
        ("-a/b:1", "is not an image's name"),
        ("a/b..c:1", "is not an image's name"),
        ("a/*:1", "is not an image's name"),
        ("http://ghcr.io/me/kernel:1", "is not an image's name"),
        ("user@ghcr.io/me/kernel:1", "a digest that is not"),
        ("[::1]:5000/a:1", "is not an image's name"),
        ("", "has no tag"),
        (" python:3.13", "is not an image's name"),
        ("a/" + "b" * 255 + ":1", "longer than 255"),
    ],
)
def test_a_reference_with_no_one_meaning_is_refused(written: str, fragment: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fragment)):
        parse(written)


@pytest.mark.parametrize(
    "written",
    [
        "python:3.13",
        "index.docker.io/library/python:3.12",
        "kernel-bridge/python:anything",
        f"ghcr.io/me/kernel@{PIN}",
        "registry.example.org:5000/team/kernel:1",
        f"registry.example.org:5000/team/kernel@{PIN}",
    ],
)
def test_what_a_rule_names_is_allowed_in_every_form(written: str) -> None:
    assert allows(RULES, parse(written))


@pytest.mark.parametrize(
    "written",
    [
        "evil.io/python:3.12",
        "python:5000/evil/img:3.12",
        "python-evil:3.12",
        "evil/python:3.12",
        "python:3.14",
        f"python@{PIN}",
        f"kernel-bridge/python@{PIN}",
        "kernel-bridge/python-evil:1",
        "evil/kernel-bridge/python:1",
        "ghcr.io/kernel-bridge/python:1",
        "docker.io.evil.com/kernel-bridge/python:1",
        "docker.io:443/kernel-bridge/python:1",
        "mirror.docker.io/kernel-bridge/python:1",
        "localhost/kernel-bridge/python:1",
        "ghcr.io/me/kernel:1",
        f"ghcr.io/me/kernel@{OTHER}",
        f"ghcr.io/me/kernel/evil@{PIN}",
        f"ghcr.io/me-evil/kernel@{PIN}",
        "registry.example.org/team/kernel:1",
        "registry.example.org:5001/team/kernel:1",
        "registry.example.org.evil.com:5000/team/kernel:1",
    ],
)
def test_what_only_looks_like_a_rule_is_not_allowed(written: str) -> None:
    assert not allows(RULES, parse(written))


def test_names_of_one_repository_are_equal_in_full() -> None:
    assert full_name("python") == full_name("docker.io/library/python") == full_name("index.docker.io/python")
    assert full_name("docker.io.evil.com/library/python") != full_name("python")


def test_what_is_allowed_is_described_in_one_line() -> None:
    described = describe(RULES)
    assert "python:3.12, python:3.13, kernel-bridge/python with any tag" in described
    assert f"ghcr.io/me/kernel@{PIN}" in described
