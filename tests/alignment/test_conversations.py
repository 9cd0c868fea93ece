"""Published formats to conversations; every bad row is named."""

from __future__ import annotations

import json

import pytest

from qwen_model import ModelError
from qwen_train.alignment import sft
from qwen_train.alignment.conversations import RowError, parse, read_conversations
from qwen_train.alignment.settings import SFT
from qwen_train.parallel import World

TALK = (("system", "Be."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "See you."))


def test_the_formats_agree():
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    assert parse({"messages": [{"role": role, "content": text} for role, text in TALK]}) == TALK
    assert parse({"conversations": [{"from": names[role], "value": text} for role, text in TALK]}) == TALK
    turns = [{"from": role, "value": text} for role, text in TALK[1:3]]
    assert parse({"system": "Be.", "conversations": turns}) == TALK[:3]


def test_alpaca():
    assert parse({"instruction": "Add.", "input": "1 2", "output": "3"}) == (("user", "Add.\n1 2"), ("assistant", "3"))
    assert parse({"instruction": "Hi", "input": "", "output": "Yo"}) == (("user", "Hi"), ("assistant", "Yo"))


def test_tool_turns():
    roles = ("user", "assistant", "tool", "assistant")
    found = parse({"messages": [{"role": role, "content": role} for role in roles]})
    assert [role for role, _ in found] == ["user", "assistant", "observation", "assistant"]


def test_what_nobody_answers_is_left_out():
    assert parse({"messages": [{"role": role, "content": text} for role, text in TALK[:4]]}) == TALK[:3]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (3, "not a JSON object"),
        ({}, "only none"),
        ({"prompt": "x"}, "only prompt"),
        ({"messages": "x"}, "no list"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "turn 1: role 'bot'"),
        ({"messages": [{"role": "user", "content": None}]}, "turn 1: field 'content' is no text"),
        ({"messages": ["x"]}, "turn 1: role None"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no turn is the assistant's"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}, "turn 2: .* empty"),
        ({"instruction": "a", "output": ["b"]}, "field 'output' is no text"),
        ({"instruction": "a"}, "turn 2: the assistant's text is empty"),
        (
            {"messages": [{"role": r, "content": "x"} for r in ("user", "assistant", "system", "assistant")]},
            "turn 3: a system turn",
        ),
        (
            {"messages": [{"role": r, "content": "x"} for r in ("user", "tool", "assistant")]},
            "turn 2: a tool's answer",
        ),
    ],
)
def test_bad_rows(row, said):
    with pytest.raises(RowError, match=said):
        parse(row)


def test_bad_rows_of_every_field_are_kept(base, tmp_path):
    row = json.dumps({"instruction": "Hi", "input": "", "output": "Yo"})
    for name, broken in (("good", '{"text": "\\ud800"}'), ("held", "not json")):
        (tmp_path / f"{name}.jsonl").write_text(f"{row}\n{broken}\n")
    common = {"model": base, "length": 64, "batch": 1, "steps": 1}
    recipe = SFT(data=[str(tmp_path / "good.jsonl")], validation=[str(tmp_path / "held.jsonl")], **common)
    said: list[str] = []
    sft.run_sft(recipe, tmp_path / "out", World(), said.append)
    kept = [json.loads((tmp_path / "out" / f"bad-{field}.jsonl").read_text()) for field in ("data", "validation")]
    assert [(row["where"], row["row"]) for row in kept] == [
        ("good.jsonl:2", '{"text": "\ud800"}'),
        ("held.jsonl:2", "not json"),
    ]
    assert any(line.startswith("1 bad rows left out (held.jsonl:2: ") for line in said)


def test_a_file_with_bad_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    good = json.dumps({"instruction": "a\u2028b", "input": "", "output": "c"}, ensure_ascii=False)
    path.write_text(f"{good}\n\nnot json\n{{}}\n{good}\n", encoding="utf-8")
    found, bad = read_conversations(path)
    assert [conversation.where for conversation in found] == ["x.jsonl:1", "x.jsonl:5"]
    assert [(row.where, row.row) for row in bad] == [("x.jsonl:3", "not json"), ("x.jsonl:4", "{}")]


def test_a_list(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"instruction": "a", "output": "b"}, 3]))
    found, bad = read_conversations(path)
    assert found[0].where == "x.json row 1" and bad[0].where == "x.json row 2"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.jsonl", "", "none of 0 rows"),
        ("x.jsonl", "{}\n", "x.jsonl:1: no field messages"),
        ("x.json", "{}", "not a list of rows"),
        ("x.json", "{", "not JSON"),
        ("x.csv", "a", "neither .jsonl nor .json"),
    ],
)
def test_files_of_no_use(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=said) as error:
        read_conversations(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="No such file"):
        read_conversations(tmp_path / "none.jsonl")
