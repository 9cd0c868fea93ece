"""Rows that refer to one copy of their prefix's keys write what rows with copies of their own write, bit for bit."""

from __future__ import annotations

import random
import weakref

import pytest
import torch

from qwen_model import LongContext, kernels
from qwen_model.cache import CacheShape, SlotCache, StackCache
from qwen_model.decoder import Decoder
from qwen_model.generation import Generator, Request
from qwen_model.kernels import Layer
from qwen_model.prefill import Reader
from qwen_model.rows import Rows
from qwen_model.sampling import Sampling
from tests.qwen_model.combinations import text
from tests.qwen_model.kernel_cases import DTYPES, OneLayer

if kernels.unavailable():
    pytest.skip(f"no kernels here: {kernels.unavailable()}", allow_module_level=True)


@pytest.fixture
def copies(monkeypatch):
    """Calling it turns sharing off."""
    return lambda: monkeypatch.setattr(Decoder, "shares_keys", False)


def cut(of: OneLayer, prefixes: list[int]):
    """The layer's output with the first keys of each row in a tensor of their own and no longer in its slot."""
    keys, values = of.keys.clone(), of.values.clone()
    tensors = []
    for row, length in enumerate(prefixes):
        kept = keys.shape[2] - length
        tensors.append(torch.stack([x[row, :, :length] for x in (keys, values)])[None].contiguous())
        for x in (keys, values):
            x[row, :, :kept] = x[row, :, length:].clone()
            x[row, :, kept:] = float("nan")
    slots = keys, values, of.lengths - 1 - torch.tensor(prefixes), of.lengths
    return kernels.layers(of.x, [Layer(of.norms, of.projections, of.turns, slots)], 1e-6, tensors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(14, 2, 64), (3, 1, 40), (6, 2, 8), (4, 4, 128)])
@torch.inference_mode()
def test_keys_are_read_from_wherever_they_lie(variant, dtype, heads, kv_heads, dim):
    of = OneLayer(dtype, heads, kv_heads, dim, [900, 901, 300, 257, 513, 2])
    whole, *_ = of.run()
    assert whole.isfinite().all()
    for prefixes in ([0] * 6, [899, 900, 299, 256, 512, 1], [255, 256, 257, 33, 511, 0], [1, 770, 3, 5, 512, 1]):
        assert torch.equal(cut(of, prefixes), whole)


