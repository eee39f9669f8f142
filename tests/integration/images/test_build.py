"""Choosing the docker command, the base and the secrets of a build, with commands that stand in for the real ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

from bridge.errors import EngineUnavailable, LaunchError, UsageError
from bridge.launchers.docker import build as building
from bridge.launchers.docker import command, requirements

Stubs = Callable[[str, str], Path]

# Says a version that has BuildKit, answers for an engine, and writes down what it was asked to do.
DOCKER = """
case "$1" in
  buildx) exit 1 ;;
  --version) echo 'Docker version 20.10.24+dfsg1, build 1' ;;
  version) exit {engine} ;;
  image) for arg; do :; done; case " {images} " in *" $arg "*) exit 0 ;; *) exit 1 ;; esac ;;
  pull) {pull} ;;
  build)
    printf '%s\\n' "$@" >>"{log}"; env >"{log}.env"; for arg; do :; done; cat "$arg/requirements.txt" >"{log}.packages"
    echo 'step 1'; {building} ;;
esac
"""


@pytest.fixture(autouse=True)
def _no_bundle_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*building.CA_VARIABLES, "DOCKER_HOST", "KERNEL_BRIDGE_DOCKER_HOST"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def docker_stub(stubs: Stubs, tmp_path: Path) -> Callable[..., Path]:
    def write(
        *, images: str = "python:3.13-slim-trixie", pull: str = "exit 1", engine: int = 0, building: str = ":"
    ) -> Path:
        log = tmp_path / "asked"
        stubs("docker", DOCKER.format(images=images, pull=pull, engine=engine, log=log, building=building))
        return log

    return write


def build(**options: object) -> tuple[str, list[str]]:
    said: list[str] = []
    how = {key: options.pop(key) for key in ("ca_bundle", "pip_config", "engine") if key in options}
    chosen = building.How(said.append, **how)  # type: ignore[arg-type]
    return anyio.run(partial(building.build, how=chosen, **options)), said  # type: ignore[arg-type]


def test_an_image_is_built_from_the_public_base_that_the_engine_has(docker_stub: Callable[..., Path]) -> None:
    log = docker_stub()
    tag, said = build()
    asked = log.read_text().splitlines()
    assert tag == "kernel-bridge/python:3.13"
    assert "--build-arg=BASE=python:3.13-slim-trixie" in asked
    assert "--tag=kernel-bridge/python:3.13" in asked
    assert "--secret" not in asked
    assert said[-1] == "step 1"
    assert "DOCKER_BUILDKIT=1\n" in Path(f"{log}.env").read_text()


def test_secrets_are_given_by_their_paths_only(docker_stub: Callable[..., Path], tmp_path: Path) -> None:
    log = docker_stub()
    bundle, configuration = tmp_path / 'odd, "name".pem', tmp_path / "pip.conf"
    bundle.write_text("certificates-inside")
    configuration.write_text("password-inside")
    build(ca_bundle=bundle, pip_config=configuration)
    asked = log.read_text()
    quoted = str(bundle).replace('"', '""')
    assert f'id=ca_bundle,"src={quoted}"\n' in asked
    assert f"id=pip_conf,src={configuration}\n" in asked
    assert "inside" not in asked


def test_the_bundle_that_this_process_uses_is_taken_by_itself(
    docker_stub: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = docker_stub()
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("x")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone"))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(bundle))
    build()
    assert f"id=ca_bundle,src={bundle}\n" in log.read_text()


def test_a_bundle_that_cannot_be_a_secret_is_refused_before_anything_is_built(
    docker_stub: Callable[..., Path], tmp_path: Path
) -> None:
    log = docker_stub()
    large = tmp_path / "large.pem"
    large.write_bytes(bytes(building.SECRET_BYTES + 1))
    for bundle in (large, tmp_path / "missing.pem"):
        with pytest.raises(LaunchError, match="Nothing was built"):
            build(ca_bundle=bundle)
    assert not log.exists()


def test_a_base_made_earlier_is_taken_where_the_public_one_is_not_there(docker_stub: Callable[..., Path]) -> None:
    log = docker_stub(images="kernel-bridge/base:trixie")
    build()
    assert "--build-arg=BASE=kernel-bridge/base:trixie" in log.read_text()


def test_the_public_base_is_pulled_where_a_registry_answers(docker_stub: Callable[..., Path]) -> None:
    log = docker_stub(images="none", pull="echo '3.13: Pulling from library/python'")
    _, said = build()
    assert "3.13: Pulling from library/python" in said
    assert "--build-arg=BASE=python:3.13-slim-trixie" in log.read_text()


def test_where_no_registry_answers_and_no_base_can_be_made_it_says_what_to_type(
    docker_stub: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = docker_stub(images="none", pull="echo 'no such host' >&2; exit 1")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LaunchError, match=r"apt-get install debootstrap.*no such host"):
        build()
    assert not log.exists()


def test_a_registry_that_never_answers_is_given_up(
    docker_stub: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    docker_stub(images="none", pull="sleep 100")
    monkeypatch.setattr(command, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LaunchError, match="could not be pulled"):
        build()


def test_a_base_is_made_of_packages_where_no_registry_answers(
    docker_stub: Callable[..., Path], stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = docker_stub(images="none")
    stubs("debootstrap", "exit 0")
    images = tmp_path / "images"
    (images / "python").mkdir(parents=True)
    (images / "base").mkdir()
    (images / "python" / "Dockerfile").write_text("ARG BASE=python:3.13-slim-trixie\nFROM ${BASE}\n")
    script = images / "base" / "debootstrap.sh"
    script.write_text('#!/bin/sh\necho "made $1 $2"\n')
    script.chmod(0o755)
    monkeypatch.setattr(building, "images_directory", lambda: images)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    _, said = build()
    assert "made trixie kernel-bridge/base:trixie" in said
    assert "--build-arg=BASE=kernel-bridge/base:trixie" in log.read_text()


def test_a_docker_command_without_buildkit_is_passed_over_for_one_with_it(
    docker_stub: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = docker_stub()
    new = tmp_path / "new"
    new.mkdir()
    (new / "docker").write_text("#!/bin/sh\n[ \"$1\" = --version ] || exit 1\necho 'Docker version 28.2.2, build 1'\n")
    (new / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{new}:{tmp_path / 'stubs'}:/bin")
    build()
    assert log.exists()
    monkeypatch.setenv("PATH", str(new))
    with pytest.raises(LaunchError, match="docker-buildx"):
        build()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="no docker command"):
        build()


def test_an_engine_that_does_not_answer_is_told_before_anything_else(docker_stub: Callable[..., Path]) -> None:
    docker_stub(engine=1)
    with pytest.raises(EngineUnavailable):
        build()


def asked_for(log: Path, option: str) -> list[str]:
    return [line.partition("=")[2] for line in log.read_text().splitlines() if line.startswith(f"--{option}=")]


def test_what_an_image_is_built_on_is_built_first_where_it_is_missing(docker_stub: Callable[..., Path]) -> None:
    log = docker_stub()
    tag, said = build(name="scipy")
    assert tag == "kernel-bridge/scipy:3.13"
    assert "kernel-bridge/python:3.13 is not in the engine: building it first" in said
    assert asked_for(log, "tag") == ["kernel-bridge/python:3.13", "kernel-bridge/scipy:3.13"]
    assert asked_for(log, "build-arg") == ["BASE=python:3.13-slim-trixie", "BASE=kernel-bridge/python:3.13"]


def test_what_an_image_is_built_on_is_taken_as_it_is_where_it_is_there(docker_stub: Callable[..., Path]) -> None:
    log = docker_stub(images="kernel-bridge/python:3.13")
    build(name="scipy")
    assert asked_for(log, "tag") == ["kernel-bridge/scipy:3.13"]


def test_a_persons_packages_are_all_that_the_build_sees(docker_stub: Callable[..., Path], tmp_path: Path) -> None:
    log = docker_stub(images="kernel-bridge/scipy:3.13")
    project = tmp_path / "My Project"
    project.mkdir()
    (project / "secret.txt").write_text("not for the image")
    (project / "requirements.txt").write_text("six  # for nothing\nhumanize>=4\n")
    (project / "pip.conf").write_text("[global]")
    wanted = requirements.read(project / "requirements.txt")
    tag, _ = build(name="scipy", requirements=wanted, pip_config=project / "pip.conf")
    assert tag == "kernel-bridge/scipy:3.13-my-project"
    assert asked_for(log, "tag") == [tag]
    assert asked_for(log, "build-arg") == ["BASE=kernel-bridge/scipy:3.13"]
    assert f"id=pip_conf,src={project}/pip.conf" in log.read_text().splitlines()
    assert Path(f"{log}.packages").read_text() == "six\nhumanize>=4\n"
    context = Path(log.read_text().splitlines()[-1])
    assert not context.exists(), "it is removed"
    assert not context.is_relative_to(project)


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("kernel-bridge/python:3.13", "others are built on"),
        ("index.docker.io/kernel-bridge/scipy:3.13", "others are built on"),
        ("kernel-bridge/base:trixie", "others are built on"),
        ("kernel-bridge/python", "has no tag"),
        ("Kernel-Bridge/python:1", "upper-case"),
        (f"x@sha256:{'ab' * 32}", "by its content"),
    ],
)
def test_a_name_that_an_image_cannot_have_is_refused_before_anything_is_built(
    docker_stub: Callable[..., Path], tmp_path: Path, tag: str, said: str
) -> None:
    log = docker_stub()
    (tmp_path / "requirements.txt").write_text("six\n")
    with pytest.raises(UsageError, match=said):
        build(requirements=requirements.read(tmp_path / "requirements.txt"), tag=tag)
    assert not log.exists()


def test_the_engine_of_the_sandboxes_builds_whatever_docker_would_choose_itself(
    docker_stub: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = docker_stub()
    monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/named-by-docker.sock")
    monkeypatch.setenv("BUILDX_BUILDER", "far-away")
    build()
    environ = Path(f"{log}.env").read_text().splitlines()
    assert "DOCKER_HOST=unix:///run/named-by-docker.sock" in environ
    assert "BUILDX_BUILDER=default" in environ
    monkeypatch.setenv("KERNEL_BRIDGE_DOCKER_HOST", "unix:///run/ours.sock")
    build()
    assert "DOCKER_HOST=unix:///run/ours.sock" in Path(f"{log}.env").read_text().splitlines()
    build(engine="unix:///run/option.sock")
    assert "DOCKER_HOST=unix:///run/option.sock" in Path(f"{log}.env").read_text().splitlines()
    with pytest.raises(EngineUnavailable, match="Remote engines are not supported"):
        build(engine="tcp://127.0.0.1:1")


def test_a_build_that_takes_too_long_is_ended_with_all_that_it_started(
    docker_stub: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a child that goes on when it is told to end, behind a parent that waits for it
    child = f"(trap '' TERM; echo $$ >{tmp_path}/child; exec sleep 1000) & echo $! >{tmp_path}/child; echo begun; wait"
    docker_stub(building=child)
    monkeypatch.setattr(command, "BUILD_SECONDS", 0.5)
    with pytest.raises(LaunchError, match=r"step 1 \| begun \| it was ended here, because it took too long"):
        build()
    state = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_pips_own_words_are_told_without_what_would_not_help(docker_stub: Callable[..., Path], tmp_path: Path) -> None:
    output = """#6 0.1 ipython==9.18.1
