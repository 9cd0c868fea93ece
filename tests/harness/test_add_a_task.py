"""docs/add-a-task.md, word for word: its files are written, its commands run, in the page's order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.records import Run
from tests.commands import ROOT, typed
from tests.harness.pages import blocks

PAGE = ROOT / "docs" / "add-a-task.md"
MODEL = "smollm2-135m-instruct"


def follow(folder: Path, model: str, *, here: bool = False) -> dict[str, str]:
    """Does what the page says; returns what each command printed. `here`: what loads a model runs in this process."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # what the page installs goes here, not beside the packages of whoever runs the tests
        "PIP_TARGET": str(folder / "site"),
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one the wrong way round: without isolation
        "PIP_NO_INDEX": "1",
        "PYTHONPATH": f"{folder / 'site'}:{ROOT}",
    }
    printed = {}
    for block in blocks(PAGE):
        if block.kind != "sh":
            name = re.search(r"`([^`]+)`:$", block.before)
            assert name, f"no file is named before {block.body[:40]!r}"
            path = folder / name[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.body, encoding="utf-8")
            continue
        for command in block.body.strip().split("\n"):
            command = command.replace(MODEL, model)
            if here and command.startswith(("harness run", "harness score")):
                done = typed(*shlex.split(command))
            else:
                done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, (command, done.stderr)
            printed[command] = done.stdout
    return printed


def check(folder: Path, printed: dict[str, str]) -> None:
    assert len((folder / "times.py").read_text().splitlines()) < 100
    by_name = [text for command, text in printed.items() if "--describe" in command]
    assert len(by_name) == 2 and by_name[0] == by_name[1] and "items: 6 in 2 groups" in by_name[0]
    dumped = next(text for command, text in printed.items() if "--dump" in command)
    assert len([json.loads(line) for line in dumped.splitlines()]) == 2
    first, scored = Run(folder / "runs" / "times"), Run(folder / "runs" / "times-scored")
    assert scored.results == first.results
    metrics = first.results["times"].metrics
    assert set(metrics) - {"right hour"} == {"accuracy", "accuracy (micro)", "length"}  # it may read no time at all
    assert first.results["times"].n == 6 and set(first.results["times"].groups) == {"am", "pm"}
    mine = Run(folder / "runs" / "mine").results["times"]
    assert mine.n == 2 and mine.metrics["accuracy"].value == pytest.approx((1 + 1 / 2) / 2)
    assert Run(folder / "runs" / "named").results["times"].n == 3


def test_the_page_with_a_tiny_model(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    check(tmp_path, follow(tmp_path, str(tiny), here=True))


@pytest.mark.slow
def test_the_page_as_it_stands(tmp_path):
    from qwen_model.catalogue import available

    if not available(MODEL):
        pytest.skip(f"{MODEL} is not in the cache; `harness run --model {MODEL}` fetches it")
    check(tmp_path, follow(tmp_path, MODEL))
