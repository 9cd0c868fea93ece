"""The files that come with the project: every claim can be read, and every command is one that the programs take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from harness.claims import experiment as experiments_of
from harness.claims.experiment import Cells, Experiment, experiments, parted, read_experiment
from harness.claims.family import NANO, ROLES, read_family
from harness.claims.plan import Plan
from harness.claims.steps import Job, read_steps
from reports import paper
from tasks.api import TaskError
from tests.commands import accept

ALL = experiments()
STEPS = read_steps()
GIVEN = """
family: mine
trained: 512
documents: texts.jsonl
sizes:
  - {size: small, %s}
  - {size: large, %s}
""" % ((", ".join(f"{role}: {role}-model" for role in ROLES),) * 2)


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> dict[str, Plan]:
    """A plan of each kind of family, with a data folder that has everything."""
    folder = tmp_path_factory.mktemp("plans")
    data = folder / "data"
    for step in STEPS.values():
        for name in step.data:
            (data / name).mkdir(parents=True, exist_ok=True)
    (folder / "mine.yaml").write_text(GIVEN)
    for role in ROLES:
        (folder / f"{role}-model").mkdir()
    families = {"trained": read_family(NANO), "given": read_family(folder / "mine.yaml")}
    return {kind: Plan(family, folder / "results", data) for kind, family in families.items()}


def test_at_least_twelve_claims_of_the_report_and_the_open_questions():
    assert sum(not one.open for one in ALL) >= 12 and sum(one.open for one in ALL) >= 5


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_claim_is_whole(one: Experiment, plans):
    assert one.claim.endswith(".") and one.question.rstrip()[-1] in ".?"
    for kind in one.families:
        plan = plans[kind]
        for line in plan.family.lines:
            for step in one.steps:
                assert isinstance(plan.job(step, line), Job), plan.job(step, line)


def test_every_table_is_one_of_the_reports():
    assert {one.source.table for one in ALL} - {None} <= set(paper.NAMES)


def test_every_step_serves_a_claim(plans):
    used = {job.step for plan in plans.values() for job in plan.jobs(ALL)}
    assert used == set(STEPS)


def test_every_cell_that_a_claim_reads_is_a_row_of_its_sweep():
    for one in ALL:
        for test in one.tests:
            if isinstance(test, Cells):
                words = shlex.split(STEPS[test.sweep].command)
                rows = words[words.index("--rows") + 1].split(",")
                lengths = words[words.index("--lengths") + 1]
                for place in (test.base, test.other):
                    cell, times = parted(place)
                    assert cell in rows, (one.name, cell)
                    written = "{T}" if times == 1 else f"{{{times}T}}"
                    assert times <= 4 and (lengths == "{lengths}" or written in lengths.split(","))


def commands(plans) -> list[Job]:
    found = {job.out: job for plan in plans.values() for job in plan.jobs(ALL)}
    return list(found.values())


def test_every_command_is_taken_by_its_program(plans):
    for job in commands(plans):
        accept(job.command)
    assert {job.command[0] for job in commands(plans)} == {"harness", "qwen-train", "python"}


def test_every_recipe_is_one_of_its_stage(plans):
    from qwen_train.alignment.settings import SFT, PPORecipe, Reward
    from qwen_train.recipe import Recipe

    kinds = {"pretrain": Recipe, "sft": SFT, "reward": Reward, "ppo": PPORecipe}
    stages = set()
    for job in commands(plans):
        if job.recipe is not None:
            recipe = kinds[job.command[1]](**yaml.safe_load(job.recipe))
            stages.add(job.command[1])
            if job.command[1] == "pretrain":
                assert recipe.training.context == read_family(NANO).lines[0].trained
                assert recipe.training.seed in (1, 2, 3)
            else:
                assert recipe.seed in (1, 2, 3)
    assert stages == set(kinds)


def test_all_of_it_is_meant_to_take_two_hours(plans):
    minutes = sum(job.minutes for job in plans["trained"].jobs(ALL))
    assert 60 < minutes <= 120


def test_no_test_was_stated_by_a_result():
    """Bounds are 0 or a round number that the question says; nothing like 0.0137."""
    for one in ALL:
        for test in one.tests:
            bound = next(value for value in (test.above, test.below, test.within) if value is not None)
            assert re.fullmatch(r"-?0(\.\d{1,2}|\.001|\.0)?", f"{bound:g}")


CLAIM = """
claim: It does.
source: {section: "2.3", table: table_3}
question: Does it?
tests:
  - {measure: cells, says: less, sweep: table3, base: none at T, other: ntk at 4T, below: 0}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nquestion:", "\nopne: true\nquestion:", "opne: no such field; did you mean open"),
        ("below: 0", "belw: 0", "belw: no such field; did you mean below"),
        ("below: 0", "below: 0, above: 1", "exactly one of above, below and within"),
        (", below: 0", "", "exactly one of above, below and within"),
        ("measure: cells", "measure: cels", "cels"),
        ("ntk at 4T", "ntk at 4096", "'ntk at 4096' is no cell at a length"),
        ("claim: It does.", "", "claim: Field required"),
        (CLAIM[CLAIM.index("tests:") :], "tests: []", "tests: Tuple should have at least 1 item"),
        (CLAIM, "- a list", "not a table of settings"),
        (CLAIM, "a: [", "not YAML"),
    ],
)
def test_a_file_with_a_mistake_is_one_line(tmp_path, old, new, message):
    path = tmp_path / "mine.yaml"
    path.write_text(CLAIM)
    assert read_experiment(path).name == "mine"
    assert old in CLAIM
    path.write_text(CLAIM.replace(old, new))
    with pytest.raises(TaskError) as error:
        read_experiment(path)
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_only_names_claims_and_tables(monkeypatch):
    assert [one.name for one in experiments(("windows-improve",))] == ["windows-improve"]
    assert len(experiments(("table3",))) > 4 and len(experiments(("Table_3", "ntk-flat"))) == len(
        experiments(("table3",))
    )
    with pytest.raises(TaskError, match=r"no claim or table is called 'table99'; there are .*windows-improve"):
        experiments(("table99",))
    monkeypatch.setattr(experiments_of, "FOLDER", Path("/nowhere"))
    assert experiments() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("family: a\n", "wants sizes"),
        ("family: a/b\nsizes: [{size: s}]\n", "'a/b' is to name a folder"),
        ("family: a\nsizes: [{size: s}, {size: s}]\n", "s is there twice"),
        ("family: a\nsizes: [{size: s, chatt: M}]\n", "chatt: no such field; did you mean chat"),
        ("family: a\nsizes: [{size: s}]\nreach: 2\n", "reach: "),
        ("family: a\nsizes: [{size: ../s}]\n", "to name a folder"),
        (
            "family: a\nsizes: [{size: s, base: smollm2-135m}]\n",
            "base: smollm2-135m: no such model",
        ),
    ],
)
def test_a_family_with_a_mistake_is_one_line(tmp_path, text, message):
    path = tmp_path / "family.yaml"
    path.write_text(text)
    with pytest.raises(TaskError) as error:
        read_family(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_paths_of_a_family_are_seen_from_its_file(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    path = tmp_path / "family.yaml"
    path.write_text("family: a\nsizes: [{size: s, base: checkpoint, chat: smollm2-135m-instruct}]\n")
    (line,) = read_family(path).lines
    assert line.models == {"base": str(tmp_path / "checkpoint"), "chat": "smollm2-135m-instruct"}


def test_what_a_family_lacks_is_said(tmp_path):
    path = tmp_path / "family.yaml"
    path.write_text("family: a\nsizes: [{size: s, base: smollm2-135m-instruct}]\n")
    family = read_family(path)
    plan = Plan(family, tmp_path, None)
    (line,) = family.lines
    assert plan.job("code-tasks-code", line) == "a s has no model as `code`"
    assert plan.job("table3", line) == "a s says no `trained`, the length it was trained at"
    assert "the data folder has no hh_rlhf/" in str(plan.job("pairs", line))
    nano = Plan(read_family(NANO), tmp_path, None)
    assert "the data folder has no sft/" in str(nano.job("answers-chat", nano.family.lines[0]))
