"""Packed prefixes and continuous batching give what one plain sequence at a time gives."""

from __future__ import annotations

import random
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from qwen_model.generation import Generator, Request, generate
from qwen_model.prefill import Reader
from qwen_model.prefixes import forest, plan, shared_length
from qwen_model.sampling import Sampling
from qwen_model.scoring import Continuation, score


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_plan_shares_only_what_is_common(data):
    base = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=80))
    sequences = list(
        {
            tuple(
                base[: data.draw(st.integers(0, len(base)))]
                + data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=30))
            )
            for _ in range(data.draw(st.integers(1, 12)))
        }
    )
    limits = [data.draw(st.integers(0, len(s) - 1)) for s in sequences]
    ordered = plan(sequences, limits, worth=4)
    assert sorted(index for index, _ in ordered) == list(range(len(sequences)))
    assert all(0 <= shared <= limits[index] for index, shared in ordered)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_forest_holds_every_text_and_computes_little_twice(data):
    some = st.lists(st.integers(0, 2), min_size=1, max_size=12)
    bases = data.draw(st.lists(some, min_size=1, max_size=4))
    sequences = list({tuple(data.draw(st.sampled_from(bases)) + data.draw(some)) for _ in range(12)})
    ordered = plan(sequences, [len(own) - 1 for own in sequences], worth=data.draw(st.integers(1, 8)))
    path = data.draw(st.sampled_from([[], *bases]))
    most, joint, at = data.draw(st.integers(5, 80)), data.draw(st.integers(1, 6)), 0
    while at < len(ordered):
        first, shared = ordered[at]
        held = path[: shared_length(path, sequences[first][:shared])]
        with patch("qwen_model.prefixes.JOINT", joint):
            found = forest(sequences, ordered[at:], held, most)
        if found is None:  # as the reader does: hold the beginning, and go on one by one
            path, at = list(sequences[first][:shared]), at + 1
            continue
        assert found.tokens and len(found.tokens) <= most
        for (index, shared), leaf in zip(ordered[at : at + len(found.leaves)], found.leaves, strict=True):
            text, segment = [], leaf
            assert found.spans[leaf][1] - found.spans[leaf][0] == len(sequences[index]) - shared
            while segment is not None:
                start, end = found.spans[segment]
                assert start < end
                text = found.tokens[start:end] + text
                segment = found.parents[segment]
            assert held + text == list(sequences[index])
        batch = [(sequences[index], shared) for index, shared in ordered[at : at + len(found.leaves)]]
        beginnings = {own[:end] for own, shared in batch for end in range(len(held) + 1, shared + 1)}
        distinct = len(beginnings) + sum(len(own) - shared for own, shared in batch)
        families = len({own[:shared] for own, shared in batch})
        assert distinct <= len(found.tokens) <= distinct + (joint - 1) * (families - 1)
        path, at = held, at + len(found.leaves)


def test_a_forest_ends_with_a_family():
    """Three questions of two options each: two of them fit, and the third does not begin."""
    sequences = [(*question, option) for question in ((1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)) for option in (8, 9)]
    ordered = plan(sequences, [4] * 6, worth=1)
    found = forest(sequences, ordered, (), 15)
    assert (len(found.leaves), len(found.tokens)) == (4, 12)
    assert found.parents == [None, 0, 0, None, 3, 3]
    assert forest(sequences, ordered, (), 5) is None
    assert len(forest(sequences, ordered, (1, 1, 1, 1), 5).leaves) == 2


@pytest.mark.parametrize("header", [40, 250, 450, 700])
def test_a_header_above_questions_alone_is_read_once(model, header):
    """No text ends at the header: only questions of four options each are behind it."""
    rng = random.Random(header)

    def text(n):
        return tuple(rng.randrange(3, 300) for _ in range(n))

    beginning = text(header)
    questions = [beginning + text(40) for _ in range(30)]
    items = [Continuation(question, text(9)) for question in questions for _ in range(4)]
    reader = Reader(model, 512)
    assert sum(len(known) for known in score(reader, items)) == 120
    distinct = header + 30 * 40 + 120 * 8  # of a question the last token is not shared: its logits are asked for
    assert distinct <= reader.tokens <= 1.15 * distinct + 120


def test_plan_computes_a_header_once():
    headers = [[h] * 100 for h in range(5)]
    sequences = [[*header, 10, 20, q] for header in headers for q in range(8)]
    ordered = plan(sequences, [len(s) - 1 for s in sequences])
    assert [shared for _, shared in ordered] == [102] * 40
    assert all(len({sequences[i][0] for i, _ in ordered[at : at + 8]}) == 1 for at in range(0, 40, 8))


def random_continuations(seed: int) -> list[Continuation]:
    """Few-shot-like: headers shared by questions, questions shared by options of one or several tokens."""
    rng = random.Random(seed)

    def text(n):
        return [rng.randrange(3, 300) for _ in range(n)]

    items = []
    for header in [text(rng.randrange(0, 150)) for _ in range(3)]:
        for question in [text(rng.randrange(1, 40)) for _ in range(4)]:
            for _ in range(4):
                items.append(Continuation(tuple(header + question), tuple(text(rng.randrange(1, 6)))))
    rng.shuffle(items)
    return items


