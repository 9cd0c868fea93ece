"""Attacks that are about what is left afterwards, or about the processes around the code."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.sandbox import SandboxUnavailable
from tests.sandbox.places import TIERS, USERS, as_plain_user, named, need, plain_helper, run_in, work_in

NAME = 'ctypes.CDLL(None).prctl(15, b"NAME", 0, 0, 0)'
SURVIVORS = {
    "orphan": f'import ctypes, os, time\nif os.fork() == 0:\n    {NAME}\n    print("left", flush=True)\n'
    "    time.sleep(300)\ntime.sleep(0.3)\n",
    "double_fork": "import ctypes, os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
    f"        {NAME}\n"
    '        print("left", flush=True)\n        time.sleep(300)\n    os._exit(0)\nos.wait()\ntime.sleep(0.3)\n',
    "deaf_daemon": "import ctypes, os, signal, time\nif os.fork() == 0:\n    os.setsid()\n"
    "    for number in {*range(1, 32)} - {9, 17, 19}: signal.signal(number, signal.SIG_IGN)\n    if os.fork() == 0:\n"
    f'        {NAME}\n        print("left", flush=True)\n        os.closerange(0, 64)\n        os.chdir("/")\n'
    "        time.sleep(300)\n    os._exit(0)\nos.wait()\ntime.sleep(0.3)\n",
    "thread_of_a_child": "import ctypes, os, threading, time\nif os.fork() == 0:\n    os.setpgid(0, 0)\n"
    f'    {NAME}\n    print("left", flush=True)\n'
    "    threading.Thread(target=time.sleep, args=(300,)).start()\n    time.sleep(300)\ntime.sleep(0.3)\n",
}
BOMB = (
    f"import ctypes, os\n{NAME}\nprint('left', flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
)


NUMBERS = itertools.count()


def unique(source: str) -> tuple[str, str]:
    """The source with a name that no other process has; and the name."""
    name = f"left-{os.getpid() % 10**6}-{next(NUMBERS)}"
    return source.replace("NAME", name), name


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", [*TIERS, "none"])
@pytest.mark.parametrize("end", ["", "time.sleep(60)"])
@pytest.mark.parametrize("name", SURVIVORS)
def test_it_ends_with_the_run(user, tier, end, name):
    need(user, tier)
    source, title = unique(SURVIVORS[name])
    (result,) = work_in(user, tier, [{"source": source + end}], keep=True, wall_seconds=0.7 if end else 10)
    assert "left" in result.stdout, result
    assert result.outcome == ("timeout" if end else "ok")
    assert named(title) == []


@pytest.mark.parametrize("name", SURVIVORS)
def test_it_would_outlive_a_plain_subprocess(name):
    source, title = unique(SURVIVORS[name])
    source = source.replace("time.sleep(0.3)", "time.sleep(0.3)\nos._exit(0)")
    subprocess.run([sys.executable, "-c", source], stdout=subprocess.DEVNULL, check=True)
    survivors = named(title)
    for pid in survivors:
        os.kill(pid, 9)
    assert survivors


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", TIERS)
def test_an_endless_fork_bomb_ends_and_the_room_is_fit_for_more(user, tier):
    need(user, tier)
    source, title = unique(BOMB)
    limits = {"cpu_seconds": 1, "processes": 8}
    bomb, after = work_in(user, tier, [{"source": source}, {"source": "print(6*7)"}], **limits)
    assert bomb.stdout[:5] == "left\n"
    assert bomb.outcome in ("timeout", "killed"), bomb  # where the system does not count for us, we do
    assert named(title) == []
    assert after.stdout == "42\n"


KILLS_ITS_PARENT = """
import os, signal, time
for number in NUMBERS:
    try:
        os.kill(os.getppid(), number)
    except PermissionError:
        pass
time.sleep(0.2)
print("still here")
"""


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", TIERS)
def test_the_parent_cannot_be_killed(user, tier):
    need(user, tier)
    source = KILLS_ITS_PARENT.replace("NUMBERS", "range(1, 65)")
    results = work_in(user, tier, [{"source": source}, {"source": "print(6*7)"}])
    assert [(each.outcome, each.stdout) for each in results] == [("ok", "still here\n"), ("ok", "42\n")]


@pytest.mark.parametrize("user", USERS)
def test_the_parent_could_be_killed_without_walls(user):
    if user == "plain":
        plain_helper()
    with pytest.raises((OSError, SandboxUnavailable)):
        run_in(user, "none", KILLS_ITS_PARENT.replace("NUMBERS", "[9]"))


@pytest.fixture
def setuid_program():
    """A copy of `id` that runs as root, whoever starts it."""
    if os.getuid() != 0:
        pytest.skip("only root can make a program run as root")
    folder = Path(tempfile.mkdtemp(prefix="harness-attack-"))
    folder.chmod(0o755)
    program = folder / "id"
    shutil.copy(str(shutil.which("id")), program)
    program.chmod(0o4755)
    yield str(program)
    shutil.rmtree(folder)


SETUID = "import subprocess\nprint(subprocess.run([PROGRAM, '-u'], capture_output=True, text=True, check=True).stdout)"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", TIERS)
def test_setuid_programs_give_no_power(user, tier, setuid_program):
    """Though the policy lets the code start it."""
    need(user, tier)
    read = (setuid_program, *(path for path in ("/usr/lib", "/usr/lib64") if os.path.exists(path)))
    result = run_in(user, tier, SETUID.replace("PROGRAM", repr(setuid_program)), read=read)
    assert result.outcome == "ok", result
    assert int(result.stdout) > 0


def test_setuid_programs_give_power_without_walls(setuid_program):
    plain_helper()
    assert run_in("plain", "none", SETUID.replace("PROGRAM", repr(setuid_program))).stdout.split() == ["0"]
    assert subprocess.run(as_plain_user([setuid_program, "-u"]), capture_output=True).stdout == b"0\n"