@torch.inference_mode()
def test_prefixes_that_do_not_fit_are_refused():
    of = OneLayer(torch.float32, 4, 2, 16, [50, 90])
    slots = of.keys, of.values, of.lengths - 1, of.lengths
    layer = Layer(of.norms, of.projections, of.turns, slots)

    def run(*prefixes):
        return kernels.layers(of.x, [layer], 1e-6, prefixes)

    fitting = torch.zeros(1, 2, 2, 40, 16)
    assert run(fitting, fitting) is not None
    for wrong in (
        fitting[:, :1],
        fitting[:, :, :1],
        fitting[..., :8],
        fitting.bfloat16(),
        fitting.expand(2, 2, 2, 40, 16),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            run(fitting, wrong)
    with pytest.raises(ValueError, match="do not fit"):
        run(fitting)
    with pytest.raises(ValueError, match="outside"):
        run(torch.zeros(1, 2, 2, 50, 16), fitting)


def requests(seed: int) -> list[Request[int]]:
    """Samples of the same prompt, prompts with the same header of any length, prompts alone."""
    draw = random.Random(seed)
    headers = [text(length, length) for length in (0, 33, 255, 256, 301, 700)]
    prompts = [header + text(draw.randrange(1, 40), number) for number, header in enumerate(headers * 3)]
    prompts += [prompts[5]] * 4 + [prompts[10]] * 3
    draw.shuffle(prompts)
    return [
        Request(
            key=key,
            prompt=tuple(prompt),
            max_tokens=draw.randrange(1, 30),
            sampling=Sampling(temperature=key % 2, seed=key),
        )
        for key, prompt in enumerate(prompts)
    ]


def written(model, tokenizer, asked, slots, batch_tokens):
    """What is written, the most prefixes that were held at once, and the most rows that referred to one of them."""
    generator: Generator[int] = Generator(model, tokenizer, Reader(model, batch_tokens), slots)
    generator.add(asked[: len(asked) // 2])
    out, most, users = {}, 0, 0
    while generator.busy:
        out |= {done.key: (done.tokens, done.logprobs) for done in generator.step()}
        held = [id(prefix) for prefix in generator._rows.cache.prefixes if prefix.shape[3]]
        most, users = max(most, len(set(held))), max([users, *map(held.count, held)])
        if len(out) > 3 and len(asked) > 1:  # more work arrives while rows are being written
            generator.add(asked[len(asked) // 2 :])
            asked = asked[:1]
    assert generator._rows.cache.prefix_bytes == 0
    return out, most, users


@pytest.mark.parametrize(("slots", "batch_tokens"), [(1, 64), (3, 64), (7, 512), (64, 512)])
def test_texts_are_the_same_bits_with_and_without_sharing(model, tokenizer, copies, slots, batch_tokens):
    asked = requests(slots)
    found, most, users = written(model, tokenizer, asked, slots, batch_tokens)
    assert len(found) == len(asked) and most >= 1
    if slots == 64:
        assert most >= 3 and users >= 5
    copies()
    assert written(model, tokenizer, asked, slots, batch_tokens) == (found, 0, 0)


@pytest.mark.parametrize("ntk", ["exact", "released"])
def test_rows_that_outgrow_their_base_are_the_same_bits_too(model, tokenizer, copies, ntk):
    asked = requests(5)
    length = max(len(one.prompt) for one in asked if one.max_tokens > 9 and len(one.prompt) < 345)
    with model.long_context(LongContext(dynamic_ntk=ntk, train_length=length)):
        found, most, _ = written(model, tokenizer, asked, 7, 512)
        assert most >= 1
        assert any(len(one.prompt) <= length < len(one.prompt) + len(found[one.key][0]) - 1 for one in asked)
        copies()
        assert written(model, tokenizer, asked, 7, 512) == (found, 0, 0)


def test_layers_with_a_window_share_nothing(model, tokenizer):
    with model.long_context(LongContext(window=(40, None, None))):
        assert not model.shares_keys
        assert written(model, tokenizer, requests(2), 7, 512)[1:] == (0, 0)
    assert model.shares_keys


HEADER = text(300, 300)


@torch.inference_mode()
def entered(model):
    """Four rows behind one header, and one without; what the reader holds is lost."""
    reader = Reader(model, 512)
    rows = Rows(model, reader, 8)
    prompts = [HEADER + text(9, seed) for seed in range(4)]
    rows.enter(prompts, [(0, 300), (1, 300)])
    rows.enter([*prompts, text(50, 7)], [(4, 0)])  # the stack holds something else meanwhile
    rows.enter(prompts, [(2, 300), (3, 300)])
    for tensor in (*reader.stack.keys, *reader.stack.values):
        tensor.fill_(float("nan"))
    return rows


def test_a_prefix_is_held_once_and_as_long_as_a_row_refers_to_it(model):
    rows = entered(model)
    cache, shape = rows.cache, model.cache_shape
    assert cache.held == [300, 300, 0, 300, 300] and len(set(cache.prefixes)) == 2
    assert cache.prefix_bytes == shape.nbytes(1, 300, model.dtype)
    assert cache.nbytes == cache.prefix_bytes + shape.nbytes(cache.rows, cache.capacity, model.dtype)
    assert cache.capacity < 300  # the slots have no room for the header
    assert rows.step([3] * 5).isfinite().all()
    held = weakref.ref(cache.prefixes[0])
    for row in (3, 0, 0):
        rows.leave(row)
        assert held() is not None
    assert sorted(cache.held) == [0, 300]
    rows.leave(cache.held.index(300))
    assert held() is None and cache.prefix_bytes == 0


def test_a_row_that_is_read_anew_has_its_own_keys(model):
    prompts = [HEADER + text(9, 1), HEADER + text(4, 2)]
    with model.long_context(LongContext(dynamic_ntk="exact", train_length=310)):
        rows = Rows(model, Reader(model, 512), 8)
        rows.enter(prompts, [(0, 300), (1, 300)])
        held = []
        for _ in range(7):
            rows.step([5, 6])
            held.append(rows.cache.held)
    assert held == [[300, 300], *[[0, 300]] * 5, [0, 0]]


def test_keys_that_differ_in_a_bit_are_another_prefix():
    shape = CacheShape(heads=2, head_dim=4, windows=(None, None))
    stack = StackCache(shape, torch.float32, torch.device("cpu"))
    stack.make_room(1, 60)
    slots = SlotCache(shape, 4, torch.float32, torch.device("cpu"), shares=True)
    first = slots.share(stack, 50)
    slots.admit(stack, 50, 50, 52, shared=first)
    assert slots.share(stack, 50) is first
    assert slots.share(stack, 49) is not first and slots.share(stack, 31).numel() == 0
    stack.values[1][0, 1, 49, 3] = -0.0
    assert slots.share(stack, 50) is not first
    slots.begin_step([0])
    with pytest.raises(ValueError, match="read by the kernels alone"):
        slots.update(0, torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4))


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_the_memory_model_counts_a_prefix_once(model, tokenizer, rows):
    generator: Generator[int] = Generator(model, tokenizer, Reader(model, 64), 16)
    shape, dtype = model.cache_shape, model.dtype
    # 20 tokens of a question and 12 to be written, behind the header
    generator._memory = shape.nbytes(1, 300, dtype) + shape.nbytes(rows, 32, dtype)
    prompts = [tuple(HEADER + text(20, 50 + key)) for key in range(8)]
    generator.add([Request(key=key, prompt=prompt, max_tokens=12) for key, prompt in enumerate(prompts)])
    most = 0
    while generator.busy:
        generator.step()
        most = max(most, len(generator._rows))
    assert most == rows
