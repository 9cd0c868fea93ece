"""Which user the code becomes."""

from __future__ import annotations

import secrets

CAP_SETGID, CAP_SETUID = 6, 7
# Above the ranges that distributions and container managers hand out, below what signed 32-bit tools choke on.
HIGHEST = 0x7FFFFFF0
SPREAD = 1 << 24


def may_change_user() -> bool:
    """Whether this process may become any user: root, where that has not been taken away. Raises OSError."""
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return bool(effective >> CAP_SETUID & 1 and effective >> CAP_SETGID & 1)


def _highest_mapped(kind: str) -> tuple[int, int]:
    """The widest range of users (kind "uid") or groups ("gid") that exist here: first and last."""
    with open(f"/proc/self/{kind}_map") as file:
        ranges = [(int(first), int(first) + int(count) - 1) for first, _, count in map(str.split, file)]
    return max(ranges, key=lambda span: span[1] - span[0])


def fresh() -> int | None:
    """A user and group number that nobody has, new for each run, so that runs cannot reach each other and the limit of
    processes counts one run alone; None where we may not change user. Raises OSError."""
    if not may_change_user():
        return None
    first = max(_highest_mapped(kind)[0] for kind in ("uid", "gid"))
    last = min(HIGHEST, *(_highest_mapped(kind)[1] - 20 for kind in ("uid", "gid")))
    if last <= max(first, 1000):
        return None
    return last - secrets.randbelow(min(SPREAD, (last - max(first, 1000)) // 2 + 1))
