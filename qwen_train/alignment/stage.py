"""What every stage does besides training: bad rows, what makes a run this run, and the model that it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records import difference, write_atomic
from qwen_model.checkpoint import find_checkpoint
from qwen_model.download import sha256_file
from qwen_train.alignment.conversations import BadRow
from qwen_train.alignment.models import export
from qwen_train.alignment.settings import DPO, SFT, PPORecipe, Reward, Stage
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.trainer import Trainer

Say = Callable[[str], None]
FILES = ("data", "validation", "queries", "held_out", "pretraining")
"""Fields of recipes that name files."""
RATES: Any = {"optimiser": True, "ppo": {"policy", "value"}}
"""Of recipes, what may be another when a run is gone on with."""
RUN = "recipe.json"


def keep_bad(bad: Sequence[BadRow], field: str, folder: Path, world: World, say: Say) -> None:
    """Say how many rows of a recipe's field are bad, name the first three, and keep all in `folder`/bad-FIELD.jsonl."""
    if not bad:
        return
    kept = folder / f"bad-{field}.jsonl"
    named = "; ".join(f"{row.where}: {row.problem}" for row in bad[:3])
    say(f"{len(bad)} bad rows left out ({named}{', ...' if len(bad) > 3 else ''}); all in {kept}")
    if world.first:
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in bad)
        write_atomic(kept, lines.encode("utf-8", "backslashreplace").decode())  # a lone surrogate is escaped


def deal(recipe: SFT | Reward | DPO | PPORecipe, world: World) -> None:
    """Raise TrainError unless a step's batch, or each of its minibatches, can be dealt evenly to all processes."""
    if isinstance(recipe, PPORecipe):
        size, parts = recipe.ppo.queries * recipe.ppo.responses, recipe.ppo.minibatches
        field = f"ppo: queries x responses in {parts} minibatches"
    else:
        field, size, parts = "batch", recipe.batch, 1
    if world.size > 1 and size % (world.size * parts):
        raise TrainError(
            f"{field}: {size} cannot be dealt evenly to {world.size} processes; give a multiple of {world.size * parts}"
        )


def of_run(recipe: Stage, **more: str) -> dict[str, Any]:
    """What the trainer keeps of a recipe. A run is this run by the recipe, the weights that it begins with, what its
    files hold, and `more`. Raises TrainError for a file that is not there."""
    rates = recipe.model_dump(mode="json", include=RATES)
    beside: Any = {**RATES, **dict.fromkeys(("checkpoint_every", "keep", "validate_every", "watch_every"), True)}
    told = recipe.model_dump(mode="json", exclude=beside)
    digests = {}
    for path in (path for name in FILES for path in told.get(name, [])):
        if not Path(path).is_file():
            raise TrainError(f"{path}: no such file; mend the recipe, or make the file first")
        digests[path] = sha256_file(Path(path))
    identity = {"recipe": told, "fingerprint": find_checkpoint(recipe.model).fingerprint, "files": digests, **more}
    return {
        "identity": identity,
        "changeable": rates,
        "smaller": "begin anew under another --out, with a lower length or dtype: bfloat16",
        "seed": recipe.seed,
        "checkpoint_every": recipe.checkpoint_every,
        "keep": recipe.keep,
    }


def finished(exported: Path, run: Mapping[str, Any]) -> bool:
    """Whether this very run (see `of_run`) was exported there. Raises TrainError where another one was."""
    note = exported.parent / RUN
    if not exported.exists():
        return False
    if not note.is_file():
        raise TrainError(f"{exported}: a model of something else; name another folder by --out")
    done = json.loads(note.read_text(encoding="utf-8"))
    if differs := difference(done, _of(run)):
        raise TrainError(
            f"{exported}: the model of another run: {differs}; name another folder by --out, or delete this one"
        )
    return True


def _of(run: Mapping[str, Any]) -> dict[str, Any]:
    """What was trained, as it stands beside the model."""
    whole: dict[str, Any] = json.loads(json.dumps({**run["identity"], **run["changeable"]}))
    return whole


def leave(trainer: Trainer, model: Any, exported: Path, run: Mapping[str, Any]) -> None:
    """Export the trained model whole; every process must ask."""
    world = trainer.world
    if world.size > 1:
        from qwen_model.decoder import Decoder

        checkpoint, weights = model.checkpoint, trainer.weights()
        model = Decoder(model.config)
        model.checkpoint = checkpoint
        state = {name.removeprefix("model.").removeprefix("_orig_mod."): value for name, value in weights.items()}
        model.load_state_dict(state, strict=not model.config.tie_word_embeddings)
    if world.first:
        write_atomic(exported.parent / RUN, json.dumps(_of(run), indent=1))
        export(model.cpu(), exported)
    world.barrier()
