"""The policy: what may be started and attached to, read strictly, decided in one place. The only importer of `yaml`.

The one rule: fail closed. A policy that cannot be read in full, trusted and enforced is none at all, and what it does
not allow by name is refused, with every reason and what is allowed instead.
"""

from bridge.policy.decision import SandboxRequest, SandboxSpec, Workspace, allows_image, asked_memory, decide
from bridge.policy.explaining import Reason, explain
from bridge.policy.limits import Limits
from bridge.policy.loading import BUILT_IN, built_in, built_in_text, load, parse
from bridge.policy.model import Attach, Audit, Calls, Egress, ImageRule, Mount, Policy, SandboxPolicy
from bridge.policy.narrowing import wider_than
from bridge.policy.search import find
from bridge.policy.units import format_duration, format_size, parse_duration, parse_size
from bridge.policy.values import NETWORKS, OPEN_NETWORK, Network
from bridge.policy.writing import Setting, settings, written_out

__all__ = [
    "BUILT_IN",
    "NETWORKS",
    "OPEN_NETWORK",
    "Attach",
    "Audit",
    "Calls",
    "Egress",
    "ImageRule",
    "Limits",
    "Mount",
    "Network",
    "Policy",
    "Reason",
    "SandboxPolicy",
    "SandboxRequest",
    "SandboxSpec",
    "Setting",
    "Workspace",
    "allows_image",
    "asked_memory",
    "built_in",
    "built_in_text",
    "decide",
    "explain",
    "find",
    "format_duration",
    "format_size",
    "load",
    "parse",
    "parse_duration",
    "parse_size",
    "settings",
    "wider_than",
    "written_out",
]
