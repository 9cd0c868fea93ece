"""From cells to runs. Cells that ask for the same computation at a length share one run.

Up to the trained length T dynamic NTK and LogN change nothing, and a window nothing that is not shorter than the text:
such lengths are computed once, without them. While a text is read, `released` and `exact` are one thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.ablation.cells import Cell
from harness.evaluation import Prepared, Settings, prepare
from harness.long_context import windows
from harness.memory import check_room
from harness.registry import task_class
from harness.selection import select
from qwen_model.checkpoint import Checkpoint, find_checkpoint, read_config
from qwen_model.config import ModelConfig, ModelError
from qwen_model.config_json import read_model_config
from qwen_model.download import DownloadError
from qwen_model.long_context import LongContext
from qwen_model.memory import free_memory
from tasks.api import Sample

Place = tuple[str, int | None]
"""A cell's name and a length; None where the task has no lengths."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One run, and the places in the sweep's table that it fills."""

    prepared: Prepared
    places: tuple[Place, ...]
    one_reading: bool
    """Whether its lengths are read together, each sample saying what its own part took."""

    @property
    def label(self) -> str:
        """The first cell, its lengths, and how many further cells share them."""
        first = self.places[0][0]
        lengths = [f"{length:,}" for length in sorted({length for _, length in self.places if length is not None})]
        others = len({cell for cell, _ in self.places}) - 1
        return first + (f" at {', '.join(lengths)}" if lengths else "") + (f" and {others} more" if others else "")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that will be computed, and the cells that cannot be."""

    cells: tuple[Cell, ...]
    trained: Mapping[str, int]
    """By cell: the length T that it takes for trained; none for tasks without lengths."""
    switches: Mapping[str, Mapping[str, str]]
    """By cell: the words of what is set (a model or task that all share left out), and for tasks with lengths of
    dynamic_ntk, logn and window in any case."""
    units: tuple[Unit, ...]
    failed: Mapping[str, str]
    """Cells whose model cannot be had, with the reason."""
    left_out: tuple[str, ...]
    """A line on each sample, or set of samples, that does not suit a model."""


def plan(found: Sequence[Cell], common: Settings) -> Sweep:
    """The runs that the cells take. `common` is what all cells share; its `limit` counts documents where there are
    lengths.

    Raises TaskError for what the user has to mend before anything is computed; a model that cannot be had only fails
    its cells, if others are left.
    """
    asked: dict[tuple[Any, ...], tuple[Settings, list[Place], bool]] = {}
    trained: dict[str, int] = {}
    switches: dict[str, Mapping[str, str]] = {}
    failed: dict[str, str] = {}
    known: dict[str, Sequence[Sample]] = {}
    fixed = [key for key in ("model", "task") if len({cell.values[key] for cell in found}) == 1]
    last: Exception | None = None
    for cell in found:
        settings = _settings(cell, common)
        shown = {key: word for key, word in cell.values.items() if key not in fixed}
        switches[cell.name] = shown
        try:
            if "lengths" in task_class(settings.tasks[0]).takes:
                its: list[tuple[int | None, Settings]] = [*_by_length(cell, settings, known)]
                switches[cell.name] = _all_switches(cell, shown)
                own = _config(find_checkpoint(str(settings.model))).train_length
                trained[cell.name] = (cell.long_context and cell.long_context.train_length) or own
            else:
                its = [(None, replace(settings, long_context=cell.long_context))]
                find_checkpoint(str(settings.model))
        except (ModelError, DownloadError) as error:
            failed[cell.name], last = str(error), error
            continue
        together = task_class(settings.tasks[0]).one_reading
        for length, its_settings in its:
            key = (_key(its_settings), None if together else length)
            asked.setdefault(key, (its_settings, [], together))[1].append((cell.name, length))
    if last is not None and not asked:
        raise last
    units = [_unit(*entry) for entry in asked.values()]
    left_out = tuple(dict.fromkeys(line for unit in units for line in unit.prepared.left_out))
    # said once, not by every run
    units = [replace(unit, prepared=replace(unit.prepared, left_out=())) for unit in units]
    # one model after another: each is loaded once
    order = list(dict.fromkeys(_model_key(unit.prepared.settings) for unit in units))
    units.sort(key=lambda unit: order.index(_model_key(unit.prepared.settings)))
    return Sweep(
        cells=tuple(found), trained=trained, switches=switches, units=tuple(units), failed=failed, left_out=left_out
    )


