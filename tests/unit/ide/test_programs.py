"""The table of IDEs: each is found where it is, and its steps name the kernel that is meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridge.entry import Program
from bridge.ide.installed import Installed
from bridge.ide.kernelspec import Target, content
from bridge.ide.programs import ANY, IDES, Ide, words_of


def spec(target: Target) -> Installed:
    directory, shown = next(target.names())
    return Installed(Path("/k") / directory, content(target, shown, Program("/kb", ("relay",), {})))


@pytest.mark.parametrize("ide", IDES.values(), ids=IDES)
def test_every_program_is_found_by_a_command_or_a_place_and_only_then(ide: Ide, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    nowhere = str(tmp_path / "python")
    environ = {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}
    assert ide.found(environ, nowhere) is None
    below_home = [each for each in ide.places if not each.startswith("/")]
    assert ide.commands or below_home
    for place in below_home:
        made = tmp_path / place.replace("*", "1")
        made.mkdir(parents=True)
        assert ide.found(environ, nowhere) == str(made)
        made.rmdir()
    for command in ide.commands:
        program = tmp_path / "bin" / command
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert ide.found(environ, nowhere) == str(program)
        assert ide.found({"HOME": str(tmp_path), "PATH": ""}, str(program.with_name("python"))) == str(program)
        program.unlink()
    assert ide.found(environ, nowhere) is None


@pytest.mark.parametrize("ide", IDES.values(), ids=IDES)
def test_steps_are_complete_lines_for_any_kernel(ide: Ide) -> None:
    steps, limits = ide.told(ANY)
    assert len(steps) == len(ide.steps)
    assert len(limits) == len(ide.limits)
    assert not [each for each in (*steps, *limits) if "$" in each or "\n" in each]
    assert any(re.search(r"NAME|FILE", each) for each in steps)


def test_what_a_kernel_does_not_have_is_not_told() -> None:
    words = words_of(spec(Target("/n/my day.ipynb", "my day.ipynb")))
    assert words == {
        "spec": "Shared: my day.ipynb",
        "directory": "kernel-bridge-my-day.ipynb",
        "kernel": "'/n/my day.ipynb'",
    }
    steps, _ = IDES["console"].told(words)
    assert steps == ["kernel-bridge attach '/n/my day.ipynb'", "jupyter console --kernel kernel-bridge-my-day.ipynb"]
    assert IDES["spyder"].told(words_of(spec(Target(owner=True))))[0] == []


def test_a_kernels_own_name_may_hold_a_dollar() -> None:
    steps, _ = IDES["vscode"].told(words_of(spec(Target("/n/a$b.ipynb", "a$b.ipynb"))))
    assert "Shared: a$b.ipynb." in steps[0]
