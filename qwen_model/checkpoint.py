"""From a name, a GGUF file or a checkpoint folder to a loaded decoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from qwen_model.catalogue import CATALOGUE, obtain
from qwen_model.config import ModelError, read_json
from qwen_model.config_json import layout_of, read_model_config
from qwen_model.download import cache_dir, sha256_file
from qwen_model.progress import Display, say
from qwen_model.tokenizer import Tokenizer
from qwen_model.weight_files import weight_paths

if TYPE_CHECKING:
    from qwen_model.decoder import Decoder
    from qwen_model.weights import CodeParts

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model on disk, ready to load: a folder in transformers' layout and what identifies it."""

    name: str
    folder: Path
    quantisation: str | None
    """Of the GGUF the folder was made from, such as Q4_K_M; None for full-precision weights."""
    made_from: str | None
    """The fingerprint of that GGUF."""
    pickles: bool = False
    """Whether pytorch_model.bin may be read."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) over the weights and the files that change what the model reads or says.

        Reads all of them when it is first asked for, unless they came from a GGUF.
        """
        return self.made_from or _fingerprint(self.folder, pickles=self.pickles)


def find_checkpoint(model: str, *, allow_pickle_weights: bool = False) -> Checkpoint:
    """Resolve a catalogue name, a GGUF file or a checkpoint folder; fetches and converts where needed.

    Raises ModelError (or the catalogue's DownloadError) with one line that names the remedy.
    """
    if not model:
        raise ModelError("no model named; give a name of `harness models`, a folder or a .gguf file")
    path = Path(model).expanduser()
    if model not in CATALOGUE and path.is_dir():
        weight_paths(path, pickles=allow_pickle_weights)  # names what is missing before anything else is done
        name = path.resolve().name
        return Checkpoint(name=name, folder=path, quantisation=None, made_from=None, pickles=allow_pickle_weights)
    if model not in CATALOGUE and path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{path}: neither a folder nor a .gguf file")
        return _from_gguf(path.stem, path, sha256_file(path))
    found = obtain(model)  # names the closest catalogue entries where there is no such one
    return _from_gguf(model, found, CATALOGUE[model].sha256)


def check_device(device: str) -> None:
    """Raises ModelError for a device that models are not run on, or that is not here."""
    import torch

    there = ["cpu", *(name for number in range(torch.cuda.device_count()) for name in ("cuda", f"cuda:{number}"))]
    if device not in there:
        raise ModelError(f"device: {device!r} is not to be had here; cpu is, and cuda where torch finds a GPU")


def load_model(
    model: str | Checkpoint, dtype: str = "float32", device: str = "cpu", *, allow_pickle_weights: bool = False
) -> Decoder:
    """Load a decoder in evaluation mode; `dtype` is float32, bfloat16 or float16. Its tokenizer: `load_tokenizer`.

    Where the file holds numbers of that type, the CPU's weights are the file's own pages: the file may be deleted or
    replaced by another, but not be overwritten in place, while the model is in use. `allow_pickle_weights` reads
    pytorch_model.bin too, by torch's unpickler for weights, which runs no code.
    Raises ModelError, one line that names the file, the field or tensor, and the remedy.
    """
    import torch

    from qwen_model.decoder import Decoder
    from qwen_model.kernels.codes import ALONE
    from qwen_model.weights import read_codes, read_weights

    if dtype not in DTYPES:
        raise ModelError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    check_device(device)
    if isinstance(model, Checkpoint):
        checkpoint = model
    else:
        checkpoint = find_checkpoint(model, allow_pickle_weights=allow_pickle_weights)
    raw, where = read_config(checkpoint.folder), str(checkpoint.folder / "config.json")
    config = read_model_config(raw, where)
    # a folder of the user's own may have other weights by now
    made = checkpoint.made_from is not None and torch.device(device).type == "cpu" and dtype != "float16"
    codes = read_codes(checkpoint.folder) if made else {}
    # changes of tensors that are made in inference mode are not counted, and codes go by that count
    with torch.inference_mode(False):
        with torch.device("meta"), _without_init():
            decoder = Decoder(config)
        weights = read_weights(
            checkpoint.folder,
            {name: tuple(parameter.shape) for name, parameter in decoder.named_parameters()},
            layout_of(raw, where),
            getattr(torch, dtype),
            torch.device(device),
            pickles=checkpoint.pickles,
            unread=codes if getattr(torch, dtype) == ALONE else (),
        )
        if config.tie_word_embeddings:
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        decoder.load_state_dict(weights, assign=True)
        if config.tie_word_embeddings:
            decoder.lm_head.weight = decoder.model.embed_tokens.weight
        decoder.requires_grad_(False)
        decoder.checkpoint = checkpoint
        if config.scalar_head and (checkpoint.folder / "tokenizer_config.json").is_file():
            decoder.end_token = load_tokenizer(checkpoint).eos_ids[0]
        decoder.eval()
        _attach(decoder, codes, checkpoint.folder)
    return decoder


