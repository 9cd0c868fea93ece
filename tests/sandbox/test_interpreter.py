"""Interpreters keep their state, say what came of a cell, and end with their conversation."""

from __future__ import annotations

import pytest

from harness.sandbox import Sandbox
from harness.sandbox.interpreter import POLICY, Interpreter
from tests.sandbox.places import TIERS, need


@pytest.fixture(scope="module", params=TIERS)
def box(request):
    need("self", request.param)
    with Sandbox(POLICY, _tier=request.param) as box:
        yield box


@pytest.fixture
def python(box):
    made = Interpreter(box, {"a.csv": "x,y\n1,2\n3,4\n"})
    yield made
    made.close()


def test_state_is_kept_and_the_last_value_shown(python):
    assert python.run("x = 6\nprint('hi')").stdout == "hi\n"
    cell = python.run("x * 7")
    assert (cell.outcome, cell.stdout, cell.value) == ("ok", "", "42")
    assert python.run("_ + 1").value == "43"


def test_errors_are_told_and_do_not_end_it(python):
    cell = python.run("x = 1\nx / 0")
    assert cell.outcome == "error" and cell.error.endswith("ZeroDivisionError: division by zero\n")
    assert python.run("def f(:").outcome == "syntax"
    assert python.run("bytearray(1 << 50)").outcome == "memory"
    assert python.run("x").value == "1"


def test_files_packages_and_plots(python):
    assert python.run("import pandas as pd\nint(pd.read_csv('a.csv').y.sum())").value == "6"
    cell = python.run("import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.title('T')\nplt.show()")
    assert cell.outcome == "ok" and cell.figures[0][0]["bars"] == [1.0, 2.0] and cell.figures[0][0]["title"] == "T"
    assert len(cell.images) == 1 and cell.images[0].startswith(b"\x89PNG")
    saved = python.run("plt.plot([1, 2])\nplt.savefig('p.png')\nplt.close()")
    assert len(saved.images) == 1
    assert python.run("1").images == ()


def test_a_cell_that_takes_too_long_ends_it(python):
    assert python.run("while True: pass", seconds=0.5).outcome == "timeout"
    assert python.run("1").outcome == "killed"


@pytest.mark.parametrize("source", ["import os\nos._exit(0)", "import os\nos.closerange(3, 256)"])
def test_an_early_end_is_noticed(python, source):
    assert python.run(source, seconds=5).outcome in ("killed", "error", "timeout")


def test_conversations_see_nothing_of_each_other(box):
    first, second = Interpreter(box), Interpreter(box)
    first.run("x = 1\nopen('mine', 'w').close()")
    assert second.run("import os\nos.listdir()").value == "[]"
    assert second.run("x").outcome == "error"
    first.close()
    second.close()
    third = Interpreter(box)
    assert third.run("import os\nos.listdir()").value == "[]"
    third.close()


def test_the_walls_are_there(python):
    assert python.run("open('/etc/passwd')").outcome == "error"
    assert python.run("import socket\nsocket.socket()").outcome == "error"
