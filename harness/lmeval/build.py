"""Builds a task of lm-evaluation-harness from its file, with the rows that our loader finds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.lmeval.mirrors import rows_of, source
from qwen_model.catalogue import hub_problem
from tasks.api import Loader, TaskError

LOCAL = ("json", "csv", "parquet", "text", "arrow")
"""Paths that are no data set but a way to read files, which are named apart."""


class _Splits(dict[str, Any]):
    """The splits of a data set as `datasets.Dataset`s, each loaded when it is first asked for."""

    def __init__(self, path: str, config: str | None, load: Loader) -> None:
        super().__init__()
        self._path, self._config, self._load = path, config, load

    def __missing__(self, split: str) -> Any:
        import datasets

        rows = self._load(source(self._path, self._config, split))
        self[split] = datasets.Dataset.from_list(rows_of(self._path, self._config, split, rows))
        return self[split]


def build(name: str, path: Path, load: Loader) -> Any:
    """An `lm_eval.api.task.Task` with few-shot examples seeded as lm-eval does by default.

    Raises TaskError where its data cannot be had, and for a task that needs what we do not give it.
    """
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    datasets.disable_progress_bars()
    with _quiet(), _explained(name):
        config = {key: value for key, value in load_yaml(path, resolve_func=True).items() if key not in _STRUCTURE}
        metadata = config.get("metadata", {})
        config["metadata"] = metadata if isinstance(metadata, dict) else {"_metadata": metadata}
        made = _with_our_data(config.get("class", ConfigurableTask), load)(config=config)
        if made.get_config("num_fewshot") is None:
            made.set_config(key="num_fewshot", value=0)
        made.set_fewshot_seed(seed=_FEWSHOT_SEED)
    if getattr(made, "UNSAFE_CODE", False):
        raise TaskError(f"lm-eval/{name}: it runs model-written code in the process; take a task of `harness tasks`")
    if getattr(made, "MULTIMODAL", False):
        raise TaskError(f"lm-eval/{name}: it shows pictures or plays sounds, which our models do not take")
    return made


_STRUCTURE = ("tag", "group", "task_list")
"""Keys of a task's file that are not of its configuration."""

_FEWSHOT_SEED = 1234
"""lm-eval's own default."""


def _with_our_data(kind: type[Any], load: Loader) -> Callable[..., Any]:
    """The class with its two ways to data replaced."""

    class Ours(kind):  # type: ignore[misc]
        def download(self, *arguments: Any, **named: Any) -> None:
            config = self.config
            if callable(config.custom_dataset) or config.dataset_kwargs or self.DATASET_PATH in LOCAL:
                problem = hub_problem()
                if problem and not callable(config.custom_dataset):
                    raise TaskError(
                        f"lm-eval/{config.task}: its data set {self.DATASET_PATH} is loaded by lm-eval itself, and the "
                        f"hub cannot be reached ({problem}); run it where there is one"
                    )
                super().download(*arguments, **named)
            else:
                self.dataset = _Splits(self.DATASET_PATH, self.DATASET_NAME, load)

        def fewshot_docs(self) -> Any:
            # lm-eval loads the examples of a task that shows none
            return super().fewshot_docs() if self.config.num_fewshot else None

    return Ours


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval warns of its own files' small omissions."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Libraries that only some tasks want are named in one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise TaskError(f"lm-eval/{name}: it needs the package {error.name}; install it") from error
