"""Images from a kernel: what kind and how large they are, SVG drawn as PNG, and large ones made smaller.

The one rule: an image is hostile. Its declared type is not believed, nothing outside it is read, and what draws it runs
in a process of its own with bounded memory and time.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from xml.etree import ElementTree as ET

SVG_SIDE = 1600
"""Pixels: models see no more detail than that."""
SVG_SOURCE = 4 << 20
_SMALLEST = 200
"""Pixels: an image that has to be smaller to fit tells nothing."""
_INSIDE = re.compile(r"#|data:image/(png|jpe?g|gif|webp);base64,")
_LENGTH = re.compile(r"([0-9]{1,15}(?:\.[0-9]+)?)(px|pt|pc|mm|cm|in|em|)")
_UNITS = {"": 1.0, "px": 1.0, "pt": 96 / 72, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0, "em": 16.0}


def measure(raw: bytes) -> tuple[str, int, int]:
    """Type, width and height (pixels) from the file's own header; ValueError and the like where it has none."""
    if raw.startswith(b"\x89PNG\r\n\x1a\n"):
        kind, size = "image/png", struct.unpack_from(">II", raw, 16)
    elif raw.startswith((b"GIF87a", b"GIF89a")):
        kind, size = "image/gif", struct.unpack_from("<HH", raw, 6)
    elif raw.startswith(b"\xff\xd8\xff"):
        kind, size = "image/jpeg", _jpeg_size(raw)
    elif raw.startswith(b"RIFF") and raw[8:12] == b"WEBP":
        kind, size = "image/webp", _webp_size(raw)
    else:
        raise ValueError("neither PNG, JPEG, GIF nor WebP")
    width, height = size
    if not width or not height:
        raise ValueError("an image without a size")
    return kind, width, height


def _jpeg_size(raw: bytes) -> tuple[int, int]:
    at = 2
    while True:
        marker, length = raw[at + 1], struct.unpack_from(">H", raw, at + 2)[0]
        if raw[at] != 0xFF or length < 2:
            raise ValueError("a damaged JPEG")
        # SOF0 to SOF15 hold the size; DHT, JPG and DAC lie between them.
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", raw, at + 5)
            return width, height
        at += 2 + length


def _webp_size(raw: bytes) -> tuple[int, int]:
    match raw[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", raw, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            bits = struct.unpack_from("<I", raw, 21)[0]
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", raw, 24)
            return (high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1
    raise ValueError("a damaged WebP")


_BOUNDED = """
import base64, contextlib, resource, sys
for limit, most in ((resource.RLIMIT_AS, 1 << 30), (resource.RLIMIT_CPU, 8), (resource.RLIMIT_CORE, 0)):
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(limit, (most, most))
import resvg_py
"""
_DRAWING = """
side = int(sys.argv[1]) or None
svg = sys.stdin.buffer.read().decode()
sys.stdout.buffer.write(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, background="white", dpi=96))
"""
# resvg looks at the nearest pixels only, so a thin line is lost where more than two or three become one: several steps.
_SHRINKING = """
kind, (width, height, side, smallest, most) = sys.argv[1], map(int, sys.argv[2:])
raw = sys.stdin.buffer.read()
while len(raw) > most or max(width, height) > side:
    factor = max(0.4, min(0.9, 0.9 * (most / len(raw)) ** 0.5, side / max(width, height)))
    width, height = max(1, round(width * factor)), max(1, round(height * factor))
    if max(width, height) < smallest:
        sys.exit(1)
    image = f'<image width="{width}" height="{height}" preserveAspectRatio="none" href="data:{kind};base64,'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{image}'
    svg += base64.b64encode(raw).decode() + '"/></svg>'
    raw, kind = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white")), "image/png"
sys.stdout.buffer.write(raw)
"""


def draw(svg: str, deadline: float) -> bytes:
    """An SVG as PNG on white; ValueError says why not."""
    harmless, large = _harmless(svg)
    return _run(_DRAWING, [str(SVG_SIDE if large else 0)], harmless.encode(), deadline)


def shrink(raw: bytes, most: int, deadline: float) -> bytes:
    """An image as a PNG of at most `most` bytes that is no larger than models see; ValueError says why not."""
    kind, width, height = measure(raw)
    return _run(_SHRINKING, [kind, *map(str, (width, height, SVG_SIDE, _SMALLEST, most))], raw, deadline)


def _run(drawing: str, arguments: Sequence[str], source: bytes, deadline: float) -> bytes:
    """Run resvg in a process of its own with bounded memory and time.

    A thousand nested groups, one large number in an SVG or a small file of many pixels make it abort, and that must
    not be the bridge, which serves other kernels too.
    """
    try:
        drawn = subprocess.run(
            [sys.executable, "-P", "-c", _BOUNDED + drawing, *arguments],
            input=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=max(0.0, deadline - time.monotonic()),
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise ValueError("drawing takes too long") from None
    except (subprocess.CalledProcessError, OSError):
        raise ValueError("resvg cannot draw it") from None
    return drawn.stdout


def _harmless(svg: str) -> tuple[str, bool]:
    """The SVG written anew without references to anything outside it, and whether it is larger than models see.

    resvg reads local files (`<image href="/etc/…">`), and the bridge is on the host while the code that made the
    SVG may be in a container.
    """
    if len(svg) > SVG_SOURCE or "<!ENTITY" in svg:
        raise ValueError("too large to be drawn" if len(svg) > SVG_SOURCE else "it declares entities")
    try:
        root = ET.fromstring(svg)  # noqa: S314  # no entities, see above
        for element in root.iter():
            for name in [name for name in element.attrib if name.rpartition("}")[2] == "href"]:
                if not _INSIDE.match(element.attrib[name]):
                    del element.attrib[name]
        return ET.tostring(root, encoding="unicode"), max(_svg_size(root)) > SVG_SIDE
    except (ET.ParseError, RecursionError) as problem:
        raise ValueError(f"not a sound SVG: {problem}") from None


def _svg_size(root: ET.Element) -> tuple[float, float]:
    """Width and height in pixels, 0 where the SVG does not say."""
    box = [*re.split(r"[\s,]+", root.get("viewBox", "").strip()), "", "", "", ""]
    return _pixels(root.get("width", ""), box[2]), _pixels(root.get("height", ""), box[3])


def _pixels(length: str, otherwise: str) -> float:
    found = _LENGTH.fullmatch(length.strip()) or _LENGTH.fullmatch(otherwise)
    return float(found[1]) * _UNITS[found[2]] if found else 0.0
