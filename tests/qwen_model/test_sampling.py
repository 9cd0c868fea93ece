"""Choice of tokens, against transformers' own processors and against the frequencies that the logits say."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from qwen_model.generation import generate, stream
from qwen_model.sampling import Sampling, choose

SETTINGS = [
    {"temperature": 0.7},
    {"temperature": 1.5, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.6},
    {"temperature": 1.2, "top_k": 12, "top_p": 0.8},
    {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.4},
    {"temperature": 1.0, "repetition_penalty": 0.5},
]


def expected(logits, text, settings):
    """Probabilities by transformers, in its own order of processors."""
    chain = LogitsProcessorList()
    if "repetition_penalty" in settings:
        chain.append(RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    chain.append(TemperatureLogitsWarper(settings["temperature"]))
    if "top_k" in settings:
        chain.append(TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        chain.append(TopPLogitsWarper(settings["top_p"]))
    return chain(torch.tensor([text]), logits[None].clone())[0].softmax(-1)


@pytest.mark.parametrize("size", [40, 700])  # fewer and more tokens than a nucleus looks at first
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_frequencies_are_those_of_transformers(settings, size):
    logits = 1.5 * torch.randn(size, generator=torch.Generator().manual_seed(3))
    text = [1, 5, 5, 17]
    wanted = expected(logits, text, settings)
    sampling = Sampling(**settings)
    random = sampling.random()
    draws = 6000
    counts = torch.bincount(
        torch.tensor([choose(logits, sampling, text, random) for _ in range(draws)]), minlength=size
    )
    assert not counts[wanted == 0].any()
    common = wanted * draws >= 5  # chi-square wants no rarer bin; the rare tokens together are one
    seen = [*counts[common].tolist(), int(counts[~common].sum())]
    due = [*(wanted[common].double() * draws).tolist(), float(wanted[~common].double().sum() * draws)]
    due = [value * draws / sum(due) for value in due]
    kept = len(due) if due[-1] >= 5 else len(due) - 1
    assert chisquare(seen[:kept], due[:kept], sum_check=False).pvalue > 1e-4


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_greedy_with_a_penalty(penalty):
    logits = torch.tensor([2.0, 1.9, -0.1, -3.0])
    for text in ([0], [0, 1], [2], [3, 0, 1]):
        wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([text]), logits[None].clone())[0].argmax()
        sampling = Sampling(repetition_penalty=penalty)
        assert choose(logits, sampling, text, sampling.random()) == wanted


def test_a_rounding_of_the_logits_moves_no_draw():
    generator = torch.Generator().manual_seed(0)
    moved = 0
    for seed in range(300):
        logits = 0.1 * torch.randn(1000, generator=generator)  # nearly flat: many tokens change ranks
        rough = logits * (1 + 1e-7 * torch.randn(1000, generator=generator))
        sampling = Sampling(temperature=1.0, top_p=0.9, seed=seed)
        moved += choose(logits, sampling, [], sampling.random()) != choose(rough, sampling, [], sampling.random())
    assert moved <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature: -1"),
        ({"top_p": 0}, "top_p: 0"),
        ({"top_k": -2}, "top_k: -2"),
        ({"repetition_penalty": 0}, "repetition_penalty: 0"),
        ({"seed": -1}, "seed: -1"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("prompt", ["The cat", "é漢字 and", "x"])
def test_streamed_pieces_join_to_the_generated_text(model, tokenizer, prompt):
    (free,) = generate(model, tokenizer, [prompt], max_tokens=60)
    stops = [(), (free.text[7:12],), ("never there", free.text[20:22]), (free.text[-3:] + "?",)]
    for stop in stops:
        (whole,) = generate(model, tokenizer, [prompt], max_tokens=60, stop=stop)
        pieces = list(stream(model, tokenizer, prompt, max_tokens=60, stop=stop))
        assert "".join(pieces) == whole.text
        assert len(pieces) > 3 or len(whole.text) < 8
        assert all(ending not in "".join(pieces[:count]) for ending in stop for count in range(len(pieces) + 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": "one text"}, "prompts: a list"),
        ({"prompts": [""]}, "prompt: it holds no token"),
        ({"max_tokens": 0}, "max_tokens: 0"),
        ({"stop": "."}, r"stop: '\.' is no tuple"),
        ({"stop": ("",)}, "none of them empty"),
    ],
)
def test_a_wrong_request_is_named(model, tokenizer, wrong, message):
    with pytest.raises(ValueError, match=message):
        generate(model, tokenizer, **({"prompts": ["x"]} | wrong))


def test_repetition_penalty_reaches_generation(model, tokenizer, tiny):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer.encode("The cat sat")])
    (ours,) = generate(model, tokenizer, ["The cat sat"], max_tokens=30, repetition_penalty=1.3)
    theirs = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        repetition_penalty=1.3,
        max_new_tokens=30,
        pad_token_id=0,
    )
    assert list(ours.tokens) == theirs[0, ids.shape[1] :].tolist()
