"""What is measured of a response, against one text at a time; and responses that do not hang on each other."""

from __future__ import annotations

import json

import pytest
import torch

from qwen_model.checkpoint import load_tokenizer
from qwen_train.alignment.experience import Experience, _read, _written
from qwen_train.alignment.models import begin_with, compute, export
from qwen_train.alignment.nucleus import logprobs_within
from qwen_train.alignment.rollouts import joined, measure, rewards_of, sample, values_of

QUERIES = [[1, 5, 9], [1, 7], [1, 20, 21, 22, 23], [1, 5, 9]]


@pytest.fixture(scope="module")
def policy(tiny):
    return begin_with(str(tiny))


@pytest.fixture(scope="module")
def texts(policy, tiny):
    return sample(policy, load_tokenizer(tiny), QUERIES, max_tokens=9, top_p=0.9, seed=3)


def test_a_text_does_not_hang_on_the_others(policy, tiny, texts):
    alone = [
        sample(policy, load_tokenizer(tiny), QUERIES, max_tokens=9, top_p=0.9, seed=3, only=[place])[0]
        for place in range(4)
    ]
    assert alone == texts
    assert texts[0].response != texts[3].response  # the same query, another seed
    assert [text.query for text in texts] == [tuple(query) for query in QUERIES]


def test_measures_are_those_of_each_text_alone(policy, texts):
    policy.eval()
    spoken = measure(policy, texts, length=40, top_p=0.9)
    for text, said in zip(texts, spoken, strict=True):
        with torch.no_grad():
            logits = policy(torch.tensor([text.ids]))[0, len(text.query) - 1 : -1].float()
        chosen = torch.tensor(text.response)
        logs = logits.log_softmax(-1)
        assert torch.allclose(said.logprobs, logs.gather(-1, chosen[:, None])[:, 0], atol=1e-4)
        assert torch.allclose(said.entropy, torch.distributions.Categorical(logits=logits).entropy(), atol=1e-4)
        # the nucleus by its definition, one position at a time
        for place, row in enumerate(logits.softmax(-1)):
            ordered = row.sort(descending=True)
            size = int((ordered.values.cumsum(-1) - ordered.values < 0.9).sum())
            kept = set(ordered.indices[:size].tolist()) | {int(chosen[place])}
            assert kept == set(said.nucleus.tokens[said.nucleus.positions == place].tolist())
            mass = float(row[list(kept)].sum())
            assert float(said.within[place].exp()) == pytest.approx(float(row[chosen[place]]) / mass, rel=1e-3)


def test_the_nuclei_of_a_packed_row(policy, texts):
    spoken = measure(policy, texts, length=1000, top_p=0.9)
    nucleus = joined([said.nucleus for said in spoken], [len(text.response) for text in texts])
    assert int(nucleus.positions.max()) == sum(len(text.response) for text in texts) - 1
    logits = torch.randn(sum(len(text.response) for text in texts), 400)
    chosen = torch.tensor([token for text in texts for token in text.response])
    parts = logits.split([len(text.response) for text in texts])
    own = [
        logprobs_within(part, torch.tensor(text.response), said.nucleus)
        for part, text, said in zip(parts, texts, spoken, strict=True)
    ]
    assert torch.allclose(logprobs_within(logits, chosen, nucleus), torch.cat(own), atol=1e-5)


def test_values_and_rewards(tiny, texts):
    model = begin_with(str(tiny), scalar=True, seed=1).eval()
    values = values_of(model, texts, length=30)
    with torch.no_grad():
        rewards = rewards_of(model, [text.ids for text in texts], length=30)
        for text, value, reward in zip(texts, values, rewards, strict=True):
            found = model(torch.tensor([text.ids]))[0, :, 0]
            assert torch.allclose(value, found[len(text.query) - 1 : -1], atol=1e-4)
            assert float(reward) == pytest.approx(float(found[-1]), abs=1e-4)


def test_what_processes_tell_each_other_comes_back_as_it_was(policy, texts):
    spoken = measure(policy, texts, length=40, top_p=0.9)
    own = [
        Experience(text, -0.1, said.within, said.logprobs, said.logprobs, said.entropy, nucleus)
        for text, said, nucleus in zip(texts, spoken, [None, *(said.nucleus for said in spoken[1:])], strict=True)
    ]
    for made, back in zip(own, _read(_written(own), torch.device("cpu")), strict=True):
        assert (made.text, made.raw) == (back.text, back.raw)
        for one, other in ((made, back), *([(made.nucleus, back.nucleus)] if made.nucleus else [])):
            for name, value in vars(one).items():
                assert not torch.is_tensor(value) or torch.equal(value, getattr(other, name)), name
        assert (made.nucleus is None) == (back.nucleus is None)


def test_texts_are_written_and_measured_in_bfloat16_over_float32_weights(tiny, tmp_path):
    policy, tokenizer = begin_with(str(tiny)), load_tokenizer(tiny)
    compute(policy, "bfloat16")
    written = sample(policy, tokenizer, QUERIES, max_tokens=9, top_p=0.9, seed=3)
    coarse = measure(policy, written, length=40)
    compute(policy, "float32")
    for one, other in zip(coarse, measure(policy, written, length=40), strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=0.3, rtol=0)
        assert not torch.equal(one.logprobs, other.logprobs)
    compute(policy, "bfloat16")
    export(policy, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["torch_dtype"] == "float32"
