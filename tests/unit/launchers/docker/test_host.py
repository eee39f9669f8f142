"""Which engine is used, without connecting to any."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import EngineUnavailable
from bridge.launchers.docker import host


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[object]:
    """Make sockets that exist, as an engine's would."""
    made = []

    def listen_at(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.append(listener := socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
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


def test_well_known_sockets_of_rootless_and_desktop_engines_are_found(
    home: Path, listen: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
    places = host._well_known(environ)
    assert Path("/var/run/docker.sock") in places
    monkeypatch.setattr(host, "_well_known", lambda _: [each for each in places if each.is_relative_to(home)])
    assert callable(listen)
    desktop = listen(home / ".docker" / "run" / "docker.sock")
    assert host.find(None, environ).socket == desktop
    rootless = listen(home / "run" / "docker.sock")
    assert host.find(None, environ).socket == rootless


def test_a_socket_that_this_user_may_not_use_gives_way_to_one_that_it_may(
    home: Path, listen: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(listen)
    system, own = listen(home / "system.sock"), listen(home / "own.sock")
    monkeypatch.setattr(host, "_well_known", lambda _: [system, own])
    monkeypatch.setattr("os.access", lambda path, _: path != system)
    assert host.find(None, {}).socket == own
