"""What is in the built image, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import docker
import pytest

from bridge.launchers.docker import build as building

Lab = Any  # the fixtures' classes are in conftest.py, which is not to be imported


def test_the_image_has_its_label_and_nothing_that_would_get_in_the_way(engine: docker.DockerClient, image: str) -> None:
    config = engine.images.get(image).attrs["Config"]
    assert config["Labels"]["io.kernel-bridge.image"] == "4"
    assert not config.get("Volumes")
    assert not config.get("Entrypoint")
    assert not config.get("ExposedPorts")
    assert not config.get("Healthcheck")
    assert not config.get("OnBuild")
    assert not [entry for entry in config["Env"] if entry.startswith(("LD_", "PIP_", "SSL_", "HTTP"))]
    assert int(config["User"].split(":")[0]) > 0


def test_the_way_to_the_package_index_left_no_trace(engine: docker.DockerClient, image: str, lab: Lab) -> None:
    told = json.dumps([engine.images.get(image).history(), engine.images.get(image).attrs])
    for variable in building.CA_VARIABLES:
        assert variable not in told.replace("PIP_CERT=/run/secrets/ca_bundle", "")
    find = (
        "find / -xdev \\( -path /proc -o -path /sys \\) -prune -o "
        "\\( -name 'pip.conf' -o -path '/run/secrets*' -o -name 'ca_bundle' -o -path '*/.cache/pip*' \\) -print"
    )
    container = lab.container(["sh", "-c", f"{find} 2>/dev/null; /opt/kernel/bin/pip config list"])
    container.start()
    container.wait(timeout=30)
    # the one that is there is ours, and holds versions and no place
    own = [
        "/opt/kernel/pip.conf",
        "global.constraint='/opt/kernel/constraints.txt'",
        "global.disable-pip-version-check='true'",
        "global.no-cache-dir='true'",
    ]
    assert container.logs(stdout=True, stderr=False).decode().splitlines() == own


@pytest.mark.parametrize("user", ["", "0:0", "54321:54321"], ids=["the image's own", "root", "an unknown one"])
def test_the_kernels_programs_start_as_any_user_on_a_read_only_root(lab: Lab, user: str) -> None:
    command = [
        "/opt/kernel/bin/python",
        "-c",
        "import ipykernel.kernelapp, debugpy, pip; print('ok')",
    ]
    container = lab.container(command, user=user)
    container.start()
    assert container.wait(timeout=30)["StatusCode"] == 0, container.logs()
    assert container.logs(stdout=True, stderr=False) == b"ok\n"


def test_the_lock_names_every_package_by_hash_and_no_place_to_get_it_from() -> None:
    lock = (building.images_directory() / "python" / "requirements.lock").read_text(encoding="utf-8")
    packages = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert packages
    assert all("==" in line and line.endswith("\\") for line in packages)
    assert lock.count("--hash=sha256:") >= len(packages)
    assert not [word for word in ("://", "--index", "--find-links", str(Path.home())) if word in lock]
