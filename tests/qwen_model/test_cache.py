"""Caches: the memory that the formula says, rings, rows that come and go."""

from __future__ import annotations

import pytest
import torch

from qwen_model.cache import CacheShape, SlotCache, StackCache

CPU = torch.device("cpu")
SHAPE = CacheShape(heads=2, head_dim=4, windows=(None, 3, 1000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("needed", [1, 256, 300, 2000])
def test_memory_is_as_predicted(needed, dtype):
    slots = SlotCache(SHAPE, 5, dtype, CPU)
    slots.make_room(5, needed)
    assert needed <= slots.capacity < needed + 256
    assert slots.nbytes == SHAPE.nbytes(5, slots.capacity, dtype)
    # by hand: keys and values, 5 rows, 2 heads of 4 numbers, and what each of the three layers keeps
    assert slots.nbytes == 2 * 5 * 2 * 4 * (slots.capacity + 3 + min(1000, slots.capacity)) * dtype.itemsize


def test_a_growing_cache_holds_what_the_formula_says_of_its_capacity():
    stack = StackCache(SHAPE, torch.float32, CPU)
    assert stack.nbytes == 0
    for needed in (1, 256, 257, 700):
        stack.make_room(1, needed)
        assert needed <= stack.capacity < needed + 256
        assert stack.nbytes == SHAPE.nbytes(1, stack.capacity, torch.float32, rings=False)
        assert stack.nbytes == 2 * 2 * 4 * 3 * stack.capacity * 4


def fill(cache, tokens):
    """Each token's keys are its own number in every layer."""
    cache.make_room(1, cache.length + len(tokens))
    values = torch.tensor(tokens, dtype=torch.float32)[None, None, :, None].expand(1, 2, -1, 4)
    for layer in range(3):
        cache.update(layer, values, -values)


def held(cache, row, layer):
    window = cache.shape.windows[layer] or 10**9
    count = min(cache.lengths[row], window)
    keys, values = cache.keys[layer][row, :, :count], cache.values[layer][row, :, :count]
    assert torch.equal(keys, -values)
    return sorted(keys[0, :, 0].tolist())


@pytest.mark.parametrize("own", [[], [7], [7, 8, 9, 10, 11]])
@pytest.mark.parametrize("prefix", [[1], [1, 2, 3, 4, 5, 6]])
def test_rings_keep_the_last_tokens_through_everything(prefix, own):
    stack = StackCache(SHAPE, torch.float32, CPU)
    fill(stack, prefix)
    stack.length = len(prefix)
    fill(stack, [99, 98, *own])  # another packed text lies before ours
    slots = SlotCache(SHAPE, 2, torch.float32, CPU)
    other = slots.admit(stack, len(prefix), len(prefix), len(prefix) + 2)
    row = slots.admit(stack, len(prefix), len(prefix) + 2, len(prefix) + 2 + len(own))
    expected = [*prefix, *own]
    for token in (50.0, 51.0, 52.0, 53.0):
        slots.begin_step([0, 0])
        for layer in range(3):
            new = torch.full((2, 2, 1, 4), token)
            keys, _ = slots.update(layer, new, -new)
            assert keys.shape[2] == min(max(slots.lengths) + 1, SHAPE.windows[layer] or 10**9)
        slots.end_step()
        expected.append(token)
        for layer, window in enumerate(SHAPE.windows):
            assert held(slots, row, layer) == sorted(expected[-(window or 10**9) :])
    assert slots.release(other) == row
    for layer, window in enumerate(SHAPE.windows):
        assert held(slots, 0, layer) == sorted(expected[-(window or 10**9) :])


def test_a_full_cache_says_so():
    stack = StackCache(SHAPE, torch.float32, CPU)
    fill(stack, [1, 2])
    slots = SlotCache(SHAPE, 1, torch.float32, CPU)
    slots.admit(stack, 0, 0, 2)
    with pytest.raises(ValueError, match="all 1 slots are taken"):
        slots.admit(stack, 0, 0, 2)
