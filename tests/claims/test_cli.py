"""`harness claims` as it is typed, on evidence made by hand."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest

from harness.claims.experiment import experiments
from harness.claims.family import NANO, read_family
from harness.claims.plan import Plan
from harness.claims.steps import Job
from tests.commands import harness, typed

ROWS = ("none", "ntk", "ntk+logn", "ntk+logn+window", "logn", "window", "ntk+logn+window=reversed")
LENGTHS = (256, 512, 1024, 2048, 4096)


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)


def claims(*options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = typed("harness", "claims", *options)
    assert done.returncode == code, done.stderr
    return done


def finish(job: Job, seconds: float = 1.0) -> None:
    job.marker.parent.mkdir(parents=True, exist_ok=True)
    job.marker.write_text(json.dumps({"key": job.key, "step": job.step, "seconds": seconds, "command": []}))


def table3(folder: Path, seeds: tuple[int, ...] = (1, 2, 3)) -> None:
    """Sweeps in which LogN helps for sure, windows harm for sure, and the windows' order does nothing."""
    plan = Plan(read_family(NANO), folder, None)
    losses = {"none": 1.0, "ntk": 0.4, "ntk+logn": 0.3, "ntk+logn+window": 0.5, "logn": 0.9, "window": 0.6}
    for line in plan.family.lines:
        if line.seed not in seeds:
            continue
        job = plan.job("table3", line)
        assert isinstance(job, Job)
        job.out.mkdir(parents=True)
        documents, cells = [], []
        for cell in ROWS:
            for power, length in enumerate(LENGTHS):
                rise = losses.get(cell, 0.5) * power
                found = [2.0 + 0.1 * number + rise + 0.001 * line.seed for number in range(10)]
                if cell == ROWS[-1]:
                    found = [nll + 0.01 * (-1) ** number for number, nll in enumerate(found)]
                documents += [
                    {"cell": cell, "length": length, "document": f"d{n}", "nll": nll} for n, nll in enumerate(found)
                ]
                value = sum(found) / 10
                cells.append(
                    {"cell": cell, "length": length, "documents": 10, "nll": value, "perplexity": 2.718**value,
                     "low": 2.718**value * 0.9, "high": 2.718**value * 1.1, "seconds": 1, "peak_mb": 1}
                )  # fmt: skip
        for name, rows in (("documents", documents), ("cells", cells)):
            with (job.out / f"{name}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        told = [{"name": cell, "train_length": 256, "failed": None, "switches": {}} for cell in ROWS]
        (job.out / "sweep.json").write_text(json.dumps({"cells": told, "runs": [], "base": "none"}))
        finish(job)


def verdicts(folder: Path, *options: str) -> dict[str, str]:
    said = json.loads(claims("--results", str(folder), "--json", *options).stdout)
    return {claim["name"]: claim["verdict"] for claim in said["claims"]}


def test_without_evidence_everything_is_not_run_and_the_command_is_named(tmp_path):
    said = harness("claims", "--results", tmp_path / "none").stdout
    assert "0 holds, 0 fails, 0 undecided" in said
    assert f"harness claims --run --results {tmp_path / 'none'} --only windows-improve" in said
    assert "the data folder has no hh_rlhf/" in said and "tested on models of yours" in said
    assert not (tmp_path / "none").exists(), "looking makes no folder"


def test_the_ledger_of_made_evidence(tmp_path):
    table3(tmp_path)
    found = verdicts(tmp_path, "--only", "table3,windows-low-layers")
    assert found["logn-improves"] == found["ntk-rescues"] == found["open-logn-alone"] == "holds"
    assert found["windows-improve"] == found["ntk-flat"] == "fails"
    assert found["windows-low-layers"] == "undecided" and found["short-unharmed"] == "not run"
    page = (tmp_path / "ledger-nano.html").read_text()
    assert page.count("<svg") == 7 + 3 and not re.findall(r"(?:src|href)=\"(?!#)", page) and "<script" not in page
    assert "Perplexity by length" in page
    text = (tmp_path / "ledger-nano.md").read_text()
    assert "| windows-improve | 2.3, Table 3 | nano | +0.400 (+0.400 – +0.400) | below 0 | 3 | fails |" in text
    assert len(json.loads((tmp_path / "ledger-nano.json").read_text())["claims"]) == sum(
        "trained" in one.families for one in experiments()
    )


def test_two_seeds_of_three_decide_nothing(tmp_path):
    table3(tmp_path, seeds=(1, 3))
    said = json.loads(claims("--results", str(tmp_path), "--json", "--only", "logn-improves,windows-improve").stdout)
    for claim in said["claims"]:
        assert claim["verdict"] == "undecided" and claim["seeds"] == 2
        assert claim["outcomes"][0]["why"].startswith("2 of 3 seeds; not run yet: nano seed-2: table3: harness ablate")


def test_evidence_of_another_command_does_not_count(tmp_path):
    table3(tmp_path)
    for marker in tmp_path.rglob("table3.done.json"):
        marker.write_text(json.dumps({"key": "0" * 16, "step": "table3", "seconds": 1.0, "command": []}))
    assert set(verdicts(tmp_path, "--only", "logn-improves").values()) == {"not run"}
    error = claims("--results", str(tmp_path), "--run", "--only", "logn-improves", code=2).stderr
    assert "was made by another command" in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "tabel3"], "no claim or table is called 'tabel3'"),
        (["--only", ","], "--only: names nothing"),
        (["--models", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--data-dir", "nowhere"], "--data-dir nowhere: no such folder"),
        (["--only", "mmlu-logn"], "none of these claims is tested on nano"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, options, message):
    error = claims("--results", str(tmp_path), *options, code=2).stderr
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_family_of_ones_own(tmp_path):
    family = tmp_path / "family.yaml"
    sizes = (
        "sizes:\n  - {size: 0.5B, base: qwen2.5-coder-0.5b-instruct}\n  - {size: 1.5B, base: smollm2-135m-instruct}\n"
    )
    family.write_text("family: mine\ntrained: 512\n" + sizes)
    dry = claims("--models", str(family), "--results", str(tmp_path), "--only", "mmlu-logn", "--dry-run").stdout
    assert "4 commands: 0 minutes taken" in dry and "logn=on" in dry
    finish(Plan(read_family(family), tmp_path, None).jobs(experiments(["mmlu-logn"]))[0], seconds=90)
    dry = claims("--models", str(family), "--results", str(tmp_path), "--only", "mmlu-logn", "--dry-run").stdout
    assert "4 commands: 2 minutes taken" in dry and "1.5" in dry
    said = json.loads(
        claims("--models", str(family), "--results", str(tmp_path), "--no-run", "--json").stdout
    )["claims"]  # fmt: skip
    of = {(claim["name"], claim["subject"]): claim for claim in said}
    assert ("mmlu-logn", "0.5B") in of and ("mmlu-logn", "1.5B") in of and ("tools-grow", "all sizes") in of
    assert of["code-specialist", "0.5B"]["outcomes"][0]["why"] == "mine 0.5B has no model as `code`"
    assert (
        of["mmlu-logn", "0.5B"]["command"] == f"harness claims --models {family} --results {tmp_path} --only mmlu-logn"
    )
