"""`qwen-train align` and `self-instruct` as processes under kill -9, at several stages: they end as an unbroken run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from qwen_train.trainer.logs import read_log
from tests.alignment.test_cli import CHAIN
from tests.alignment.test_self_instruct import Scripted
from tests.alignment.test_stages import MEASURED
from tests.harness.served import serving
from tests.processes import ROOT

pytestmark = pytest.mark.slow

LONGER = {name: table | {"checkpoint_every": 2} for name, table in CHAIN.items()}
LONGER["sft"] |= {"steps": 24}
LONGER["reward"] |= {"epochs": 4}
LONGER["ppo"] |= {"ppo": CHAIN["ppo"]["ppo"] | {"steps": 12, "value_steps": 4}}


def start(cwd: Path, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "qwen_train", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )


def kill_when(reached: Callable[[], bool], cwd: Path, *arguments: object) -> None:
    process = start(cwd, *arguments)
    while not reached():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9


def files_of(folder: Path) -> dict[str, object]:
    """What a folder's files say, but for what was measured; checkpoints are of the stage's own."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "log.jsonl":
            rows = read_log(path.parent)
            found[name] = [{key: its for key, its in row.items() if not key.startswith(MEASURED)} for row in rows]
        elif "tensorboard" not in name and "checkpoints" not in name:
            found[name] = path.read_bytes()
    return found


def test_a_chain_that_is_killed_in_three_stages(base, data, tmp_path):
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(yaml.safe_dump(LONGER))
    folders = whole_at, killed_at = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    # in a folder of its own: recipes name the models of the stages before
    chain = ("align", recipe, "--base", base, "--data", Path(data["sft"]).parent, "--out", "out")
    assert start(whole_at, *chain).wait() == 0
    for stage in ("sft", "reward", "ppo"):
        at = killed_at / "out" / stage
        kill_when(lambda at=at: len(read_log(at)) >= 3, killed_at, *chain)
        assert not (at / "model").exists()
    assert start(killed_at, *chain).wait() == 0
    whole, killed = map(files_of, folders)
    assert {"out/ppo/samples.jsonl", "out/ppo/model/model.safetensors", "out/reward/log.jsonl"} <= set(whole)
    assert set(killed) == set(whole) and [name for name in whole if killed[name] != whole[name]] == []


def test_self_instruct_that_is_killed_in_two_rounds(tmp_path):
    written = ("talks.jsonl", "rejected.jsonl", "counts.json")
    server = Scripted()
    with serving(server) as address:
        sets = ["model=tiny", "backend=openai", f"base_url={address}", "samples=15", "prompts=12", "rounds=9"]
        options = [part for one in [*sets, "concurrency=2"] for part in ("--set", one)]

        def command(name: str) -> tuple[object, ...]:
            return "self-instruct", "self-instruct", "--out", tmp_path / name, *options

        assert start(tmp_path, *command("whole")).wait() == 0
        asked = len(server.asked)
        server.faults = [("sleep", 0.05)] * 1000
        for more in (5, 14):
            before = len(server.asked)
            kill_when(lambda goal=before + more: len(server.asked) >= goal, tmp_path, *command("killed"))
            assert not any((tmp_path / "killed" / name).exists() for name in written)
        assert start(tmp_path, *command("killed")).wait() == 0
    assert len(server.asked) - asked <= asked + 2 * 4, "what was written is not asked for again, but what was under way"
    for name in written:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert json.loads((tmp_path / "killed" / "counts.json").read_text())["accepted"] == 15
