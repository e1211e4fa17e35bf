"""Which probes there are, how each is run, and what shows that it can succeed."""

import bombs  # noqa: F401  (registers its probes)

from paddock_probes import files, gate, identity, kernel, network  # noqa: F401
from paddock_probes.registry import PROBES

BOMBS = tuple(name for name, probe in PROBES.items() if probe.run.__module__ == "bombs")
HARMLESS = tuple(name for name in PROBES if name not in BOMBS)

KEYS, RUNNER = "keys", "runner"
"""Controls that need no other container: keys that are good, and a process that is called as the runner, unguarded."""
BY_TERMINAL_ALONE = ("runner",)
"""Needs what a run has and a bare container has not."""

CONTROLS = {
    **dict.fromkeys(
        (
            "route-outside",
            "host-port",
            "bridge-gateway",
            "metadata-service",
            "internet-tcp",
            "internet-udp",
            "internet-icmp",
            "ipv6",
            "dns-outside",
            "services-by-address",
            "services-by-name",
        ),
        "network",
    ),
    **dict.fromkeys((name for name in HARMLESS if name.startswith(("gate-", "side-"))), "gate"),
    **dict.fromkeys(
        ("root-user", "capabilities", "raw-socket", "mount", "kernel-files", "devices"), "privileges"
    ),
    **dict.fromkeys(("user-namespace", "kernel-calls", "vsock"), "seccomp"),
    "setuid-programs": "new-privileges",
    "read-only-root": "read-only",
    "other-processes": "processes",
    "abstract-socket": "host-network",
    **dict.fromkeys(
        ("docker-socket", "mounts", "handover", "secrets-in-environment", "secrets-in-files"), "mounts"
    ),
    "limits": "limits",
    "runner": RUNNER,
    **dict.fromkeys((name for name in HARMLESS if name.startswith("key-")), KEYS),
}
"""Harmless probe → the file of without/ in whose container it must get through, or KEYS, or RUNNER."""
