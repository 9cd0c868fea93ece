"""No solution decides its own verdict; each forgery works where solution and tests share a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.sandbox import Sandbox
from tests.attack.forgeries import BY_STATUS, IN_PROCESS, OURS
from tests.sandbox.places import TIERS, need

TESTS = "\nassert f(7) == 8\nassert abs(f(7) - 8) < 1\n"
JUDGE = """
import sys
program, result = sys.stdin.read(), []
try:
    exec(program, {"__name__": "judged"})
    result.append("passed")
except BaseException:
    result.append("failed")
print(result[0])
"""


@pytest.fixture(scope="module", params=TIERS)
def box(request):
    need("self", request.param)
    with Sandbox(_tier=request.param) as box:
        yield box


@pytest.mark.parametrize("name", [*IN_PROCESS, *BY_STATUS, *OURS])
def test_a_forgery_is_not_passed(box, name):
    solution = (IN_PROCESS | BY_STATUS | OURS)[name]
    result = box.check(solution, TESTS, ["f"])
    assert result.outcome in ("wrong", "error", "killed"), result
    # the room is fit for the next one
    assert box.check("def f(x):\n    return x + 1", TESTS, ["f"]).outcome == "passed"
    assert box.check("def f(x):\n    return x", TESTS, ["f"]).outcome == "wrong"


@pytest.mark.parametrize("name", IN_PROCESS)
def test_it_gets_past_a_judge_in_its_own_process(name):
    done = subprocess.run([sys.executable, "-c", JUDGE], input=IN_PROCESS[name] + TESTS, capture_output=True, text=True)
    assert "passed" in done.stdout


@pytest.mark.parametrize("name", BY_STATUS)
def test_it_gets_past_a_judge_by_exit_status(name):
    done = subprocess.run([sys.executable, "-c", BY_STATUS[name] + TESTS], capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["say_ok_everywhere", "end_as_ok"])
def test_it_would_fool_whoever_believes_the_solutions_process(box, name):
    """What the solution's own process says of its end can be forged, which is why nobody asks it."""
    assert box.run(OURS[name] + "\nimport os\nos._exit(0)").outcome == "ok"