@pytest.mark.parametrize("budget", [1, 64, 512])
def test_scores_equal_one_dense_pass_each(model, budget):
    items = random_continuations(budget)
    reader = Reader(model, budget)
    ours = dict(pair for known in score(reader, items) for pair in known)
    for index, item in enumerate(items):
        tokens = torch.tensor([item.context + item.tokens])
        with torch.inference_mode():
            logprobs = model(tokens)[0].log_softmax(-1)
        start = len(item.context) - 1
        expected = sum(float(logprobs[start + k, token]) for k, token in enumerate(item.tokens))
        assert ours[index].logprob == pytest.approx(expected, abs=1e-4)
        likeliest = logprobs[start : start + len(item.tokens)].argmax(-1).tolist()
        assert ours[index].greedy == (likeliest == list(item.tokens))
    dense = sum(len(item.context) + len(item.tokens) - 1 for item in items)
    assert reader.tokens < dense / 2


def test_nothing_to_score_is_certain_and_nothing_before_it_is_refused(model):
    [(_, scored)] = next(score(Reader(model), [Continuation((5, 6), ())]))
    assert (scored.logprob, scored.greedy) == (0.0, True)
    with pytest.raises(ValueError, match="context: it holds no token"):
        Continuation((), (5,))


PROMPTS = [
    "def add(a, b):",
    "The",
    "x" * 300,
    "The cat sat on",
    "import torch\nimport",
    "é漢字 and",
    "The cat sat on the",
]


def test_greedy_text_equals_transformers(model, tokenizer, tiny):
    reference = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    ours = generate(model, tokenizer, PROMPTS, max_tokens=40)
    for prompt, mine in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt)])
        output = reference.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, pad_token_id=0
        )
        assert list(mine.tokens) == output[0, ids.shape[1] :].tolist()


def test_logprobs_are_those_of_a_dense_pass(model, tokenizer):
    (done,) = generate(model, tokenizer, ["The cat"], max_tokens=20)
    prompt = tokenizer.encode("The cat")
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt + list(done.tokens)]))[0].log_softmax(-1)
    expected = [float(logprobs[len(prompt) - 1 + k, token]) for k, token in enumerate(done.tokens)]
    assert done.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("slots", [1, 3, 16])
def test_a_row_does_not_depend_on_its_batch(model, tokenizer, slots, temperature):
    def run(prompts, slots):
        generator = Generator(model, tokenizer, Reader(model, 64), slots)
        requests = [
            Request(
                key=prompt,
                prompt=tuple(tokenizer.encode(prompt)),
                max_tokens=10 + 7 * (len(prompt) % 5),
                sampling=Sampling(temperature=temperature, top_p=0.9, seed=len(prompt)),
            )
            for prompt in prompts
        ]
        generator.add(requests[:2])
        out = {}
        while generator.busy:
            out |= {done.key: done for done in generator.step()}
            if requests[2:]:  # more work arrives while the first rows are being written
                generator.add(requests[2:])
                requests = requests[:2]
        return out

    together = run(PROMPTS, slots)
    assert together.keys() == set(PROMPTS)
    for prompt in PROMPTS:
        assert together[prompt].tokens == run([prompt], 1)[prompt].tokens


def test_stop_strings_cut_across_tokens(model, tokenizer):
    (free,) = generate(model, tokenizer, ["The cat"], max_tokens=40)
    middle = free.text[5:9]
    (cut,) = generate(model, tokenizer, ["The cat"], max_tokens=40, stop=("never there", middle))
    assert (cut.finish, cut.text) == ("stop", free.text[: free.text.index(middle)])
    assert cut.tokens == free.tokens[: len(cut.tokens)]


def test_a_step_decodes_its_rows_tail_once_whatever_the_stop_strings(model, tokenizer, monkeypatch):
    decode, calls = tokenizer.decode, []
    monkeypatch.setattr(tokenizer, "decode", lambda ids: calls.append(len(ids)) or decode(ids))
    (done,) = generate(model, tokenizer, ["The cat"], max_tokens=20, stop=("never there", "nor there", "nor here"))
    assert len(calls) == len(done.tokens) + 1  # and once the whole text


def test_top_p_draws_only_from_the_nucleus(model, tokenizer):
    (greedy,) = generate(model, tokenizer, ["The cat"], max_tokens=12)
    (nucleus,) = generate(model, tokenizer, ["The cat"], max_tokens=12, temperature=1.0, top_p=1e-6)
    assert nucleus.tokens == greedy.tokens
    draws = {
        generate(model, tokenizer, ["The cat"], max_tokens=12, temperature=1.0, seed=s)[0].tokens for s in range(5)
    }
    assert len(draws) == 5
