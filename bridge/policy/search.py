"""Which policy is in force.

The one rule: a policy that someone named is used or is an error, never skipped; and below a system's policy a user's
own can only narrow. The places are fixed when the process starts; no tool and no kernel can change them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bridge.errors import PolicyError
from bridge.policy import places
from bridge.policy.loading import built_in, load
from bridge.policy.model import Lines, Policy
from bridge.policy.narrowing import wider_than

VARIABLE = "KERNEL_BRIDGE_POLICY"
SYSTEM = places.SYSTEM_POLICY


def find(explicit: Path | None = None, environ: Mapping[str, str] = os.environ, *, system: Path = SYSTEM) -> Policy:
    """The policy in force: `explicit`, else $KERNEL_BRIDGE_POLICY, the user's, the system's, the built-in one.

    PolicyError where a file that was named does not exist, where a file that was found is not valid, or where it allows
    more than the system's policy, with every setting that does.
    """
    chosen = _named(explicit, environ) or _present(places.user_policy(environ))
    ceiling_file = _present(system)
    ceiling = load(ceiling_file, of_system=True) if ceiling_file else None
    if chosen is None:
        return ceiling or built_in()
    policy = ceiling if ceiling and chosen == ceiling_file else load(chosen)
    wider = wider_than(policy, ceiling) if ceiling else []
    if wider:
        listed = "\n".join(f"  {line}" for line in wider)
        raise PolicyError(
            f"policy {policy.origin} allows more than this machine's policy {system}, which it can only narrow:\n"
            f"{listed}"
        )
    return _audited_as(policy, ceiling) if ceiling and ceiling.audit.file else policy


def _audited_as(policy: Policy, system: Policy) -> Policy:
    """Return a policy under the system's audit: it holds whatever a user's policy says or leaves out."""
    lines = {setting: line for setting, line in policy.lines.numbers.items() if setting.split(".")[0] != "audit"}
    return policy.model_copy(update={"audit": system.audit, "lines": Lines(lines)})


def _named(explicit: Path | None, environ: Mapping[str, str]) -> Path | None:
    if explicit is not None:
        return places.expanded(explicit, environ)
    value = environ.get(VARIABLE)
    if value is None:
        return None
    if not value:
        raise PolicyError(f"{VARIABLE} is set but empty; set it to a policy file, or unset it")
    return places.expanded(value, environ)


def _present(path: Path) -> Path | None:
    try:
        path.lstat()  # a dangling symlink is there: someone meant a policy
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it may be there; that it cannot be read is then an error
    return path
