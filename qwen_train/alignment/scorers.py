"""What judges an answer in PPO: a reward model's folder, or a function of the user's."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path

import torch

from qwen_model.chatml import chat_tokenizer
from qwen_model.checkpoint import find_checkpoint, load_tokenizer, read_config
from qwen_model.config_json import read_model_config
from qwen_train.alignment.models import begin_with, compute
from qwen_train.alignment.ppo import Scorer
from qwen_train.alignment.rollouts import Text, rewards_of
from qwen_train.errors import TrainError
from qwen_train.parallel import World


def is_function(name: str) -> bool:
    """Whether a reward is FILE.py:FUNCTION."""
    return name.rpartition(":")[0].endswith(".py")


def file_of(name: str) -> Path:
    """Of FILE.py:FUNCTION the file. Raises TrainError where it is not there."""
    path = Path(name.rpartition(":")[0])
    if not path.is_file():
        raise TrainError(f"{path}: no such file; a reward of yours is given as path/to/file.py:function")
    return path


def scorer(name: str, policy: str, *, length: int, dtype: str, world: World) -> Scorer:
    """The scorer of a name: FILE.py:FUNCTION of (query, answer) texts, or a reward model's folder.

    Raises TrainError for a function that is not there, for a language model, and for a reward model of another
    tokenizer than the policy's.
    """
    if is_function(name):
        return _by_function(file_of(name), name.rpartition(":")[2], policy)
    checkpoint = find_checkpoint(name)
    if not read_model_config(read_config(checkpoint.folder), str(checkpoint.folder / "config.json")).scalar_head:
        raise TrainError(f"{name}: a language model, whose head gives no rewards; train one of it: qwen-train reward")
    model = begin_with(name, scalar=True).to(world.device).eval().requires_grad_(False)
    compute(model, dtype)
    own, theirs = load_tokenizer(model.checkpoint), load_tokenizer(find_checkpoint(policy))
    probe = "Naïve 123\n\n你好 def f(x):"
    if own.encode(probe) != theirs.encode(probe):
        raise TrainError(f"{name}: its tokenizer is not the policy's; train the reward model from the same base")
    end = chat_tokenizer(own).im_end

    def by_model(texts: Sequence[Text]) -> list[float]:
        # the head is read at the end token, whether the policy wrote one or not
        ended = [[*text.ids, *([] if text.response[-1:] == (end,) else [end])] for text in texts]
        with torch.no_grad():
            found: list[float] = rewards_of(model, ended, length=length).tolist()
        return found

    return by_model


def _by_function(path: Path, name: str, policy: str) -> Scorer:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "it ends with .py"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise TrainError(f"{path}: cannot be imported ({error}); mend the file") from error
    function: Callable[[str, str], float] | None = getattr(module, name, None)
    if not callable(function):
        raise TrainError(f"{path}: no function {name!r}; it takes a query and an answer and returns a number")
    tokenizer = load_tokenizer(find_checkpoint(policy))

    def by_function(texts: Sequence[Text]) -> list[float]:
        found: list[float] = []
        for text in texts:
            score = function(tokenizer.decode(text.query), text.answer)
            if not isinstance(score, Real) or not math.isfinite(score):
                raise TrainError(f"{path}: {name} returned {score!r} for {text.answer[:40]!r}; give a finite number")
            found.append(float(score))
        return found

    return by_function
