"""`--cache`: what was asked once is not asked again, two models on one cache never mix, damage is one line."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from harness import evaluate, response_cache
from harness.records import Run, RunError
from harness.response_cache import ResponseCache
from tests.commands import harness
from tests.conftest import make_checkpoint
from tests.harness.test_run import SUMS, assert_same, rows

SCRIPTED = str(Path(__file__).parent / "scripted.py")
GUESSES, LIKELY = f"{SCRIPTED}:Guesses", f"{SCRIPTED}:Likely"


def spent(run: Run) -> int:
    return sum(run.environment["tokens"][name] for name in ("generated", "computed"))


@pytest.mark.parametrize("task", [SUMS, LIKELY])
def test_what_was_asked_is_not_asked_again(tiny, tmp_path, task):
    plain = evaluate([task], str(tiny), out=tmp_path / "plain")
    few = evaluate([task], str(tiny), out=tmp_path / "few", cache=tmp_path / "cache", limit=10)
    first = evaluate([task], str(tiny), out=tmp_path / "first", cache=tmp_path / "cache")
    again = evaluate([task], str(tiny), out=tmp_path / "again", cache=tmp_path / "cache")
    name = next(iter(plain.results))
    for run in (first, again):
        assert (run.path / "results.json").read_bytes() == (plain.path / "results.json").read_bytes()
        assert_same(rows(run, name), rows(plain, name))
    assert few.environment["replies_from_cache"] == 0
    assert 10 <= first.environment["replies_from_cache"] <= 20 and spent(first) < spent(plain)
    assert spent(again) == 0


def test_long_texts(tiny, tmp_path):
    text = tmp_path / "texts" / "a.txt"
    text.parent.mkdir()
    text.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    first, again = (
        evaluate(
            ["long-ppl"],
            str(tiny),
            out=tmp_path / name,
            cache=tmp_path / "cache",
            documents=text.parent,
            lengths=(60, 200),
        )
        for name in ("first", "again")
    )
    for one, two in zip(rows(first, "long-ppl"), rows(again, "long-ppl"), strict=True):
        assert (one["asked"], one["scores"]) == (two["asked"], two["scores"])
    assert spent(again) == 0


def test_in_a_notebook_where_a_loop_runs_already(tiny, tmp_path):
    async def cell(name: str) -> Run:
        return evaluate([GUESSES], str(tiny), limit=3, out=tmp_path / name, cache=tmp_path / "cache")

    first, again = (asyncio.run(cell(name)) for name in ("first", "again"))
    assert rows(again, "guesses") == rows(first, "guesses")
    assert (first.environment["replies_from_cache"], again.environment["replies_from_cache"]) == (0, 3)


def test_two_models_never_mix(tmp_path):
    models = [make_checkpoint(tmp_path / str(seed) / "model", seed=seed) for seed in (0, 1)]
    plain = [evaluate([SUMS], str(model), out=tmp_path / f"plain{i}") for i, model in enumerate(models)]
    assert rows(plain[0]) != rows(plain[1])
    for time in range(2):
        for i, model in enumerate(models):
            run = evaluate([SUMS], str(model), out=tmp_path / f"{time}{i}", cache=tmp_path / "cache")
            assert_same(rows(run), rows(plain[i]))
            assert spent(run) == 0 if time else spent(run) > 0
    # a folder of another name with the same weights is the same model
    models[0].rename(tmp_path / "moved")
    assert spent(evaluate([SUMS], str(tmp_path / "moved"), out=tmp_path / "m", cache=tmp_path / "cache")) == 0


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"backend": "hf"}])
def test_another_way_of_computing_is_another_model(tiny, tmp_path, change):
    evaluate([GUESSES], str(tiny), out=tmp_path / "first", cache=tmp_path / "cache", limit=3)
    other = evaluate([GUESSES], str(tiny), out=tmp_path / "other", cache=tmp_path / "cache", limit=3, **change)
    assert other.environment["replies_from_cache"] == 0


def test_samples_hang_on_their_seed_and_greedy_replies_do_not(tiny, tmp_path):
    for name, settings in (("greedy", {}), ("drawn", {"temperature": 1.5})):
        runs = [
            evaluate(
                [GUESSES], str(tiny), out=tmp_path / f"{name}{seed}", cache=tmp_path / "cache", seed=seed, **settings
            )
            for seed in (1, 2)
        ]
        assert runs[0].environment["replies_from_cache"] == 0
        assert runs[1].environment["replies_from_cache"] == (40 if name == "greedy" else 0)


def test_the_engines_version_is_a_part_of_the_key(tmp_path):
    model = {"name": "a", "fingerprint": "f", "backend": "native"}
    with ResponseCache(tmp_path, model, "1.0") as cache:
        cache.put("generate", "r", None, {"text": "x"})
        assert cache.get("generate", "r", None) == {"text": "x"}
        assert cache.get("generate", "r", 7) is None and cache.get("score", "r", None) is None
    with ResponseCache(tmp_path, model, "1.1") as cache:
        assert cache.get("generate", "r", None) is None
    with ResponseCache(tmp_path, {**model, "long_context": {"logn": True}}, "1.0") as cache:
        assert cache.get("generate", "r", None) is None


def test_a_damaged_cache_is_one_line(tiny, tmp_path):
    evaluate([GUESSES], str(tiny), out=tmp_path / "first", cache=tmp_path, limit=2)
    file = tmp_path / "responses.sqlite"
    content = file.read_bytes()
    file.write_bytes(b"no database" * 1000)
    done = harness("run", "--task", GUESSES, "--model", tiny, "--out", tmp_path / "run", "--cache", tmp_path, "--quiet")
    assert done.returncode == 2 and "responses.sqlite: damaged (file is not a database); delete the file" in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("harness: ")] == done.stderr.splitlines()[-1:]
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"--cache: .*responses.sqlite: damaged"):
        evaluate([GUESSES], str(tiny), out=tmp_path / "second", cache=tmp_path, limit=2)


def test_an_answer_that_is_no_json_is_named(tiny, tmp_path):
    evaluate([GUESSES], str(tiny), out=tmp_path / "first", cache=tmp_path, limit=2)
    with sqlite3.connect(tmp_path / "responses.sqlite") as database:
        database.execute("UPDATE responses SET answer = '{'")
    with pytest.raises(RunError, match="damaged"):
        evaluate([GUESSES], str(tiny), out=tmp_path / "second", cache=tmp_path, limit=2)


def test_a_held_cache_is_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(response_cache, "PATIENCE", 0.1)
    evaluate([GUESSES], str(tiny), out=tmp_path / "first", cache=tmp_path, limit=2)
    holder = sqlite3.connect(tmp_path / "responses.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunError, match=r"responses.sqlite: database is locked; wait for the process that holds it"):
        evaluate([GUESSES], str(tiny), out=tmp_path / "second", cache=tmp_path, limit=4)
    holder.execute("ROLLBACK")
    assert evaluate([GUESSES], str(tiny), out=tmp_path / "second", cache=tmp_path, limit=4).results["guesses"].n == 4


def test_a_folder_that_cannot_be_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"--cache: .*cannot write there"):
        evaluate([GUESSES], str(tiny), out=tmp_path / "run", cache=tmp_path / "file", limit=2)
