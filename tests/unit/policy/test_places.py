"""Host directories that give the machine away are refused in code, whatever a policy says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.policy import places


def refusal(check: Callable[[Path], None], path: Path) -> str:
    try:
        check(path)
    except ValueError as error:
        return str(error)
    pytest.fail(f"{path} was not refused")


def test_a_tilde_means_the_home_directory_and_symlinks_are_resolved(home: Path) -> None:
    (home / "link").symlink_to(home / "projects")
    assert places.real_directory("~/link") == home / "projects"


@pytest.mark.parametrize(
    ("written", "fragment"),
    [
        ("projects", "is not a full path"),
        ("./projects", "is not a full path"),
        ("~root/x", "is not a full path"),
        ("", "is not a full path"),
        ("~/gone", "does not exist"),
        ("~/dangling", "does not exist"),
        ("~/file", "is not a directory"),
        ("~/file/x", "cannot be looked at"),
        ("~/loop", "cannot be looked at"),
        ("/tmp/a\0b", "U+0000"),
        ("/tmp/a\nb", "U+000A"),
        ("/tmp/a\u202eb", "U+202E"),
    ],
)
def test_a_path_must_be_a_full_one_to_a_directory_that_is_there(home: Path, written: str, fragment: str) -> None:
    (home / "dangling").symlink_to(home / "gone")
    (home / "loop").symlink_to(home / "loop")
    (home / "file").touch()
    with pytest.raises(ValueError, match=re.escape(fragment)):
        places.real_directory(written)


@pytest.mark.parametrize(
    ("path", "fragment"),
    [
        ("/", "the whole machine"),
        ("/proc", "belongs to the machine"),
        ("/proc/1/root", "belongs to the machine"),
        ("/sys/fs", "belongs to the machine"),
        ("/dev/shm", "belongs to the machine"),
        ("/run", "belongs to the machine"),
        ("/run/user/1000", "belongs to the machine"),
        ("/var", "container engine's socket or data"),
        ("/var/lib", "container engine's socket or data"),
        ("/var/lib/docker/volumes/x", "container engine's socket or data"),
        ("/var/lib/containerd", "container engine's socket or data"),
        ("/etc", "hide the container's own /etc"),
        ("/usr/local/src", "hide the container's own /usr"),
        ("/opt/kernel", "hide the container's own /opt"),
        ("/lib/x", "hide the container's own /lib"),
        ("/bin", "hide the container's own /bin"),
        ("/home/kernel/x", "hide the container's own /home/kernel"),
        ("/srv/a:b", "':' or ','"),
        ("/srv/a,b", "':' or ','"),
        ("/srv/a\x1bb", "U+001B"),
    ],
)
def test_no_policy_may_offer_what_gives_the_machine_away(path: str, fragment: str) -> None:
    assert fragment in refusal(places.refuse_source, Path(path))
    assert fragment in refusal(places.refuse_workspace, Path(path))


def test_the_home_directory_and_what_holds_it_are_refused(home: Path, tmp_path: Path) -> None:
    assert "the home directory itself" in refusal(places.refuse_source, home)
    assert "holds the home directory" in refusal(places.refuse_source, tmp_path.resolve())
    places.refuse_workspace(home / "projects")


def test_a_home_behind_a_symlink_is_still_the_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alias").symlink_to(home)
    monkeypatch.setenv("HOME", str(tmp_path / "alias"))
    assert "the home directory itself" in refusal(places.refuse_source, home)


@pytest.mark.parametrize("scheme", ["unix://", ""])
@pytest.mark.parametrize("variable", ["DOCKER_HOST", "KERNEL_BRIDGE_DOCKER_HOST"])
def test_the_socket_of_the_engine_in_use_and_its_directories_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    directory = tmp_path.resolve() / "a" / "b"
    monkeypatch.setenv(variable, f"{scheme}{directory}/engine.sock")
    assert "engine.sock" in refusal(places.refuse_source, directory)
    assert "engine.sock" in refusal(places.refuse_source, directory.parent)
    places.refuse_source(directory / "other")


@pytest.mark.parametrize(
    "inside", [".docker/run", ".colima/default", ".local/share/docker", ".local/share/containers/storage"]
)
def test_engines_in_the_home_directory_are_refused(home: Path, inside: str) -> None:
    assert "container engine" in refusal(places.refuse_source, home / inside)


@pytest.mark.parametrize(
    ("inside", "fragment"),
    [
        (".local/share/jupyter/runtime", "the keys of this machine's kernels"),
        (".local/share/jupyter", "the keys of this machine's kernels"),
        (".config", "the user's policy"),
        (".config/kernel-bridge", "the user's policy"),
        (".docker/contexts", "passwords"),
    ],
)
def test_no_workspace_holds_the_policy_or_the_keys_of_other_kernels(home: Path, inside: str, fragment: str) -> None:
    assert fragment in refusal(places.refuse_workspace, home / inside)


def test_no_workspace_holds_a_link_on_the_way_to_what_is_private(home: Path) -> None:
    # ~/.config → projects/dotfiles/config → ~/elsewhere: who may write in dotfiles says where the policy is
    (home / "projects" / "dotfiles").mkdir()
    (home / "elsewhere").mkdir()
    (home / ".config").symlink_to("projects/dotfiles/config")
    (home / "projects" / "dotfiles" / "config").symlink_to(home / "elsewhere")
    assert "the user's policy" in refusal(places.refuse_workspace, home / "projects" / "dotfiles")
    assert "the user's policy" in refusal(places.refuse_workspace, home / "projects")
    assert "the user's policy" in refusal(places.refuse_workspace, home / "elsewhere")
    (home / "projects" / "app").mkdir()
    places.refuse_workspace(home / "projects" / "app")


@pytest.mark.parametrize(
    ("way", "held"),
    [
        ("a/file", ["", "a"]),
        ("link/file", ["", "a", "b"]),  # link → a/inner → ../b
        ("a/../b/file", ["", "b"]),
        ("loop/file", [""]),
        ("gone/file", ["", "gone"]),
    ],
)
def test_who_may_write_in_a_directory_on_the_way_to_a_file_may_replace_it(
    tmp_path: Path, way: str, held: list[str]
) -> None:
    root = tmp_path.resolve()
    for name in ("a", "b", "c"):
        (root / name).mkdir()
    (root / "link").symlink_to("a/inner")
    (root / "a" / "inner").symlink_to("../b")
    (root / "loop").symlink_to("loop")
    for name in ("", "a", "b", "c", "gone"):
        assert places.holds(root / name, root / way) is (name in held), name


def test_the_places_of_jupyter_and_of_the_policy_follow_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path.resolve()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(base / "runtime"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(base / "settings"))
    assert "keys" in refusal(places.refuse_workspace, base / "runtime")
    assert "policy" in refusal(places.refuse_workspace, base / "settings")
    assert places.config_home() == base / "settings"
    assert places.config_home({"HOME": "/h", "XDG_CONFIG_HOME": "relative"}) == Path("/h/.config")


@pytest.mark.parametrize("path", ["/tmp", "/home", "/var/tmp"])
def test_what_would_hide_a_place_of_the_container_is_no_workspace(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/someone")
    assert "hide the container's own" in refusal(places.refuse_workspace, Path(path))


@pytest.mark.parametrize(
    "path", ["/srv/project", "/tmp/project", "/mnt/data", "/data", "/home/someone/project", "/runs", "/tmpx"]
)
def test_other_directories_are_fine(path: str) -> None:
    places.refuse_workspace(Path(path))
