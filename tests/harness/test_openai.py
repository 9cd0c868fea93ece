"""`--backend openai` against a small server of our own: transformers' numbers through HTTP, and all that goes wrong."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import torch

from harness import evaluate, openai_client
from harness.evaluation import Settings, prepare
from harness.records import Run
from qwen_model import ModelError
from tasks.api import TaskError
from tests.harness.served import Served, serving
from tests.harness.test_run import assert_same, rows

SCRIPTED = str(Path(__file__).parent / "scripted.py")
GUESSES, TOOLS, LIKELY, TALKS = (f"{SCRIPTED}:{name}" for name in ("Guesses", "Tools", "Likely", "Talks"))


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """No test waits as long as a user would."""
    monkeypatch.setattr(openai_client, "FIRST_PAUSE", 0.01)


@pytest.fixture
def server(tiny):
    served = Served(tiny)
    with serving(served) as address:
        served.address = address
        yield served


def ask(server: Served, task: str, out: Path, **settings) -> Run:
    return evaluate([task], "tiny", backend="openai", base_url=server.address, out=out, **settings)


@pytest.mark.parametrize("way", ["echo", "prompt_logprobs"])
@pytest.mark.parametrize("task", [GUESSES, TOOLS, LIKELY])
def test_with_its_tokenizer_a_served_model_gives_what_it_gives_here(tiny, tmp_path, server, way, task):
    server.ways = (way,)
    theirs = ask(server, task, tmp_path / "server", tokenizer=str(tiny), limit=12)
    ours = evaluate([task], str(tiny), out=tmp_path / "here", limit=12)
    name = next(iter(ours.results))
    assert theirs.results[name].outcomes == ours.results[name].outcomes
    assert [row["response"] for row in rows(theirs, name)] == [row["response"] for row in rows(ours, name)]
    for mine, other in zip(rows(theirs, name), rows(ours, name), strict=True):
        for one, two in zip(mine["asked"], other["asked"], strict=True):
            assert one["request"] == two["request"]
            for key in ("scores", "logprob", "greedy", "finish"):
                assert one.get(key) == pytest.approx(two.get(key), abs=1e-4)


def test_long_texts(tiny, tmp_path, server):
    text = tmp_path / "texts" / "a.txt"
    text.parent.mkdir()
    text.write_text("the quick brown fox jumps over the lazy dog. " * 20)
    for options in ({"lengths": (60, 200)}, {"lengths": (80,), "stride": 30}):
        kinds = {"documents": text.parent, **options}
        out = tmp_path / str(len(options))
        theirs = ask(server, "long-ppl", out / "server", tokenizer=str(tiny), **kinds)
        ours = evaluate(["long-ppl"], str(tiny), out=out / "here", **kinds)
        for one, two in zip(rows(theirs, "long-ppl"), rows(ours, "long-ppl"), strict=True):
            assert one["asked"][0]["logprobs"] == pytest.approx(two["asked"][0]["logprobs"], abs=1e-4)


def test_without_a_tokenizer_texts_and_conversations_are_sent(tiny, tmp_path, server):
    for task, path in ((GUESSES, "/v1/completions"), (TALKS, "/v1/chat/completions")):
        server.asked.clear()
        theirs = ask(server, task, tmp_path / path[4:].replace("/", ""), limit=5)
        ours = evaluate([task], str(tiny), out=tmp_path / ("here" + path.replace("/", "")), limit=5)
        assert {asked[1] for asked in server.asked} == {path}
        name = next(iter(ours.results))
        assert [row["response"] for row in rows(theirs, name)] == [row["response"] for row in rows(ours, name)]
    assert theirs.spec["model"] == {
        **theirs.spec["model"],
        "name": "tiny",
        "backend": "openai",
        "base_url": server.address,
        "tokenizer": None,
    }


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (TOOLS, "tools: log-probabilities by a server need the model's own tokens; give --tokenizer"),
        (LIKELY, "likely:"),
    ],
)
def test_log_probabilities_without_a_tokenizer_are_refused(tmp_path, server, task, said):
    with pytest.raises(TaskError, match=said):
        ask(server, task, tmp_path / "run")
    assert not server.asked and not (tmp_path / "run").exists()


def test_a_server_without_log_probabilities_is_refused_before_any_sample(tiny, tmp_path, server):
    server.ways = ()
    with pytest.raises(TaskError, match=r"gives no log-probabilities of a prompt \(echo: .*; prompt_logprobs: "):
        ask(server, TOOLS, tmp_path / "run", tokenizer=str(tiny))
    assert len(server.asked) == 2 and not len(Run(tmp_path / "run").samples("tools"))


def test_a_server_that_refuses_echo_may_have_the_other_way(tiny, tmp_path, server):
    server.faults = [(400, {})]
    assert ask(server, TOOLS, tmp_path / "run", tokenizer=str(tiny), limit=3).results["tools"].n == 3


def test_another_models_tokenizer_is_noticed(tiny, tmp_path, server, monkeypatch):
    monkeypatch.setattr(server.tokenizer, "decode", lambda ids: "x" * len(ids))
    with pytest.raises(TaskError, match="--tokenizer: the server reads"):
        ask(server, TOOLS, tmp_path / "run", tokenizer=str(tiny))


FAULTS = {
    "too many": [(429, {"retry-after": "0.2"})] * 3,
    "broken": [(500, {}), (503, {}), ("json",), (502, {})],
    "lost": [("drop",), ("drop",)],
    "late": [("sleep", 0.8)] * 2,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_for_a_while_changes_nothing(tiny, tmp_path, server, monkeypatch, fault):
    import httpx2

    monkeypatch.setattr(openai_client, "TIMEOUT", httpx2.Timeout(0.5 if fault == "late" else 30))
    good = ask(server, GUESSES, tmp_path / "good", limit=6)
    server.faults, before = list(FAULTS[fault]), len(server.asked)
    bad = ask(server, GUESSES, tmp_path / "bad", limit=6)
    assert not server.faults and len(server.asked) - before >= 6 + len(FAULTS[fault])
    assert (bad.path / "results.json").read_bytes() == (good.path / "results.json").read_bytes()
    assert_same(rows(bad, "guesses"), rows(good, "guesses"))


def test_everyone_waits_as_long_as_the_server_asks(tmp_path, server):
    later = datetime.now(UTC) + timedelta(seconds=3)
    server.faults = [(429, {"retry-after": format_datetime(later, usegmt=True)})]
    ask(server, GUESSES, tmp_path / "run", limit=8, concurrency=1)
    first, *others = [asked[0] for asked in server.asked]
    assert len(others) == 8 and min(others) - first > 1  # a date has no parts of a second


def test_a_server_that_stays_away_is_one_line_and_the_run_goes_on_later(tmp_path, server, monkeypatch):
    monkeypatch.setattr(openai_client, "ATTEMPTS", 3)
    whole = ask(server, GUESSES, tmp_path / "whole")
    monkeypatch.setattr(openai_client, "FIRST_PAUSE", 0.001)
    server.faults = [()] * 9 + [(500, {})] * 2000
    with pytest.raises(ModelError, match=r"3 times in vain, last status 500: as the test asked for") as caught:
        ask(server, GUESSES, tmp_path / "run", concurrency=2)
    assert "\n" not in str(caught.value)
    kept = len(Run(tmp_path / "run").samples("guesses"))
    assert 0 < kept < 40
    server.faults = []
    asked = len(server.asked)
    again = ask(server, GUESSES, tmp_path / "run", concurrency=7)
    assert len(server.asked) - asked == 40 - kept
    assert (again.path / "results.json").read_bytes() == (whole.path / "results.json").read_bytes()


def test_a_refusal_is_not_tried_again(tmp_path, server):
    server.faults = [(401, {})] * 40
    with pytest.raises(ModelError, match="status 401: as the test asked for; set OPENAI_API_KEY"):
        ask(server, GUESSES, tmp_path / "run", limit=1)
    assert len(server.asked) == 1


def test_the_key_is_sent_and_not_kept(tmp_path, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    run = ask(server, GUESSES, tmp_path / "run", limit=2)
    assert {asked[3]["Authorization"] for asked in server.asked} == {"Bearer sk-very-secret"}
    assert not [file for file in run.path.iterdir() if b"very-secret" in file.read_bytes()]


def test_concurrency_and_rate_have_their_limits(tmp_path, server):
    ask(server, GUESSES, tmp_path / "few", limit=10, concurrency=3)
    assert 1 < server.most <= 3
    server.asked.clear()
    ask(server, GUESSES, tmp_path / "slow", limit=6, requests_per_minute=600)
    times = sorted(asked[0] for asked in server.asked)
    assert times[-1] - times[0] > 5 * 0.1 * 0.9
    assert all(later - earlier < 1 for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_url": None}, "which server\\? give --base-url"),
        ({"base_url": "localhost:8000"}, "is no address"),
        ({"base_url": "http://me:secret@host/v1"}, "OPENAI_API_KEY"),
        ({"cache": Path("x")}, "--cache: what weights a server holds cannot be known"),
        ({"backend": "native", "base_url": "http://host/v1"}, "--base-url: is of --backend openai only"),
        ({"concurrency": 0}, "--concurrency: 0 is not 1 or more"),
    ],
)
def test_settings_that_do_not_go_together(settings, said):
    with pytest.raises(TaskError, match=said):
        prepare(
            Settings(tasks=(GUESSES,), model="tiny", **{"backend": "openai", "base_url": "http://host/v1"} | settings)
        )


def test_no_server_and_no_such_model(tmp_path, server, monkeypatch):
    monkeypatch.setattr(openai_client, "ATTEMPTS", 2)
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9/v1/models: 2 times in vain, last .*onnect"):
        evaluate([GUESSES], "tiny", backend="openai", base_url="http://127.0.0.1:9/v1", out=tmp_path / "a")
    with pytest.raises(ModelError, match=r"has no 'tinny'; it has tiny"):
        evaluate([GUESSES], "tinny", backend="openai", base_url=server.address, out=tmp_path / "b")


def test_another_tokenizer_is_another_run(tiny, server):
    base = Settings(tasks=(GUESSES,), model="a/b", backend="openai", base_url=server.address)
    with_it = prepare(replace(base, tokenizer=str(tiny)))
    assert prepare(base).default_folder != with_it.default_folder
    assert with_it.default_folder.parent == Path("runs")


@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
def test_log_probabilities_that_are_no_numbers_are_one_line(tiny, tmp_path, server, monkeypatch, value):
    true = server.logprobs
    monkeypatch.setattr(server, "logprobs", lambda ids: torch.full_like(true(ids), value))
    with pytest.raises(ModelError, match=f"a log-probability of {value}.*; use --dtype bfloat16 or float32") as caught:
        ask(server, TOOLS, tmp_path / "run", tokenizer=str(tiny), limit=3)
    assert "\n" not in str(caught.value)


def test_half_an_emoji_of_a_server_is_kept_as_a_replacement_character(tmp_path, server, monkeypatch):
    monkeypatch.setattr(server, "write", lambda ids, body: ("a \ud83d", "stop", None, 1))
    run = ask(server, GUESSES, tmp_path / "run", limit=2)
    assert [row["response"] for row in rows(run, "guesses")] == ["a \ufffd"] * 2
