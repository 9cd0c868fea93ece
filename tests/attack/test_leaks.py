"""Code finds nothing of the harness's in its own process: each search succeeds in a process that the harness forks or
shares, which shows what it could find."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.attack.leaks import LEAKS
from tests.sandbox.places import SECRET, TIERS, USERS, need, run_in

# A harness that runs code itself: with its environment, its descriptors and its variables.
CARELESS = f"""
import sys
def judge(code):
    key = {{"api": [{SECRET!r}]}}
    exec(code, {{"__name__": "judged"}})
api_keys = [{SECRET!r}]
judge(sys.stdin.read())
"""


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """In our environment, in a descriptor that children may inherit."""
    monkeypatch.setenv("HARNESS_SECRET", SECRET)
    (tmp_path / "secret").write_text(SECRET)
    with open(tmp_path / "secret") as file:
        os.set_inheritable(file.fileno(), True)
        yield SECRET


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", [*TIERS, "none"])
@pytest.mark.parametrize("name", LEAKS)
def test_nothing_leaks(user, tier, name, secret):
    need(user, tier)
    result = run_in(user, tier, LEAKS[name])
    assert (result.outcome, result.stdout, result.stderr) == ("ok", "", "")


@pytest.mark.parametrize("name", LEAKS)
def test_it_finds_the_secret_of_a_careless_harness(name, secret):
    command = [sys.executable, "-c", CARELESS]
    done = subprocess.run(command, input=LEAKS[name], close_fds=False, capture_output=True, text=True)
    assert "BREACH" in done.stdout, done.stderr


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tier", [*TIERS, "none"])
def test_the_only_descriptors_are_the_three_and_the_proof(user, tier):
    need(user, tier)
    source = "import os\nfor fd in range(1024):\n    try: os.fstat(fd)\n    except OSError: continue\n    print(fd)"
    assert len(run_in(user, tier, source).stdout.split()) == 4
