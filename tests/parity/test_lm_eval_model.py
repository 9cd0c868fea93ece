"""`LmEvalModel` beside lm-eval's own `hf` model: the same requests, the same answers."""

from __future__ import annotations

import random
from pathlib import Path
from unittest.mock import patch

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from harness.lmeval.model import NAME, LmEvalModel
from qwen_model import ModelError
from tasks.api import TaskError
from tests.conftest import CHATML, make_checkpoint
from tests.parity import lm_eval_side
from tests.parity.test_lm_eval_tasks import own_rows, sentence


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Trained at 96 tokens, so that much is cut off in front."""
    return make_checkpoint(tmp_path_factory.mktemp("narrow"), max_position_embeddings=96)


@pytest.fixture(scope="module")
def theirs(folder):
    return lm_eval_side.hf_model(folder)


@pytest.fixture(scope="module", params=["native", "hf"])
def ours(request, folder):
    return LmEvalModel(str(folder), backend=request.param)


def test_log_likelihoods(ours, theirs):
    rng = random.Random(1)
    contexts = ["", *(sentence(rng, count) for count in (1, 6, 40, 80)), "a line  \n"]
    pairs = [(context, " " + sentence(rng, count)) for context in contexts for count in (1, 1, 6)]
    found = ours.loglikelihood(requests("loglikelihood", *pairs))
    for (logprob, greedy), (expected, most_likely) in zip(
        found, theirs.loglikelihood(requests("loglikelihood", *pairs)), strict=True
    ):
        assert logprob == pytest.approx(expected, rel=1e-5, abs=1e-5) and greedy == most_likely


def test_rolling_log_likelihoods(ours, theirs):
    rng = random.Random(2)
    texts = [("",), *((sentence(rng, count),) for count in (1, 12, 70, 200))]
    found = ours.loglikelihood_rolling(requests("loglikelihood_rolling", *texts))
    expected = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", *texts))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_window_longer_than_a_piece_is_read_piece_by_piece(tmp_path):
    """A window of 700 tokens is scored without the logits of all its positions together."""
    folder = make_checkpoint(tmp_path, max_position_embeddings=700)
    texts = requests("loglikelihood_rolling", (sentence(random.Random(3), 500),))
    expected = lm_eval_side.hf_model(folder).loglikelihood_rolling(texts)
    assert LmEvalModel(str(folder)).loglikelihood_rolling(texts) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "until", [["\n"], ["e", "\n\n"], "st", ["<|im_start|>"], []], ids=["line", "two", "text", "control", "none"]
)
def test_texts_with_stop_strings_and_long_prompts(ours, theirs, until):
    rng = random.Random(4)
    settings = {"until": until, "max_gen_toks": 24, "do_sample": False}
    asked = requests("generate_until", *((sentence(rng, count), settings) for count in (1, 9, 30, 90)))
    assert ours.generate_until(asked) == theirs.generate_until(asked)


def test_a_repetition_penalty_of_the_checkpoint_or_of_the_request_is_hfs(folder, theirs, tmp_path):
    settings = {"until": [], "max_gen_toks": 30, "repetition_penalty": 1.7}
    asked = requests("generate_until", (sentence(random.Random(5), 8), settings))
    plain = requests("generate_until", (asked[0].args[0], {"until": [], "max_gen_toks": 30}))
    ours = LmEvalModel(str(folder))
    punished = ours.generate_until(asked)
    assert punished == theirs.generate_until(asked) != ours.generate_until(plain)
    with patch("harness.lmeval.model.read_json", lambda path: {"repetition_penalty": 1.7}):
        assert LmEvalModel(str(folder)).generate_until(plain) == punished


def test_drawn_texts_hang_on_seed_and_request_not_on_order(folder):
    import torch

    ours = LmEvalModel(str(folder))
    settings = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0, "top_k": 50}
    asked = requests("generate_until", ("one", settings), ("two", settings), ("one", settings))
    torch.manual_seed(1)
    first = ours.generate_until(asked)
    assert first[0] != first[2]  # a repeat is drawn anew
    assert ours.generate_until(asked[:2][::-1]) == first[:2][::-1]
    torch.manual_seed(2)
    assert ours.generate_until(asked) != first


@pytest.mark.parametrize("task", ["arc_easy", "gsm8k"])
def test_whole_evaluations_with_the_chat_template(tmp_path, task):
    """lm-eval's evaluator on both models: system message, examples as turns, an answer's beginning by the template."""
    folder = make_checkpoint(tmp_path, max_position_embeddings=1024)
    theirs = lm_eval_side.hf_model(folder)
    theirs.tokenizer.chat_template = CHATML
    _, splits = own_rows()[task]
    chat = {
        "apply_chat_template": True,
        "system_instruction": "Be brief.",
        "num_fewshot": 2,
        "gen_kwargs": {"max_gen_toks": 16} if task == "gsm8k" else None,
    }
    expected = lm_eval_side.evaluate(theirs, task, splits, [0, 1, 2], **chat)
    found = lm_eval_side.evaluate(LmEvalModel(str(folder)), task, splits, [0, 1, 2], **chat)
    for item, other in zip(found["items"], expected["items"], strict=True):
        assert item["arguments"] == other["arguments"] and "<|im_start|>system\nBe brief." in item["arguments"][0][0]
        for mine, his in zip(item["resps"], other["resps"], strict=True):
            if task == "gsm8k":
                assert mine == his
            else:
                assert mine[0][0] == pytest.approx(his[0][0], rel=1e-5) and mine[0][1] == his[0][1]
    metrics = {name: value for name, value in found["metrics"].items() if isinstance(value, float)}
    assert metrics and all(expected["metrics"][name] == value for name, value in metrics.items())


def test_chat_template_prefill_and_name(folder, theirs):
    ours = LmEvalModel(str(folder))
    theirs.tokenizer.chat_template = CHATML
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The answer is"}]
    for prompt in (True, False):
        turns = history[:1] if prompt else history
        assert ours.apply_chat_template(turns, prompt) == theirs.apply_chat_template(turns, prompt)
    assert (ours.chat_template(True), ours.chat_template(False)) == (CHATML, None)
    assert folder.name in ours.tokenizer_name


def test_lm_eval_finds_it_by_name_and_keeps_its_answers(folder, tmp_path):
    import lm_eval.api.model

    kind = get_model(NAME)
    ours = kind.create_from_arg_string(f"pretrained={folder},dtype=float32", {"batch_size": 1, "device": "cuda:0"})
    cached = lm_eval.api.model.CachingLM(ours, str(tmp_path / "cache.db"))
    asked = [requests("loglikelihood", ("a", " b")), requests("generate_until", ("a", {"max_gen_toks": 3}))]
    first = cached.loglikelihood(asked[0]), cached.generate_until(asked[1])
    with patch("harness.lmeval.model.score", None), patch("harness.lmeval.model.Generator", None):
        assert (cached.loglikelihood(asked[0]), cached.generate_until(asked[1])) == first
    assert ours.get_model_info()["model_num_parameters"] > 0


def test_mistakes_are_named(folder):
    for arguments, said in (
        ({}, "name one model"),
        ({"model": "x", "pretrained": "y"}, "name one model"),
        ({"model": str(folder), "peft": "x"}, "peft unknown"),
        ({"model": str(folder), "backend": "vllm"}, "'vllm' is not native or hf"),
        ({"model": str(folder), "dtype": "auto"}, "'auto' is not one of float32"),
    ):
        with pytest.raises(ModelError, match=said):
            LmEvalModel(**arguments)
    ours = LmEvalModel(str(folder))
    for settings, said in (
        ({"num_beams": 4}, "'num_beams' is not ours"),
        ({"max_gen_toks": 96}, "give --gen_kwargs max_gen_toks=48"),
    ):
        with pytest.raises(TaskError, match=said):
            ours.generate_until(requests("generate_until", ("a", settings)))
    with pytest.raises(TaskError, match="cannot be scored by a model of 96"):
        ours.loglikelihood(requests("loglikelihood", ("a", " word" * 200)))
