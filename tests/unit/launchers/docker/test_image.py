"""Which images may be started, and what to type where there is none."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.errors import ImageNotFound, LaunchError
from bridge.launchers.docker import image

GOOD = {"Labels": {"io.kernel-bridge.image": "1"}, "Env": ["PATH=/bin", "LANG=C", "PATH=/usr/bin"], "Volumes": None}


def inspected(**changes: Any) -> dict[str, Any]:
    return {"Id": "sha256:" + "ab" * 32, "Config": {**GOOD, **changes}}


def test_an_image_of_ours_is_named_by_its_id_and_its_variables_are_known() -> None:
    found = image.checked("docker.io/kernel-bridge/python:3.13", inspected())
    assert found.id == "sha256:" + "ab" * 32
    assert found.environment == ("PATH", "LANG")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"Labels": None}, "label"),
        ({"Labels": {"io.kernel-bridge.image": "yes"}}, "label"),
        ({"Volumes": {"/data": {}}}, "/data"),
        ({"Env": ["LD_PRELOAD=/evil.so"]}, "LD_PRELOAD"),
    ],
)
def test_an_image_that_could_say_more_than_it_may_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(LaunchError, match=word):
        image.checked("docker.io/kernel-bridge/python:3.13", inspected(**changes))


def test_all_that_is_wrong_with_an_image_is_told_at_once() -> None:
    with pytest.raises(LaunchError, match=r"label.*volumes.*LD_AUDIT"):
        image.checked("docker.io/library/x:1", inspected(Labels={}, Volumes={"/v": {}}, Env=["LD_AUDIT=x"]))


@pytest.mark.parametrize(
    ("reference", "how"),
    [
        ("docker.io/kernel-bridge/python:3.13", "kernel-bridge image build"),
        ("docker.io/library/python:3.13", "docker pull python:3.13"),
        ("registry.example.org/team/kernel:1", "docker pull registry.example.org/team/kernel:1"),
    ],
)
def test_a_missing_image_says_what_to_type(reference: str, how: str) -> None:
    error = image.missing(reference)
    assert isinstance(error, ImageNotFound)
    assert str(error).endswith(f"Type: {how}")
