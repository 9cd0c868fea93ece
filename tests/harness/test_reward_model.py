"""`harness run --task preference` on a reward model's folder."""

from __future__ import annotations

import json

import pytest
import torch

from harness import evaluate
from qwen_model import ModelError
from qwen_model.chatml import chat_tokenizer, encode_prompt
from qwen_train.alignment.models import begin_with, export, tokenizer_of
from qwen_train.alignment.pairs import end_answer
from tasks.preference import SETS


@pytest.fixture(scope="module")
def judge(tiny, tmp_path_factory):
    """A random reward model, in memory and as a folder."""
    model = begin_with(str(tiny), scalar=True, seed=3)
    folder = tmp_path_factory.mktemp("judge") / "model"
    export(model, folder)
    return model.eval(), folder


def test_pairs_are_judged_by_rewards(judge, tmp_path):
    model, folder = judge
    for name in SETS:
        rows = [
            {"chosen": f"\n\nHuman: q{n}\n\nAssistant: good {n}", "rejected": f"\n\nHuman: q{n}\n\nAssistant: bad {n}"}
            for n in range(5)
        ]
        (tmp_path / "hh_rlhf").mkdir(exist_ok=True)
        (tmp_path / "hh_rlhf" / f"{name}_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = evaluate(["preference"], str(folder), data_dir=tmp_path, out=tmp_path / "run")
    chat = chat_tokenizer(tokenizer_of(model))
    frame = run.samples("preference")
    assert len(frame) == 20
    for sample in frame.to_dict("records"):
        number = sample["id"].rpartition("/")[2]
        before = encode_prompt(chat, [("user", f"q{number}")])
        with torch.no_grad():
            texts = [end_answer(chat, before, answer) for answer in (f"good {number}", f"bad {number}")]
            good, bad = (float(model(torch.tensor([text]))[0, -1, 0]) for text in texts)
        found = sample["choice_logprobs"]
        assert found["chosen"] == pytest.approx(good, abs=1e-4) and found["rejected"] == pytest.approx(bad, abs=1e-4)
        assert sample["correct"] == (good > bad)


def test_it_writes_nothing(judge, tmp_path):
    with pytest.raises(ModelError, match="a reward model writes nothing"):
        evaluate(["win-rate"], str(judge[1]), limit=1, out=tmp_path / "run")
