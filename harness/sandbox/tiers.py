"""The strongest tier of this machine, found by running something in it."""

from __future__ import annotations

import functools
import os
import sys

from harness.sandbox.inside import kernel, landlock
from harness.sandbox.policy import Isolation, Policy, SandboxUnavailable, Tier

NOT_LINUX = (
    "the sandbox needs Linux (5.13 or newer): run in a Linux virtual machine or container, "
    "or accept the risk with --unsafe-no-sandbox"
)
# What only a place behind walls cannot do: the probe believes no tier that lets it.
_TRIAL = """
import decimal, json, socket
for attempt in (lambda: open("/etc/passwd"), lambda: open("/proc/self/environ"), socket.socket):
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit("no wall: " + repr(attempt))
print(json.dumps(6 * 7))
"""


def _trial(tier: Tier) -> str:
    """Why the tier does not work here, "" when it does."""
    from harness.sandbox.runner import Sandbox  # runner asks us for the tier

    try:
        result = Sandbox(Policy(cpu_seconds=20), _tier=tier).run(_TRIAL)
    except SandboxUnavailable as error:
        return str(error)
    if (result.outcome, result.stdout) == ("ok", "42\n"):
        return ""
    return f"the {tier} sandbox does not work: {result.detail}; {result.stderr.strip()}"


def _why_no_namespaces() -> str:
    """The setting that most likely forbids user namespaces, and what to do about it."""
    settings = (
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
    )
    for name, bad, good in settings:
        path = "/proc/sys/" + name.replace(".", "/")
        if os.path.exists(path):
            with open(path) as file:
                if file.read().strip() == bad:
                    return f"allow user namespaces: sysctl -w {name}={good}"
    return (
        "allow user namespaces: in a container, start it with a seccomp profile that permits unshare and mount "
        "(docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
    )


@functools.cache
def probe() -> Isolation:
    """The strongest tier that works here; tried once per process.

    Raises SandboxUnavailable, whose message says what is missing and what to install or enable.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(NOT_LINUX)
    try:
        kernel.machine()
    except kernel.SetupError as error:
        raise SandboxUnavailable(f"no sandbox: {error}") from error
    version = landlock.abi()
    with_landlock = f"Landlock ABI {version}" if version else "no Landlock in this kernel"
    no_namespaces = _trial("namespaces")
    if not no_namespaces:
        parts = f"user, process, mount, network, IPC and UTS namespaces; {with_landlock}; seccomp; rlimits"
        return Isolation(tier="namespaces", detail=parts, advice="")
    no_landlock = _trial("landlock")
    advice = _why_no_namespaces()
    if not no_landlock:
        parts = f"{with_landlock}; seccomp; rlimits; subreaper ({no_namespaces})"
        return Isolation(tier="landlock", detail=parts, advice=f"for the stronger tier {advice}")
    raise SandboxUnavailable(
        f"no isolation works here: {no_namespaces}; {no_landlock}. Either {advice}; or boot a kernel of 6.2 or newer "
        f"with Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock,...). Without isolation model-written code runs only "
        f"with --unsafe-no-sandbox, at your own risk."
    )