def _settings(cell: Cell, common: Settings) -> Settings:
    return replace(common, **cell.run)


def _model_key(settings: Settings) -> tuple[str, str, str, str]:
    return str(settings.model), settings.backend, settings.dtype, settings.device


def _key(settings: Settings) -> str:
    return repr(replace(settings, lengths=()))


def _unit(settings: Settings, places: list[Place], together: bool) -> Unit:
    lengths = tuple(sorted({length for _, length in places if length is not None}))
    return Unit(prepared=prepare(replace(settings, lengths=lengths)), places=tuple(places), one_reading=together)


def _by_length(cell: Cell, settings: Settings, known: dict[str, Sequence[Sample]]) -> list[tuple[int, Settings]]:
    """Each length of the cell with the settings that it comes down to; `known` keeps the samples of equal settings."""
    checkpoint = find_checkpoint(str(settings.model))
    config = _config(checkpoint)
    key = repr(settings)
    if key not in known:
        prepared = prepare(replace(settings, limit=None))
        known[key] = prepared.samples[prepared.tasks[0].name]
    samples = known[key]
    lengths = sorted({int(sample.fields["length"]) for sample in samples})
    _check_memory(settings, config, lengths[-1])
    firsts = {str(sample.fields["document"]): sample for sample in reversed(samples)}
    chosen = select(settings.tasks[0], list(reversed(firsts.values())), {}, settings.limit)
    documents = tuple(str(sample.fields["document"]) for sample in chosen)
    filters = {**settings.filters, "document": documents}
    return [
        (
            length,
            replace(
                settings,
                limit=None,
                filters=filters,
                lengths=(length,),
                long_context=effective(cell.long_context, config, length),
            ),
        )
        for length in lengths
    ]


def effective(laid: LongContext | None, config: ModelConfig, length: int) -> LongContext | None:
    """The least that has the same effect on texts of `length` tokens that are only read."""
    if laid is None:
        return None
    train_length = laid.train_length or config.train_length
    widths = windows(laid, config.num_hidden_layers, train_length, "--grid")
    beyond = length > train_length
    ntk, logn = beyond and laid.dynamic_ntk != "off", beyond and laid.logn
    bites = any(width is not None and width < length for width in widths)
    return LongContext(
        dynamic_ntk="exact" if ntk else "off",
        logn=logn,
        window=laid.window if bites else None,
        window_alpha=bites and ntk and laid.window_alpha,
        train_length=laid.train_length if ntk or logn or bites else None,
    )


def _config(checkpoint: Checkpoint) -> ModelConfig:
    return read_model_config(read_config(checkpoint.folder), str(checkpoint.folder / "config.json"))


def _check_memory(settings: Settings, config: ModelConfig, length: int) -> None:
    """Raises TaskError where keys and values of the longest text alone do not fit into what is free."""
    import torch

    from qwen_model.cache import CacheShape

    shape = CacheShape(
        heads=config.num_key_value_heads, head_dim=config.head_dim, windows=(None,) * config.num_hidden_layers
    )
    needed, free = shape.nbytes(1, length, getattr(torch, settings.dtype)), free_memory(torch.device(settings.device))
    check_room(length, needed, free, "ask for shorter --lengths")


def _all_switches(cell: Cell, shown: Mapping[str, str]) -> dict[str, str]:
    """The three switches of the report's table first, then all else. What is not laid over is the checkpoint's own."""
    laid = cell.long_context
    own = (
        dict.fromkeys(("dynamic_ntk", "logn", "window"), "checkpoint's")
        if laid is None
        else {"dynamic_ntk": "off", "logn": "off", "window": "none"}
    )
    return {**own, **shown}
