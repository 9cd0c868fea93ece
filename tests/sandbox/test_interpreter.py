"""Interpreters keep their state, say what came of a cell, and end with their conversation."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from harness.sandbox import Sandbox
from harness.sandbox.interpreter import POLICY, Interpreter
from harness.sandbox.room import RoomLostError
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


@pytest.mark.parametrize(
    ("y", "drawn"),
    [("['a', 'b', 'a']", "[0.0, 1.0, 0.0]"), ("[1, None, 3]", "[1.0, nan, 3.0]"), ("[date(1970, 1, 3)]", "[2.0]")],
)
def test_words_dates_and_gaps_are_read_as_they_are_drawn(python, y, drawn):
    cell = python.run(f"import matplotlib.pyplot as plt\nfrom datetime import date\nplt.plot({y}, 'o')\nplt.show()")
    assert (cell.outcome, cell.error, len(cell.images)) == ("ok", "", 1)
    assert str(cell.figures[0][0]["lines"][0]) == drawn


def test_a_figure_that_cannot_be_drawn_is_an_error_of_its_cell_alone(python):
    cell = python.run("import os\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title(r'$\\frac{1$')")
    assert cell.outcome == "error" and "ValueError" in cell.error
    assert python.run("os.mkdir('a.png')\nos.symlink('nowhere', 'b.png')\n2").value == "2"
    assert python.run("1 + 1").outcome == "ok"


def test_descriptors_beyond_1023(box):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 1100:
        pytest.skip("no process here may have so many")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 1100), limits[1]))
    box.close()  # a kept room has low descriptors
    held = [os.open("/dev/null", os.O_RDONLY)]
    try:
        while held[-1] < 1024:
            held.append(os.dup(held[0]))
        python = Interpreter(box)
        assert python.run("6 * 7").value == "42"
        python.close()
        box.close()
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_lost_room_is_said_once_and_not_used_again(box):
    python = Interpreter(box)
    supervisor = python._job.room._supervisor.pid
    zygotes = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for pid in (supervisor, *map(int, zygotes)):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(RoomLostError, match="run this again"):
        python.run("import time\ntime.sleep(20)")
    assert python.run("2").outcome == "killed"
    python.close()
    after = Interpreter(box)
    assert after.run("2").value == "2"
    after.close()


def test_a_values_own_repr_may_print_and_may_try_to_leave(python):
    cell = python.run("class A:\n    def __repr__(self):\n        print('in it')\n        return 'A!'\nA()")
    assert (cell.value, cell.stdout.strip()) == ("A!", "in it")
    cell = python.run("class B:\n    def __repr__(self):\n        raise SystemExit\nB()")
    assert cell.outcome == "error" and "SystemExit" in cell.error and python.run("1 + 1").value == "2"


def test_half_an_emoji_is_a_replacement_character(python):
    assert python.run(r"print('\ud83d \U0001f600')").stdout == "\ufffd \U0001f600\n"
