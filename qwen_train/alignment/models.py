"""Models that a stage begins with and leaves: folders that `harness run --model` and transformers load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from qwen_model import chatml, load_model, save_model
from qwen_model.chatml import chat_tokenizer
from qwen_model.checkpoint import load_tokenizer
from qwen_model.config import read_json
from qwen_model.decoder import Decoder
from qwen_model.new_folder import new_folder
from qwen_model.tokenizer import Tokenizer
from qwen_train.errors import TrainError
from qwen_train.parallel import World, whole


def begin_with(folder: str, *, dropout: float = 0.0, scalar: bool = False, seed: int = 0) -> Decoder:
    """The model of a folder in float32, in memory of its own, to be trained.

    `scalar` gives it a head of one number: its own where it has one, else one drawn anew. Raises TrainError where a
    language model is wanted of a folder that holds a scalar head, ModelError for one that cannot be read.
    """
    loaded = load_model(folder)
    if loaded.config.scalar_head and not scalar:
        raise TrainError(f"{folder}: a reward or value model, which writes nothing; name a language model")
    tied = loaded.config.tie_word_embeddings and not scalar
    config = replace(loaded.config, dropout=dropout, scalar_head=scalar, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = Decoder(config)
    model.to_empty(device="cpu")
    weights = {name: value.clone() for name, value in loaded.state_dict().items()}
    if scalar and not loaded.config.scalar_head:
        generator = torch.Generator().manual_seed(seed)
        deviation = 1 / (config.hidden_size + 1) ** 0.5  # as Stiennon et al. (2020) begin their reward models
        weights["lm_head.weight"] = torch.empty(1, config.hidden_size).normal_(std=deviation, generator=generator)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.load_state_dict(weights)
    model.checkpoint = loaded.checkpoint
    return model.requires_grad_(True).train()


def tokenizer_of(model: Decoder) -> Tokenizer:
    """Its folder's tokenizer, which must have ChatML's control tokens; ModelError where it has not."""
    tokenizer = load_tokenizer(model.checkpoint)
    chat_tokenizer(tokenizer)
    return tokenizer


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """What ends an answer: ChatML's end token first, then what ended a text before."""
    end = chat_tokenizer(tokenizer).im_end
    return (end, *(token for token in tokenizer.eos_ids if token != end))


def export(model: Decoder, folder: Path) -> None:
    """A model that chats: its weights, its tokenizer, ChatML as its template, `<|im_end|>` first among its end tokens.

    The folder appears whole or not at all. Raises ModelError for a folder with files in it, and for a full disk.
    """
    tokenizer = tokenizer_of(model)
    with new_folder(folder, "free space, or name a folder that can be written") as partial:
        save_model(model, partial)
        generation = read_json(partial / "generation_config.json")
        generation |= {"chat_format": "chatml", "eos_token_id": list(end_ids(tokenizer))}
        (partial / "generation_config.json").write_text(json.dumps(generation, indent=1), encoding="utf-8")
        if (partial / "tokenizer.json").is_file():
            (partial / "chat_template.jinja").write_text(chatml.TEMPLATE, encoding="utf-8")


class Copy:
    """A model that is asked while it trains: itself where one process holds it whole, else a copy that follows it.

    Make it before the model is sharded.
    """

    def __init__(self, model: Decoder, world: World) -> None:
        self.world, self._trained = world, model
        self.model = model
        if world.size > 1:
            self.model = Decoder(model.config).to(world.device)
            self.model.compute_dtype = model.compute_dtype

    def follow(self) -> Decoder:
        """The copy as the model is now, not for training."""
        if self.world.size > 1:
            weights = {name: whole(value) for name, value in self._trained.named_parameters()}
            self.model.load_state_dict(weights, strict=not self.model.config.tie_word_embeddings)
        return self.model.eval()


def compute(model: Decoder, dtype: str) -> None:
    """Let passes compute in bfloat16 over float32 weights, or in float32."""
    model.compute_dtype = None if dtype == "float32" else getattr(torch, dtype)


def blocks_of(model: Decoder) -> list[nn.Module]:
    """What is sharded one by one."""
    return list(model.model.layers)
