"""Commands, files and verdicts together: text to a base model to claims, with as little of each as there can be."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.claims import runner
from harness.claims.experiment import experiments
from harness.claims.family import NANO, read_family
from harness.claims.ledger import as_json, ledger
from harness.claims.plan import Plan
from harness.claims.steps import Step, read_steps
from reports import ledger as shown

CLAIMS = ("code-specialist-loss", "logn-improves", "windows-low-layers", "short-unharmed", "open-retrieval")


def small(texts: Path) -> dict[str, Step]:
    """The steps on a few texts, with a few steps of training and a few documents."""
    found = dict(read_steps())
    changes = {
        "corpus": (r"$", f" --corpus {texts}"),
        "held-out": (r".*", f"python -c \"import shutil, sys; shutil.copytree('{texts}', sys.argv[1])\" {{out}}"),
        "vocabulary": ("4096", "600"),
        "table3": ("--limit 50", "--limit 2"),
        "retrieval": ("--limit 5", "--limit 1"),
    }
    for name, (old, new) in changes.items():
        command = re.sub(old, new.replace("\\", r"\\"), found[name].command, count=1)
        assert command != found[name].command
        found[name] = found[name].model_copy(update={"command": command})
    for name in ("base", "code"):
        recipe = dict(found[name].recipe or {})
        recipe["training"] |= {"tokens": 8 * 256 * 4, "batch": 8, "micro_batch": 8}
        recipe["data"] = {"vocabulary": 600}
        found[name] = found[name].model_copy(update={"recipe": recipe})
    found["code-tokens"] = found["code-tokens"].model_copy(update={"command": found["tokens"].command})
    return found


@pytest.mark.slow
def test_from_texts_to_a_ledger(tmp_path):
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 8))) for _ in range(300)]
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        lines = [" ".join(draw.choices(words, k=12)).capitalize() + "." for _ in range(60)]
        (texts / f"{number}.txt").write_text("\n".join(lines))
    family = read_family(NANO)
    family = replace(family, lines=family.lines[:1], reach=4)
    results = tmp_path / "results"
    plan = Plan(family, results, None, small(texts))
    asked = experiments(CLAIMS)
    assert runner.run(plan.jobs(asked)) == {}
    found = ledger(asked, plan, "harness claims --run")
    for finding in found:
        for outcome in finding.outcomes:
            assert outcome.effect is not None, outcome.why
            assert (outcome.verdict, outcome.why) == ("undecided", "1 of 3 seeds"), "one seed decides nothing"
    unharmed = next(finding for finding in found if finding.name == "short-unharmed").outcomes[0].effect
    assert unharmed is not None and unharmed.value < 1e-3 and unharmed.n > 10
    page = shown.write(results, family.name, found, as_json(found, family))
    assert "Perplexity by length" in page.read_text()
    assert all(job.done for job in plan.jobs(asked)), "asked again, nothing is left to run"