#6 0.608 ERROR: Cannot install ipython<8 because these package versions have conflicting dependencies.
#6 0.608
#6 0.608 The conflict is caused by:
#6 0.608     The user requested ipython<8
#6 0.608     The user requested (constraint) ipython==9.18.1
#6 0.608
#6 0.608 To fix this you could try to:
#6 0.608 1. loosen the range of package versions you have specified
#6 ERROR: executor failed running [/bin/sh -c set -eu]: exit code: 1
------
 > [2/2] RUN pip:
executor failed running [/bin/sh -c set -eu]: exit code: 1"""
    (tmp_path / "said").write_text(output)
    docker_stub(images="kernel-bridge/python:3.13", building=f"cat {tmp_path}/said; exit 1")
    (tmp_path / "requirements.txt").write_text("ipython<8\n")
    with pytest.raises(LaunchError) as raised:
        build(requirements=requirements.read(tmp_path / "requirements.txt"))
    assert str(raised.value).endswith(
        "pip said: Cannot install ipython<8 because these package versions have conflicting dependencies. The conflict "
        "is caused by: The user requested ipython<8 The user requested (constraint) ipython==9.18.1"
    )
    docker_stub(images="kernel-bridge/python:3.13", building="echo 'no space left on device'; exit 1")
    with pytest.raises(LaunchError, match=r"unchanged\. It said: step 1 \| no space left on device$"):
        build(requirements=requirements.read(tmp_path / "requirements.txt"))


def test_an_unknown_image_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="python"):
        build(name="../base")


@pytest.mark.parametrize(
    ("version", "built_in"),
    [
        ("Docker version 20.10.24+dfsg1, build 297e128", True),
        ("Docker version 18.06.1-ce, build e68fc7a", False),
        ("Docker version 23.0.0, build e92dd87", False),
        ("podman version 4.3.1", False),
        ("", False),
    ],
)
def test_buildkit_is_built_into_the_docker_command_only_between_two_versions(version: str, built_in: bool) -> None:  # noqa: FBT001
    assert command.has_buildkit(version) is built_in
