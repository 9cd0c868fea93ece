"""What answers can do to the processes that compare them: nothing beyond a few seconds, nothing to this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.math_equal import equal
from tasks.math_extract import final_answer
from tasks.math_problems import MATH
from tasks.math_workers import PROGRAM, Pool

SECONDS = 10.0
ENDED = ("timeout", "memory", "killed", "different", "unreadable", "error: RecursionError", "error: OverflowError")
ROOT = Path(__file__).parents[2]


def nested(before: str, inside: str, after: str, times: int) -> str:
    return before * times + inside + after * times


TOWERS = {
    "tower": ("5", "5^{5^{5^{5^5}}}"),
    "gold tower": ("5^{5^{5^{5^5}}}", "5^{5^{5^{5^5}}}+1"),
    "tower in round brackets": ("5", "5^(5^(5^(5^5)))"),
    "last digit of a tower": ("7", "9^{9^{9^9}} \\mod 10"),
    "power": ("1", "10^{10^{10}}"),
    "small power": ("0", "10^{-10^{10}}"),
    "scientific": ("1", "1\\times 10^{9999}"),
    "factorial": ("1", "100000000!"),
    "factorials": ("1", "((10!)!)!"),
    "binomial": ("1", "\\binom{10^9}{5\\cdot 10^8}"),
    "exponentials": ("1", "e^{e^{e^{e^{e^{e}}}}}"),
    "logarithms": ("1", "\\log(\\log(\\log(10^{10^{10^{10}}})))"),
    "gamma": ("1", "\\Gamma(10^{10})"),
}
BOMBS = {
    "nested radicals": ("1", nested("\\sqrt{2+", "2", "}", 60)),
    "integral": ("1", "\\int_0^{\\infty} \\frac{\\sin(x^3) e^{-x^2} \\log(1+x^4)}{1+x^7+\\cos x} dx"),
    "sum": ("1", "\\sum_{k=1}^{10^{12}} \\frac{1}{k^k}"),
    "product": ("1", "\\prod_{k=1}^{1000000} (x+k)"),
    "limit": ("1", "\\lim_{x \\to 0} \\frac{\\sin(\\tan(\\sin x)) - \\tan(\\sin(\\tan x))}{x^{17}}"),
    "expansion": ("1", "(a+b+c+d+e+f+g+h)^{60} - (a+b+c+d+e+f+g+h)^{59}"),
    "inverse": ("1", "\\begin{pmatrix}" + "\\\\".join(f"x_{i}&y_{i}&z_{i}&1&2&3&4&5&{i}" for i in range(9))
                + "\\end{pmatrix}^{-1}"),
    "equation": ("x=1", "x^{99}+y^{98}+z^{97}=(x+y+z)^{96}"),
    "list of towers": (",".join(f"{i}^{{{i}^{{{i}^9}}}}" for i in range(5, 12)),
                       ",".join(f"{i}^{{{i}^{{{i}^8}}}}" for i in range(5, 12))),
    "digits": ("x", "9" * 3999),
    "brackets": ("1", nested("(", "1", ")", 1500)),
    "braces": ("1", nested("{", "1", "}", 1500)),
    "fractions": ("1", nested("\\frac{1}{", "2", "}", 300)),
    "boxes": ("2", nested("\\boxed{", "1", "}", 400)),
    "signs": ("1", "-" * 3000 + "1"),
    "equals signs": ("1", "x=" * 1500),
    "spaces": ("1", " " * 3900 + "x"),
    "words": ("east", "a " * 1900),
    "commas": ("1", "," * 3900),
    "open text": ("1", "\\text{" * 600),
}  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    pool = Pool(1)
    assert pool.compare("x", "x").outcome == "equal"  # started
    yield pool
    pool.close()


QUICK = ("tower", "gold tower", "scientific", "digits", "commas", "open text")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in TOWERS | BOMBS]
)
def test_it_ends_in_time_and_the_pool_goes_on(pool, name):
    gold, answer = (TOWERS | BOMBS)[name]
    start = time.monotonic()
    decision = equal(gold, answer, pool.compare)
    assert time.monotonic() - start < SECONDS
    assert not decision.equal and (decision.algebra is None or decision.algebra in ENDED), decision
    assert pool.compare("(x+1)^2", "x^2+2x+1").outcome == "equal"


@pytest.mark.parametrize("unit", ["$", "\\text{", "\\boxed{", "final answer is ", "Final Answer: The final answer is $",
                                  "a", "{", " ", "\n", ".", "\\frac", "1,", "答案是", "**", "answer is $"])  # fmt: skip
def test_reading_long_replies_takes_no_time(unit):
    task, text = MATH(), unit * (200_000 // len(unit))
    start = time.monotonic()
    final_answer(text[-20_000:])
    task.verdict(text, "5")
    assert time.monotonic() - start < SECONDS


# What a comparison may do: the program is loaded with another `compare`, as if a library had been tricked


def held(body: str) -> tuple[str, float]:
    """Runs one comparison whose work is `body`; returns its outcome and how long it took."""
    program = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("program", {str(PROGRAM)!r})
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)
def compare(gold, answer):
    {body}
program.compare = compare
start = time.monotonic()
outcome, _ = program.judged(b'{{"gold": "1", "answer": "2"}}')
print(outcome, time.monotonic() - start, sep="|")
"""
    reading, writing = os.pipe()
    try:
        run = subprocess.run([sys.executable, "-c", program], stdin=reading, capture_output=True, timeout=60, text=True)
    finally:
        os.close(reading)
        os.close(writing)
    outcome, seconds = run.stdout.split("|")
    return outcome, float(seconds)


