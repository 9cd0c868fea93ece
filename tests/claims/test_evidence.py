"""Effects from files as the commands write them, against hand-worked numbers and scipy."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path

import pytest
from scipy.stats import kendalltau

from harness.claims import evidence
from harness.claims.experiment import Cells, Compression, Growth, Order, Runs, Same, Wins
from harness.claims.verdict import judged
from harness.records import RunError
from tests.harness.made_runs import make_run, record


@pytest.fixture(autouse=True)
def _few(request, monkeypatch):
    """Hand-worked numbers are of few samples."""
    if "too_few" not in request.node.name:
        monkeypatch.setattr(evidence, "LEAST_SPREAD", 1)


def test_too_few_give_no_interval(tmp_path):
    rows = [{"id": str(i), "category": "a", "verdict": "win"} for i in range(5)]
    criterion = Wins(measure="wins", says="", folder="w", above=0)
    folder = table(tmp_path / "verdicts.csv", rows)
    with pytest.raises(RunError, match="5 samples or documents give no interval; 6 or more do"):
        evidence.effect(criterion, {"w": folder}, None)
    table(tmp_path / "verdicts.csv", [*rows, {"id": "5", "category": "a", "verdict": "win"}])
    assert evidence.effect(criterion, {"w": folder}, None).n == 6


def table(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path.parent


def cells(base: str, other: str) -> Cells:
    return Cells(measure="cells", says="", sweep="s", base=base, other=other, below=0)


def test_cells_of_a_sweep_are_paired_by_document(tmp_path):
    losses = {("none", 256): [2.0, 3.0, 4.0], ("ntk", 256): [2.0, 3.0, 4.0], ("ntk", 1024): [2.1, 3.3, 4.2]}
    rows = [
        {"cell": cell, "length": length, "document": f"d{place}", "nll": nll}
        for (cell, length), values in losses.items()
        for place, nll in enumerate(values)
    ]
    folder = table(tmp_path / "documents.csv", rows)
    found = evidence.effect(cells("none at T", "ntk at 4T"), {"s": folder}, 256)
    assert found.value == pytest.approx((0.1 + 0.3 + 0.2) / 3) and found.n == 3
    # pairs: far narrower than the losses themselves are apart
    assert 0.1 <= found.low <= found.value <= found.high <= 0.3
    assert evidence.effect(cells("none at T", "ntk at T"), {"s": folder}, 256).high == 0
    with pytest.raises(RunError, match=r"no cell ntk at 512 tokens"):
        evidence.effect(cells("none at T", "ntk at 2T"), {"s": folder}, 256)


def test_what_is_asked_of_a_document_ten_times_is_one_document(tmp_path):
    rows = [
        {"cell": cell, "length": 64, "document": document, "depth": depth / 10, "nll": nll}
        for cell, shift in (("none", 0.0), ("window=16", 1.0))
        for document, nll in (("a", 1 + shift), ("b", 2 + 2 * shift))
        for depth in range(10)
    ]
    folder = table(tmp_path / "documents.csv", rows)
    found = evidence.effect(cells("none at 4T", "window={T} at 4T"), {"s": folder}, 16)
    assert (found.n, found.value) == (2, pytest.approx(1.5))


def test_runs_of_a_perplexity_differ_by_their_losses(tmp_path):
    spec = {"metric": "perplexity", "measures": {"perplexity": "perplexity"}}

    def run(name: str, losses: list[float]):
        records = [
            record("long-ppl", f"long-ppl/d{i}/256", i, outcome="measured", correct=False, scores={"perplexity": loss})
            for i, loss in enumerate(losses)
        ]
        return make_run(tmp_path / name, {"long-ppl": records}, long_ppl=spec).path

    folders = {"a": run("a", [3.0, 2.0, 1.0]), "b": run("b", [2.9, 1.8, 0.7])}
    criterion = Runs(measure="runs", says="", first="a", second="b", task="long-ppl", below=0)
    found = evidence.effect(criterion, folders, None)
    assert found.value == pytest.approx(-0.2) and found.high < 0
    assert judged(criterion, [found] * 3, 3).unit == "nats a token"
    same = Same(measure="same", says="", first="a", second="b", task="long-ppl", within=0.5)
    assert evidence.effect(same, folders, None).value == pytest.approx(0.3)
    lost = Runs(measure="runs", says="", first="a", second="b", task="mmlu", below=0)
    with pytest.raises(RunError, match="no task called mmlu; it has long-ppl"):
        evidence.effect(lost, folders, None)


def test_same_answers_with_other_numbers_are_not_the_same(tmp_path):
    def run(name: str, answer: str, second: float):
        logprobs = {"A": -1.0, "B": second}
        return make_run(tmp_path / name, {"mmlu": [record("mmlu", "1", answer=answer, choice_logprobs=logprobs)]}).path

    one, equal = run("one", "A", -2.0), run("equal", "A", -2.0)
    near, other = run("near", "A", -2.0 - 1e-9), run("other", "B", -2.0)

    def apart(second: Path) -> float:
        criterion = Same(measure="same", says="", first="x", second="y", task="mmlu", within=0)
        return evidence.effect(criterion, {"x": one, "y": second}, None).value

    assert apart(equal) == 0 and 0 < apart(near) < 2e-9 and apart(other) == 1


def test_wins_less_losses(tmp_path):
    said = ["win"] * 6 + ["tie"] * 2 + ["loss"] * 2 + [""] * 5
    rows = [{"id": str(i), "category": "ab"[i % 2], "verdict": verdict} for i, verdict in enumerate(said)]
    folder = table(tmp_path / "verdicts.csv", rows)
    found = evidence.effect(Wins(measure="wins", says="", folder="w", above=0), {"w": folder}, None)
    assert (found.value, found.n) == (pytest.approx(0.4), 10)
    of_a = evidence.effect(Wins(measure="wins", says="", folder="w", category="a", above=0), {"w": folder}, None)
    assert (of_a.value, of_a.n) == (pytest.approx((3 - 1) / 5), 5)
    other = [{**row, "verdict": "tie" if row["verdict"] == "loss" else "loss"} for row in rows if row["id"] != "0"]
    table(tmp_path / "than" / "verdicts.csv", other)
    more = Wins(measure="wins", says="", folder="w", than="o", above=0)
    # of nine questions in common five wins and two ties became losses, two losses became ties
    found = evidence.effect(more, {"w": folder, "o": tmp_path / "than"}, None)
    assert (found.value, found.n) == (pytest.approx((5 * 2 + 2 * 1 - 2 * 1) / 9), 9)
    with pytest.raises(RunError, match="no verdict on c"):
        evidence.effect(Wins(measure="wins", says="", folder="w", category="c", above=0), {"w": folder}, None)


def sized(path: Path, parameters: int, right: int):
    import json

    records = [record("tools", f"t{i}", i, correct=i < right) for i in range(100)]
    run = make_run(path, {"tools": records})
    environment = run.environment | {"parameters": parameters}
    (path / "environment.json").write_text(json.dumps(environment))
    return {"r": path}


def test_order_over_sizes(tmp_path):
    order = Order(measure="order", says="", run="r", task="tools", metric="accuracy", above=0)
    folders = [sized(tmp_path / str(n), n, right) for n, right in ((500, 20), (1500, 50), (7000, 80))]
    found = evidence.across(order, folders)
    assert (found.value, found.low, found.high, found.n) == (1, 1, 1, 100)
    close = [sized(tmp_path / f"c{n}", n, right) for n, right in ((500, 20), (1500, 21), (7000, 22))]
    assert evidence.across(order, close).low < 0.5
    growth = Growth(measure="growth", says="", run="r", task="tools", metric="accuracy", below=0.01)
    assert evidence.across(growth, folders).value == pytest.approx(0.3)


def test_kendalls_tau_against_scipy():
    draw = random.Random(3)
    for _ in range(50):
        one, other = ([draw.random() for _ in range(7)] for _ in range(2))
        assert evidence.kendall(one, other) == pytest.approx(kendalltau(one, other).statistic)
    assert evidence.kendall([1, 2, 3], [5, 5, 5]) == 0


def test_compression_over_documents(tmp_path):
    rows = [
        {"text": "zh", "document": number, "tokenizer": name, "tokens": tokens}
        for name, counts in (("ours", [5, 10, 20]), ("theirs", [10, 20, 40]))
        for number, tokens in enumerate(counts)
    ] + [{"text": "th", "document": 1, "tokenizer": name, "tokens": 3} for name in ("ours", "theirs")]
    folder = table(tmp_path / "documents.csv", rows)

    def of(text: str) -> Compression:
        return Compression(
            measure="compression", says="", folder="t", text=text, tokenizer="ours", against="theirs", below=0
        )

    found = evidence.across(of("zh"), [{"t": folder}])
    assert (found.value, found.low, found.high) == pytest.approx((math.log(0.5),) * 3)
    with pytest.raises(RunError, match="th is one document"):
        evidence.across(of("th"), [{"t": folder}])
    with pytest.raises(RunError, match="no tokenizer theirs on a text ko"):
        evidence.across(of("ko"), [{"t": folder}])


def test_files_that_are_missing_or_empty_are_named(tmp_path):
    criterion = Wins(measure="wins", says="", folder="w", above=0)
    with pytest.raises(RunError, match=r"verdicts\.csv: No such file"):
        evidence.effect(criterion, {"w": tmp_path}, None)
    (tmp_path / "verdicts.csv").write_text("")
    with pytest.raises(RunError, match=r"verdicts\.csv: no row"):
        evidence.effect(criterion, {"w": tmp_path}, None)
    (tmp_path / "verdicts.csv").write_text("id,category\n1,a\n")
    with pytest.raises(RunError, match="no column verdict"):
        evidence.effect(criterion, {"w": tmp_path}, None)
