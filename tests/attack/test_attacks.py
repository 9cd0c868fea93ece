"""Every attack is stopped in both tiers, as the user who runs the tests and as a plain one; and every attack works
where its wall is missing, which shows that the test would notice."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.attacks import ATTACKS
from tests.sandbox.places import PLAIN_UID, TIERS, USERS, need, open_to_all, plain_helper, run_in


class World:
    """What there is to attack, belonging to the user who attacks."""

    def __init__(self, user: str, folder: Path) -> None:
        owner = PLAIN_UID if user == "plain" else os.getuid()
        self.folder = folder
        self.sockets = [socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)]
        self.sockets[1].bind(("127.0.0.1", 0))
        (folder / "outside").mkdir()
        (folder / "home").mkdir(mode=0o700)
        for name in ("secret", "outside/old", "home/key", "readable"):
            (folder / name).write_text("a secret")
            (folder / name).chmod(0o600)
        abstract = f"\0harness-attack-{user}-{os.getpid()}"
        for address in (str(folder / "unix"), abstract):
            self.sockets.append(socket.socket(socket.AF_UNIX))
            self.sockets[-1].bind(address)
            self.sockets[-1].listen(50)
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, owner, owner) if os.getuid() == 0 else None
        sleep = ["setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "sleep", "1000"]
        self.victim = subprocess.Popen(
            sleep if user == "plain" else sleep[-2:], env={"HARNESS_SECRET": "x", **os.environ}
        )
        while Path(f"/proc/{self.victim.pid}/comm").read_text() != "sleep\n":
            time.sleep(0.005)  # still on its way to being sleep
        self.names = {
            "SECRET": str(folder / "secret"),
            "OUTSIDE": str(folder / "outside"),
            "HOME": str(folder / "home"),
            "READABLE": str(folder / "readable"),
            "TCP": self.sockets[0].getsockname()[1],
            "UDP": self.sockets[1].getsockname()[1],
            "UNIX": str(folder / "unix"),
            "ABSTRACT": abstract,
            "VICTIM": self.victim.pid,
            "PARENT": plain_helper().pid if user == "plain" else os.getpid(),
            "ADDRESS": 0,
        }

    def prelude(self) -> str:
        with open(f"/proc/{self.victim.pid}/maps") as maps:
            self.names["ADDRESS"] = int(maps.readline().split("-")[0], 16)
        return "".join(f"{name} = {value!r}\n" for name, value in self.names.items())

    def state(self) -> list[tuple[str, int, str]]:
        """Every file of the world with its mode and content."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(str(path), path.stat().st_mode, path.read_text()) for path in files]

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        for each in self.sockets:
            each.close()


@pytest.fixture(params=USERS)
def world(request, tmp_path) -> Iterator[World]:
    if request.param == "plain":
        plain_helper()
    open_to_all(tmp_path)
    folder = tmp_path / "world"
    folder.mkdir()
    made = World(request.param, folder)
    made.user = request.param
    yield made
    made.close()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_stopped(world, tier, name):
    need(world.user, tier)
    attack = ATTACKS[name]
    before = world.state()
    limits = {"read": (world.names["READABLE"],), "cpu_seconds": 10, **attack.limits}
    result = run_in(world.user, tier, world.prelude() + attack.source, **limits)
    assert "BREACH" not in result.stdout
    assert not result.stderr, "it must fail at the wall, not by a mistake of its own"
    assert world.state() == before
    assert world.victim.poll() is None


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].opened is None])
def test_attack_works_without_walls(world, name):
    attack = ATTACKS[name]
    if attack.needs_root and (world.user == "plain" or os.getuid() != 0):
        pytest.skip("works for root only, even without walls")
    result = run_in(world.user, "none", world.prelude() + attack.source, cpu_seconds=10)
    assert "BREACH" in result.stdout, result


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].opened is not None])
def test_attack_works_when_its_limit_is_lifted(world, tier, name):
    need(world.user, tier)
    result = run_in(world.user, tier, ATTACKS[name].source, cpu_seconds=10, **ATTACKS[name].opened)
    assert "BREACH" in result.stdout, result


INHERIT = """
import os
for fd in range(3, 1024):
    try:
        text = os.pread(fd, 100, 0)
    except OSError:
        continue
    if b"a secret" in text:
        print("BREACH")
"""


@pytest.mark.parametrize("tier", [*TIERS, "none"])
def test_descriptors_are_not_inherited(tier, tmp_path):
    need("self", tier)
    (tmp_path / "secret").write_text("a secret")
    with open(tmp_path / "secret") as secret:
        os.set_inheritable(secret.fileno(), True)
        assert run_in("self", tier, INHERIT).stdout == ""
        control = subprocess.run([sys.executable, "-c", INHERIT], close_fds=False, capture_output=True, text=True)
    assert control.stdout == "BREACH\n"


@pytest.mark.parametrize("tier", [*TIERS, "none"])
def test_the_only_descriptors_are_the_three_and_the_proof(tier):
    need("self", tier)
    source = "import os\nfor fd in range(1024):\n    try: os.fstat(fd)\n    except OSError: continue\n    print(fd)"
    assert len(run_in("self", tier, source).stdout.split()) == 4


# Each makes a plain `python file.py` exit with status 0 before the last line is reached.
FORGERIES = {
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


@pytest.mark.parametrize("tier", [*TIERS, "none"])
@pytest.mark.parametrize("name", FORGERIES)
def test_an_early_end_is_not_ok(tier, name):
    need("self", tier)
    assert run_in("self", tier, FORGERIES[name] + "\n").outcome != "ok"


@pytest.mark.parametrize("name", FORGERIES)
def test_an_early_end_would_pass_by_its_exit_status(name):
    done = subprocess.run([sys.executable, "-I", "-c", FORGERIES[name]], capture_output=True)
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
