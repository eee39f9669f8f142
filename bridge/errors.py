"""Every deliberate error of the bridge; nothing else.

The one rule: an error's text is complete by itself. It says what happened, what is lost, and what to do, in words
that a person or a model can act on; no border adds to it, and no secret is ever part of it. What a user's code raises
inside a kernel is a result (`outputs.Error`), never one of these. Anything else that escapes is a bug.

The exit codes are the command line's contract: 2 bad usage or bad policy, 3 launch failed, 4 kernel failed.
"""


class BridgeError(Exception):
    """Something that the bridge expected might go wrong, told in full by its text."""

    exit_code = 4
    recorded = False
    """The audit has told of it."""


class UsageError(BridgeError):
    """The request itself is wrong: an unknown kernel, an ambiguous name, a value out of range."""

    exit_code = 2


class NoSuchKernel(UsageError):
    """No kernel matches what was asked for."""


class AmbiguousKernel(UsageError):
    """Several kernels match; the text lists them."""


class PolicyError(BridgeError):
    """The policy file is not valid; the text lists every problem with its line."""

    exit_code = 2


class PolicyRefused(PolicyError):
    """The policy in force does not allow what was asked for; the text lists every reason."""


class PolicyNotEnforceable(PolicyError):
    """The policy holds a setting that this launcher or engine cannot enforce, so nothing is started under it."""


class NotAudited(PolicyError):
    """The policy wants everything recorded that is done, and this could not be, so it was not done."""

    recorded = True  # it cannot be


class LaunchError(BridgeError):
    """A sandbox could not be started, stopped or looked at; whatever had been made for it is removed."""

    exit_code = 3


class EngineUnavailable(LaunchError):
    """No container engine answers."""


class ImageNotFound(LaunchError):
    """The engine has no such image; the text says what to type."""


class NameTaken(LaunchError):
    """A sandbox of this owner already has that name."""


class StartTimeout(LaunchError):
    """The container ran, but its kernel did not answer in time."""


class KernelError(BridgeError):
    """A kernel could not be reached, or was lost."""


class BadConnectionFile(KernelError):
    """The connection file cannot be used: missing, unreadable, not complete, not ours."""

    exit_code = 2


class KernelNotResponding(KernelError):
    """Nothing, or nothing that accepts our key, answers behind a connection file."""


class KernelBusy(KernelError):
    """The kernel runs someone else's code; nothing was executed."""


class NoAnswer(KernelError):
    """Nobody answered what a cell asked, so the cell is interrupted; the text says why."""


class KernelDied(KernelError):
    """The kernel or the way to it ended; the text says how, and what became of the variables."""


class NotOurs(UsageError):
    """The kernel, or the cell it runs, belongs to someone else, so it is left alone."""
