"""What judges an answer in PPO: a reward model's folder, or a function of the user's."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path

import torch

from qwen_model.chatml import chat_tokenizer
from qwen_model.checkpoint import find_checkpoint, load_tokenizer
from qwen_train.alignment.models import begin_with, compute
from qwen_train.alignment.ppo import Scorer
from qwen_train.alignment.rollouts import Text, rewards_of
from qwen_train.errors import TrainError
from qwen_train.parallel import World


def scorer(name: str, policy: str, *, length: int, dtype: str, world: World) -> Scorer:
    """The scorer of a name: FILE.py:FUNCTION of (query, answer) texts, or a reward model's folder.

    Raises TrainError for a function that is not there, and for a reward model of another tokenizer than the policy's.
    """
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return _by_function(Path(file), function, policy)
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
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise TrainError(f"{path}: no such file; a reward of yours is given as path/to/file.py:function")
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
