"""Ways to compute one and the same step: packed documents, recomputed layers, bfloat16; and the report's recipes."""

from __future__ import annotations

import pytest
import torch

from qwen_model import PRESETS, ModelConfig
from qwen_train.model import flops_per_token, new_module
from qwen_train.parallel import World
from qwen_train.recipe import Training, read_recipe
from qwen_train.trainer import NextToken, Optimiser, Update
from tests.qwen_train.conftest import SHAPE, micro, rows, small_decoder


def gradients(module, *micros):
    losses = 0.0
    for m in micros:
        loss = module(**m.inputs)
        loss.backward()
        losses += loss.item()
    return losses, {name: p.grad.clone() for name, p in module.named_parameters()}


def test_documents_packed_in_a_row_are_as_documents_alone():
    texts = [rows(0, count=1, length=n)[0] for n in (5, 2, 8)]
    parts = [micro(text[None]) for text in texts]
    packed = micro(torch.zeros(1, 2, dtype=torch.long))
    inputs = {name: torch.cat([part.inputs[name] for part in parts], dim=1) for name in ("input_ids", "targets")}
    segments = torch.cat([torch.full((1, n), 7 + place) for place, n in enumerate((5, 2, 8))], dim=1)
    packed = type(packed)({**inputs, "segments": segments}, 15, 15)
    alone, together = (gradients(NextToken(small_decoder()), *micros) for micros in (parts, [packed]))
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    for name, gradient in alone[1].items():
        torch.testing.assert_close(together[1][name], gradient, rtol=1e-4, atol=1e-5)
    across = gradients(NextToken(small_decoder()), type(packed)(inputs, 15, 15))
    assert abs(across[0] - alone[0]) > 1e-3


def test_recomputed_layers_give_the_same_gradients():
    results = []
    for recompute in (False, True):
        decoder = small_decoder()
        decoder.recompute = recompute
        results.append(gradients(NextToken(decoder), micro(rows(0))))
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        assert torch.equal(results[1][1][name], gradient), name


@pytest.mark.slow
def test_compiled_and_recomputed_layers_learn_alike():
    curves = []
    for compiled in (False, True):
        training = Training(
            tokens=1, batch=8, micro_batch=8, context=16, dtype="float32", compile=compiled, recompute=compiled
        )
        module = new_module(ModelConfig(**SHAPE), training, World()).train()
        update = Update(module, Optimiser(learning_rate=3e-3, warmup_steps=1), World())
        curves.append([update.step([micro(rows(step))], 3e-3).loss for step in range(5)])
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)


def test_bfloat16_computes_over_float32_weights_and_learns_alike():
    curves = []
    for dtype in ("float32", "bfloat16"):
        training = Training(tokens=1, batch=8, micro_batch=8, context=16, dtype=dtype)
        module = new_module(ModelConfig(**SHAPE), training, World()).train()
        update = Update(module, Optimiser(learning_rate=3e-3, warmup_steps=10), World())
        curves.append([update.step([micro(rows(step))], 3e-3).loss for step in range(60)])
        assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert curves[0] != curves[1]
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < 0.1 and curves[0][-1] < 3.5


def test_the_first_loss_is_that_of_a_model_that_knows_nothing():
    assert Update(NextToken(small_decoder()), Optimiser(), World()).step([micro(rows(0))], 0.0).loss == pytest.approx(
        torch.tensor(97.0).log().item(), abs=0.1
    )


def test_flops_are_six_for_each_weight_that_multiplies():
    config = ModelConfig(**SHAPE)
    decoder = small_decoder()
    matrices = sum(p.numel() for name, p in decoder.named_parameters() if p.ndim == 2 and "embed" not in name)
    assert flops_per_token(config, 16) == 6 * matrices + 6 * 2 * 32 * 16


@pytest.mark.parametrize(
    ("name", "hidden", "heads", "layers", "trillions"),
    [("1.8b", 2048, 16, 24, 2.2), ("7b", 4096, 32, 32, 2.4), ("14b", 5120, 40, 40, 3.0)],
)
def test_recipes_have_the_numbers_of_table_1(name, hidden, heads, layers, trillions):
    recipe = read_recipe(name)
    config = recipe.model_config_of(151851)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (hidden, heads, layers)
    assert recipe.training.batch * recipe.training.context == 4 * 2**20
    assert recipe.training.tokens == trillions * 1e12
    optimiser = {"learning_rate": 3e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}
    assert optimiser.items() <= recipe.optimiser.model_dump().items()
    steps = recipe.training.steps
    assert recipe.optimiser.rate(steps, steps) == pytest.approx(3e-5)
    assert recipe.training.dtype == "bfloat16"


def test_recipes_of_specialists_warm_up_for_3_percent_and_stay():
    for name, rate in (("code-7b", 3e-5), ("code-14b", 6e-5)):
        recipe = read_recipe(name)
        assert (recipe.training.context, recipe.optimiser.learning_rate) == (8192, rate)
        steps = recipe.training.steps
        assert recipe.optimiser.rate(steps - 1, steps) == recipe.optimiser.rate(round(0.03 * steps), steps) == rate


def test_every_recipe_that_comes_along_is_read():
    for name in ("nano", "code-nano"):
        recipe = read_recipe(f"recipes/{name}.yaml")
        assert 3e6 < parameters(recipe.model_config_of(recipe.data.vocabulary)) < 12e6
    assert PRESETS["nano-8m"].hidden_size == 256


def parameters(config: ModelConfig) -> int:
    from qwen_model.decoder import Decoder

    with torch.device("meta"):
        return sum(p.numel() for p in Decoder(config).parameters())
