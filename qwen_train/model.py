"""A decoder that trains: made on all processes, sharded, filled; and written out whole at the end."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch

from qwen_model import ModelConfig, load_model, save_model
from qwen_model.config_json import FileLayout
from qwen_model.decoder import Decoder, own_part
from qwen_model.new_folder import new_folder
from qwen_train.errors import TrainError
from qwen_train.parallel import DTYPES, World, parallelize, whole
from qwen_train.recipe import Training
from qwen_train.tokens.store import KEPT
from qwen_train.trainer import NextToken

_SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "qkv_bias",
    "output_bias",
    "tie_word_embeddings",
    "rope_theta",
    "rms_norm_eps",
    "windows",
)


def new_module(config: ModelConfig, training: Training, world: World, start: Path | None = None) -> NextToken:
    """A model of that config, drawn by the seed or with the weights of the checkpoint folder `start`.

    The weights are the same whatever the number of processes. Raises TrainError where `start` has another shape.
    """
    found = None
    if start is not None:
        found = load_model(str(start))
        for name in _SHAPE:
            if getattr(found.config, name) != getattr(config, name):
                raise TrainError(
                    f"model.{name}: {getattr(config, name)} in the recipe, {getattr(found.config, name)} in {start};"
                    " write the model's own into the recipe"
                )
    # a tied matrix would be made twice by to_empty
    with torch.device(world.device if config.tie_word_embeddings else "meta"):
        decoder = Decoder(config)
    decoder.recompute = training.recompute
    decoder.compute_dtype = DTYPES[training.dtype]
    module = NextToken(decoder)
    parallelize(module, decoder.model.layers, world, training.dtype, compile=training.compile)
    if not config.tie_word_embeddings:
        module.to_empty(device=world.device)
    if found is None:
        decoder.init_weights(training.seed)
    else:
        weights = dict(found.named_parameters())
        with torch.no_grad():
            for name, parameter in decoder.named_parameters():
                parameter.copy_(own_part(weights[name], parameter))
    return module


def export(
    decoder: Decoder, tokenizer: Path, folder: Path, dtype: str, world: World, layout: FileLayout = "qwen2"
) -> None:
    """Write the model and its tokenizer's files as a checkpoint folder in `dtype`; every process must call.

    A folder that is there already stays as it is. Raises ModelError.
    """
    weights = {name: whole(parameter).to(DTYPES[dtype]) for name, parameter in decoder.named_parameters()}
    if world.first and not folder.is_dir():
        with torch.device("meta"):
            model = Decoder(decoder.config)
        model.load_state_dict(weights, assign=True, strict=not decoder.config.tie_word_embeddings)
        if decoder.config.tie_word_embeddings:
            model.lm_head.weight = model.model.embed_tokens.weight
        with new_folder(folder, "free space, or name a folder that can be written") as partial:
            save_model(model, partial, layout)
            for name in KEPT:
                if (tokenizer / name).is_file():
                    shutil.copyfile(tokenizer / name, partial / name)
    world.barrier()


def flops_per_token(config: ModelConfig, context: int) -> float:
    """Of forward and backward: 6 per weight that multiplies (all but the input embedding), and 6 x layers x heads x
    head_dim x context for attention, of which the causal half counts. Recomputed passes do not count."""
    c = config
    attention = 2 * c.hidden_size * c.head_dim * (c.num_attention_heads + c.num_key_value_heads)
    weights = c.num_hidden_layers * (attention + 3 * c.hidden_size * c.intermediate_size) + c.vocab_size * c.hidden_size
    return 6.0 * weights + 6.0 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * context


def measured_peak(world: World, dtype: str) -> float:
    """Floating-point operations a second of a plain matrix product here, the best of several: MFU is a share of it."""
    size = 8192 if world.device.type == "cuda" else 1024
    a = torch.randn(size, size, device=world.device).to(DTYPES[dtype])
    best = 0.0
    for _ in range(8):
        begin = time.perf_counter()
        torch.mm(a, a)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best
