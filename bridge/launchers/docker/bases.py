"""What our first image is built on: the public Python image, or one made of Debian's packages.

The one rule: what is there is taken before anything is fetched, and a registry that does not answer is given up.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from bridge.errors import LaunchError
from bridge.launchers.docker.command import DockerCommand, Say

DEBIAN_SUITE = "trixie"
DEBIAN_BASE = f"kernel-bridge/base:{DEBIAN_SUITE}"


def default_base(dockerfile: str) -> str:
    """The base image that a Dockerfile names in `ARG BASE=`; raises `LaunchError`."""
    if found := re.search(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE):
        return found[1]
    raise LaunchError("The image's Dockerfile names no base (ARG BASE=...).")


async def choose(docker: DockerCommand, public: str, script: Path, say: Say) -> str:
    """Return the image to start from: the public one, or what `script` makes where no registry gives it.

    Raises `LaunchError` where neither can be had; the text says what to type.
    """
    if await docker.has_image(public):
        return public
    if await docker.has_image(DEBIAN_BASE):
        say(f"{public} is not in the engine, {DEBIAN_BASE} (made of Debian's packages) is: taking that")
        return DEBIAN_BASE
    say(f"pulling {public}")
    pulled = await docker.pull(public)
    if pulled.ok:
        return public
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise LaunchError(
            f"The base image {public} could not be pulled, so no image was built. Making a base of Debian's packages "
            "instead needs root and debootstrap. Either `docker load` a saved copy of the image, or name another with "
            "--base, or, on Debian or Ubuntu, type `sudo apt-get install debootstrap` and run this as root. "
            f"{pulled.reason}"
        )
    say(f"no registry gave {public}: making a base of Debian's packages instead")
    made = await docker.run_script(script, DEBIAN_SUITE, DEBIAN_BASE)
    if not made.ok:
        raise LaunchError(
            f"The base image {public} could not be pulled, and making one of Debian's packages failed, so no image was "
            f"built. {made.reason}"
        )
    return DEBIAN_BASE
