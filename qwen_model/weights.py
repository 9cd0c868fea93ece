"""Weights of a checkpoint folder in the decoder's names, straight in the type that is wanted.

Where file and memory agree in type, a tensor's memory is the file's own pages (on the CPU). Else it is read and
converted some megabytes at a time. Either way memory holds the weights once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from qwen_model.config import ModelError
from qwen_model.config_json import FileLayout
from qwen_model.tensor_names import stored_tensors
from qwen_model.weight_files import CODES, KINDS, Safetensors, WeightFile, open_weights, pieces

if TYPE_CHECKING:
    import torch

    CodeParts: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
    """Codes, scales and perhaps mins of one weight."""

PIECE = 1 << 15
"""Numbers that are read, checked and converted at a time: they stay in a core's cache, and torch starts no threads."""
_COMPUTED = ".rotary_emb.inv_freq"
"""Older checkpoints store the rotary frequencies, which follow from the config."""


def read_weights(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    layout: FileLayout,
    dtype: torch.dtype,
    device: torch.device,
    *,
    pickles: bool = False,
    unread: Collection[str] = (),
) -> dict[str, torch.Tensor]:
    """A tensor of each of `shapes`, the decoder's parameters by name.

    Those of `unread` are mapped in the file's own type and not looked at: they take memory only where somebody reads
    them.

    Raises ModelError that names the tensor and its file: missing, extra, of another shape, of whole numbers, NaN or
    infinite (also where a number is too large for `dtype`).
    """
    stored = stored_tensors(shapes, layout)
    weights: dict[str, torch.Tensor] = {}
    with open_weights(folder, pickles=pickles) as files:
        tied = "lm_head.weight" not in shapes and "lm_head.weight" in files
        _compare(files, stored, shapes, folder, extra={"lm_head.weight"} if tied else set())
        for name, parts in stored.items():
            start = 0
            for part in parts:
                stop = start + shapes[part][0]
                if part in unread:
                    weights[part] = files[name].mapped(name)[start:stop]
                else:
                    # a text needs few rows of the embedding: looking at all of it must not keep it in memory
                    apart = part == "model.embed_tokens.weight"
                    weights[part] = _read(files[name], name, start, stop, dtype, device, apart=apart)
                start = stop
        if tied:
            (embedding,) = (name for name, parts in stored.items() if parts == ("model.embed_tokens.weight",))
            _compare_tied(files["lm_head.weight"], files[embedding], embedding)
    return weights


def read_codes(folder: Path) -> dict[str, CodeParts]:
    """What the weights were dequantised from of which the folder has that; its memory is the file's pages.

    Raises ModelError for a damaged file, and for scales or minima that are NaN or infinite.
    """
    import torch
    from safetensors import SafetensorError

    file = Safetensors(folder / CODES)
    try:
        held = set(file.names())
        found: dict[str, CodeParts] = {}
        for stored in sorted(held):
            name, _, part = stored.rpartition(".")
            if part == "codes":
                mins = file.mapped(f"{name}.mins") if f"{name}.mins" in held else None
                found[name] = file.mapped(stored), file.mapped(f"{name}.scales"), mins
                for kind, numbers in zip(("scales", "mins"), found[name][1:], strict=True):
                    if numbers is not None:
                        _check(numbers, torch.float32, file, f"{name}.{kind}")
        return found
    except (KeyError, SafetensorError) as error:
        raise damaged_codes(folder, error) from error
    finally:
        file.close()


def damaged_codes(folder: Path, why: Exception) -> ModelError:
    return ModelError(f"{folder / CODES}: damaged ({why}); delete its folder, it is made anew")


def _compare(
    files: Mapping[str, WeightFile],
    stored: Mapping[str, tuple[str, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    extra: set[str],
) -> None:
    for name, parts in stored.items():
        if name not in files:
            raise ModelError(f"{folder}: tensor {name} is missing; fetch the checkpoint again")
        file = files[name]
        wanted = (sum(shapes[part][0] for part in parts), *shapes[parts[0]][1:])
        if file.shape(name) != wanted:
            raise ModelError(
                f"{file.path}: tensor {name} has the shape {file.shape(name)}, not {wanted} as config.json says;"
                " fetch both files again"
            )
        if file.kind(name) not in KINDS:
            raise ModelError(
                f"{file.path}: tensor {name} is of type {file.kind(name)}, not one of {', '.join(KINDS)};"
                " use a checkpoint that is not quantised"
            )
    for name in sorted(files.keys() - stored.keys() - extra):
        if not name.endswith(_COMPUTED):
            raise ModelError(
                f"{files[name].path}: tensor {name} is unknown to this architecture; check config.json, or remove it"
            )


def _read(
    file: WeightFile, name: str, start: int, stop: int, dtype: torch.dtype, device: torch.device, *, apart: bool
) -> torch.Tensor:
    """Rows of a tensor; `apart`: what is mapped is looked at in a copy."""
    import torch

    shape = (stop - start, *file.shape(name)[1:])
    step = max(1, PIECE * shape[0] // torch.Size(shape).numel())
    if device.type == "cpu" and KINDS[file.kind(name)] == str(dtype).removeprefix("torch."):
        out = file.mapped(name)[start:stop]
        for first, last in pieces(shape[0], step):
            _check(file.rows(name, start + first, start + last) if apart else out[first:last], dtype, file, name)
        return out
    out = torch.empty(shape, dtype=dtype, device=device)
    for first, last in pieces(shape[0], step):
        piece = file.rows(name, start + first, start + last)
        _check(piece, dtype, file, name)
        out[first:last].copy_(piece)
    return out


def _check(piece: torch.Tensor, dtype: torch.dtype, file: WeightFile, name: str) -> None:
    import torch

    low, high = torch.aminmax(piece)  # NaN, if there is one
    limit = torch.finfo(dtype).max
    if -limit <= low.item() and high.item() <= limit:
        return
    ends = torch.stack((low, high))
    if not torch.isfinite(ends).all():
        raise ModelError(
            f"{file.path}: tensor {name} holds NaN or infinite numbers; fetch it again, or it was saved after training"
            " broke down"
        )
    if not torch.isfinite(ends.to(dtype)).all():
        raise ModelError(f"{file.path}: tensor {name} has numbers too large for {dtype}; load it as bfloat16")


def _compare_tied(head: WeightFile, body: WeightFile, embedding: str) -> None:
    """Some checkpoints tie the output matrix to the embedding and store it again."""
    import torch

    shape = body.shape(embedding)
    same = head.shape("lm_head.weight") == shape and all(
        torch.equal(head.rows("lm_head.weight", first, last), body.rows(embedding, first, last))
        for first, last in pieces(shape[0], max(1, PIECE // shape[1]))
    )
    if not same:
        raise ModelError(
            f"{head.path}: tensor lm_head.weight is not the embedding, to which config.json ties it;"
            " set tie_word_embeddings to false there to use it"
        )
