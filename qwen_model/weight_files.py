"""The weight files of a checkpoint folder: which there are, which tensors they hold, and reading those by rows."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qwen_model.config import ModelError, read_json

if TYPE_CHECKING:
    import torch

SAFETENSORS = "model.safetensors"
CODES = "codes.safetensors"
"""In a folder made from a GGUF: what the weights of linear layers were dequantised from. No weights themselves."""
PICKLE = "pytorch_model.bin"
KINDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What weights may be stored in: safetensors' names and torch's."""
_AGAIN = "fetch it again, or delete its folder if it is in the cache"


class WeightFile(Protocol):
    """One open file of tensors."""

    path: Path

    def close(self) -> None: ...

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def kind(self, name: str) -> str:
        """The type of its numbers, as safetensors writes it, such as BF16."""
        ...

    def mapped(self, name: str) -> torch.Tensor:
        """The tensor on the CPU in the file's own type, its memory the file's pages (private: writing to them leaves
        the file as it is), or a copy where the file cannot be mapped."""
        ...

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of the tensor (elements, if it has one dimension), read into memory of their own."""
        ...


def weight_paths(folder: Path, *, pickles: bool = False) -> list[Path]:
    """The files that make up the checkpoint, sorted: those that an index names, else the only one.

    Raises ModelError where none is there, where several have no index, and for pickles unless they are asked for.
    """
    return _find(folder, pickles)[0]


@contextmanager
def open_weights(folder: Path, *, pickles: bool = False) -> Iterator[dict[str, WeightFile]]:
    """The file of each tensor. Raises ModelError for a damaged file, and where index and files do not agree.

    Tensors that were mapped stay when the files are closed.
    """
    paths, index = _find(folder, pickles)
    held: dict[str, WeightFile] = {}
    with ExitStack() as stack:
        for path in paths:
            file: WeightFile = _Pickle(path) if path.suffix == ".bin" else Safetensors(path)
            stack.callback(file.close)
            for name in file.names():
                if name in held:
                    other = held[name].path.name
                    raise ModelError(f"{path}: tensor {name} is in {other} too; fetch the checkpoint again")
                held[name] = file
        if index is not None:
            _compare(index, held)
        yield held


def _find(folder: Path, pickles: bool) -> tuple[list[Path], Path | None]:
    """The weight files, and the index that names them if there is one."""
    for name in (SAFETENSORS, PICKLE) if pickles else (SAFETENSORS,):
        index = folder / f"{name}.index.json"
        if index.is_file():
            return sorted({folder / file for file in _weight_map(index).values()}), index
        if (folder / name).is_file():
            return [folder / name], None
    found = sorted(folder.glob("*.safetensors"))
    if len(found) > 1:
        raise ModelError(
            f"{folder}: {len(found)} safetensors files and no {SAFETENSORS}.index.json; fetch the index too"
        )
    if not found:
        bins = sorted(folder.glob("*.bin"))
        raise ModelError(
            f"{folder}: only {bins[0].name}, a pickle, which can hold programs; convert it to {SAFETENSORS}, or load"
            f" {PICKLE} with allow_pickle_weights=True"
            if bins
            else f"{folder}: no weights; fetch {SAFETENSORS}, or its shards and their index, into this folder"
        )
    return found, None


def _compare(index: Path, held: Mapping[str, WeightFile]) -> None:
    stated = _weight_map(index)
    for name, file in stated.items():
        if name not in held or held[name].path.name != file:
            raise ModelError(f"{index}: tensor {name} is not in {file}, which the index names; fetch both again")
    for name in sorted(held.keys() - stated.keys()):
        raise ModelError(f"{index}: does not name tensor {name} of {held[name].path.name}; fetch both again")


def _weight_map(index: Path) -> dict[str, str]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise ModelError(f"{index}: no weight_map from tensors to files; fetch it again")
    for file in sorted(set(files.values())):
        if Path(file).name != file:
            raise ModelError(f"{index}: {file!r} is no file beside the index; fetch it again")
        if not (index.parent / file).is_file():
            raise ModelError(f"{index}: names {file}, which is missing; fetch that file too")
    return files


class Safetensors:
    """Mapped by the safetensors package, which checks the header too. Rows are read without it: its slices touch all of
    a tensor."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ModelError(
                f"{path}: cannot be read ({error.strerror}); look at its permissions, or fetch it"
            ) from error
        try:
            self._mapped: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: damaged or truncated ({_line(error)}); {_AGAIN}") from error
        length = int.from_bytes(self._file.read(8), "little")
        self._header: dict[str, Any] = json.loads(self._file.read(length))
        self._header.pop("__metadata__", None)
        self._data = 8 + length

    def close(self) -> None:
        self._file.close()

    def names(self) -> list[str]:
        return list(self._header)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._header[name]["shape"])

    def kind(self, name: str) -> str:
        return str(self._header[name]["dtype"])

    def mapped(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._mapped.get_tensor(name)
        if tensor.data_ptr() % tensor.element_size():
            return tensor.clone()
        return tensor

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        import torch

        shape = self.shape(name)
        out = torch.empty((stop - start, *shape[1:]), dtype=getattr(torch, KINDS[self.kind(name)]))
        memory: memoryview = out.view(-1).view(torch.uint8).numpy().data
        self._file.seek(self._data + self._header[name]["data_offsets"][0] + start * (len(memory) // (stop - start)))
        if self._file.readinto(memory) != len(memory):
            raise ModelError(f"{self.path}: ended within tensor {name} while it was read; {_AGAIN}")
        return out


class _Pickle:
    """Read by torch's own unpickler for weights, which builds tensors and containers of them and calls nothing else."""

    def __init__(self, path: Path) -> None:
        import torch

        self.path = path
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            raise ModelError(
                f"{path}: holds more than weights, and was not run; use a safetensors checkpoint"
            ) from error
        except (RuntimeError, EOFError, OSError) as error:
            why = f"damaged, truncated or older than torch 1.6 ({_line(error)})"
            raise ModelError(f"{path}: {why}; fetch it again, or as safetensors") from error
        if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
            raise ModelError(f"{path}: not a dictionary of tensors; use a safetensors checkpoint")
        self._tensors: dict[str, torch.Tensor] = loaded

    def close(self) -> None:
        """torch closed the file when it had mapped it."""

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def kind(self, name: str) -> str:
        kind = str(self._tensors[name].dtype).removeprefix("torch.")
        return next((stored for stored, ours in KINDS.items() if ours == kind), kind)

    def mapped(self, name: str) -> torch.Tensor:
        return self._tensors[name].contiguous()

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self._tensors[name][start:stop]


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def pieces(length: int, step: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the pieces of `step` that make up `length`."""
    for start in range(0, length, step):
        yield start, min(start + step, length)
