"""Runs sandbox jobs as the user that it was started as: one JSON job a line in, one JSON answer a line out.

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

    for line in sys.stdin:
        job = json.loads(line)
        job["policy"]["read"] = tuple(job["policy"].get("read", ()))
        try:
            box = Sandbox(Policy(**job["policy"]), unsafe=job["tier"] == "none", _tier=job["tier"])
            answer = asdict(box.run(job["source"]))
        except SandboxUnavailable as error:
            answer = {"unavailable": str(error)}
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


main()