def test_an_honest_comparison():
    assert held("return 'equal'")[0] == "equal"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("bytearray(3 << 30)", "memory"),
        ("[bytearray(1 << 20) for _ in range(3000)]", "memory"),
        ("'9' * 10**12", "memory"),
        ("__import__('os')._exit(0)", "killed"),
        ("eval('1+1')", "error: PermissionError"),
        ("exec('x = 1')", "error: PermissionError"),
        ("open('/tmp/qwen-harness-math', 'w')", "error: PermissionError"),
        ("__import__('os').system('true')", "error: PermissionError"),
        ("__import__('os').fork()", "error: PermissionError"),
        ("__import__('subprocess').run(['true'])", "error: PermissionError"),
        ("__import__('socket').socket()", "error: PermissionError"),
        ("__import__('shutil').rmtree('/tmp/qwen-harness-math')", "error: PermissionError"),
        ("__import__('os').remove('/tmp/qwen-harness-math')", "error: PermissionError"),
        ("f = lambda: f(); f()", "error: RecursionError"),
    ],
)
def test_what_a_comparison_cannot_do(body, outcome):
    assert held(body)[0] == outcome


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        pytest.param("10**10**10", marks=pytest.mark.slow),
        pytest.param("import time; time.sleep(100)", marks=pytest.mark.slow),
        pytest.param("import signal; signal.signal(signal.SIGPROF, 1); 9**9**9", marks=pytest.mark.slow),
    ],
)
def test_time_is_up_whatever_it_does(body):
    outcome, seconds = held(body)
    assert outcome == "timeout" and seconds < SECONDS


def test_the_text_of_an_answer_is_never_evaluated(pool, tmp_path):
    mark = tmp_path / "mark"
    for text in (
        f"__import__('os').system('touch {mark}')",
        f"\\text{{__import__('os').system('touch {mark}')}}",
        f"open('{mark}','w')",
        f"1+\\operatorname{{exec}}(\"open('{mark}','w')\")",
        f"x_{{__import__('pathlib').Path('{mark}').touch()}}",
    ):
        for gold, answer in ((text, "x+1"), ("x+1", text), ("2", f"1+{text}")):
            assert pool.compare(gold, answer).outcome != "equal"
    assert not mark.exists()


# The pool


def test_a_worker_killed_between_comparisons_is_replaced():
    pool = Pool(1)
    try:
        pool.compare("x", "x")
        (worker,) = pool._workers
        os.kill(worker.process.pid, signal.SIGKILL)
        assert pool.compare("(x+1)^2", "x^2+2x+1").outcome == "equal"
        assert pool._workers != {worker}
    finally:
        pool.close()


def test_many_threads_share_the_workers():
    pool = Pool(2)
    pairs = [(f"(x+{i})^2", f"x^2+{2 * i}x+{i * i}") for i in range(10)] + [(f"x+{i}", "x") for i in range(1, 11)]
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda pair: pool.compare(*pair).outcome, pairs))
        assert found == ["equal"] * 10 + ["different"] * 10
        assert len(pool._workers) <= 2
    finally:
        pool.close()
    assert not pool._workers


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_the_harness(end):
    program = (
        "import threading, time; from tasks.math_workers import POOL\n"
        "POOL.compare('x', 'x')\n"
        "print(next(iter(POOL._workers)).process.pid, flush=True)\n"
        "threading.Thread(target=POOL.compare, args=('5', '5^{5^{5^{5^5}}}'), daemon=True).start(); time.sleep(60)\n"
    )
    harness = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    assert harness.stdout is not None
    group = int(harness.stdout.readline())
    time.sleep(0.5)  # the tower is being built
    os.kill(harness.pid, end)
    harness.wait(timeout=SECONDS)
    harness.stdout.close()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and alive(group):
        time.sleep(0.1)
    assert not alive(group)


def alive(group: int) -> bool:
    """Whether a process group has members; zombies that nobody reaps do not count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False
