"""Which images may be started, and what to type where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.errors import ImageNotFound, LaunchError
from bridge.launchers.docker import image

GOOD = {"Labels": {"io.kernel-bridge.image": "4"}, "Env": ["PATH=/bin", "LANG=C", "PATH=/usr/bin"], "Volumes": None}


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


@pytest.mark.parametrize("mark", ["1", "2", "3"])
def test_an_image_of_an_earlier_version_says_that_it_must_be_built_again(mark: str) -> None:
    with pytest.raises(LaunchError, match=r"earlier kernel-bridge.* Type: kernel-bridge image build$"):
        image.checked("docker.io/kernel-bridge/python:3.13", inspected(Labels={"io.kernel-bridge.image": mark}))


def test_all_that_is_wrong_with_an_image_is_told_at_once() -> None:
    with pytest.raises(LaunchError, match=r"label.*volumes.*LD_AUDIT"):
        image.checked("docker.io/library/x:1", inspected(Labels={}, Volumes={"/v": {}}, Env=["LD_AUDIT=x"]))


@pytest.mark.parametrize(
    ("reference", "how"),
    [
        ("docker.io/kernel-bridge/python:3.13", "kernel-bridge image build"),
        ("docker.io/kernel-bridge/scipy:3.13", "kernel-bridge image build scipy"),
        (
            "docker.io/kernel-bridge/python:3.13-mine",
            "kernel-bridge image build --requirements FILE --tag kernel-bridge/python:3.13-mine",
        ),
        ("docker.io/library/python:3.13", "docker pull python:3.13"),
        ("registry.example.org/team/kernel:1", "docker pull registry.example.org/team/kernel:1"),
    ],
)
def test_a_missing_image_says_what_to_type(reference: str, how: str) -> None:
    error = image.missing(reference)
    assert isinstance(error, ImageNotFound)
    assert str(error).endswith(f"Type: {how}")


def test_an_image_of_others_is_refused_with_a_dockerfile_that_is_the_documented_one() -> None:
    with pytest.raises(LaunchError) as raised:
        image.checked("docker.io/library/x:1", inspected(Labels={}))
    assert image.DOCKERFILE.strip() in str(raised.value)
    readme = Path(__file__).parents[4] / "images" / "README.md"
    assert f"```dockerfile\n{image.DOCKERFILE}```" in readme.read_text()
    with pytest.raises(LaunchError) as raised:
        image.checked("docker.io/kernel-bridge/python:mine", inspected(Volumes={"/v": {}}))
    assert "FROM" not in str(raised.value)


@pytest.mark.parametrize(
    "said",
    [
        'exec: "/opt/kernel/bin/python": stat /opt/kernel/bin/python: no such file or directory: unknown',
        "python: can't open file '/opt/kernel-bridge/supervisor.py': [Errno 2] No such file or directory",
    ],
)
def test_an_image_with_our_label_and_without_our_programs_is_told_from_other_failures(said: str) -> None:
    assert "has the label io.kernel-bridge.image=4, but not the programs" in str(image.incomplete("x", said))
    assert image.incomplete("x", said.replace("/opt/kernel", "/opt/else")) is None
    assert image.incomplete("x", "port is already allocated") is None
