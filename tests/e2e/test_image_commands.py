"""Images from the shell: the person's own packages, data science, and what there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from bridge.launchers.docker import build as building

ROOT = Path(__file__).parents[2]
# the first build fetches packages; the engine keeps the layers of all later ones
BUILD = 600.0
TAG = "kernel-bridge/python:3.13-test-own-packages"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=60)
    yield client
    for tag in (TAG, "kernel-bridge/python:3.13-test-two-lines", "kernel-bridge/python:3.13-test-foreign"):
        for each in client.images.list(name=tag):
            client.images.remove(each.tags[0], force=True)
    client.close()


def packages_of(command: Any, image: str, name: str, code: str) -> Any:
    started = command("up", name, "--image", image)
    assert started.returncode == 0, started.stderr
    try:
        return command("run", name, "-c", code)
    finally:
        command("stop", name)


def test_a_requirements_file_becomes_an_image_that_a_sandbox_runs(
    command: Any, engine: docker.DockerClient, tmp_path: Path, runtime: Path
) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# small, and in no image of ours\ntabulate==0.9.0\n")
    built = command("image", "build", "--requirements", str(file), "--tag", TAG, timeout=BUILD)
    assert built.returncode == 0, built.stderr
    assert built.stdout == f"{TAG}\n"
    assert f"kernel-bridge up --image {TAG}" in built.stderr
    code = "import tabulate, ipykernel; print(tabulate.tabulate([[6 * 7]], tablefmt='plain'))"
    assert packages_of(command, TAG, "own", code).stdout == "42\n"
    told = json.dumps([engine.images.get(TAG).history(), engine.images.get(TAG).attrs])
    assert "tmp/kernel-bridge-image-" not in told
    listed = json.loads(command("image", "ls", "--json").stdout)
    row = next(each for each in listed["images"] if each["reference"] == TAG)
    assert row["allowed"] is True
    assert row["bytes"] > 10**8
    assert f"{TAG}" in command("image", "ls").stdout


def test_packages_that_the_kernels_own_versions_do_not_allow_are_refused_in_pips_words(
    command: Any, tmp_path: Path
) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("ipykernel==6.29.5\n")
    built = command("image", "build", "--requirements", str(file), "--tag", TAG, timeout=BUILD)
    assert built.returncode == 3
    assert built.stdout == ""
    assert "was not built" in built.stderr
    assert "ipykernel" in built.stderr
    assert "Traceback" not in built.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nope"], "There is no image 'nope'; there is: python, scipy"),
        (["python", "--requirements", "{file}"], "either NAME or --requirements"),
        (["--tag", "x"], "go with --requirements"),
        (["--requirements", "{file}", "--tag", "Not A Tag"], "--tag"),
        (["--requirements", "{file}", "--tag", "index.docker.io/kernel-bridge/python:3.13"], "others are built on"),
        (["--requirements", "/nonexistent/requirements.txt"], "does not exist"),
    ],
)
def test_what_cannot_be_built_is_told_before_anything_is(
    command: Any, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("numpy\n")
    done = command("image", "build", *(each.format(file=file) for each in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert sentence in done.stderr


def two_lines() -> str:
    """Return the Dockerfile that images/README.md shows."""
    found = re.search(r"```dockerfile\n(.*?)```", (ROOT / "images" / "README.md").read_text(), re.DOTALL)
    assert found
    lines = found[1].strip().splitlines()
    assert len(lines) == 2
    return found[1]


def build_by_hand(tag: str, dockerfile: str, folder: Path) -> None:
    (folder / "Dockerfile").write_text(dockerfile)
    subprocess.run(
        [building._builder(os.environ), "build", f"--tag={tag}", str(folder)],
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        check=True,
        capture_output=True,
        timeout=BUILD,
    )


def test_the_two_lines_of_the_documentation_make_an_image_that_a_sandbox_runs(
    command: Any, engine: docker.DockerClient, tmp_path: Path, runtime: Path
) -> None:
    tag = "kernel-bridge/python:3.13-test-two-lines"
    # a package of the test's own, so that the build needs no index and none of the secrets on the way there
    wheel = "two_lines-1-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / wheel, "w") as made:
        made.writestr("two_lines.py", "answer = 42\n")
        made.writestr("two_lines-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: two-lines\nVersion: 1\n")
        made.writestr("two_lines-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr("two_lines-1.dist-info/RECORD", "")
    first, second = two_lines().splitlines()
    assert second.startswith("RUN pip install ")
    install = second.replace("RUN ", "RUN --mount=type=bind,target=/src ").replace("numpy pandas", f"/src/{wheel}")
    build_by_hand(tag, f"{first}\n{install}\n", tmp_path)
    done = packages_of(command, tag, "two", "import two_lines, os; print(two_lines.answer, os.getuid() > 0)")
    assert done.stdout == "42 True\n"


def test_two_lines_cannot_change_what_the_kernel_runs_on_without_a_word(
    engine: docker.DockerClient, tmp_path: Path
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        # no index is needed to see that it is not allowed
        build_by_hand(
            "kernel-bridge/python:3.13-test-two-lines",
            "FROM kernel-bridge/python:3.13\nRUN pip install --no-index 'ipykernel<7'\n",
            tmp_path,
        )
    assert "ipykernel" in failed.value.stderr.decode()
    assert "constraint" in failed.value.stderr.decode()


def test_an_image_without_our_supervisor_is_refused_with_the_dockerfile_to_write(
    command: Any, engine: docker.DockerClient, tmp_path: Path
) -> None:
    tag = "kernel-bridge/python:3.13-test-foreign"
    build_by_hand(tag, "FROM scratch\nCOPY Dockerfile /\n", tmp_path)
    refused = command("up", "foreign", "--image", tag)
    assert refused.returncode == 3
    assert "FROM kernel-bridge/python:3.13" in refused.stderr
    assert "RUN pip install" in refused.stderr


def test_the_image_for_data_science_draws_a_plot_in_a_sandbox(
    command: Any, engine: docker.DockerClient, runtime: Path
) -> None:
    built = command("image", "build", "scipy", timeout=BUILD)
    assert (built.returncode, built.stdout) == (0, "kernel-bridge/scipy:3.13\n"), built.stderr
    code = (
        "import numpy as np, pandas as pd, matplotlib.pyplot as plt\n"
        "frame = pd.DataFrame({'x': np.arange(3)}); print(int(frame.x.sum()))\n"
        "figure, axes = plt.subplots(); axes.plot(frame.x); figure.savefig('plot.png')\n"
        "print(open('plot.png', 'rb').read(8))"
    )
    done = packages_of(command, "kernel-bridge/scipy:3.13", "science", code)
    # the figure itself is shown too, by its text form, as in a notebook
    assert done.stdout.startswith("3\nb'\\x89PNG\\r\\n\\x1a\\n'\n<Figure"), done.stderr
