"""Building the images in `images/`: which docker command can, with which base, and with which secrets.

The one rule: nothing of this machine ends up in the image. A CA bundle and a pip configuration are given to the build
as secrets, by their paths, so that neither the image, its history nor a process list shows what is in them.

The docker command line builds, not docker-py: the latter does not know BuildKit, and without it there are no secrets.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import EngineUnavailable, LaunchError, UsageError
from bridge.launchers.docker import host, requirements
from bridge.policy import images

PYTHON = "kernel-bridge/python:3.13"
TAGS: Mapping[str, str] = {"python": PYTHON, "scipy": "kernel-bridge/scipy:3.13"}
"""The images that can be built: the folder's name and the tag it gets. All others are built on the first."""

DEBIAN_SUITE = "trixie"
DEBIAN_BASE = f"kernel-bridge/base:{DEBIAN_SUITE}"

CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
SECRET_BYTES = 500 * 1024  # BuildKit takes no larger one

ASK_SECONDS = 30.0  # a question to the command line or the engine
ANSWER_SECONDS = 60.0  # until a registry has answered at all; some networks drop what they do not let through
PULL_SECONDS = 900.0
BUILD_SECONDS = 1800.0

Say = Callable[[str], None]


def images_directory() -> Path:
    """The folder `images/`: in an installed package inside it, in a checkout beside it; raises `LaunchError`."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "_images", package.parent / "images"):
        if folder.is_dir():
            return folder
    raise LaunchError(
        f"The images' sources are not in this installation of kernel-bridge ({package}). Install it again."
    )


@dataclass(frozen=True)
class How:
    """How the images are built on this machine; what a person may say about it."""

    say: Say
    """Called with every line of progress."""
    ca_bundle: Path | None = None
    """Certificates that the package index is checked against, where a proxy inspects TLS. Default: the one that this
    process's own environment names (`SSL_CERT_FILE` and the like)."""
    pip_config: Path | None = None
    """pip's configuration for the build, for example with a mirror's address."""
    docker_host: str | None = None
    """The engine's address. Default: the one that sandboxes are started in."""


def build(name: str = "python", how: How | None = None, *, base: str | None = None) -> str:
    """Build an image and return its tag. Takes a minute or two the first time, seconds after that.

    Args:
        name: the folder in `images/`.
        how: see `How`.
        base: the image to start from. Default: for `python` the public Python image that the Dockerfile names, or where
            no registry gives it one made of Debian's packages (root and debootstrap needed); for others `python`, which
            is built first where it is missing.

    Raises:
        UsageError: there is no such image.
        EngineUnavailable: no engine answers.
        LaunchError: it cannot be built; the text says what to install or type.

    """
    if name not in TAGS:
        raise UsageError(f"There is no image {name!r}; there is: {', '.join(TAGS)}.")
    how = how or How(say=lambda _: None)
    folder = images_directory() / name
    secrets, docker = _secrets(how), _docker(how)
    if name == "python":
        public = default_base((folder / "Dockerfile").read_text(encoding="utf-8"))
        base = base or _base(docker, public, images_directory())
    else:
        base = base or _ours(docker, how)
    return _build(docker, folder, TAGS[name], base, secrets)


def build_packages(file: Path, how: How, *, extras: Sequence[str] = (), tag: str | None = None) -> str:
    """Build an image with the packages that a requirements.txt or a pyproject.toml names, and return its tag.

    They are installed into the kernel's own environment, within the versions that the kernel itself runs on. `tag` is
    by default one of the repository that the built-in policy allows, with the project's or the directory's name.
    Raises as `build`, and `UsageError` where the file cannot be used.
    """
    listed = requirements.read(file, extras)
    tag = tag or f"{PYTHON}-{requirements.name_of(file)}"
    _check_tag(tag)
    secrets, docker = _secrets(how), _docker(how)
    base = _ours(docker, how)
    sources = images_directory()
    with tempfile.TemporaryDirectory(prefix="kernel-bridge-image-") as made:
        folder = Path(made)
        shutil.copy(sources / "packages" / "Dockerfile", folder)
        (folder / "requirements.txt").write_text(listed, encoding="utf-8")
        for each in folder.iterdir():
            each.chmod(0o644)  # the build reads it as another user, whatever this one's umask
        return _build(docker, folder, tag, base, secrets)


