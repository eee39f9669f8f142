"""`kernel-bridge image`: the images that sandboxes are started from."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli import say
from bridge.launchers.docker.build import build as build_image

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def image() -> None:
    """Build the images that sandboxes are started from."""


@image.command()
@click.argument("name", default="python")
@click.option("--base", help="The image to build on; by default a public Python image.")
@click.option("--ca-bundle", type=FILE, help="CA certificates for the build, where a proxy inspects TLS.")
@click.option("--pip-config", type=FILE, help="A pip configuration for the build, e.g. with your package index.")
def build(name: str, base: str | None, ca_bundle: Path | None, pip_config: Path | None) -> None:
    """Build the image NAME (python) with the docker CLI; the two files leave no trace in it.

    Example: kernel-bridge image build
    """
    say(f"Building the image {name}; the first time takes a minute or two.")
    click.echo(build_image(name, base=base, ca_bundle=ca_bundle, pip_config=pip_config, say=say))