def _attach(decoder: Decoder, codes: Mapping[str, CodeParts], folder: Path) -> None:
    """Let products read what the folder's weights were dequantised from."""
    from qwen_model.decoder import Linear
    from qwen_model.kernels.codes import Codes
    from qwen_model.weights import damaged_codes

    for name, layer in decoder.named_modules():
        if isinstance(layer, Linear) and f"{name}.weight" in codes:
            try:
                layer.codes = Codes(layer.weight, *codes[f"{name}.weight"])
            except ValueError as error:
                raise damaged_codes(folder, error) from error


def _without_init() -> AbstractContextManager[object]:
    """Modules keep what they are made of: even on the meta device torch's draw for an embedding costs a second or two,
    for it imports torch's compiler."""
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__module__", None) == "torch.nn.init":
                return kwargs["tensor"] if "tensor" in (kwargs or {}) else args[0]
            return func(*args, **(kwargs or {}))

    return Mode()


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises ModelError where there is none, or one that is no JSON object."""
    path = folder / "config.json"
    if not path.exists():
        raise ModelError(f"{folder}: no config.json; name a checkpoint folder or a .gguf file")
    return read_json(path)


def load_tokenizer(checkpoint: Checkpoint | Path | str) -> Tokenizer:
    """The tokenizer of a checkpoint, a folder or a name: tokenizer.json, else the first Qwen's qwen.tiktoken."""
    if isinstance(checkpoint, str):
        checkpoint = find_checkpoint(checkpoint)
    folder = checkpoint if isinstance(checkpoint, Path) else checkpoint.folder
    vocabulary = folder / "qwen.tiktoken"
    if vocabulary.is_file() and not (folder / "tokenizer.json").is_file():
        from qwen_model.qwen_tokenizer import QwenTokenizer

        return QwenTokenizer(vocabulary, folder)
    return Tokenizer(folder)


def _from_gguf(name: str, path: Path, digest: str) -> Checkpoint:
    from qwen_model.gguf_import import IMPORT_VERSION, QUANTISATION

    fingerprint = f"{digest[:16]}-v{IMPORT_VERSION}"
    folder = cache_dir() / "converted" / fingerprint
    if not folder.is_dir():
        _convert(path, folder, f"{name}: dequantising its tensors, once")
    quantisation = str(read_config(folder)[QUANTISATION])
    return Checkpoint(name=name, folder=folder, quantisation=quantisation, made_from=fingerprint)


def _convert(path: Path, folder: Path, label: str) -> None:
    from qwen_model.gguf_import import import_gguf

    with Display(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as display:
        task = display.bar.add_task(label, total=None)

        def show(done: int, total: int) -> None:
            display.bar.update(task, completed=done, total=total)
            if display.bar.disable and done == 0:  # not before: the file may be none
                say(label)

        import_gguf(path, folder, show)


def _fingerprint(folder: Path, *, pickles: bool) -> str:
    digest = hashlib.sha256()
    names = (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "qwen.tiktoken",
    )
    for path in (*(folder / name for name in names), *weight_paths(folder, pickles=pickles)):
        if path.is_file():
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()[:16]
