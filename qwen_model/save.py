"""A decoder to a checkpoint folder, in the first Qwen's layout or in transformers' Qwen2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_model.config import ModelError, read_json
from qwen_model.config_json import FileLayout, write_model_config
from qwen_model.new_folder import new_folder
from qwen_model.safetensors_writer import Outgoing, write_safetensors
from qwen_model.tensor_names import stored_tensors
from qwen_model.weight_files import KINDS, pieces
from qwen_model.weights import PIECE

if TYPE_CHECKING:
    from torch import Tensor

    from qwen_model.decoder import Decoder

SHARD_BYTES = 5_000_000_000
"""Weights beyond this are split into several files and an index; a tensor is never split."""

_KEPT = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
    "qwen.tiktoken",
    "tokenization_qwen.py",
)
_KEPT_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_model(model: Decoder, folder: str | Path, layout: FileLayout = "qwen2") -> None:
    """Write config.json, the weights in their own type and, if the model came from a checkpoint, its tokenizer's files.

    `layout` is "qwen", the first Qwen's, or "qwen2", which transformers loads (with a scalar head as a classifier). The
    folder appears whole or not at all and must be new or empty. Memory holds no second copy of the weights.
    Raises ModelError, one line, for a field of the model's config that the layout cannot express, for a folder with
    files in it, and for a disk that is full.
    """
    folder = Path(folder)
    if model.config.scalar_head and layout == "qwen2":
        layout = "qwen2-scalar"
    parameters = dict(model.named_parameters())
    config = write_model_config(model.config, layout, str(model.model.norm.weight.dtype).removeprefix("torch."))
    if any(parameter.is_meta for parameter in parameters.values()):
        raise ModelError(f"{folder}: the model has no weights yet; load or initialise them before saving")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder}: exists; name a new folder, or delete this one first")
    checkpoint = getattr(model, "checkpoint", None)
    if checkpoint is not None and not (checkpoint.folder / "config.json").is_file():
        remedy = "bring the folder back, or `del model.checkpoint`"
        raise ModelError(f"{checkpoint.folder}: gone, and with it the tokenizer to copy; {remedy}")
    stored = stored_tensors(parameters, layout)
    tensors = {name: _outgoing([parameters[part] for part in parts]) for name, parts in stored.items()}
    with new_folder(folder, "free space, or name a folder that can be written") as partial:
        if checkpoint is not None:
            config |= _copy_tokenizer(checkpoint.folder, partial)
        (partial / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        _write_shards(partial, tensors)


def _copy_tokenizer(source: Path, target: Path) -> dict[str, Any]:
    """Copy what the tokenizer needs; returns the end tokens and their like from the source's config.json."""
    for name in _KEPT:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    config = read_json(source / "config.json")
    return {name: config[name] for name in _KEPT_FIELDS if config.get(name) is not None}


def _outgoing(parts: Sequence[Tensor]) -> Outgoing:
    names = {f"torch.{ours}": kind for kind, ours in KINDS.items()}
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Outgoing(kind=names[str(parts[0].dtype)], shape=shape, pieces=lambda: _bytes(parts))


def _bytes(parts: Sequence[Tensor]) -> Iterator[memoryview]:
    import torch

    for part in parts:
        flat = part.detach().reshape(-1)
        for start, stop in pieces(len(flat), PIECE):
            yield flat[start:stop].cpu().view(torch.uint8).numpy().data


def _write_shards(folder: Path, tensors: Mapping[str, Outgoing]) -> None:
    shards: list[dict[str, Outgoing]] = []
    room = 0
    for name, tensor in tensors.items():
        if not shards or tensor.size_bytes > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= tensor.size_bytes
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard)
        placed |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(tensor.size_bytes for tensor in tensors.values())}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
