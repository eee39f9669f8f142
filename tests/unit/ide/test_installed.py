"""Kernelspecs on disk: only ours are changed, and what leads nowhere is told with its cure."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.entry import Program
from bridge.errors import NoSuchKernel, NotOurs, UsageError
from bridge.ide import installed
from bridge.ide.installed import Installed
from bridge.ide.kernelspec import Target, content
from bridge.pictures import measure

PYTHON = sys.executable
Put = Callable[..., Installed]


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    return tmp_path / "jupyter" / "kernels"


@pytest.fixture
def put() -> Put:
    """Install one as the command does; the program is one that is there."""

    def write(target: Target, *arguments: str, command: str = PYTHON, **environment: str) -> Installed:
        directory, shown = installed.slot(target)
        words = (*arguments, *(("--kernel", target.kernel) if target.kernel else ()))
        return installed.write(directory, content(target, shown, Program(command, ("relay", *words), environment)))

    return write


def of(path: Path) -> Target:
    return Target(str(path), path.name)


def test_what_was_written_is_found_again_private_and_with_its_logos(put: Put, kernels: Path) -> None:
    made = put(Target("analysis", "analysis"), TZ="UTC")
    assert installed.installed() == [made]
    assert made.directory == kernels / "kernel-bridge-analysis"
    assert sorted(each.name for each in made.directory.iterdir()) == [
        *("kernel.json", "logo-32x32.png", "logo-64x64.png", "logo-svg.svg"),
    ]
    assert stat.S_IMODE((made.directory / "kernel.json").stat().st_mode) == 0o600
    for side in (32, 64):
        assert measure((made.directory / f"logo-{side}x{side}.png").read_bytes()) == ("image/png", side, side)
    assert (made.directory / "logo-svg.svg").read_bytes() == installed.LOGO.read_bytes()


def test_ours_is_renewed_in_its_place(put: Put) -> None:
    first = put(Target("analysis", "analysis"))
    again = put(Target("analysis", "analysis", owner=True), "--owner")
    assert first.directory == again.directory
    [found] = installed.installed()
    assert (found.display_name, found.target.owner) == ("Sandbox: analysis", True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metadata": {}}', '{"metadata": {"kernel-bridge": 1}}'])
def test_what_is_there_and_not_ours_is_neither_changed_nor_removed(put: Put, kernels: Path, text: str) -> None:
    foreign = kernels / "kernel-bridge-analysis" / "kernel.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(text)
    with pytest.raises(NotOurs, match="kernel-bridge-analysis"):
        put(Target("analysis", "analysis"))
    with pytest.raises(NoSuchKernel, match="is not ours"):
        installed.find("kernel-bridge-analysis")
    assert list(foreign.parent.iterdir()) == [foreign]
    assert foreign.read_text() == text


def test_a_symlink_is_not_ours(put: Put, kernels: Path, tmp_path: Path) -> None:
    real = put(Target("real", "real"))
    (kernels / "kernel-bridge-link").symlink_to(real.directory)
    assert installed.installed() == [real]
    with pytest.raises(NotOurs):
        put(Target("link", "link"))


def test_a_kernel_keeps_its_directory_and_another_of_its_name_gets_one_of_its_own(put: Put, tmp_path: Path) -> None:
    first, second = (tmp_path / each / "a.ipynb" for each in "xy")
    one, other = put(of(first)), put(of(second))
    assert one.directory != other.directory
    assert one.display_name != other.display_name
    assert put(of(second)).directory == other.directory
    installed.remove(one)
    assert put(of(second)).directory == other.directory, "its name stays, also when the plain one is free"


def test_a_sandbox_and_a_host_kernel_never_take_each_others_place(put: Put) -> None:
    made = [put(Target("mine", "mine")), put(Target("/r/mine.json", "mine.json")), put(Target("/r/mine", "mine"))]
    assert len({each.directory for each in made}) == 3
    assert len({each.display_name for each in made}) == 3


def test_remove_takes_what_is_ours_and_leaves_what_somebody_put_beside_it(put: Put) -> None:
    spec = put(Target("analysis", "analysis"))
    (spec.directory / "notes.txt").write_text("mine")
    installed.remove(spec)
    assert [each.name for each in spec.directory.iterdir()] == ["notes.txt"]
    assert installed.installed() == []
    assert put(Target("analysis", "analysis")).directory == spec.directory
    (spec.directory / "notes.txt").unlink()
    installed.remove(spec)
    assert not spec.directory.exists()


@pytest.mark.parametrize(
    "which",
    [
        "/r/kernel-1a.json",
        "kernel-1a.json",
        "kernel-1a",
        "1a",
        "Shared: kernel-1a.json",
        "kernel-bridge-kernel-1a.json",
    ],
)
def test_one_is_found_by_whatever_its_kernel_is_called(put: Put, which: str) -> None:
    put(Target("other", "other"))
    spec = put(Target("/r/kernel-1a.json", "kernel-1a.json"))
    assert installed.find(which) == spec


def test_what_fits_none_or_several_is_told_with_what_there_is(put: Put) -> None:
    with pytest.raises(NoSuchKernel, match="Ours are: none"):
        installed.find(None)
    plain, first = put(Target(owner=True)), put(Target("a", "a"))
    put(Target("/r/b.json", "b.json"))
    put(Target("/r/kernel-b.json", "kernel-b.json"))
    assert (installed.find(None), installed.find("a")) == (plain, first)
    with pytest.raises(NoSuchKernel, match=r"'c'.*kernel-bridge, kernel-bridge-a"):
        installed.find("c")
    with pytest.raises(NoSuchKernel, match=r"several.*kernel-bridge-b.json, kernel-bridge-kernel-b.json"):
        installed.find("b")


def test_what_leads_nowhere_says_why_and_what_to_type(put: Put, tmp_path: Path) -> None:
    policy, file, notebook = tmp_path / "p.yaml", tmp_path / "kernel-1.json", tmp_path / "a b.ipynb"
    for each in (policy, file, notebook):
        each.write_text("")
    specs = [
        put(Target("a", "a", owner=True), "--owner", "--policy", str(policy), "--image", "a"),
        put(Target("b", "b"), KERNEL_BRIDGE_POLICY=str(policy)),
        put(of(file)),
        put(of(notebook)),
    ]
    assert [each.fault() for each in specs] == [None] * 4
    for each in (policy, file, notebook):
        each.unlink()
    faults = [each.fault() for each in specs]
    assert all(faults)
    assert [each.cure.partition("    ")[0] for each in faults if each] == [
        "kernel-bridge ide remove a",
        "kernel-bridge ide remove b",
        "kernel-bridge ide remove kernel-1.json",
        "kernel-bridge ide remove a-b.ipynb",
    ]
    for spec, gone in zip(specs, (policy, policy, file, notebook), strict=True):
        fault = spec.fault()
        assert fault
        assert str(gone) in fault.found


def test_a_command_that_is_gone_is_cured_by_the_words_it_was_installed_with(put: Put) -> None:
    gone = "/v/bin/kernel-bridge"
    owned = put(Target("a", "a", owner=True), "--owner", "--image", "a", "--env", "TZ", command=gone)
    fresh = put(Target(owner=True), command=gone)
    host = put(Target("/r/k 1.json", "k 1.json"), command=gone)
    cures = [fault.cure for each in (owned, fresh, host) if (fault := each.fault())]
    assert [shlex.split(each)[3:] for each in cures] == [
        ["a", "--owner", "--image", "a", "--env", "TZ"],
        [],
        ["/r/k 1.json"],
    ]


def test_one_that_was_damaged_is_told_and_can_be_removed(put: Put) -> None:
    spec = put(Target("a", "a"))
    broken: dict[str, Any] = {"argv": 1, "env": 2, "metadata": {"kernel-bridge": {"kernel": 3}}}
    (spec.directory / "kernel.json").write_text(json.dumps(broken))
    [found] = installed.installed()
    assert found.display_name == "kernel-bridge-a"
    assert found.fault()
    installed.remove(found)
    assert installed.installed() == []


def test_a_place_that_cannot_be_written_is_a_sentence(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="Not a directory"):
        installed.installed()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "kernels").write_text("")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "half"))
    with pytest.raises(UsageError, match="JUPYTER_DATA_DIR"):
        installed.write(tmp_path / "half" / "kernels" / "kernel-bridge-a", {})


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTER_DATA_DIR", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    # what pwd says of a uid without an account, which root cannot become and stay root
    monkeypatch.setattr("pathlib.Path.expanduser", _no_home)
    with pytest.raises(UsageError, match="HOME"):
        installed.place()


def _no_home(_: Path) -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_directory_that_is_given_relative_is_kept_in_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_DATA_DIR", "j")
    assert installed.place() == tmp_path / "j" / "kernels"
    assert os.path.isabs(installed.place())  # noqa: PTH117
