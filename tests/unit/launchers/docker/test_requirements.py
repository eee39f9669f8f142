"""A person's packages are read as pip would read them, and what a build cannot see is refused before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.errors import UsageError
from bridge.launchers.docker import requirements
from bridge.launchers.docker.requirements import Requirements, read

HASH = "--hash=sha256:" + "ab" * 32
PROJECT = '[project]\nname = "My.Project"\nversion = "1"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "My Project"
    directory.mkdir()
    return directory / "requirements.txt"


@pytest.fixture
def pyproject(file: Path) -> Path:
    return file.with_name("pyproject.toml")


def refusal(file: Path, text: str, *extras: str) -> str:
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        read(file, extras)
    return str(raised.value)


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy==2.1",
        "numpy >= 2, < 3",
        "numpy (>=2,<3)",
        "numpy~=2.0 ; python_version >= '3.13' and sys_platform == 'linux'",
        "numpy==2.*",
        "zope.interface",
        "jax[cuda12, k8s]>=0.4",
        f"six==1.17.0 {HASH}",
        f"six==1.17.0 ; python_version > '3' {HASH} {HASH}",
        "six @ https://example.org/six-1.17.0-py2.py3-none-any.whl",
        "https://example.org/six-1.17.0-py2.py3-none-any.whl#sha256=abab",
        "--only-binary :all:",
        "--no-binary=six",
        "--require-hashes",
        "--pre",
    ],
)
def test_what_means_the_same_inside_the_build_is_taken_as_it_is(file: Path, line: str) -> None:
    file.write_text(f"humanize\n{line}\n")
    assert read(file).lines == ("humanize", line)


def test_comments_and_continued_lines_are_read_as_pip_reads_them(file: Path) -> None:
    file.write_bytes(
        b"\xef\xbb\xbf# a list \\\r\n\r\nsix==1.17.0 \\\r\n    --hash=sha256:abab \\\r\n    --hash=sha256:cdcd\r\n"
        b"    # via nothing\r\nhumanize  # the last\\"
    )
    assert [" ".join(line.split()) for line in read(file).lines] == [
        "six==1.17.0 --hash=sha256:abab --hash=sha256:cdcd",
        "humanize",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-r other.txt", "-r names another file"),
        ("-rother.txt", "-r names another file"),
        ("--requirement=other.txt", "--requirement names another file"),
        ("-c constraints.txt", "-c names another file"),
        ("-e .", "-e is a directory of this machine"),
        ("--editable ../lib", "--editable is a directory of this machine"),
        ("--index-url https://user:secret-word@index.example.org/simple", "--index-url says where packages come from"),
        ("-i https://user:secret-word@index.example.org/simple", "-i says where packages come from"),
        ("--extra-index-url=https://secret-word@index.example.org", "--extra-index-url says where"),
        ("--find-links /wheels", "--find-links says where"),
        ("--trusted-host index.example.org", "--trusted-host says where"),
        ("--global-option=x", "--global-option is an option that this build does not take"),
        (".", "a place on this machine"),
        ("./lib", "a place on this machine"),
        ("~/lib", "a place on this machine"),
        ("/srv/lib", "a place on this machine"),
        ("lib/", "a place on this machine"),
        ("lib\\sub", "a place on this machine"),
        ("lib-1.0-py3-none-any.whl", "a place on this machine"),
        ("lib-1.0.tar.gz", "a place on this machine"),
        ("lib @ file:///srv/lib", "a place on this machine"),
        ("lib @ ./lib", "a place on this machine"),
        ("git+https://secret-word@example.org/lib.git", "version control"),
        ("lib @ git+ssh://git@example.org/lib.git", "version control"),
        ("lib @ http://example.org/lib.whl", "without encryption"),
        ("lib @ https://user:secret-word@example.org/lib.whl", "password"),
        ("lib @ https://example.org/lib.whl?token=${secret-word}", "password or a variable"),
        ("lib @ https://example.org/lib.tar.gz", "no wheel"),
        ("numpy = 2", "no requirement"),
        ("numpy 2", "no requirement"),
        ("<html>", "no requirement"),
        ("six --config-settings=x", "no requirement"),
    ],
)
def test_what_the_build_does_not_see_is_refused_with_its_line_and_no_password(file: Path, line: str, said: str) -> None:
    told = refusal(file, f"humanize\n\n{line}\n")
    assert "line 3: " in told
    assert said in told
    assert "nothing was built" in told
    assert "secret-word" not in told
    assert "\n" not in told


def test_all_that_is_wrong_is_told_at_once_up_to_a_bound(file: Path) -> None:
    told = refusal(file, "-e .\nsix\n" + "-r x\n" * requirements.MAX_PROBLEMS)
    assert told.count("line ") == requirements.MAX_PROBLEMS
    assert "and 1 more" in told


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n", "--pre\n"])
def test_a_file_without_a_package_is_refused(file: Path, text: str) -> None:
    assert "names no package" in refusal(file, text)


def test_what_is_no_file_of_text_is_refused(file: Path) -> None:
    for path, said in (
        (file, "No such file"),
        (file.parent, "is a directory"),
        (Path("/dev/null"), "no regular file"),
    ):
        with pytest.raises(UsageError, match=said):
            read(path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        read(file)
    file.write_bytes(b"#" * (requirements.MAX_BYTES + 1))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        read(file)


def test_a_projects_dependencies_are_read_with_the_extras_that_are_asked_for(pyproject: Path) -> None:
    pyproject.write_text(
        PROJECT + 'dependencies = ["humanize>=4", "six"]\n'
        "[project.optional-dependencies]\n"
        'Plot_Ting = ["matplotlib"]\nother = ["pandas"]\n'
    )
    assert read(pyproject) == Requirements(pyproject, "My.Project", ("humanize>=4", "six"))
    assert read(pyproject, ["plot-ting"]).lines == ("humanize>=4", "six", "matplotlib")
    assert "no extra 'nope'; it has Plot_Ting, other" in refusal(pyproject, pyproject.read_text(), "nope")


def test_extras_alone_are_something_to_build(pyproject: Path) -> None:
    pyproject.write_text(PROJECT + '[project.optional-dependencies]\nplot = ["matplotlib"]\n')
    assert read(pyproject, ["plot"]).lines == ("matplotlib",)


@pytest.mark.parametrize(
    ("text", "extras", "said"),
    [
        ("[project\n", [], "not valid TOML"),
        ("[tool.poetry.dependencies]\nnumpy = '*'\n", [], r"no \[project\] table"),
        ("project = 3\n", [], r"no \[project\] table"),
        (PROJECT, [], "no dependencies in"),
        (PROJECT + "dependencies = []\n", [], "no dependencies in"),
        (PROJECT + 'dynamic = ["dependencies"]\n', [], "dynamic.*uv export"),
        (PROJECT + 'dependencies = ["six"]\ndynamic = ["optional-dependencies"]\n', ["plot"], "extras.*dynamic"),
        (PROJECT + 'dependencies = "six"\n', [], "not a list of texts"),
        (PROJECT + "dependencies = [6]\n", [], "not a list of texts"),
        (PROJECT + 'dependencies = ["six", "lib @ file:///srv/lib"]\n', [], "dependency 2: is a place on this machine"),
        (PROJECT + 'dependencies = ["six\\n--index-url https://x"]\n', [], "dependency 1: "),
        (PROJECT + 'dependencies = ["--pre"]\n', [], "dependency 1: is no requirement"),
        (PROJECT + 'dependencies = ["my_project[plot]"]\n', [], "names the project itself"),
        (
            PROJECT + "dependencies = ['Our_Own>=1']\n[tool.uv.sources]\nour-own = {path = '../own'}\n",
            [],
            r"has Our_Own in \[tool.uv.sources\], which only uv follows",
        ),
        (PROJECT + 'dependencies = ["six"]\noptional-dependencies = 3\n', ["plot"], "it has none"),
    ],
)
def test_a_project_that_does_not_tell_its_dependencies_is_refused(
    pyproject: Path, text: str, extras: list[str], said: str
) -> None:
    pyproject.write_text(text)
    with pytest.raises(UsageError, match=said):
        read(pyproject, extras)


def test_extras_of_a_list_are_refused(file: Path) -> None:
    assert "Only a pyproject.toml has extras" in refusal(file, "six\n", "plot")


@pytest.mark.parametrize(
    ("project", "label"),
    [
        ("analysis", "analysis"),
        ("My Project", "my-project"),
        ("naïve.Café_2", "naive.cafe_2"),
        ("--evil:tag@x/..", "evil-tag-x"),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_projects_name_becomes_the_end_of_a_tag(project: str, label: str) -> None:
    assert Requirements(Path("f"), project, ()).label == label


@pytest.mark.parametrize("project", ["", "проект", "..."])
def test_a_name_of_which_nothing_is_left_asks_for_a_tag(project: str) -> None:
    with pytest.raises(UsageError, match="--tag"):
        _ = Requirements(Path("f"), project, ()).label


def test_a_list_belongs_to_the_directory_that_it_lies_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("six\n")
    monkeypatch.chdir(file.parent)
    assert read(Path("requirements.txt")).project == "My Project"
