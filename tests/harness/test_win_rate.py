from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import binomtest

from harness import win_rate
from harness.win_rate import AVERAGE, Pair, export_for_people, most, people, read_answers, shares
from tasks.api import TaskError
from tests.commands import harness, typed

PAIRS = [Pair(f"q{n}", "math" if n % 2 else "coding", f"question {n}", f"=ours {n}", f"theirs {n}") for n in range(20)]


def write_answers(path: Path, text: str, ids) -> Path:
    path.write_text("".join(json.dumps({"id": item, "text": f"{text} {item}"}) + "\n" for item in ids))
    return path


@pytest.fixture
def folder(tmp_path):
    """Questions, our answers and theirs."""
    (tmp_path / "win_rate").mkdir()
    rows = [{"id": pair.id, "category": pair.category, "prompt": pair.prompt} for pair in PAIRS]
    (tmp_path / "win_rate" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_answers(tmp_path / "ours.jsonl", "ours", [pair.id for pair in PAIRS])
    write_answers(tmp_path / "theirs.jsonl", "theirs", [pair.id for pair in PAIRS])
    return tmp_path


def filled(path: Path, verdict) -> Path:
    """A table for people, with `verdict` of each row in its last column."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    target = path.with_name(f"filled-{path.name}")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows({**row, "verdict": verdict(row)} for row in rows)
    return target


def test_people_do_not_see_whose_answer_it_is_and_their_verdicts_come_back(tmp_path):
    table = tmp_path / "people.csv"
    export_for_people(table, PAIRS)
    text = table.read_text(encoding="utf-8-sig")
    with table.open(encoding="utf-8-sig", newline="") as file:
        firsts = [row["first"].startswith("'=ours") for row in csv.DictReader(file)]
    assert 4 < sum(firsts) < 16, "the order is drawn"
    assert ",=ours" not in text, "no spreadsheet takes an answer for a formula"
    ours = filled(table, lambda row: "first" if "ours" in row["first"] else "Second ")
    assert people([ours], PAIRS) == ({pair.id: "win" for pair in PAIRS}, 20)


def test_the_majority_of_several_raters(tmp_path):
    table = tmp_path / "people.csv"
    export_for_people(table, PAIRS[:1])
    said = []
    for number, verdict in enumerate(("ours", "ours", "theirs", "")):
        table.rename(tmp_path / f"{number}.csv")
        said.append(
            filled(
                tmp_path / f"{number}.csv",
                lambda row, verdict=verdict: verdict and ("first" if verdict in row["first"] else "second"),
            )
        )
        export_for_people(table, PAIRS[:1])
    assert people(said, PAIRS) == ({"q0": "win"}, 3)
    assert people([said[0], said[2]], PAIRS) == ({"q0": "tie"}, 2)
    assert people([said[3]], PAIRS) == ({}, 0)


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [("win win loss", "win"), ("win loss", "tie"), ("win loss tie", "tie"), ("tie tie loss", "tie"), ("loss", "loss")],
)
def test_most(votes, verdict):
    assert most(Counter(votes.split())) == verdict


def test_shares_have_wilsons_interval():
    verdicts = {pair.id: ("win", "tie", "loss")[min(n // 8, 2)] for n, pair in enumerate(PAIRS)}
    found = shares(PAIRS, verdicts)
    assert list(found) == [AVERAGE, "coding", "math"] and found[AVERAGE].n == 20
    for part, count in zip(found[AVERAGE].parts, (8, 8, 4), strict=True):
        expected = binomtest(count, 20).proportion_ci(method="wilson")
        assert part.value == count / 20
        assert (part.low, part.high) == pytest.approx((expected.low, expected.high))
    assert shares(PAIRS, {"q1": "win"})["math"].n == 1
    with pytest.raises(TaskError, match="no pair has a verdict"):
        shares(PAIRS, {})


def test_verdicts_on_other_answers_are_refused(tmp_path):
    table = tmp_path / "people.csv"
    export_for_people(table, PAIRS)
    other = [Pair(pair.id, pair.category, pair.prompt, pair.opponent, pair.answer) for pair in PAIRS]
    with pytest.raises(TaskError, match=r"filled-people.csv: row 1 \(q0\) is about other answers"):
        people([filled(table, lambda row: "first")], other)
    with pytest.raises(TaskError, match="row 1 has the verdict 'a'; write first, second or tie"):
        people([filled(table, lambda row: "A")], PAIRS)
    (tmp_path / "bare.csv").write_text("id\nq0\n")
    with pytest.raises(TaskError, match="no column 'key'"):
        people([tmp_path / "bare.csv"], PAIRS)
    with pytest.raises(TaskError, match=r"gone\.csv: no such file"):
        people([tmp_path / "gone.csv"], PAIRS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "a"}', "a.jsonl:1: field 'text' is missing"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', "id 'a' is there twice"),
        ("nonsense", "not JSON"),
    ],
)
def test_bad_answers(tmp_path, text, said):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(TaskError, match=said):
        read_answers(tmp_path / "a.jsonl")


def test_answers_must_belong_together(folder):
    unknown = write_answers(folder / "unknown.jsonl", "x", ["zzz"])
    with pytest.raises(TaskError, match=r"unknown.jsonl: id 'zzz' belongs to no question"):
        win_rate.pairs(unknown, folder / "theirs.jsonl", folder)
    few = write_answers(folder / "few.jsonl", "x", ["q0", "q1"])
    with pytest.raises(TaskError, match=r"few.jsonl: no answer with id 'q2'"):
        win_rate.pairs(folder / "ours.jsonl", few, folder)
    assert [pair.id for pair in win_rate.pairs(few, folder / "theirs.jsonl", folder)] == ["q0", "q1"]


def test_by_people_from_the_command_line(folder):
    answers = ("--answers", folder / "ours.jsonl", "--opponent", f"gpt={folder / 'theirs.jsonl'}", "--data-dir", folder)
    table = folder / "people.csv"
    done = harness("win-rate", *answers, "--export-for-people", table)
    assert done.returncode == 0 and "20 pairs" in done.stdout
    said = filled(
        table, lambda row: "tie" if row["category"] == "math" else "first" if "ours" in row["first"] else "second"
    )
    done = typed("harness", "win-rate", *answers, "--verdicts", said, "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "out" / "win_rate.json").read_text())
    assert result["opponent"] == "gpt" and result["votes"] == 20
    assert result["categories"]["coding"]["win"]["value"] == 1 and result["categories"]["math"]["tie"]["value"] == 1
    assert (folder / "out" / "win_rate.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "out" / "verdicts.csv").open(newline="") as file:
        assert Counter(row["verdict"] for row in csv.DictReader(file)) == {"win": 10, "tie": 10}


def test_a_run_and_a_judge_from_the_command_line(folder, tiny):
    done = typed(
        "harness",
        "run",
        "--task",
        "win-rate",
        "--model",
        tiny,
        "--limit",
        "2",
        "--data-dir",
        folder,
        "--out",
        folder / "r",
    )
    assert done.returncode == 0, done.stderr
    answers = ("--answers", folder / "r", "--opponent", folder / "theirs.jsonl", "--data-dir", folder)
    done = typed("harness", "win-rate", *answers, "--judge", tiny, "--out", folder / "out")
    # a random model gives no verdict that can be read; its run is kept
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(done.stderr.splitlines()[-1]) < 300
    assert (folder / "out" / "judge" / "spec.json").is_file()


def test_a_dot_in_a_folders_name_is_no_ending():
    assert win_rate.label(Path("runs/qwen2.5-coder-0.5b-1a2b")) == "qwen2.5-coder-0.5b-1a2b"
    assert win_rate.label(Path("gpt-3.5.jsonl")) == "gpt-3.5" and win_rate.label(Path()) == Path.cwd().name


def test_one_way_to_a_verdict(folder):
    answers = ("--answers", folder / "ours.jsonl", "--opponent", folder / "theirs.jsonl")
    done = typed("harness", "win-rate", *answers)
    assert done.returncode == 2 and "give one of --judge, --verdicts and --export-for-people" in done.stderr


def test_a_reward_model_judges_by_its_rewards(folder, tiny, tmp_path):
    """Against the rewards that the model gives in one plain forward pass each."""
    import torch

    from qwen_model.chatml import chat_tokenizer, encode_prompt
    from qwen_train.alignment.models import begin_with, export, tokenizer_of
    from qwen_train.alignment.pairs import end_answer

    model = begin_with(str(tiny), scalar=True, seed=3).eval()
    export(model, tmp_path / "judge")
    done = typed(
        "harness",
        "win-rate", "--answers", str(folder / "ours.jsonl"), "--opponent", str(folder / "theirs.jsonl"),
        "--judge", str(tmp_path / "judge"), "--data-dir", str(folder), "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    chat = chat_tokenizer(tokenizer_of(model))

    def reward(pair: Pair, answer: str) -> float:
        ids = end_answer(chat, encode_prompt(chat, [("user", pair.prompt)]), answer)
        with torch.no_grad():
            return float(model(torch.tensor([ids]))[0, -1, 0])

    with (tmp_path / "out" / "verdicts.csv").open() as file:
        said = {row["id"]: row["verdict"] for row in csv.DictReader(file)}
    assert len(said) == len(PAIRS) and len(set(said.values())) > 1
    for pair in PAIRS:
        ours, theirs = reward(pair, f"ours {pair.id}"), reward(pair, f"theirs {pair.id}")
        assert said[pair.id] == ("win" if ours > theirs else "loss")
