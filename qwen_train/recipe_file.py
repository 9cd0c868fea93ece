"""Files of recipes: a user's, or one that comes with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.yaml_file import read_table
from qwen_train.errors import TrainError


def stem(name: str | Path) -> str:
    """A recipe's name without its folder and `.yaml`."""
    return Path(name).name.removesuffix(".yaml")


def read_recipe_table(name: str | Path) -> dict[str, Any]:
    """A recipe's keys: of a file, or of the package's by its name (`nano`, `recipes/nano.yaml`). Raises TrainError."""
    folder = files("qwen_train") / "recipes"
    packaged = folder / f"{stem(name)}.yaml"
    if Path(name).is_file():
        return read_table(Path(name), str(name), TrainError, "model: nano-8m")
    if str(Path(name).parent) not in (".", folder.name) or not packaged.is_file():
        known = sorted(stem(path.name) for path in folder.iterdir())
        raise TrainError(f"{name}: no such recipe; give a .yaml file or one of {', '.join(known)}")
    return read_table(packaged, str(name), TrainError, "model: nano-8m")
