"""From a name, a GGUF file or a checkpoint folder to a loaded decoder."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_model.catalogue import CATALOGUE, obtain
from qwen_model.config import ModelError
from qwen_model.config_json import read_model_config
from qwen_model.download import cache_dir, sha256_file
from qwen_model.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from qwen_model.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on disk, ready to load: a folder in transformers' layout and what identifies it."""

    name: str
    folder: Path
    fingerprint: str
    """SHA-256 (first 16 hex digits) over the weights and the files that change what the model reads or says."""
    quantisation: str | None
    """Of the GGUF the folder was made from, such as Q4_K_M; None for full-precision weights."""


def find_checkpoint(model: str) -> Checkpoint:
    """Resolve a catalogue name, a GGUF file or a checkpoint folder; fetches and converts where needed.

    Raises ModelError (or the catalogue's DownloadError) with one line that names the remedy.
    """
    path = Path(model).expanduser()
    if model in CATALOGUE:
        return _from_gguf(model, obtain(model), CATALOGUE[model].sha256)
    if path.is_dir():
        return Checkpoint(name=path.resolve().name, folder=path, fingerprint=_fingerprint(path), quantisation=None)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path}: neither a folder nor a .gguf file")
        return _from_gguf(path.stem, path, sha256_file(path))
    obtain(model)  # names the closest catalogue entries in its error
    raise ModelError(f"{model}: no such model")


def load_model(model: str | Checkpoint, dtype: str = "float32", device: str = "cpu") -> Decoder:
    """Load a decoder in evaluation mode; `dtype` is float32, bfloat16 or float16. Its tokenizer: `load_tokenizer`."""
    import torch

    from qwen_model.decoder import Decoder

    checkpoint = model if isinstance(model, Checkpoint) else find_checkpoint(model)
    config = read_model_config(read_config(checkpoint.folder), str(checkpoint.folder / "config.json"))
    with torch.device("meta"):
        decoder = Decoder(config)
    weights = {name: tensor.to(device, getattr(torch, dtype)) for name, tensor in _weights(checkpoint.folder).items()}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights.get("model.embed_tokens.weight", torch.empty(0))
    _check(weights, decoder.state_dict(), checkpoint.folder)
    decoder.load_state_dict(weights, assign=True)
    if config.tie_word_embeddings:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    decoder.requires_grad_(False)
    decoder.checkpoint = checkpoint
    return decoder.eval()


def read_config(folder: Path) -> dict[str, object]:
    """The folder's config.json."""
    path = folder / "config.json"
    try:
        value: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no config.json; name a checkpoint folder or a .gguf file") from error
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}); fetch the checkpoint again") from error
    return value


def load_tokenizer(checkpoint: Checkpoint | Path) -> Tokenizer:
    """The tokenizer of a checkpoint or of its folder: tokenizer.json, else the first Qwen's qwen.tiktoken."""
    folder = checkpoint if isinstance(checkpoint, Path) else checkpoint.folder
    vocabulary = folder / "qwen.tiktoken"
    if vocabulary.is_file() and not (folder / "tokenizer.json").is_file():
        from qwen_model.qwen_tokenizer import QwenTokenizer

        return QwenTokenizer(vocabulary, folder)
    return Tokenizer(folder)


def _from_gguf(name: str, path: Path, digest: str) -> Checkpoint:
    from qwen_model.gguf_import import IMPORT_VERSION, QUANTISATION, import_gguf

    fingerprint = f"{digest[:16]}-v{IMPORT_VERSION}"
    folder = cache_dir() / "converted" / fingerprint
    if not folder.is_dir():
        import_gguf(path, folder, _show_conversion(name))
    quantisation = str(read_config(folder)[QUANTISATION])
    return Checkpoint(name=name, folder=folder, fingerprint=fingerprint, quantisation=quantisation)


def _show_conversion(name: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{name}: dequantising {done}/{total} tensors, once", end=end, file=sys.stderr, flush=True)
        elif done == 0:
            print(f"{name}: dequantising {total} tensors, once", file=sys.stderr)

    return show


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(folder.glob("*.bin"))
        why = (
            f"only {pickles[0].name}, a pickle, which is never read; convert it to safetensors"
            if pickles
            else "no weights"
        )
        raise ModelError(f"{folder}: {why} (model.safetensors)")
    return files


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for path in _weight_files(folder):
        try:
            weights.update(load_file(path))
        except SafetensorError as error:
            raise ModelError(
                f"{path}: damaged or truncated ({error}); fetch it again, or delete its folder if it is in the cache"
            ) from error
    return weights


def _check(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], folder: Path) -> None:
    for name, tensor in wanted.items():
        if name not in found:
            raise ModelError(f"{folder}: tensor {name} is missing; fetch the checkpoint again")
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, not {tuple(tensor.shape)} as config.json says"
            raise ModelError(f"{folder}: tensor {name} has the shape {shapes}")
    extra = sorted(found.keys() - wanted.keys())
    if extra:
        raise ModelError(f"{folder}: tensor {extra[0]} is unknown to this architecture")


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for path in (*(folder / name for name in names), *_weight_files(folder)):
        if path.is_file():
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()[:16]
