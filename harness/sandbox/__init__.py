"""Runs model-written Python where it can reach neither the machine nor its own verdict.

    result = Sandbox(Policy(cpu_seconds=5, memory_mb=512)).run("print(6*7)")

What this protects from, and what it does not, is in docs/security.md.
"""

from __future__ import annotations

from harness.sandbox.policy import Isolation, Outcome, Policy, Result, SandboxUnavailable, Tier
from harness.sandbox.runner import Sandbox
from harness.sandbox.tiers import probe

__all__ = ["Isolation", "Outcome", "Policy", "Result", "Sandbox", "SandboxUnavailable", "Tier", "probe"]
