"""Every attack is stopped in both tiers, as the user who runs the tests and as a plain one; and every attack works
where its wall is missing, which shows that the test would notice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.attack.attacks import ATTACKS
from tests.attack.world import World
from tests.sandbox.places import TIERS, USERS, need, run_in, work_in


def worlds(request) -> Iterator[World]:
    made = World(request.param)
    yield made
    made.close()


# One for all attacks that are stopped, so that a room serves many of them; one for each that is not.
world = pytest.fixture(params=USERS, scope="module")(worlds)
own_world = pytest.fixture(params=USERS)(worlds)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_stopped(world, tier, name):
    need(world.user, tier)
    attack = ATTACKS[name]
    before = world.state()
    limits = {"read": (world.names["READABLE"],), "cpu_seconds": 10, **attack.limits}
    (result,) = work_in(world.user, tier, [{"source": world.prelude() + attack.source}], keep=True, **limits)
    assert "BREACH" not in result.stdout
    assert not result.stderr, "it must fail at the wall, not by a mistake of its own"
    assert world.state() == before
    assert world.victim.poll() is None


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].opened is None])
def test_attack_works_without_walls(own_world, name):
    attack = ATTACKS[name]
    if attack.needs_root and (own_world.user == "plain" or os.getuid() != 0):
        pytest.skip("works for root only, even without walls")
    result = run_in(own_world.user, "none", own_world.prelude() + attack.source, cpu_seconds=10)
    if "ABSENT" in result.stdout:
        pytest.skip("this kernel lacks the call")
    assert "BREACH" in result.stdout, result


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].opened is not None])
def test_attack_works_when_its_limit_is_lifted(user, tier, name):
    need(user, tier)
    limits = {"cpu_seconds": 10, **ATTACKS[name].opened}
    (result,) = work_in(user, tier, [{"source": ATTACKS[name].source}], keep=True, **limits)
    assert "BREACH" in result.stdout, result


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("memory_mb", "breach"), [(512, False), pytest.param(2048, True, marks=pytest.mark.slow)], ids=["stopped", "lifted"]
)
def test_memory_taken_after_a_long_wait(tier, memory_mb, breach):
    """The longer a program runs, the more seldom it is looked at."""
    need("self", tier)
    source = "import time\ntime.sleep(3)\n" + ATTACKS["memory_of_many_processes"].source
    (result,) = work_in("self", tier, [{"source": source}], cpu_seconds=10, memory_mb=memory_mb)
    assert ("BREACH" in result.stdout) == breach, result
    assert result.wall_seconds > 2.9 and not result.stderr


# Each makes a plain `python file.py` exit with status 0 before the last line is reached.
EARLY_ENDS = {
    "os_exit": "import os\nos._exit(0)",
    "sys_exit": "import sys\nsys.exit(0)",
    "raise_exit": "raise SystemExit",
    "exit_in_except": "import sys\ntry:\n    1/0\nfinally:\n    sys.exit()",
    "exit_by_hook": "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\n1/0",
    "exit_at_exit": "import atexit, os\natexit.register(os._exit, 0)\n1/0",
    "exit_by_libc": "import ctypes\nctypes.CDLL(None)._exit(0)",
    "exit_in_thread": "import os, threading, time\n"
    "threading.Thread(target=os._exit, args=(0,)).start()\ntime.sleep(30)",
    "exit_on_signal": "import os, signal\nsignal.signal(15, lambda *a: os._exit(0))\nsignal.raise_signal(15)",
    "another_program": "import os, sys\nos.execv(sys.executable, [sys.executable, '-I', '-S', '-c', 'pass'])",
    "child_goes_on": "import os, sys, time\nif os.fork():\n    os._exit(0)\ntime.sleep(0.2)",
    "lie_everywhere": "import os\nfor fd in range(3, 256):\n    try: os.write(fd, b'ok' * 20 + b' ok')\n"
    "    except OSError: pass\nos._exit(0)",
    "replaced_getpid": "import os\nif os.fork():\n    os._exit(0)\nos.getpid = os.getppid",
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", [*TIERS, "none"])
@pytest.mark.parametrize("name", EARLY_ENDS)
def test_an_early_end_is_not_ok(user, tier, name):
    need(user, tier)
    (result,) = work_in(user, tier, [{"source": EARLY_ENDS[name] + "\n"}], keep=True)
    assert result.outcome != "ok"


@pytest.mark.parametrize("name", EARLY_ENDS)
def test_an_early_end_would_pass_by_its_exit_status(name):
    done = subprocess.run([sys.executable, "-I", "-c", EARLY_ENDS[name]], capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", TIERS)
def test_no_power_is_kept(user, tier):
    """No capability, except to reach an interpreter below a closed folder where the host's root folder is in use."""
    need(user, tier)
    source = "import ctypes\nsets = (ctypes.c_uint32 * 6)()\n"
    source += "assert ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(0x20080522, 0), sets) == 0\nprint(*sets[:])"
    source += "\nimport os\nprint(os.getuid(), os.getgid(), os.getgroups())"
    sets, ids = run_in(user, tier, source).stdout.splitlines()
    assert sets in (("0 0 0 0 0 0", "4 4 0 0 0 0") if (user, tier) == ("self", "landlock") else ("0 0 0 0 0 0",))
    assert not ids.startswith("0 ")
    assert user == "plain" or os.getuid() != 0 or ids.endswith("[]")


@pytest.mark.parametrize("tier", TIERS)
def test_runs_cannot_reach_each_other(tier):
    """As root, every run is another user."""
    need("self", tier)
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    ids = {run_in("self", tier, "import os\nprint(os.getuid())").stdout for _ in range(3)}
    assert len(ids) == 3
