"""Each outcome is told from the others, in every tier, and "ok" means that the code ran to its end."""

from __future__ import annotations

import os
import time

import pytest

from harness.sandbox import Policy, Result
from tests.sandbox.places import TIERS, need, run_in, work_in


@pytest.fixture(params=[*TIERS, "none"])
def run(request):
    need("self", request.param)

    def run(source: str, **limits) -> Result:
        return run_in("self", request.param, source, **limits)

    return run


def test_output_of_a_program(run):
    result = run("import sys\nprint(6*7)\nprint('é', file=sys.stderr)")
    assert (result.outcome, result.stdout, result.stderr) == ("ok", "42\n", "é\n")
    assert result.detail
    assert 0 < result.cpu_seconds < 2
    assert 0 < result.wall_seconds < 10


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("", "no_code"),
        (" \n\t\n", "no_code"),
        ("# nothing", "ok"),
        ("def f(:", "syntax"),
        ("x = '\0'", "syntax"),
        ("x = '\ud800'", "syntax"),
        ("exec('def f(:')", "error"),
        ("1/0", "error"),
        ("assert False", "error"),
        ("raise KeyboardInterrupt", "error"),
        ("def f(): f()\nf()", "error"),
        ("import sys; sys.exit(3)", "error"),
        ("import os; os._exit(3)", "error"),
        ("exit_message = 'no'\nraise SystemExit(exit_message)", "error"),
        ("import sys; sys.exit()", "killed"),
        ("import sys; sys.exit(0)", "killed"),
        ("import os; os._exit(0)", "killed"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("import os; os.abort()", "killed"),
        ("x = bytearray(10**12)", "memory"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory"),
    ],
)
def test_outcome(run, source, outcome):
    result = run(source, memory_mb=256)
    assert result.outcome == outcome, result


def test_traceback_shows_the_solution_only(run):
    result = run("def f(x):\n    return 1 / x\n\nf(0)\n")
    assert result.stderr == (
        "Traceback (most recent call last):\n"
        '  File "<solution>", line 4, in <module>\n'
        "    f(0)\n"
        '  File "<solution>", line 2, in f\n'
        "    return 1 / x\n"
        "           ~~^~~\n"
        "ZeroDivisionError: division by zero\n"
    )


def test_code_is_the_main_module(run):
    source = "import __main__, pickle\nclass A: pass\nassert __name__ == '__main__' and __main__.A is A\n"
    source += "assert type(pickle.loads(pickle.dumps(A()))) is A\nprint('annotations' in globals())"
    assert run(source).stdout == "False\n"


def test_stdin_is_empty_and_so_is_the_environment(run, monkeypatch):
    monkeypatch.setenv("HARNESS_TEST_SECRET", "1")
    result = run("import os, sys\nprint(repr(sys.stdin.read()), dict(os.environ), sys.argv)")
    assert result.stdout == "'' {} ['<solution>']\n"


def test_threads_and_exit_functions_belong_to_the_program(run):
    source = "import atexit, threading, time\natexit.register(print, 'exit')\n"
    source += "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\nprint('main')"
    assert run(source).stdout == "main\nthread\nexit\n"
    assert run("import atexit, os\natexit.register(os._exit, 0)").outcome == "killed"


@pytest.mark.parametrize("tier", [*TIERS, "none"])
def test_scratch_folder_is_empty_for_every_run_and_goes_whatever_is_in_it(tier):
    """Two runs in one sandbox."""
    need("self", tier)
    source = "import os, tempfile\nassert os.listdir() == []\nprint(os.getcwd())\nopen('a', 'w').write('x')\n"
    source += "tempfile.TemporaryFile().write(b'x')\nos.mkdir('shut', 0)\nos.symlink('/etc', 'link')\n"
    source += "for i in range(300):\n    os.mkdir('d')\n    os.chdir('d')\n"
    runs = work_in("self", tier, [{"source": source}] * 2, cpu_seconds=20)
    assert [run.outcome for run in runs] == ["ok", "ok"], runs
    for folder in (run.stdout.strip() for run in runs):
        # in namespaces it is a file system of its own
        assert folder == "/scratch" if tier == "namespaces" else folder and not os.path.exists(folder)
    assert os.path.exists("/etc/passwd")


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *a: None)\nwhile True: pass",
        "import os\nfor i in range(3): os.fork()\nwhile True: pass",
    ],
)
def test_processor_time_is_limited(run, source):
    began = time.monotonic()
    result = run(source, cpu_seconds=0.5)
    assert result.outcome == "timeout", result
    assert "processor" in result.detail
    assert 0.4 < result.cpu_seconds < 4
    assert time.monotonic() - began < 10


def test_wall_clock_is_the_backstop(run):
    result = run("import time\nprint('a', flush=True)\ntime.sleep(60)", wall_seconds=0.5)
    assert (result.outcome, result.stdout) == ("timeout", "a\n")
    assert 0.4 < result.wall_seconds < 5
    assert result.cpu_seconds < 0.5


def test_output_is_cut_without_stopping_the_writer(run):
    source = "import sys\nfor i in range(2000): print('x' * 9999); sys.stderr.write('y' * 1000)"
    result = run(source, output_bytes=1000)
    assert (result.outcome, result.stdout, result.stderr) == ("ok", "x" * 1000, "y" * 1000)
    assert run("print('é' * 10)", output_bytes=3).stdout == "é�"


def test_file_size_is_limited(run):
    source = "try:\n    open('f', 'wb').write(bytes(3 << 20))\nexcept OSError as error:\n    print(error.errno)"
    assert run(source, file_mb=2).stdout == "27\n"
    assert run(source, file_mb=4).stdout == ""


def test_number_of_files_is_limited(run):
    source = "import time\ntry:\n    for i in range(COUNT): open(f'f{i}', 'w').close()\n    time.sleep(2)\n"
    source += "    print('all')\nexcept OSError: pass"
    assert run(source.replace("COUNT", "2000"), cpu_seconds=10).stdout == "all\n"
    assert run(source.replace("COUNT", "15000"), cpu_seconds=10).stdout == ""


def test_default_wall_limit():
    assert Policy(cpu_seconds=4).wall_limit == 14
    assert Policy(wall_seconds=1.5).wall_limit == 1.5
