"""The wheel and the sdist as a stranger gets them, and the same code on the newest Python that is supported.

Dependencies are those of the lock, by hash, and only what the wheel says that it needs: what it forgot to say is
missed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from bridge.launchers.docker.image import TAGS
from tests.images import python_image

ROOT = Path(__file__).parents[2]
NEWEST = "3.13"
SOON = 60.0
INSTALL = 300.0  # a slow index; what was fetched before takes seconds

# In the container: no network, and nothing of the checkout on the path but the tests themselves.
ON_NEWEST = """
set -eu
python3 -m venv /venv
/venv/bin/pip install --quiet --no-index --find-links /wheels --require-hashes --requirement /wheels/requirements.lock
/venv/bin/pip install --quiet --no-index --no-deps /dist/*.whl
/venv/bin/pip check
/venv/bin/kernel-bridge --version
cd /tmp
exec /venv/bin/python -m pytest -q -p no:cacheprovider --rootdir /src -c /src/pyproject.toml \
  /src/tests/unit /src/tests/integration/test_host_kernels.py /src/tests/integration/test_session.py
"""


def done(
    *command: str | Path, timeout: float = SOON, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    finished = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd, env=env
    )
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    return finished


def locked(*roots: str) -> str:
    """Return the part of the lock that these packages need, themselves included where they are in it."""
    text = (ROOT / "requirements.lock").read_text()
    blocks = {canonicalize_name(block.split("==")[0]): block for block in re.split(r"\n(?=\S)", text.strip())}
    needed: set[tuple[NormalizedName, str]] = set()
    wanted = {(canonicalize_name(each), "") for each in roots}
    while wanted:
        name, extra = wanted.pop()
        needed.add((name, extra))
        with contextlib.suppress(metadata.PackageNotFoundError):  # it is for another Python or system than this one
            wanted |= set(_required(name, extra)) - needed
    return "\n".join(blocks[name] for name in sorted({name for name, _ in needed} & set(blocks))) + "\n"


def _required(name: str, extra: str) -> Iterator[tuple[NormalizedName, str]]:
    for each in map(Requirement, metadata.requires(name) or []):
        if "extra" in str(each.marker) and not (extra and each.marker and each.marker.evaluate({"extra": extra})):
            continue
        # what only another Python needs is taken too
        yield from ((canonicalize_name(each.name), also) for also in ("", *each.extras))


def build(source: Path, target: Path, kind: str) -> Path:
    done(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target, cwd=source)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


def test_the_wheel_holds_the_package_the_images_and_the_licence_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        about = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata_text = file.read(about).decode()
        for source in (ROOT / "images").rglob("*"):
            if source.is_file() and "__pycache__" not in source.parts:
                assert file.read(f"bridge/_images/{source.relative_to(ROOT / 'images')}") == source.read_bytes()
    sources = {str(each.relative_to(ROOT)) for each in (ROOT / "bridge").rglob("*.py")}
    assert sources | {"bridge/policy/builtin.yaml", "bridge/py.typed", "bridge/ide/logo.svg"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"bridge", about.split("/")[0]}
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|tests|\.ci/|cache|\.venv", name)]
    assert "\nRequires-Python: >=3.11\n" in metadata_text


def test_the_sdist_makes_the_very_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build(source, tmp_path / "dist", "wheel")
    assert again.name == wheel.name
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_the_sdist_holds_what_make_test_needs_and_nothing_that_was_made_here(sdist: Path) -> None:
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"Makefile", "requirements.lock", ".ci/venv.sh", ".ci/engine.sh", "tests/conftest.py", "LICENSE"} <= names
    assert ".github/workflows/ci.yml" in names
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|_cache/|\.cache/|\.venv/|dist/", name)]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an empty environment, far from the checkout, into which the wheel was installed."""
    directory = tmp_path_factory.mktemp("installed")
    done(sys.executable, "-m", "venv", directory / "venv")
    pip = [str(directory / "venv" / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    (directory / "requirements.lock").write_text(locked("kernel-bridge"))
    done(*pip, "install", "--require-hashes", "--no-deps", "-r", directory / "requirements.lock", timeout=INSTALL)
    done(*pip, "install", "--no-deps", wheel)
    done(*pip, "check")
    return directory / "venv" / "bin"


def elsewhere(
    installed: Path, *arguments: str, cwd: Path, program: str = "kernel-bridge", **more: str
) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return done(installed / program, *arguments, cwd=cwd, env=environ | more)


def test_the_installed_wheel_tells_the_version_of_the_source(installed: Path, tmp_path: Path) -> None:
    said = elsewhere(installed, "--version", cwd=tmp_path).stdout.strip()
    assert f'\nversion = "{said}"\n' in (ROOT / "pyproject.toml").read_text()


def test_the_installed_wheel_shows_the_demo_with_a_sandbox_and_a_host_kernel(
    installed: Path, tmp_path: Path, runtime: Path
) -> None:
    shown = elsewhere(installed, "demo", cwd=tmp_path)
    assert "A sandbox: an IPython kernel in a sealed container" in shown.stderr
    assert shown.stdout.count("the agent reads x = 43") == 2
    assert "still alive, x = 43" in shown.stdout


@pytest.mark.usefixtures("image_tag")
def test_the_installed_wheel_builds_the_image_from_the_sources_in_it(installed: Path, tmp_path: Path) -> None:
    built = elsewhere(installed, "image", "build", cwd=tmp_path)
    assert built.stdout == f"{TAGS['python']}\n"


def test_the_installed_wheel_brings_the_fixture_for_tests_of_other_projects(installed: Path, tmp_path: Path) -> None:
    """It needs pytest, which is none of our dependencies, so that comes from beside the environment."""
    beside, project = tmp_path / "beside", tmp_path / "project"
    project.mkdir()
    (project / "pytest.lock").write_text(locked("pytest"))
    (project / "test_it.py").write_text(
        "def test_three_lines(sandbox_kernel):\n    cell = sandbox_kernel.run('6 * 7')\n    assert cell.value == '42'\n"
    )
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--require-hashes", "--no-deps"]
    elsewhere(installed, *pip, "--target", str(beside), "-r", "pytest.lock", cwd=project, program="python")
    ran = elsewhere(
        installed, "-m", "pytest", "-W", "error", cwd=project, program="python", PYTHONPATH=str(beside)
    )  # fmt: skip
    assert re.search(r"^plugins: .*kernel-bridge-", ran.stdout, re.MULTILINE)
    assert "1 passed" in ran.stdout


def test_pip_refuses_the_wheel_for_an_older_python(wheel: Path, tmp_path: Path) -> None:
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.10", f"--dest={tmp_path}"]
    # pip asks the same question before it installs, but lets only a download pretend to be another Python
    refused = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options, str(wheel)],
        capture_output=True, text=True, timeout=SOON, check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "requires a different Python: 3.10" in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def wheels() -> Path:
    """The locked packages for the newest Python; fetched once, by hash, and kept."""
    lock = locked("kernel-bridge", "pytest", "pytest-timeout", "hypothesis", "pillow")
    directory = ROOT / ".cache" / f"wheels-{NEWEST}-{hashlib.sha256(lock.encode()).hexdigest()[:16]}"
    complete = directory / "requirements.lock"
    if not complete.exists():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "wanted.lock").write_text(lock)
        options = ["--require-hashes", "--no-deps", "--only-binary=:all:", f"--python-version={NEWEST}"]
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        done(*pip, "download", *options, "-d", directory, "-r", directory / "wanted.lock", timeout=INSTALL)
        (directory / "wanted.lock").rename(complete)
    return directory


def test_the_wheel_and_its_tests_pass_on_the_newest_python(wheel: Path, wheels: Path) -> None:
    image = python_image()
    name = f"kernel-bridge-test-{uuid.uuid4().hex[:8]}"
    mounts = {"/dist": wheel.parent, "/wheels": wheels, "/src/tests": ROOT / "tests", "/src/bridge": ROOT / "bridge"}
    read = ("images", "pyproject.toml", "README.md", "SECURITY.md", "Makefile", ".ci", ".github")
    mounts |= {f"/src/{each}": ROOT / each for each in read}
    options = [f"--volume={source}:{target}:ro" for target, source in mounts.items()]
    try:
        ran = done(
            *["docker", "run", "--name", name, "--rm", "--init", "--network=none", "--user=0", "--workdir=/tmp"],
            *["--env=HOME=/root", "--env=PYTHONDONTWRITEBYTECODE=1", *options, image, "sh", "-c", ON_NEWEST],
            timeout=2 * INSTALL,
        )
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=SOON, check=False)
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed, ran.stdout
    assert int(passed[1]) > 1000
    assert "failed" not in ran.stdout
    assert "skipped" not in ran.stdout
