"""The image that sandboxes are started from, and the programs in it, to be tried without a container."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from types import ModuleType

import pytest

from bridge.launchers.docker import build as building
from bridge.launchers.docker.image import TAGS
from tests.composed import BUILD, ROOT


@cache
def python_image() -> str:
    """Return the image's tag; it is built where it was not yet from the files as they are now."""
    subprocess.run([ROOT / ".ci" / "image.sh", TAGS["python"]], check=True, timeout=BUILD)
    return TAGS["python"]


def program(name: str) -> ModuleType:
    """Load one as a module."""
    file = building.images_directory() / "python" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"image_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # what lies in images/ goes into the wheel
        spec.loader.exec_module(module)
    return module
