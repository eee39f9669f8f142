"""The policy's schema: frozen values, each with its bounds and the words that say what may be written.

The one rule: nothing is accepted that is not enforced; what is not known is refused. What is never negotiable (no
capabilities, never privileged, never the engine's socket) is in no schema at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from bridge.policy import images as references
from bridge.policy import places
from bridge.policy.limits import SETTINGS, Limits
from bridge.policy.units import format_duration, problem, written
from bridge.policy.values import (
    AUDIT_KEPT,
    AUDIT_SIZE,
    ENDING,
    GPUS,
    IDLE_OF_AGENTS,
    KEPT,
    MAX_RUNNING,
    OUTPUT,
    PORT,
    RESULT,
    RUNTIME_DIRECTORY,
    TIMEOUT,
    Address,
    AttachDirectory,
    AuditFile,
    CaBundle,
    Digest,
    Host,
    Image,
    Mode,
    Network,
    NetworkRange,
    Repository,
    Runtime,
    Source,
    Tag,
    Upstream,
    VariableName,
    Version,
)


class Attach(BaseModel):
    """Which host kernels may be attached to. They are not isolated."""

    model_config = SETTINGS

    allowed: bool = Field(
        default=True,
        title="whether host kernels may be attached to at all; they are not isolated",
        description="true or false",
    )
    directories: tuple[AttachDirectory, ...] = Field(
        default=(RUNTIME_DIRECTORY,),
        title="where connection files of host kernels may lie",
        description="a list of 'runtime' and full paths of directories, like [runtime]",
    )
    addresses: tuple[Address, ...] = Field(
        default=("loopback",), title="where host kernels may listen", description="a list, for now [loopback]"
    )


class ImageRule(BaseModel):
    """One repository, and what of it may be started. Tags and digests are compared exactly; the tag `*` is any tag."""

    model_config = SETTINGS

    repository: Repository = Field(
        title="an image that may be started, compared exactly",
        description="an image's name without tag, like kernel-bridge/python",
    )
    tags: tuple[Tag, ...] = Field(
        default=(), title="which of its tags; `*` is any", description='a list of tags in quotes, like ["3.13"]'
    )
    digests: tuple[Digest, ...] = Field(
        default=(), title="which of its digests", description='a list of digests, like ["sha256:…"]'
    )

    @field_validator("tags")
    @classmethod
    def _any_tag_stands_alone(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        if references.ANY_TAG in tags and len(tags) > 1:
            raise problem('"*" already means any tag; write it alone, or the tags without it')
        return tags

    @field_validator("digests")
    @classmethod
    def _some_image_is_named(cls, digests: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not digests and info.data.get("tags") == ():
            raise problem('this names no image; write tags, like ["3.13"], or digests', about_section=True)
        return digests


MAX_EGRESS, MAX_RANGES = 128, 16
"""All of them go to the gateway as one argument of a program, which is 128 KiB at most."""


class Egress(BaseModel):
    """A host that a sandbox may reach through its gateway, with what it can be told there: a way in and a way out."""

    model_config = SETTINGS

    host: Host = Field(
        title="a host that may be reached through the gateway, by tunnels as https uses",
        description="a host's full name, like pypi.example.org, or an address, like 10.1.2.3",
    )
    port: Annotated[int, PORT] = Field(title="its port", description=PORT.allowed)
    allow_addresses: tuple[NetworkRange, ...] = Field(
        default=(),
        title="addresses that are not public to which its name may resolve",
        description="a list of address ranges, like [10.1.2.0/24]",
    )

    @field_validator("allow_addresses")
    @classmethod
    def _ranges_are_few(cls, ranges: tuple[str, ...]) -> tuple[str, ...]:
        if len(ranges) > MAX_RANGES:
            raise problem(f"these are {len(ranges)} ranges; write at most {MAX_RANGES}")
        return ranges


class Mount(BaseModel):
    """A host directory that may be asked for, and what lies below it. `source` has its symlinks resolved."""

    model_config = SETTINGS

    source: Source = Field(
        title="a host directory that may be asked for, and what lies below it",
        description="a directory, like ~/projects",
    )
    mode: Mode = Field(default="ro", title="whether it may be written", description="ro or rw")


OUR_IMAGE = "kernel-bridge/python:3.13"
OURS = tuple(ImageRule(repository=f"kernel-bridge/{name}", tags=("*",)) for name in ("python", "scipy"))
"""What is allowed where a policy does not say: the images that this project builds, and no others."""


class SandboxPolicy(BaseModel):
    """What may be started, and the most that it may have."""

    model_config = SETTINGS

    images: tuple[ImageRule, ...] = Field(
        default=OURS,
        title="the images that may be started, and no others",
        description="a list of images, each with repository and tags or digests",
    )
    default_image: Image = Field(
        default=OUR_IMAGE,
        validate_default=True,  # a file that lists other images only must name its own
        title="what is started where no image is asked for",
        description=f"an image that images allows, like {OUR_IMAGE}",
    )
    network: Network = Field(
        default="isolated",
        title="the most that may be asked for, and what a sandbox gets",
        description="none, isolated or open",
    )
    egress: tuple[Egress, ...] = Field(
        default=(),
        title="the hosts that a sandbox with network isolated may reach, and no others",
        description="a list of hosts, each with host and port",
    )
    upstream_proxy: Upstream | None = Field(
        default=None,
        title="a proxy through which they are reached; it resolves their names, so allow_addresses cannot be held then",
        description="a proxy's address like http://proxy.example.org:3128, or null",
    )
    ca_bundle: CaBundle | None = Field(
        default=None,
        title="certificates that programs in a sandbox trust in place of the usual ones, as where a proxy inspects TLS",
        description="a file of certificates in PEM form, like /etc/ssl/certs/ca-certificates.crt, or null",
    )
    limits: Limits = Limits()
    mounts: tuple[Mount, ...] = Field(
        default=(),
        title="host directories that may be asked for, at the same path inside",
        description="a list of directories, each with source and mode",
    )
    environment: tuple[VariableName, ...] = Field(
        default=(),
        title="variables that may be passed into a sandbox",
        description="a list of variable names, like [TZ, LANG]",
    )
    gpus: Annotated[int, GPUS] = Field(
        default=0, title="how many GPUs every sandbox gets; their memory is not limited", description=GPUS.allowed
    )
    runtime: Runtime | None = Field(
        default=None,
        title="a stronger container runtime for every sandbox",
        description="a runtime that the engine knows, like runsc, or null",
    )
    max_running: Annotated[int, MAX_RUNNING] = Field(
        default=4, title="how many sandboxes may run at the same time; 0 allows none", description=MAX_RUNNING.allowed
    )
    idle_timeout: Annotated[float, ENDING] | None = Field(
        default=written("24h"),
        title="after how long a sandbox ends to which nobody is connected and in which nothing runs; one that an agent "
        f"started, and in which only agents ever were, after {format_duration(IDLE_OF_AGENTS)} at most",
        description=f"{ENDING.allowed}, or null",
    )
    max_lifetime: Annotated[float, ENDING] | None = Field(
        default=None,
        title="after how long a sandbox ends, whatever runs in it",
        description=f"{ENDING.allowed}, or null",
    )

    @field_validator("images")
    @classmethod
    def _some_image_is_allowed(cls, rules: tuple[ImageRule, ...]) -> tuple[ImageRule, ...]:
        if not rules:
            raise problem("the list is empty; write at least one image, and max_running: 0 to allow no sandbox at all")
        return rules

    @field_validator("default_image")
    @classmethod
    def _default_image_is_allowed(cls, image: str, info: ValidationInfo) -> str:
        rules = info.data.get("images")
        if rules is not None and not references.allows(rules, references.parse(image)):
            raise problem(f"{image} is not among the images of this policy; write one of {references.describe(rules)}")
        return image

    @field_validator("egress")
    @classmethod
    def _each_host_once(cls, egress: tuple[Egress, ...]) -> tuple[Egress, ...]:
        if len(egress) > MAX_EGRESS:
            raise problem(f"these are {len(egress)} hosts; write at most {MAX_EGRESS}")
        pairs = [(each.host, each.port) for each in egress]
        twice = sorted({f"{host} {port}" for host, port in pairs if pairs.count((host, port)) > 1})
        if twice:
            raise problem(f"listed twice with the same port: {', '.join(twice)}; write it once, with all its addresses")
        return egress

    @field_validator("upstream_proxy")
    @classmethod
    def _addresses_can_be_held(cls, upstream: str | None, info: ValidationInfo) -> str | None:
        judged = [each.host for each in info.data.get("egress", ()) if each.allow_addresses]
        if upstream and judged:
            raise problem(
                f"the proxy resolves the names, so the allow_addresses of {', '.join(judged)} cannot be held; "
                "leave those out, or the proxy"
            )
        return upstream

    @field_validator("mounts")
    @classmethod
    def _modes_hold(cls, mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
        wrong = [
            f"{mount.source} is listed twice; write it once"
            for index, mount in enumerate(mounts)
            if any(mount.source == other.source for other in mounts[:index])
        ] + [
            f"{inner.source} is ro but lies in {outer.source}, which may be mounted rw with all that it holds; "
            "write ro for both, or leave the inner one out"
            for inner in mounts
            for outer in mounts
            if (inner.mode, outer.mode) == ("ro", "rw") and outer.source in inner.source.parents
        ]
        if wrong:
            raise problem("; ".join(wrong))
        return mounts


class Calls(BaseModel):
    """How long a call may wait and how much it may return; seconds and bytes."""

    model_config = SETTINGS

    timeout: Annotated[float, TIMEOUT] = Field(
        default=written("45s"),
        title="how long a call waits for a cell; the cell itself goes on",
        description=TIMEOUT.allowed,
    )
    max_timeout: Annotated[float, TIMEOUT] = Field(
        default=written("1h"), title="the longest that a call may ask for", description=TIMEOUT.allowed
    )
    max_output: Annotated[int, OUTPUT] = Field(
        default=written("48KiB"), title="how much text one result shows", description=OUTPUT.allowed
    )
    max_result: Annotated[int, RESULT] = Field(
        default=written("900KiB"), title="how large one result may be, images included", description=RESULT.allowed
    )
    kept_output: Annotated[int, KEPT] | None = Field(
        default=written("1GiB"),
        title="how much output each server keeps on disk; with null a little, in memory alone",
        description=f"{KEPT.allowed}, or null",
    )

    @field_validator("max_timeout")
    @classmethod
    def _timeout_is_within(cls, max_timeout: float, info: ValidationInfo) -> float:
        timeout = info.data.get("timeout", 0.0)
        if timeout > max_timeout:
            raise problem(
                f"this is less than timeout ({TIMEOUT.show(timeout)}); write at least that, or a smaller timeout"
            )
        return max_timeout

    @field_validator("max_result")
    @classmethod
    def _output_is_within(cls, max_result: int, info: ValidationInfo) -> int:
        output = info.data.get("max_output", 0)
        if output > max_result:
            raise problem(
                f"this is less than max_output ({OUTPUT.show(output)}); write at least that, or a smaller max_output"
            )
        return max_result


class Audit(BaseModel):
    """Where all that is done with kernels is recorded, and how; without a file, nowhere."""

    model_config = SETTINGS

    file: AuditFile | None = Field(
        default=None,
        title="where all that is done with kernels is recorded; what cannot be recorded is not done",
        description="a file's full path, or null",
    )
    code: Literal["hash", "text", "none"] = Field(
        default="hash",
        title="how a cell's code is recorded; it may hold secrets",
        description="hash (SHA-256), text or none",
    )
    max_size: Annotated[int, AUDIT_SIZE] = Field(
        default=written("64MiB"), title="at which size another file is begun", description=AUDIT_SIZE.allowed
    )
    keep: Annotated[int, AUDIT_KEPT] = Field(
        default=5, title="how many older files are kept beside it", description=AUDIT_KEPT.allowed
    )


class PolicyFile(BaseModel):
    """What a policy's text holds."""

    model_config = SETTINGS

    version: Version = Field(title="of the schema", description="1")
    attach: Attach = Attach()
    sandbox: SandboxPolicy = SandboxPolicy()
    calls: Calls = Calls()
    audit: Audit = Audit()

    @field_validator("audit")
    @classmethod
    def _audit_is_apart(cls, audit: Audit, info: ValidationInfo) -> Audit:
        attach, file = info.data.get("attach"), audit.file
        for directory in attach.directories if attach else ():
            if file and directory != RUNTIME_DIRECTORY and places.holds(Path(directory), file):
                raise problem(
                    f"the file {file} lies in {directory}, where others put connection files "
                    "(attach.directories); write a file elsewhere"
                )
        return audit


@dataclass(frozen=True)
class Lines:
    """In which line each setting was written. Equal to all others: what a policy allows does not depend on it."""

    numbers: Mapping[str, int] = field(default_factory=dict, compare=False)


class Policy(PolicyFile):
    """A policy and where it comes from: a file's full path, or what is said in place of one."""

    origin: str = Field(description="where the policy comes from")
    lines: Lines = Field(default=Lines(), description="where each setting was written")

    def line(self, setting: str) -> str:
        """Where a person finds a setting like `sandbox.images`: `line 3`, or `built in` where it is not written."""
        number = self.lines.numbers.get(setting)
        return "built in" if number is None else f"line {number}"

    def rule(self, setting: str) -> str:
        """A setting as every refusal names it: `(sandbox.images, line 3)`."""
        return f"({setting}, {self.line(setting)})"
