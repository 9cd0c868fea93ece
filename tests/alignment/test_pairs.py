"""Pairs in three formats, their tokens, and how a step's pairs are dealt."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch

from qwen_model import ModelError
from qwen_model.chatml import encode_example, encode_prompt
from qwen_train.alignment.calibration import calibration, expected_error
from qwen_train.alignment.pairs import encode_pairs, read_pairs
from qwen_train.alignment.reward import shares, side_by_side
from tests.alignment.conftest import write_rows
from tests.qwen_model.test_chatml import Letters

TALK = [{"role": "user", "content": "q"}]


def pairs_of(tmp_path, *rows):
    write_rows(tmp_path / "p.jsonl", rows)
    return read_pairs(tmp_path / "p.jsonl")


def test_three_formats(tmp_path):
    good, bad = pairs_of(
        tmp_path,
        {"messages": TALK, "chosen": "a", "rejected": "b", "margin": 2},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"id": "x", "fields": {"messages": [["user", "q"]], "chosen": "a", "rejected": "b"}},
        {
            "messages": TALK,
            "answers": [{"text": "low", "score": 1}, {"text": "high", "score": 3}, {"text": "as low", "score": 1}],
        },
    )
    assert not bad
    assert {pair.messages for pair in good} == {(("user", "q"),)}
    assert [(pair.chosen, pair.rejected, pair.margin, pair.tie) for pair in good] == [
        ("a", "b", 2.0, False),
        ("a", "b", 0.0, False),
        ("a", "b", 0.0, False),
        ("high", "low", 2.0, False),
        ("low", "as low", 0.0, True),
        ("high", "as low", 2.0, False),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (3, "not a JSON object"),
        ({"chosen": "a", "rejected": "b"}, "neither a text `prompt`"),
        ({"messages": [], "chosen": "a", "rejected": "b"}, "not the user's"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "turn 1: role 'bot'"),
        ({"prompt": "q", "chosen": "a"}, "'chosen' and 'rejected'"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the same"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": -1}, "margin -1"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "tie": 1}, "tie 1"),
        ({"prompt": "q", "answers": [{"text": "a", "score": 1}]}, "no two answers"),
        ({"prompt": "q", "answers": [{"text": "a"}, {"text": "b", "score": 1}]}, "answer 1"),
        ({"prompt": "q", "answers": [{"text": "a", "score": 1}, {"text": "b", "score": math.nan}]}, "answer 2"),
        ({"prompt": "q", "answers": [{"text": "a", "score": 1}, {"text": "a", "score": 2}]}, "answers are the same"),
    ],
)
def test_bad_rows(tmp_path, row, said):
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    _, bad = pairs_of(tmp_path, good, row)
    assert bad[0].where == "p.jsonl:2" and said in bad[0].problem
    with pytest.raises(ModelError, match="none of 1 rows is a pair"):
        pairs_of(tmp_path, row)


def test_tokens(tmp_path):
    good, _ = pairs_of(tmp_path, {"messages": TALK, "chosen": "yes", "rejected": "no" * 50})
    (pair,), dropped = encode_pairs(good, Letters(), 1000)
    before = encode_prompt(Letters(), [("user", "q")])
    assert pair.start == len(before) and pair.chosen[:-4] == before and not dropped
    assert pair.chosen == encode_example(Letters(), [("user", "q"), ("assistant", "yes")], "report").ids
    with pytest.raises(ModelError, match="all 1 pairs are longer than 90"):
        encode_pairs(good, Letters(), 90)


def test_every_pair_is_dealt_once(tmp_path):
    rows = [{"prompt": "q" * n, "chosen": "a", "rejected": "b"} for n in range(1, 12)]
    encoded, _ = encode_pairs(pairs_of(tmp_path, *rows)[0], Letters(), 1000)
    for size in (1, 2, 3):
        dealt = [shares(encoded, 150, SimpleNamespace(rank=rank, size=size)) for rank in range(size)]
        assert len({len(parts) for parts in dealt}) == 1
        assert sorted(id(pair) for parts in dealt for part in parts for pair in part) == sorted(map(id, encoded))
    row = side_by_side(encoded[:2], torch.device("cpu"))
    assert [row.ids[0, start:end].tolist() for start, end in row.spans] == [
        encoded[0].chosen,
        encoded[0].rejected,
        encoded[1].chosen,
        encoded[1].rejected,
    ]
    assert row.targets.tolist() == [ord("a"), 2, ord("b"), 2] * 2


def test_calibration_of_a_judge_that_is_as_right_as_it_says():
    generator = torch.Generator().manual_seed(0)
    gaps = torch.rand(20_000, generator=generator) * 4
    signs = torch.where(torch.rand(20_000, generator=generator) < torch.sigmoid(gaps), 1.0, -1.0)
    assert expected_error((gaps * signs).tolist()) < 0.02
    assert expected_error((3 * gaps * signs).tolist()) > 0.08  # as right, and three times as sure
    assert sum(count for _, _, count in calibration([1.0, -1.0, 2.0])) == 3
    assert json.dumps(calibration([0.0])) == "[[0.5, 0.0, 1]]"
