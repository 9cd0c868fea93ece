"""Runs sandbox jobs as the user that it was started as: one JSON request a line in, as places.work_in writes it, one
JSON answer a line out.

Started by places.py under the system's python3, for an account that cannot read the project's own environment.
"""

import json
import sys
import types
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    root = Path(__file__).resolve().parents[2]
    package = types.ModuleType("harness")  # harness/__init__.py may want packages that this python lacks
    package.__path__ = [str(root / "harness")]
    sys.modules["harness"] = package
    from harness.sandbox import Policy, Sandbox, SandboxUnavailable

    kept = {}
    for line in sys.stdin:
        asked = json.loads(line)
        policy, tier = Policy(**{**asked["policy"], "read": tuple(asked["policy"].get("read", ()))}), asked["tier"]
        try:
            box = kept.get((policy, tier)) or Sandbox(policy, unsafe=tier == "none", _tier=tier)
            if asked["keep"]:
                kept[policy, tier] = box
            found = [box.check(**job) if "tests" in job else box.run(**job) for job in asked["jobs"]]
            answer = {"results": [asdict(each) for each in found]}
        except SandboxUnavailable as error:
            answer = {"unavailable": str(error)}
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


main()
