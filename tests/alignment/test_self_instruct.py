"""Conversations with tools, written by a scripted model behind a server: which are kept, and why not the others."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from importlib.resources import files
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from rouge_score.rouge_scorer import RougeScorer

from qwen_model.chatml import chat_tokenizer, encode_example
from qwen_model.checkpoint import load_tokenizer
from qwen_train.alignment.conversations import parse, read_conversations
from qwen_train.alignment.self_instruct import Pool, read_every
from qwen_train.alignment.tool_talks import Rejected, check_calls, read_talk, schema_of, written
from tasks.react import first_call
from tests.alignment.conftest import write_rows
from tests.commands import typed
from tests.harness.served import Served, serving

SEEDS = files("qwen_train.alignment") / "tool-seeds.jsonl"
CITY = {"name": "city", "required": True, "schema": {"type": "string"}}
DAY = {"name": "day", "required": False, "schema": {"type": "integer", "maximum": 7}}
WEATHER = {"name_for_model": "weather", "name_for_human": "W", "description_for_model": "d", "parameters": [CITY, DAY]}
END = "Thought: done.\nFinal Answer: It rains."


def call(arguments: str, action: str = "weather") -> str:
    return f"Thought: look.\nAction: {action}\nAction Input: {arguments}\nObservation: rain\n"


OSLO = call('{"city": "Oslo"}')


def test_our_seeds_keep_our_rules_and_come_back_from_what_they_render_to(tiny):
    seeds = read_every([str(SEEDS)], read_talk)
    assert len(seeds) >= 10
    tokenizer = load_tokenizer(tiny)
    for talk in seeds:
        assert read_talk(json.loads(json.dumps(talk.row()))) == talk
        example = encode_example(chat_tokenizer(tokenizer), parse(talk.row()), "report")
        said = tokenizer.decode([i for i in example.ids if i > 2])
        assert said.endswith(f"\nQuestion: {talk.question}\nassistant\n{talk.answer}")
        assert first_call(talk.answer).action == talk.steps[0].action  # as the tool-use benchmark reads it


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (OSLO + END, None),
        (call('{\n "city": "Oslo",\n "day": 7\n}') + call('{"city": "Rome"}') + END, None),
        (END, "no call"),
        ("It rains.", "format"),
        (OSLO, "format"),
        (OSLO + "Final Answer: x", "format"),
        (OSLO.replace("rain", "") + END, "format"),
        (OSLO + END + "\n" + OSLO, "format"),
        (call('{"city": "Oslo"}', "Weather") + END, "unknown tool"),
        (call("Oslo") + END, "arguments"),
        (call("{'city': 'Oslo'}") + END, "arguments"),
        (call("[1]") + END, "arguments"),
        (call("{}") + END, "arguments"),
        (call('{"city": 3}') + END, "arguments"),
        (call('{"city": "Oslo", "day": 8}') + END, "arguments"),
        (call('{"city": "Oslo", "hour": 8}') + END, "arguments"),
        (call("[" * 100_000) + END, "arguments"),
        (OSLO + call('{ "city":"Oslo" }') + END, "repeated call"),
    ],
)
def test_rules_of_one_conversation(answer, rule):
    try:
        check_calls(written(f"Does it rain in Oslo?\n{answer}", [WEATHER]))
        found = None
    except Rejected as error:
        found = error.rule
    assert found == rule


def test_a_question_may_not_be_like_a_known_one():
    pool, scorer = Pool(0.7), RougeScorer(["rougeL"])
    pool.know("Does it rain in Oslo today?")

    def verdict(question: str) -> str | None:
        try:
            pool.accept(written(f"{question}\n{OSLO}{END}", [WEATHER]))
        except Rejected as error:
            return error.rule
        return None

    assert verdict("does it rain in Oslo today") == "duplicate"
    assert verdict("Rain?") == "length" and verdict("why " * 151) == "length"
    assert verdict("Does it rain in Rome today?") == "similar"
    assert verdict("奥斯陆今天下雨吗？") is None and verdict("奥斯陆明天下雨吗？") == "similar"
    for question in ("Is it dry in Oslo today, does it rain?", "In Oslo, does it rain?", "Today in Oslo it does rain"):
        theirs = max(scorer.score(known, question)["rougeL"].fmeasure for known, _, _ in pool.questions)
        assert (verdict(question) == "similar") == (theirs >= 0.7)


def test_arguments_by_an_independent_schema():
    assert schema_of(WEATHER) == {
        "type": "object",
        "properties": {"city": {"type": "string"}, "day": {"type": "integer", "maximum": 7}},
        "required": ["city"],
        "additionalProperties": False,
    }


class Scripted(Served):
    """Writes a right conversation for the tools at the end of the prompt, or one with a fault that it names."""

    FAULTS = ("none", "none", "none", "format", "unknown tool", "arguments", "cut off")

    def __init__(self) -> None:
        self.faults, self.asked = [], []
        self.under_way = self.most = 0
        self.lock, self.computing = threading.Lock(), threading.Lock()

    def answer(self, path: str, body: dict) -> dict:
        chat = path.endswith("/chat/completions")
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        assert chat or prompt.endswith("Question:")
        last = prompt.rpartition("Tools:\n")[2].partition("\n\n")[0]
        tool = json.loads(last.splitlines()[0])
        draw = hashlib.sha256(f"{body['seed']} {prompt}".encode()).digest()
        fault = self.FAULTS[draw[0] % len(self.FAULTS)]
        values = {"string": "x", "number": 1.5, "integer": 1, "array": ["x"], "boolean": True}
        arguments = {p["name"]: values[p["schema"]["type"]] for p in tool["parameters"] if p["required"]}
        words = " ".join(f"w{byte}" for byte in draw[1 : 2 + draw[1] % 9])
        text = (
            f" About {words} and {fault}?\nThought: fault {fault}\nAction: {tool['name_for_model']}\nAction Input: "
            f"{json.dumps(arguments)}\nObservation: seen\nThought: done\nFinal Answer: so it is."
        )
        text = {
            "format": text.replace("Observation:", "Observed:"),
            "unknown tool": text.replace("\nAction: ", "\nAction: no_"),
            "arguments": text.replace("Action Input: ", "Action Input: and "),
        }.get(fault, text)
        text = "Question:" + text if chat else text
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        reason = "length" if fault == "cut off" else "stop"
        return {"choices": [{**said, "finish_reason": reason}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@pytest.fixture
def server():
    served = Scripted()
    with serving(served) as address:
        served.address = address
        yield served


def self_instruct(out: Path, address: str, *changes: str) -> CompletedProcess[str]:
    sets = ["model=tiny", "backend=openai", f"base_url={address}", "samples=15", "prompts=12", "rounds=9", *changes]
    options = [part for one in sets for part in ("--set", one)]
    return typed("qwen-train", "self-instruct", "self-instruct", "--out", out, *options)


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("chat", ["false", "true"])
def test_what_is_kept_is_right_and_the_rest_has_its_reason(server, tmp_path, chat):
    assert self_instruct(tmp_path, server.address, f"chat={chat}").returncode == 0
    kept, rejected = rows_of(tmp_path / "talks.jsonl"), rows_of(tmp_path / "rejected.jsonl")
    assert len(kept) == 15 and len(kept) + len(rejected) == len(server.asked)  # nothing is lost
    assert all("fault none" in row["answer"] for row in kept)
    for row in rejected:
        fault = row["text"].partition("Thought: fault ")[2].partition("\n")[0]
        known = {"duplicate", "similar"} if fault == "none" else {fault}
        assert row["rule"] in known or row["rule"].startswith("beyond"), (row, fault)
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts == {"accepted": 15, **Counter(row["rule"] for row in rejected)}
    # a later round shows what an earlier one accepted
    key = "messages" if chat == "true" else "prompt"
    assert any(kept[0]["question"] in json.dumps(body[key]) for _, _, body, _ in server.asked)
    # `sft` takes them, and they are seeds themselves
    good, bad = read_conversations(tmp_path / "talks.jsonl")
    assert len(good) == 15 and not bad
    assert [talk.question for talk in read_every([str(tmp_path / "talks.jsonl")], read_talk)] == [
        r["question"] for r in kept
    ]


def test_a_broken_run_ends_as_an_unbroken_one_and_more_may_be_asked(server, tmp_path):
    names = ("talks.jsonl", "rejected.jsonl", "counts.json")
    assert self_instruct(tmp_path / "whole", server.address, "samples=20").returncode == 0
    whole, asked = [(tmp_path / "whole" / name).read_bytes() for name in names], len(server.asked)
    server.faults = [()] * 18 + [(400, {})]  # in the second round
    assert self_instruct(tmp_path / "broken", server.address, "concurrency=1").returncode == 2
    before = len(server.asked)
    assert self_instruct(tmp_path / "broken", server.address, "concurrency=1").returncode == 0
    assert self_instruct(tmp_path / "broken", server.address, "concurrency=1", "samples=20").returncode == 0
    assert [(tmp_path / "broken" / name).read_bytes() for name in names] == whole
    assert len(server.asked) - before <= asked - 17  # what was written is not asked for again
    done = self_instruct(tmp_path / "broken", server.address, "similar=0.5", "concurrency=1")
    assert done.returncode == 2 and "begun with another recipe: similar (0.7 there, 0.5 now)" in done.stderr


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "x"}, "list of tools"),
        ({"tools": [{}], "question": "Is it so?", "answer": "x"}, "field 'name_for_model' is no text"),
        (
            {"tools": [{**WEATHER, "parameters": [{"name": "x"}]}], "question": "q", "answer": "x"},
            "tool weather: param",
        ),
        (
            {"tools": [{**WEATHER, "parameters": [{**CITY, "schema": {"type": 3}}]}], "question": "q", "answer": "x"},
            "no JSON Schema",
        ),
        ({"tools": [WEATHER], "question": "q", "answer": END}, "no call: it is answered without a tool"),
    ],
)
def test_bad_seeds_are_named(tmp_path, row, said):
    seeds = write_rows(tmp_path / "seeds.jsonl", [row])
    done = self_instruct(tmp_path / "out", "http://localhost:1/v1", f"seeds=[{seeds}]")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and f"{seeds}: seeds.jsonl:1: " in last and said in last


def test_a_model_of_this_process_writes_too(tiny, tmp_path):
    changes = (
        "backend=native",
        f"model={tiny}",
        "base_url=null",
        "rounds=1",
        "prompts=2",
        "examples=1",
        "max_tokens=8",
    )
    assert self_instruct(tmp_path, "null", *changes).returncode == 0
    assert json.loads((tmp_path / "counts.json").read_text())["accepted"] == 0
    assert len(rows_of(tmp_path / "rejected.jsonl")) == 2


def test_a_wrong_name_leaves_no_mark(tiny, tmp_path):
    changes = ("backend=native", "base_url=null", "rounds=1", "prompts=1", "examples=1", "max_tokens=2")
    done = self_instruct(tmp_path, "null", *changes, "model=no-such-model")
    assert done.returncode == 2 and "no-such-model" in done.stderr.splitlines()[-1]
    assert self_instruct(tmp_path, "null", *changes, f"model={tiny}").returncode == 0
