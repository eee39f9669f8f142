"""The kernel of a docker compose project: what is made before it starts, and whose it is."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from bridge.connection import load
from bridge.errors import BridgeError
from bridge.launchers.docker import composed, connections
from bridge.launchers.docker.composed import Volumes, write_files
from tests.images import program

PORTS = (21701, 21702, 21703, 21704, 21705)
KERNEL = 199_999


@pytest.fixture(scope="module")
def keys() -> ModuleType:
    return program("keys")


@dataclass(frozen=True)
class Places:
    """The project's directory and the volumes, as the two steps in compose.yaml see them."""

    keys: ModuleType
    project: Path
    volumes: Volumes

    def make(self, name: str = "lab", ports: tuple[int, ...] = PORTS) -> Path:
        """Do both steps; returns the directory on the host, without the way that the second took to it."""
        self.keys.make(self.volumes.keys, self.volumes.tokens, name, os.geteuid())
        return write_files(self.project, self.volumes, name, ports, KERNEL)


@pytest.fixture
def places(tmp_path: Path, keys: ModuleType) -> Places:
    made = Places(keys, tmp_path / "project", Volumes(tmp_path / "keys", tmp_path / "tokens"))
    for each in (made.project, made.volumes.keys, made.volumes.tokens):
        each.mkdir()
    return made


def modes(directory: Path) -> Iterator[tuple[str, int]]:
    for each in sorted(directory.rglob("*")):
        yield each.relative_to(directory).as_posix(), stat.S_IMODE(each.stat().st_mode)


def test_supervisor_containers_and_host_get_one_key_each_with_its_own_address(places: Places) -> None:
    directory = places.make()
    assert directory == places.project / ".kernel-bridge"
    host, dev = load(directory / "kernel-bridge-lab.json"), load(directory / "beside" / "lab.json")
    beside = load(places.volumes.keys / "beside" / "lab.json")
    orders = (places.volumes.keys / "orders.json").read_bytes()
    assert {dev.key, beside.key} == {host.key}
    assert (host.ip, host.shell_port, host.hb_port) == ("127.0.0.1", 21701, 21705)
    assert (dev.ip, dev.shell_port, dev.hb_port) == ("127.0.0.1", 5001, 5005)
    # as the launcher tells it
    assert json.loads(orders) == json.loads(connections.orders(host.key, ()))
    assert orders.endswith(b"\n")
    assert beside == connections.over_sockets(host.key, Path("/run/kernel-bridge"))
    token = (places.volumes.tokens / "token").read_text()
    assert token == (directory / "token").read_text() != host.key
    assert host.supervised


def test_what_is_made_is_for_its_reader_only(places: Places) -> None:
    directory = places.make()
    made = {**dict(modes(places.volumes.keys)), **dict(modes(places.volumes.tokens)), **dict(modes(directory))}
    assert {mode for name, mode in made.items() if name != "beside"} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == stat.S_IMODE((directory / "beside").stat().st_mode) == 0o700


def test_made_again_it_keeps_key_and_token_and_forgets_an_earlier_name(places: Places) -> None:
    directory = places.make("before")
    key, token = load(directory / "kernel-bridge-before.json").key, (directory / "token").read_text()
    places.make("after", (1, 2, 3, 4, 5))
    again = load(directory / "kernel-bridge-after.json")
    assert (again.key, again.shell_port, (directory / "token").read_text()) == (key, 1, token)
    left = [each.name for place in (places.volumes.keys, directory) for each in place.rglob("*before*")]
    assert left == []


def test_a_secret_that_was_cut_short_is_drawn_anew(places: Places) -> None:
    (places.volumes.keys / "secret").write_text("*\n")
    assert len(load(places.make() / "kernel-bridge-lab.json").key) == 64


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("Lab", "7", "2"), "KERNEL_NAME"),
        (("../lab", "7", "2"), "KERNEL_NAME"),
        (("lab", "0", "2"), "KERNEL_UID"),
        (("lab", "me", "2"), "KERNEL_UID"),
        (("lab", "7", "1.5"), "whole number"),
        (("lab", "7", "0"), "whole number"),
    ],
)
def test_a_wrong_line_of_env_is_told(keys: ModuleType, arguments: tuple[str, ...], told: str) -> None:
    assert told in (keys.problem(*arguments) or "")
    assert keys.problem("lab", "7", "2") is None


@pytest.mark.parametrize("kind", ["file", "link to a directory", "link to nowhere", "somebody else's", "link below"])
def test_a_place_that_is_not_the_owners_alone_is_refused_and_nothing_is_written_elsewhere(
    places: Places, tmp_path: Path, kind: str
) -> None:
    place, elsewhere = places.project / ".kernel-bridge", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "file":
        place.write_text("not a directory")
    elif kind == "link to a directory":
        place.symlink_to(elsewhere)
    elif kind == "link to nowhere":
        place.symlink_to(tmp_path / "nowhere")
    elif kind == "somebody else's":
        place.mkdir()
        os.chown(place, 4321, 4321)
    else:
        place.mkdir()
        (place / "beside").symlink_to(elsewhere)
    with pytest.raises(BridgeError, match="Remove it"):
        places.make()
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "nowhere").exists()


def test_files_in_the_place_of_ours_are_replaced_and_no_link_is_followed(places: Places, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    place = places.project / ".kernel-bridge"
    place.mkdir(mode=0o755)
    for name in (".gitignore", "token", "kernel-bridge-lab.json"):
        (place / name).symlink_to(precious)
    places.make()
    assert precious.read_text() == "kept"
    assert (place / ".gitignore").read_text() == "*\n"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_kernel_that_would_run_as_the_projects_owner_is_refused(places: Places) -> None:
    os.chown(places.project, KERNEL, KERNEL)
    with pytest.raises(BridgeError, match="KERNEL_UID"):
        places.make()


def test_a_connection_file_is_ours_where_it_is_a_file_of_our_own(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(file)
    labels = {"io.kernel-bridge.owner": composed.current_owner()}
    assert composed.is_ours(labels, file)
    assert not composed.is_ours(labels, link)
    assert not composed.is_ours(labels, tmp_path)
    assert not composed.is_ours(labels, tmp_path / "missing")
    os.chown(file, 4321, 4321)
    assert not composed.is_ours(labels, file)


def test_projects_of_people_or_jobs_that_share_a_uid_stay_apart(tmp_path: Path) -> None:
    alone, job = composed.current_owner({}), composed.current_owner({"KERNEL_BRIDGE_OWNER": "job-7"})
    assert (alone, job) == ("compose", "compose-job-7")
    (tmp_path / "file").touch()
    for each in (alone, job):
        assert composed.is_composed({"io.kernel-bridge.owner": each})
        assert not composed.is_ours({"io.kernel-bridge.owner": each}, tmp_path / "file")  # this run has another one
    assert not composed.is_composed({"io.kernel-bridge.owner": "0123456789abcdef"})
