"""Building the images in `images/`, and a person's own packages on top of one of them.

The one rule: nothing of this machine ends up in the image. A CA bundle and a pip configuration are given to the build
as secrets, by their paths, so that neither the image, its history nor a process list shows what is in them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import LaunchError, UsageError
from bridge.launchers.docker import bases, host
from bridge.launchers.docker.command import Answer, DockerCommand, Say
from bridge.launchers.docker.image import TAGS
from bridge.launchers.docker.requirements import Requirements
from bridge.policy.images import parse

CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
SECRET_BYTES = 500 * 1024  # BuildKit takes no larger one


def images_directory() -> Path:
    """The folder `images/`: in an installed package inside it, in a checkout beside it; raises `LaunchError`."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "_images", package.parent / "images"):
        if folder.is_dir():
            return folder
    raise LaunchError(
        f"The images' sources are not in this installation of kernel-bridge ({package}). Install it again."
    )


def _nothing(_: str) -> None:
    pass


@dataclass(frozen=True)
class How:
    """How the images are built on this machine; what a person may say about it."""

    say: Say = _nothing
    """Called with each step, in words."""
    watch: Say | None = None
    """Called with every line of the commands that are run. Default: `say`."""
    ca_bundle: Path | None = None
    """Certificates that the package index is checked against, where a proxy inspects TLS. Default: the one that this
    process's own environment names (`SSL_CERT_FILE` and the like)."""
    pip_config: Path | None = None
    """pip's configuration for the build, for example with a mirror's address."""
    engine: str | None = None
    """The engine's address. Default: the one that sandboxes are started in."""


async def build(
    name: str = "python",
    how: How | None = None,
    *,
    requirements: Requirements | None = None,
    tag: str | None = None,
    base: str | None = None,
) -> str:
    """Build an image and return its tag. Takes a minute or two the first time, seconds after that.

    Cancelled, it ends what it runs; the engine keeps what was there before.

    Args:
        name: the folder in `images/`.
        how: see `How`.
        requirements: packages to install on top of the image `name`, which is built first where it is missing.
        tag: the name to give it. Default: the image's own, and with requirements the project's name after it.
        base: the image to start from. Default: the one that the Dockerfile names. The public Python image, where no
            registry gives it, is replaced by one made of Debian's packages (root and debootstrap needed).

    Raises:
        UsageError: there is no such image, or the tag cannot be had.
        EngineUnavailable: no engine answers.
        LaunchError: it cannot be built; the text says what to install or type.

    """
    if name not in TAGS:
        raise UsageError(f"There is no image {name!r}; there is: {', '.join(TAGS)}.")
    if tag:
        _check_tag(tag)
    chosen = tag or (f"{TAGS[name]}-{requirements.label}" if requirements else TAGS[name])
    how = how or How()
    bundle = how.ca_bundle or named_bundle(os.environ)
    secrets = {"ca_bundle": bundle, "pip_conf": how.pip_config}
    arguments = [part for key, path in secrets.items() if path for part in ("--secret", secret(key, path))]
    docker = await DockerCommand.find(host.find(how.engine), how.watch or how.say)
    if bundle:
        how.say(f"with the certificates in {bundle}, as a secret of the build: they do not stay in the image")
    work = _Build(docker, images_directory(), tuple(arguments), how.say)
    if requirements:
        await work.packages(name, requirements, chosen)
    else:
        await work.image(name, chosen, base)
    return chosen


@dataclass(frozen=True)
class _Build:
    """One engine, and what every build in it is given."""

    docker: DockerCommand
    folder: Path
    arguments: tuple[str, ...]
    say: Say

    async def image(self, name: str, tag: str, base: str | None = None) -> None:
        """Build a folder of `images/`."""
        chosen = base or await self._base(name)
        self.say(f"building {tag} from {chosen}")
        done = await self._built(name, tag, chosen)
        if not done.ok:
            raise LaunchError(f"The image {tag} was not built; what was there before is unchanged. {done.reason}")

    async def packages(self, name: str, requirements: Requirements, tag: str) -> None:
        """Build a person's packages on top of one of our images."""
        below = await self._ours(TAGS[name])
        self.say(f"building {tag}: the packages of {requirements.file} on top of {below}")
        done = await self._built("packages", tag, below, {"requirements.txt": requirements.text})
        if done.ok:
            return
        lost = f"The image {tag} was not built; what was there before is unchanged."
        if done.pips_reason is None:
            raise LaunchError(f"{lost} {done.reason}")
        raise LaunchError(
            f"The packages of {requirements.file} cannot be installed on top of {below}: its own versions stay, and "
            "only wheels are taken, unless a line `--no-binary NAME` in a requirements.txt lets one package be "
            f"compiled. {lost} pip said: {done.pips_reason}"
        )

    async def _built(self, name: str, tag: str, base: str, files: Mapping[str, str] | None = None) -> Answer:
        with tempfile.TemporaryDirectory(prefix="kernel-bridge-build-") as context:
            _fill(Path(context), self.folder / name, files or {})
            return await self.docker.build(f"--tag={tag}", f"--build-arg=BASE={base}", *self.arguments, context)

    async def _base(self, name: str) -> str:
        named = bases.default_base((self.folder / name / "Dockerfile").read_text(encoding="utf-8"))
        if named in TAGS.values():
            return await self._ours(named)
        return await bases.choose(self.docker, named, self.folder / "base" / "debootstrap.sh", self.say)

    async def _ours(self, tag: str) -> str:
        """Make sure of one of our own images."""
        if not await self.docker.has_image(tag):
            self.say(f"{tag} is not in the engine: building it first")
            await self.image(next(name for name, each in TAGS.items() if each == tag), tag)
        return tag


def _fill(context: Path, folder: Path, files: Mapping[str, str]) -> None:
    """Put a folder's files and others into a build's context, readable for its user whatever this one's umask is."""
    for each in folder.iterdir():
        if each.is_file():
            shutil.copyfile(each, context / each.name)
    for name, text in files.items():
        (context / name).write_text(text, encoding="utf-8")
    for each in context.iterdir():
        each.chmod(0o644)


def _check_tag(tag: str) -> None:
    try:
        reference = parse(tag)
    except ValueError as error:
        raise UsageError(f"--tag: {error}. Nothing was built.") from None
    if reference.digest:
        raise UsageError(f"--tag {tag[:80]} names an image by its content, which is not known yet. Nothing was built.")
    if reference in [parse(each) for each in (*TAGS.values(), bases.DEBIAN_BASE)]:
        raise UsageError(
            f"--tag {tag} is the name of an image that others are built on. Nothing was built; give another."
        )


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


def named_bundle(environ: Mapping[str, str]) -> Path | None:
    """Return the certificates that an environment names, where the file is there."""
    named = (Path(environ[variable]) for variable in CA_VARIABLES if environ.get(variable))
    return next((path for path in named if path.is_file()), None)