def _check_tag(tag: str) -> None:
    """Raise `UsageError` for what is no tag, or is the name of an image that others are built on."""
    try:
        asked = images.parse(tag)
    except ValueError as error:
        raise UsageError(f"--tag: {error}. Nothing was built.") from None
    if asked in {images.parse(each) for each in (*TAGS.values(), DEBIAN_BASE)}:
        raise UsageError(
            f"--tag {tag} is the name of an image that others are built on. Nothing was built; give another."
        )


def _secrets(how: How) -> list[str]:
    """Return the `--secret` arguments; what cannot be given is told before anything is built."""
    bundle = how.ca_bundle or _ca_bundle(os.environ)
    if bundle:
        how.say(f"with the certificates in {bundle}, as a secret of the build: they do not stay in the image")
    found = {"ca_bundle": bundle, "pip_conf": how.pip_config}
    return [part for key, path in found.items() if path for part in ("--secret", secret(key, path))]


def _docker(how: How) -> _Docker:
    """Return the docker command, pointed at the engine that sandboxes are started in, once that answers."""
    environ = {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_HOST": host.find(how.docker_host).url}
    docker = _Docker(_builder(environ), environ, how.say)
    docker.check_engine()
    return docker


def _ours(docker: _Docker, how: How) -> str:
    if not docker.has_image(PYTHON):
        docker.say(f"{PYTHON} is not there yet, and this is built on it: building that first")
        build("python", how)
    return PYTHON


def _build(docker: _Docker, folder: Path, tag: str, base: str, secrets: Sequence[str]) -> str:
    docker.say(f"building {tag} from {base}")
    done = docker.stream(
        ["build", "--progress=plain", f"--tag={tag}", f"--build-arg=BASE={base}", *secrets, str(folder)],
        seconds=BUILD_SECONDS,
    )
    if not done.ok:
        raise LaunchError(f"The image {tag} was not built; what was there before is unchanged. {done.reason}")
    return tag


def secret(key: str, path: Path) -> str:
    """One `--secret` argument; raises `LaunchError` where BuildKit would not take the file.

    The argument is a line of CSV, so a path with a comma or a quote in it is quoted as one field.
    """
    path = path.absolute()
    try:
        size = len(path.read_bytes())
    except OSError as error:
        raise LaunchError(
            f"{path} cannot be given to the image's build: {error.strerror}. Nothing was built."
        ) from None
    if size > SECRET_BYTES:
        raise LaunchError(
            f"{path} is larger than the {SECRET_BYTES // 1024} KiB that a build takes as a secret. Nothing was built. "
            "Give a bundle with only the certificates that are needed."
        )
    field = f"src={path}"
    if any(character in field for character in ',"\n'):
        field = '"' + field.replace('"', '""') + '"'
    return f"id={key},{field}"


def default_base(dockerfile: str) -> str:
    """The base image that a Dockerfile names in `ARG BASE=`; raises `LaunchError`."""
    if found := re.search(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE):
        return found[1]
    raise LaunchError("The image's Dockerfile names no base (ARG BASE=...).")


def has_buildkit(version: str) -> bool:
    """Whether a docker command without the buildx plugin has BuildKit built in, from what `docker --version` says."""
    found = re.match(r"Docker version (\d+)\.(\d+)", version)
    return found is not None and (18, 9) <= (int(found[1]), int(found[2])) < (23, 0)


def _ca_bundle(environ: Mapping[str, str]) -> Path | None:
    named = (Path(environ[variable]) for variable in CA_VARIABLES if environ.get(variable))
    return next((path for path in named if path.is_file()), None)


def _builder(environ: Mapping[str, str]) -> str:
    """The first docker command on the PATH that can build with BuildKit; raises `LaunchError`."""
    found: list[str] = []
    for directory in environ.get("PATH", os.defpath).split(os.pathsep):
        command = shutil.which("docker", path=directory) if directory else None
        if command is None or command in found:
            continue
        found.append(command)
        if _ask([command, "buildx", "version"], environ).ok or has_buildkit(_ask([command, "--version"], environ).text):
            return command
    lost = "No image was built, and without it no sandbox can be started."
    if not found:
        raise LaunchError(
            f"There is no docker command on the PATH. {lost} Install one with BuildKit: on Debian or Ubuntu type "
            "`sudo apt-get install docker.io docker-buildx` (Debian 12: only docker.io)."
        )
    raise LaunchError(
        f"The docker command ({', '.join(found)}) cannot build with BuildKit: its buildx plugin is missing. {lost} "
        "Install it: the package docker-buildx (Debian, Ubuntu) or docker-buildx-plugin (Docker's own packages)."
    )


@dataclass(frozen=True)
class _Answer:
    """What a finished command said."""

    ok: bool
    text: str

    @property
    def reason(self) -> str:
        """The last lines, for an error's text."""
        return "It said: " + " | ".join(self.text.split("\n")[-5:]) if self.text else "It said nothing."


def _ask(command: Sequence[str], environ: Mapping[str, str]) -> _Answer:
    try:
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=ASK_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return _Answer(ok=False, text=str(error))
    return _Answer(ok=done.returncode == 0, text=(done.stdout + done.stderr).strip())


class _Docker:
    """One docker command, its environment, and where its lines go."""

    def __init__(self, command: str, environ: Mapping[str, str], say: Say) -> None:
        self.say = say
        self._command = command
        self._environ = environ

    def check_engine(self) -> None:
        answer = _ask([self._command, "version", "--format", "{{.Server.Version}}"], self._environ)
        if not answer.ok:
            raise EngineUnavailable(f"No container engine answers, so no image was built. {answer.reason}")

    def has_image(self, reference: str) -> bool:
        return _ask([self._command, "image", "inspect", "--format", "{{.Id}}", reference], self._environ).ok

    def stream(self, arguments: Sequence[str], *, seconds: float) -> _Answer:
        return self._follow([self._command, *arguments], seconds)

    def run_script(self, script: Path, *arguments: str, seconds: float) -> _Answer:
        return self._follow(["sh", str(script), *arguments], seconds)

    def pull(self, reference: str) -> _Answer:
        """Pull an image; given up if no registry has begun to answer in time."""
        return self._follow(
            [self._command, "pull", reference], PULL_SECONDS, first=ANSWER_SECONDS, answered="Pulling from"
        )

    def _follow(self, command: Sequence[str], seconds: float, *, first: float = 0, answered: str = "") -> _Answer:
        """Run a command and pass its lines on; ended after `seconds`, or where it had not `answered` after `first`."""
        last: deque[str] = deque(maxlen=5)
        with (
            subprocess.Popen(
                command, env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", start_new_session=True,
            ) as process,
            _deadline(process, seconds),
            _deadline(process, first or seconds) as waiting,
        ):  # fmt: skip
            for line in process.stdout or ():
                if answered and answered in line:
                    waiting.cancel()
                if text := line.strip():
                    last.append(text)
                    self.say(text)
        return _Answer(ok=process.returncode == 0, text="\n".join(last))


@contextmanager
def _deadline(process: subprocess.Popen[str], seconds: float) -> Iterator[threading.Timer]:
    """End a process when its time is up, and also when whoever reads from it stops before its end."""

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # a shell would first wait for what it runs

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield timer
    except BaseException:
        end()
        raise
    finally:
        timer.cancel()


def _base(docker: _Docker, public: str, folder: Path) -> str:
    """The image to start from: the public one, or one made of Debian's packages where no registry gives it."""
    if docker.has_image(public):
        return public
    if docker.has_image(DEBIAN_BASE):
        docker.say(f"{public} is not in the engine, {DEBIAN_BASE} (made of Debian's packages) is: taking that")
        return DEBIAN_BASE
    docker.say(f"pulling {public}")
    pulled = docker.pull(public)
    if pulled.ok:
        return public
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise LaunchError(
            f"The base image {public} could not be pulled, so no image was built. Making a base of Debian's packages "
            "instead needs root and debootstrap. Either `docker load` a saved copy of the image, or name another with "
            "--base, or, on Debian or Ubuntu, type `sudo apt-get install debootstrap` and run this as root. "
            f"{pulled.reason}"
        )
    docker.say(f"no registry gave {public}: making a base of Debian's packages instead")
    made = docker.run_script(folder / "base" / "debootstrap.sh", DEBIAN_SUITE, DEBIAN_BASE, seconds=BUILD_SECONDS)
    if not made.ok:
        raise LaunchError(
            f"The base image {public} could not be pulled, and making one of Debian's packages failed, so no image was "
            f"built. {made.reason}"
        )
    return DEBIAN_BASE
