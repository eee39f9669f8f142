"""A person's list of packages: what the build can follow, and the sentence for what it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import UsageError
from bridge.launchers.docker import requirements


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "My Project"
    made.mkdir()
    return made


def written(folder: Path, text: str, name: str = "requirements.txt") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_requirements_file_is_taken_as_it_is(folder: Path) -> None:
    text = "# mine\nnumpy>=2  # arrays\npolars[all]==1.0 ; python_version > '3.8'\n--only-binary :all:\nx @ https://e.org/x.whl\n"
    assert requirements.read(written(folder, text)) == text


def test_a_projects_dependencies_and_the_extras_that_are_asked_for_are_taken(folder: Path) -> None:
    text = (
        "[project]\nname = 'Fine_Thing'\ndependencies = ['numpy>=2']\n"
        "[project.optional-dependencies]\nplots = ['matplotlib']\n"
    )
    file = written(folder, text, "pyproject.toml")
    assert requirements.read(file) == "numpy>=2\n"
    assert requirements.read(file, ["plots"]) == "numpy>=2\nmatplotlib\n"
    assert requirements.name_of(file) == "fine_thing"
    with pytest.raises(UsageError, match="no extra 'other'; it has plots"):
        requirements.read(file, ["other"])


def test_without_a_projects_name_the_directory_gives_one(folder: Path) -> None:
    assert requirements.name_of(written(folder, "numpy\n")) == "my-project"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "names no package"),
        ("# nothing\n\n", "names no package"),
        ("-e .\n", "line 1 `-e .`: an editable package"),
        ("numpy\n--editable=/src/x\n", "line 2"),
        ("-r other.txt\n", "write its lines here"),
        ("-c constraints.txt\n", "write its lines here"),
        ("--index-url https://u:secret@e.org/simple\nnumpy\n", "--pip-config"),
        ("./wheels/x.whl\n", "lies on this machine"),
        ("x @ file:///src/x\n", "lies on this machine"),
        ("wheels/x.whl\n", "lies on this machine"),
    ],
)
def test_what_the_build_could_not_follow_is_refused_with_its_line(folder: Path, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        requirements.read(written(folder, text))
    assert str(caught.value).endswith("Nothing was built.")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[project\n", "not valid TOML"),
        ("[tool.x]\n", "no .project. table"),
        ("[project]\nname = 'x'\n", "names no package"),
        ("[project]\nname = 'x'\ndynamic = ['dependencies']\n", "dynamic dependencies"),
        ("[project]\nname = 'x'\ndependencies = [1]\n", "not a list of text"),
        (
            "[project]\nname = 'x'\ndependencies = ['Our_Own>=1']\n[tool.uv.sources]\nour-own = {path = '../own'}\n",
            "our-own in .tool.uv.sources.",
        ),
    ],
)
def test_a_project_that_names_no_packages_is_told_why(folder: Path, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        requirements.read(written(folder, text, "pyproject.toml"))


def test_a_file_that_cannot_be_read_is_told(folder: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        requirements.read(folder / "none.txt")
    with pytest.raises(UsageError, match="Is a directory"):
        requirements.read(folder)
    (folder / "odd.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        requirements.read(folder / "odd.txt")
    with pytest.raises(UsageError, match="--extra is for a pyproject"):
        requirements.read(written(folder, "numpy\n"), ["x"])
