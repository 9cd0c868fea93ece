"""The public face: policies, the probe, unavailability, threads, what is left behind."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.sandbox import Isolation, Policy, Sandbox, SandboxUnavailable, probe, runner, scratch, tiers
from harness.sandbox.inside import cleanup
from harness.sandbox.room import Room
from tests.sandbox.places import TIERS, USERS, named, need, open_to_all, run_in

ORPHAN = """
import ctypes, os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"NAME", 0, 0, 0)
        print("orphan", flush=True)
        time.sleep(300)
    os._exit(0)
os.wait()
time.sleep(0.3)
"""


@pytest.mark.parametrize(
    "limits",
    [
        {"cpu_seconds": 0},
        {"wall_seconds": -1},
        {"memory_mb": 0},
        {"output_bytes": -5},
        {"read": ("relative",)},
        {"read": ("/",)},
        {"read": "/etc"},
    ],
)
def test_a_policy_without_sense_is_refused(limits):
    with pytest.raises(ValueError, match="Policy"):
        Policy(**limits)


def test_policy_is_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Policy().cpu_seconds = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Policy(5)  # type: ignore[misc]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", [*TIERS, "none"])
def test_a_path_of_the_policy_can_be_read(user, tier, tmp_path):
    need(user, tier)
    open_to_all(tmp_path)
    (tmp_path / "data.txt").write_text("data")
    source = f"print(open({str(tmp_path / 'data.txt')!r}).read())\nopen({str(tmp_path / 'new')!r}, 'w')"
    result = run_in(user, tier, source, read=(str(tmp_path),))
    assert result.stdout == "data\n"
    if tier != "none":
        assert result.outcome == "error"
        assert not (tmp_path / "new").exists()


def test_a_missing_path_is_an_error_at_once():
    with pytest.raises(FileNotFoundError):
        Sandbox(Policy(read=("/no/such/path",)), unsafe=True)


def test_probe_names_what_it_found():
    try:
        found = probe()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert found.tier in TIERS
    assert "seccomp" in found.detail
    assert probe() is found
    assert Sandbox().tier == found.tier
    assert Sandbox(unsafe=True).tier == "none"


@pytest.fixture
def fresh_probe():
    probe.cache_clear()
    yield
    probe.cache_clear()


@pytest.mark.usefixtures("fresh_probe")
def test_probe_falls_back_and_says_how_to_get_more(monkeypatch):
    monkeypatch.setattr(tiers, "_trial", lambda tier: "" if tier == "landlock" else "unshare: not permitted")
    found = probe()
    assert found == Isolation(tier="landlock", detail=found.detail, advice=found.advice)
    assert "unshare: not permitted" in found.detail
    assert "user namespaces" in found.advice


@pytest.mark.usefixtures("fresh_probe")
def test_unavailable_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(tiers, "_trial", lambda tier: f"{tier} broken")
    with pytest.raises(SandboxUnavailable) as caught:
        Sandbox()
    for part in ("namespaces broken", "landlock broken", "CONFIG_SECURITY_LANDLOCK", "--unsafe-no-sandbox"):
        assert part in str(caught.value)
    assert Sandbox(unsafe=True).run("print(1)").stdout == "1\n"


@pytest.mark.usefixtures("fresh_probe")
def test_unavailable_elsewhere_than_on_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    for unsafe in (False, True):
        with pytest.raises(SandboxUnavailable, match="needs Linux"):
            Sandbox(unsafe=unsafe)


@pytest.mark.usefixtures("fresh_probe")
@pytest.mark.parametrize("tier", TIERS)
def test_the_probe_does_not_believe_a_tier_without_walls(monkeypatch, tier):
    """The trial run looks for the walls: with none of them up it must not pass."""
    monkeypatch.setattr(runner, "Room", lambda policy, tier, *places: Room(policy, "none", *places))
    assert "no wall" in tiers._trial(tier)


@pytest.mark.parametrize("tier", TIERS)
def test_eight_threads_share_one_sandbox(tier):
    need("self", tier)
    box = Sandbox(Policy(memory_mb=256), _tier=tier)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(box.run, [f"print({n} * 2)\nopen('mine', 'x')" for n in range(32)]))
    assert [r.stdout for r in results] == [f"{n * 2}\n" for n in range(32)]
    assert {r.outcome for r in results} == {"ok"}


@pytest.mark.parametrize("tier", [*TIERS, "none"])
def test_nothing_is_left_behind(tier, tmp_path, monkeypatch):
    need("self", tier)
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    open_to_all(tmp_path)
    box = Sandbox(Policy(wall_seconds=1), _tier=tier)
    before = set(os.listdir("/proc/self/fd")), threading.active_count()
    for source in ("print(1)", "1/0", "import time; time.sleep(9)"):
        box.run(source)
        box.check(source, "f()", ["f"])
    box.close()
    assert (set(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tier", [*TIERS, "none"])
def test_the_tree_ends_when_the_harness_is_killed(tier, tmp_path):
    need("self", tier)
    open_to_all(tmp_path)
    name = f"left-{os.getpid() % 10**6}"
    code = f"import tempfile\ntempfile.tempdir = {str(tmp_path)!r}\n"
    code += f"from harness.sandbox import Sandbox, Policy\nSandbox(Policy(), _tier={tier!r}).run({ORPHAN!r})"
    code = code.replace("NAME", name).replace("time.sleep(0.3)", "time.sleep(60)")
    harness = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 20
    while not named(name) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert named(name)
    harness.kill()
    harness.wait()
    while (named(name) or list(tmp_path.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert named(name) == []
    assert list(tmp_path.iterdir()) == []


def test_scratch_removal_leaves_what_links_point_to(tmp_path):
    (tmp_path / "kept").write_text("x")
    folder = scratch.make(None)
    (Path(folder) / "a" / "b").mkdir(parents=True)
    (Path(folder) / "moved-0").mkdir()
    (Path(folder) / "a" / "link").symlink_to(tmp_path)
    os.chmod(Path(folder) / "a", 0)
    here = os.getcwd()
    os.chdir(folder)
    for _ in range(40):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    os.chdir(here)
    cleanup.remove(folder)
    assert not os.path.exists(folder)
    assert (tmp_path / "kept").exists()


def test_signals_are_closed_off_where_landlock_cannot():
    """The filter for kernels whose Landlock has no scopes (before 6.12), on its own."""
    code = """
import os, signal
from harness.sandbox.inside import kernel, seccomp
kernel.prctl("PR_SET_NO_NEW_PRIVS", kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(seccomp.assemble(seccomp.program(kernel.machine(), os.getpid(), True)))
for pid in (os.getppid(), -1, 1):
    try:
        os.kill(pid, 0)
        print("signalled", pid)
    except PermissionError:
        pass
os.kill(os.getpid(), 0)
os.kill(0, 0)
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", -10)


def test_this_process_keeps_its_own_powers():
    """Walls are put up in the helper only: the same calls still work here afterwards."""
    assert ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) == 0  # PR_GET_NO_NEW_PRIVS


def test_half_an_emoji_that_tests_print_can_be_written():
    with Sandbox() as box:
        result = box.check(r"def f(): return '\ud83d'", "print(f())", ("f",))
    assert (result.outcome, result.stderr) == ("passed", "?\n")
