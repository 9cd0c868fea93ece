"""Packing changes the arrangement of a batch and nothing of its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from qwen_model import PRESETS, ModelError
from qwen_model.chatml import Example
from qwen_model.decoder import Decoder
from qwen_model.layout import Documents
from qwen_train.alignment.conversations import Conversation
from qwen_train.alignment.packing import encode, pack
from tests.qwen_model.test_chatml import Letters

SHAPE = {"vocab_size": 320, "hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 2}


def examples_of(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        ids = torch.randint(0, 320, (length,), generator=generator).tolist()
        marks = (torch.rand(length, generator=generator) < 0.5).tolist()
        found.append(Example(ids, [*marks[:-1], True]))
    return found


def test_a_packed_batch_has_the_loss_and_gradients_of_its_texts_alone():
    model = Decoder(replace(PRESETS["nano-2m"], **SHAPE)).init_weights(0).double().train()
    examples = examples_of([9, 30, 4, 17, 12, 2])

    def gradients(rows):
        model.zero_grad()
        total = 0.0
        for row in rows:
            logits = model(row.ids, layout=Documents(row.segments), keep=row.judged)[0]
            loss = F.cross_entropy(logits, row.targets, reduction="sum")
            loss.backward()
            total += float(loss.detach())
        return total, [parameter.grad.clone() for parameter in model.parameters()]

    packed, alone = pack(examples, 40), pack(examples, 1)
    assert len(packed) == 2 and len(alone) == 6
    one, other = gradients(packed), gradients(alone)
    assert one[0] == pytest.approx(other[0], abs=1e-9)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(one[1], other[1], strict=True))


@given(st.lists(st.integers(2, 50), min_size=1, max_size=30), st.integers(50, 120))
def test_every_text_lies_in_one_row_once(lengths, length):
    examples = examples_of(lengths)
    rows = pack(examples, length)
    assert sorted(member for row in rows for member in row.members) == list(range(len(lengths)))
    for row in rows:
        assert row.ids.shape[1] <= length
        for member, (start, end) in zip(row.members, row.spans, strict=True):
            assert row.ids[0, start:end].tolist() == examples[member].ids
    judged = sum(sum(example.is_target[1:]) for example in examples)
    assert sum(len(row.targets) for row in rows) == judged
    # two rows that fit into one were not packed well
    sizes = sorted(row.ids.shape[1] for row in rows)
    assert len(rows) == 1 or sizes[0] + sizes[1] > length


TALKS = [Conversation((("user", "u" * size), ("assistant", "answer")), f"f:{size}") for size in (1, 30, 100)]


def test_nothing_is_cut_in_silence():
    whole = encode(TALKS, Letters(), "report", 1000, "drop")
    assert (len(whole.examples), whole.dropped, whole.cut) == (3, [], 0)
    sizes = [len(example.ids) for example in whole.examples]
    dropped = encode(TALKS, Letters(), "report", sizes[1], "drop")
    assert (len(dropped.examples), dropped.dropped) == (2, ["f:100"])
    # cut within the answer of the second; the third ends before its answer begins
    cut = encode(TALKS, Letters(), "report", sizes[1] - 3, "cut")
    assert (len(cut.examples), cut.dropped, cut.cut) == (2, ["f:100"], 1)
    assert cut.examples[1].ids == whole.examples[1].ids[:-3]
    with pytest.raises(ModelError, match="all 3 conversations are longer than 5"):
        encode(TALKS, Letters(), "report", 5, "drop")
