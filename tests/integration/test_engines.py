"""An engine that is not like the machine's own: it maps uids (userns-remap) and has few addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import SOON, OtherEngine, load_image, other_engine
from tests.images import python_image

FEW_ADDRESSES = "--default-address-pool=base=10.213.0.0/23,size=24"


@pytest.fixture(scope="module")
def mapping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherEngine]:
    """An engine with userns-remap and our image, and with addresses for its own bridge and one more network."""
    tag = python_image()
    with other_engine(tmp_path_factory.mktemp("engine"), "--userns-remap=default", FEW_ADDRESSES) as engine:
        load_image(engine, tag)
        with engine.asked() as there:
            assert any("userns" in each for each in there.info()["SecurityOptions"])
        yield engine


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory that everyone may read and write, with a file in it."""
    project = tmp_path / "project"
    project.mkdir()
    project.chmod(0o777)
    (project / "data.txt").write_text("from the host")
    return project


@pytest.fixture
def policy(tmp_path: Path, project: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(f"version: 1\nsandbox:\n  mounts:\n    - {{source: {project}, mode: rw}}\n")
    file.chmod(0o600)
    return file


def test_an_isolated_sandbox_runs_where_the_engine_maps_uids(runtime: Path, mapping: OtherEngine) -> None:
    started = mapping.command("up", "mapped")
    assert started.returncode == 0, started.stderr
    try:
        looked = "import os; print(os.getuid(), *open('/proc/self/uid_map').read().split()[:2])"
        done = mapping.command("run", "mapped", "-c", looked)
        assert done.returncode == 0, done.stderr
        inside, first, outside = map(int, done.stdout.split())
        assert inside != 0
        assert first == 0
        assert outside >= 100_000
    finally:
        assert mapping.command("stop", "mapped").returncode == 0
    assert not list(runtime.iterdir())


def test_a_lost_gateway_comes_back_where_the_engine_maps_uids(runtime: Path, mapping: OtherEngine) -> None:
    assert mapping.command("up", "mapped").returncode == 0
    try:
        assert mapping.command("run", "mapped", "-c", "x = 41").returncode == 0
        with mapping.asked() as engine:
            (gateway,) = engine.containers.list(filters={"label": "io.kernel-bridge.role=gateway"})
            gateway.kill()
            gateway.wait(timeout=SOON)
        done = mapping.command("run", "mapped", "-c", "print(x + 1)")
        assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    finally:
        mapping.command("stop", "mapped")


def test_network_none_is_refused_with_the_reason_where_the_engine_maps_uids(
    runtime: Path, mapping: OtherEngine
) -> None:
    done = mapping.command("up", "mapped", "--network", "none")
    assert done.returncode == 2
    assert "maps the uids of its containers (userns-remap)" in done.stderr
    assert "Use network isolated" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_workspace_is_read_and_never_written_where_the_engine_maps_uids(
    runtime: Path, mapping: OtherEngine, project: Path, policy: Path
) -> None:
    asked = ["--workspace", str(project), "--policy", str(policy)]
    refused = mapping.command("up", "mapped", "--rw", *asked)
    assert refused.returncode == 2
    assert "cannot be given for writing" in refused.stderr
    started = mapping.command("up", "mapped", *asked)
    assert started.returncode == 0, started.stderr
    try:
        done = mapping.command("run", "mapped", "-c", "print(open('data.txt').read()); open('new.txt', 'w')")
        assert done.stdout == "from the host\n"
        assert done.returncode == 1
        assert "Read-only file system" in done.stderr
    finally:
        mapping.command("stop", "mapped")
    project.chmod(0o770)
    closed = mapping.command("up", "mapped", *asked)
    assert closed.returncode == 3
    assert "closed to others" in closed.stderr
    assert [each.name for each in project.iterdir()] == ["data.txt"]


@pytest.fixture
def opened(tmp_path: Path) -> list[str]:
    file = tmp_path / "open.yaml"
    file.write_text("version: 1\nsandbox:\n  network: open\n")
    file.chmod(0o600)
    return ["--policy", str(file)]


def everything(engine: OtherEngine) -> list[str]:
    with engine.asked() as there:
        found: tuple[Any, ...] = (*there.containers.list(all=True), *there.volumes.list(), *there.networks.list())
        return sorted(str(each.name) for each in found)


def test_where_the_engine_has_no_addresses_left_an_open_sandbox_is_refused_with_what_to_do_and_nothing_is_left(
    runtime: Path, mapping: OtherEngine, opened: list[str]
) -> None:
    started = mapping.command("up", "first", *opened)
    assert started.returncode == 0, started.stderr
    try:
        devices = "print(*(each.split(':')[0].strip() for each in open('/proc/net/dev').read().splitlines()[2:]))"
        done = mapping.command("run", "first", "-c", devices)
        assert (done.returncode, done.stdout) == (0, "lo eth0\n"), done.stderr
        before = everything(mapping)
        refused = mapping.command("up", "second", *opened)
        assert refused.returncode == 3
        assert refused.stdout == ""
        for words in (
            "Sandbox second was not started",
            "no addresses left for one (4 networks are there, 1 of sandboxes)",
            "docker network prune",
            "default-address-pools",
            "network isolated",
        ):
            assert words in refused.stderr
        assert "Traceback" not in refused.stderr
        assert everything(mapping) == before
        assert [each.name for each in runtime.iterdir()] == ["kernel-bridge-first.json"]
        # what needs no network of its own starts all the same
        assert mapping.command("up", "second", "--network", "isolated", *opened).returncode == 0
        assert mapping.command("stop", "second").returncode == 0
    finally:
        assert mapping.command("stop", "first").returncode == 0
    again = mapping.command("up", "second", *opened)
    assert again.returncode == 0, again.stderr
    assert mapping.command("stop", "second").returncode == 0


def test_nothing_is_left_in_an_engine_that_maps_uids(mapping: OtherEngine) -> None:
    with mapping.asked() as there:
        assert there.containers.list(all=True) == []
        assert there.volumes.list() == []
        assert sorted(str(each.name) for each in there.networks.list()) == ["bridge", "host", "none"]
