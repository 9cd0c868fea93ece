"""Memory that runs out: work goes on in smaller batches with the same answers; what cannot fit is one clear line."""

from __future__ import annotations

import random

import pytest
import torch

from qwen_model.cache import CacheShape
from qwen_model.generation import Generator, Request
from qwen_model.memory import OutOfMemory, free_memory, out_of_memory
from qwen_model.prefill import Reader
from qwen_model.sampling import Sampling
from qwen_model.scoring import Continuation, score


class Tight:
    """The model, which runs out of memory where a pass has more tokens than `most`, and at the passes `at`."""

    def __init__(self, model, most=10**9, at=()):
        self._model, self._most, self._at, self.passes, self.failed = model, most, at, 0, 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, input_ids, **named):
        self.passes += 1
        if input_ids.numel() > self._most or self.passes in self._at:
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return self._model(input_ids, **named)


def questions(count, shared=(10, 60)):
    rng = random.Random(1)
    header = [rng.randrange(3, 300) for _ in range(60)]
    made = [header[: rng.choice(shared)] + [rng.randrange(3, 300) for _ in range(20)] for _ in range(count)]
    return [Continuation(tuple(tokens), (7, 8)) for tokens in made]


def test_scores_are_the_same_in_smaller_passes(model):
    tight, items = Tight(model, most=70), questions(24)
    reader = Reader(tight, 512)
    found = dict(pair for known in score(reader, items) for pair in known)
    expected = dict(pair for known in score(Reader(model, 512), items) for pair in known)
    assert tight.failed and reader.batch_tokens <= 128
    for index, mine in found.items():
        assert mine.logprob == pytest.approx(expected[index].logprob, abs=1e-5)
    assert len(found) == 24


def test_a_model_that_no_token_fits_behind_is_named(model):
    with pytest.raises(
        OutOfMemory, match=r"^out of memory on the GPU \(CUDA out of memory. Tried .*GiB\.\); take a sm"
    ):
        list(score(Reader(Tight(model, most=0), 512), questions(2)))


def written(model, tokenizer, slots=16, memory=None, shared=(10, 60)):
    generator = Generator(model, tokenizer, Reader(model, 64), slots)
    if memory is not None:
        generator._memory = memory
    prompts = [item.context for item in questions(10, shared)]
    generator.add(
        [
            Request(key=key, prompt=prompt, max_tokens=12, sampling=Sampling(temperature=key % 2, seed=key))
            for key, prompt in enumerate(prompts)
        ]
    )
    out, most = {}, 0
    while generator.busy:
        out |= {done.key: done.tokens for done in generator.step()}
        most = max(most, len(generator._rows))
    return out, most, generator


@pytest.mark.parametrize(("most", "at"), [(5, ()), (10**9, (2,)), (10**9, (7, 15, 16))])
def test_texts_are_the_same_where_rows_begin_anew(model, tokenizer, most, at):
    tight = Tight(model, most, at)
    found, _, generator = written(tight, tokenizer)
    assert tight.failed and generator.slots < 16
    assert found == written(model, tokenizer)[0]


def test_texts_that_never_fit_are_named(model, tokenizer):
    with pytest.raises(OutOfMemory):
        written(Tight(model, most=0), tokenizer)


@pytest.mark.parametrize(("rows", "most"), [(0, 1), (3, 3), (100, 10)])
def test_rows_are_as_many_as_memory_holds_of_the_longest_text(model, tokenizer, monkeypatch, rows, most):
    monkeypatch.setattr(type(model), "shares_keys", False)  # with it: test_shared_keys.py
    memory = model.cache_shape.nbytes(rows, 92, model.dtype)  # 80 tokens of a prompt and 12 to be written
    found, at_once, _ = written(model, tokenizer, memory=memory, shared=(60,))
    assert at_once == most
    assert found == written(model, tokenizer, shared=(60,))[0]


def test_main_memory_that_is_asked_too_much_of():
    with pytest.raises(OutOfMemory, match=r"^out of memory \(.*DefaultCPUAllocator"), out_of_memory():
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size of tensor"), out_of_memory():
        torch.zeros(2) + torch.zeros(3)


def test_a_cache_makes_rows_when_they_are_needed():
    from qwen_model.cache import SlotCache, StackCache

    shape = CacheShape(heads=1, head_dim=2, windows=(None,))
    stack, slots = (
        StackCache(shape, torch.float32, torch.device("cpu")),
        SlotCache(shape, 64, torch.float32, torch.device("cpu")),
    )
    stack.make_room(1, 8)
    for count in range(1, 7):
        slots.admit(stack, 0, 0, count)
    assert 6 <= slots.rows <= 9 and slots.nbytes == shape.nbytes(slots.rows, slots.capacity, torch.float32)


@pytest.mark.parametrize(
    ("own", "free"),
    [
        ("9:memory:/of-version-1\n0::/job/step\n", 1000 - 900 + 600),  # the tightest is the one around
        ("0::/job\n", 1000 - 900 + 600),
        ("0::/\n", 5000 - 900 + 600),  # as a container sees its own group
        ("0::/../elsewhere\n", 5000 - 900 + 600),
    ],
)
def test_free_memory_is_what_the_control_groups_leave(own, free, tmp_path, monkeypatch):
    for place, limit in (("groups", "5000"), ("groups/job", "1000"), ("groups/job/step", "max")):
        (tmp_path / place).mkdir()
        for name, content in (("max", limit), ("current", "900"), ("stat", "anon 300\ninactive_file 600\nfile 600")):
            (tmp_path / place / f"memory.{name}").write_text(f"{content}\n")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr("qwen_model.memory._CGROUPS", tmp_path / "groups")
    monkeypatch.setattr("qwen_model.memory._OWN", tmp_path / "own")
    assert free_memory(torch.device("cpu")) == free
