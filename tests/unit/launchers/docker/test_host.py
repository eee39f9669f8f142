"""Which engine is used, without connecting to any."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.errors import EngineUnavailable
from bridge.launchers.docker import host


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Make sockets that somebody listens on, as an engine would."""
    made = []

    def listen_at(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.append(listener := socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        return path

    yield listen_at
    for each in made:
        each.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def write_context(home: Path, name: str, endpoint: str) -> None:
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker" / "config.json").write_text(json.dumps({"currentContext": name}))
    meta = home / ".docker" / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": endpoint}}}))


def test_what_is_given_goes_before_the_environment_and_that_before_the_context(home: Path) -> None:
    write_context(home, "colima", "unix:///context.sock")
    environ = {
        "HOME": str(home),
        "DOCKER_HOST": "unix:///docker.sock",
        "KERNEL_BRIDGE_DOCKER_HOST": "unix:///ours.sock",
    }
    assert host.find("unix:///given.sock", environ).socket == Path("/given.sock")
    assert host.find(None, environ).socket == Path("/ours.sock")
    del environ["KERNEL_BRIDGE_DOCKER_HOST"]
    assert host.find(None, environ).socket == Path("/docker.sock")
    del environ["DOCKER_HOST"]
    found = host.find(None, environ)
    assert found.socket == Path("/context.sock")
    assert "'colima'" in found.source
    assert found.url == "unix:///context.sock"


def test_a_plain_path_is_a_socket_too() -> None:
    assert host.find("/given.sock", {}).socket == Path("/given.sock")


def test_the_context_may_be_named_by_the_environment_and_lie_in_a_directory_of_its_own(home: Path) -> None:
    write_context(home, "desktop-linux", "unix:///desktop.sock")
    environ = {"DOCKER_CONFIG": str(home / ".docker"), "DOCKER_CONTEXT": "desktop-linux"}
    assert host.find(None, environ).socket == Path("/desktop.sock")


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:2375", "ssh://me@there", "https://there:2376", "npipe:////./pipe/x"]
)
def test_an_engine_on_another_machine_is_refused_and_the_text_says_who_named_it(address: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"\$DOCKER_HOST.*not supported yet"):
        host.find(None, {"DOCKER_HOST": address})


@pytest.mark.parametrize("address", ["unix://relative", "what", "unix://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(EngineUnavailable, match="not an engine's address"):
        host.find(address, {})


def test_a_context_without_an_engine_is_told_and_not_replaced_by_another_engine(home: Path) -> None:
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text(json.dumps({"currentContext": "gone"}))
    with pytest.raises(EngineUnavailable, match="'gone'"):
        host.find(None, {"HOME": str(home)})


@pytest.mark.parametrize("content", ["", "[]", "{", '{"currentContext": "default"}', '{"currentContext": 5}'])
def test_a_configuration_that_names_no_context_leaves_the_well_known_places(
    home: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text(content)
    monkeypatch.setattr(host, "_well_known", lambda _: [home / "nowhere.sock"])
    with pytest.raises(EngineUnavailable, match=r"nowhere\.sock"):
        host.find(None, {"HOME": str(home)})


@pytest.mark.parametrize(
    "place",
    [
        "run/docker.sock",  # rootless
        "run/podman/podman.sock",
        ".docker/run/docker.sock",  # Docker Desktop
        ".docker/desktop/docker.sock",
        ".colima/default/docker.sock",
        ".orbstack/run/docker.sock",
        ".rd/docker.sock",  # Rancher Desktop
    ],
)
def test_the_socket_of_every_known_engine_is_found(
    home: Path, listen: Callable[[Path], Path], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
    places = host._well_known(environ)
    assert Path("/var/run/docker.sock") in places
    monkeypatch.setattr(host, "_well_known", lambda _: [each for each in places if each.is_relative_to(home)])
    made = listen(home / place)
    assert host.find(None, environ) == host.Endpoint(made, "found at a well-known place")


def test_a_rootless_socket_is_looked_for_also_in_the_bare_environment_of_an_mcp_client(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4321)
    assert Path("/run/user/4321/docker.sock") in host._well_known({"HOME": str(home)})


def test_a_socket_that_this_user_may_not_use_gives_way_to_one_that_it_may(
    home: Path, listen: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    system, own = listen(home / "system.sock"), listen(home / "own.sock")
    monkeypatch.setattr(host, "_well_known", lambda _: [system, own])
    monkeypatch.setattr("os.access", lambda path, _: path != system)
    assert host.find(None, {}).socket == own


def test_a_socket_that_a_dead_engine_left_behind_gives_way_to_one_that_lives(
    home: Path, listen: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(home / "dead.sock"))
    alive = listen(home / "alive.sock")
    monkeypatch.setattr(host, "_well_known", lambda _: [home / "dead.sock", alive])
    assert host.find(None, {}).socket == alive
