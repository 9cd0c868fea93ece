"""`qwen-train self-instruct`, `sft`, `reward`, `ppo`, `dpo` and `align`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Recipe = Annotated[Path, typer.Argument(help="A recipe: a .yaml file, or one that comes with the package.")]
Out = Annotated[Path, typer.Option(help="The run's folder; an unfinished run is continued.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE over the recipe, such as batch=32.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]


def register(app: typer.Typer) -> None:
    """Add the alignment stages to the command line."""
    app.command(epilog="Example: qwen-train sft sft.yaml --out train/sft --set model=train/base")(sft)
    for stage in (reward, ppo, dpo):
        name = stage.__name__
        app.command(epilog=f"Example: qwen-train {name} {name}.yaml --out train/{name}")(stage)
    app.command(epilog="Example: qwen-train self-instruct self-instruct --out data/tools --set model=train/base/model")(
        self_instruct
    )
    app.command(epilog="Example: qwen-train align align-nano --base BASE --data chat-data --out train/chat")(align)


def sft(recipe: Recipe, out: Out, set: Set = None, device: Device = "auto") -> None:
    """Fine-tune a base model on conversations; the model that chats is in OUT/model."""
    from qwen_train.alignment.settings import SFT
    from qwen_train.alignment.sft import run_sft

    _run(run_sft, SFT, recipe, out, set, device)


def reward(recipe: Recipe, out: Out, set: Set = None, device: Device = "auto") -> None:
    """Train a reward model on pairs of answers: `harness run --task preference --model OUT/model` measures it.

    Preference-model pretraining is the same on more and noisier pairs; the second run begins with its model.
    """
    from qwen_train.alignment.reward import run_reward
    from qwen_train.alignment.settings import Reward

    _run(run_reward, Reward, recipe, out, set, device)


def ppo(recipe: Recipe, out: Out, set: Set = None, device: Device = "auto") -> None:
    """Train a policy by PPO against a reward model or a function of yours; it is in OUT/model."""
    from qwen_train.alignment.ppo_run import run_ppo
    from qwen_train.alignment.settings import PPORecipe

    _run(run_ppo, PPORecipe, recipe, out, set, device)


def dpo(recipe: Recipe, out: Out, set: Set = None, device: Device = "auto") -> None:
    """Train a policy on pairs of answers directly, without a reward model; it is in OUT/model."""
    from qwen_train.alignment.dpo import run_dpo
    from qwen_train.alignment.settings import DPO

    _run(run_dpo, DPO, recipe, out, set, device)


def self_instruct(recipe: Recipe, out: Out, set: Set = None) -> None:
    """Have a model write conversations with tools, and keep those that pass the filters: data for `sft`.

    What was rejected is kept with the rule and the reason.
    """
    from qwen_train.alignment.recipes import read_stage
    from qwen_train.alignment.self_instruct import run_self_instruct
    from qwen_train.alignment.settings import SelfInstruct

    settings = read_stage(recipe, SelfInstruct, set or [])
    found = run_self_instruct(settings, out, lambda text: typer.echo(text, err=True))
    typer.echo(f"the conversations are in {found}", err=True)


def align(
    recipe: Recipe,
    base: Annotated[str, typer.Option(help="The base model: a checkpoint folder or a catalogue name.")],
    data: Annotated[Path, typer.Option(help="The folder that the recipe's data files lie in.")],
    out: Out,
    set: Set = None,
    device: Device = "auto",
) -> None:
    """From a base model to one trained by PPO: SFT, preference-model pretraining, reward model, PPO; in OUT/STAGE."""
    from qwen_train.alignment.chain import run_chain

    with _world(device) as (world, say):
        run_chain(recipe, base, data, out, set or [], world, say)


def _run(
    stage: Callable[..., Path], kind: Any, recipe: Path, out: Path, changes: list[str] | None, device: str
) -> None:
    from qwen_train.alignment.recipes import read_stage

    settings = read_stage(recipe, kind, changes or [])
    with _world(device) as (world, say):
        say(f"the model is in {stage(settings, out, world, say)}")


@contextmanager
def _world(device: str) -> Iterator[tuple[Any, Callable[[str], None]]]:
    """The processes of torchrun, or one alone, with a way to say things once."""
    from qwen_train.parallel import join_world

    with join_world(device) as world:
        yield world, lambda text: typer.echo(text, err=True) if world.first else None
