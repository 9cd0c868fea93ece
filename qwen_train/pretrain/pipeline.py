"""`qwen-train run`: raw text to a base model, each stage in a folder of its own, each done once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.records import write_atomic
from qwen_model import load_tokenizer
from qwen_model.qwen_tokenizer import CONTROL, FILE, RANKS
from qwen_train.errors import TrainError
from qwen_train.parallel import World
from qwen_train.pretrain.stage import pretrain
from qwen_train.recipe import Recipe
from qwen_train.tokenizer.train import ranks_of, train
from qwen_train.tokenizer.vocabulary import texts, write_vocabulary
from qwen_train.tokens.store import TOKENIZER, VALIDATION, TokenFiles
from qwen_train.tokens.write import write_tokens

HELD_OUT = "held-out.jsonl"


@dataclass(frozen=True)
class Places:
    """The folders of a run."""

    out: Path

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def tokenizer(self) -> Path:
        return self.out / "tokenizer"

    @property
    def tokens(self) -> Path:
        return self.out / "tokens"

    @property
    def training(self) -> Path:
        return self.out / "training"


def run(
    recipe: Recipe,
    corpus: Sequence[Path],
    out: Path,
    world: World,
    say: Callable[[str], None],
    start: Path | None = None,
) -> Path:
    """All stages that are not done yet; returns the folder of the trained model.

    The first process makes data, tokenizer and token files; all train. Raises TrainError, TaskError, ModelError.
    """
    from qwen_train.data.config import DataConfig
    from qwen_train.data.pipeline import run as make_documents
    from qwen_train.tokens.store import open_tokens

    places = Places(out)
    if world.first:
        if start is None:
            _check_vocabulary(recipe.data.vocabulary, places.tokenizer)
        say("stage 1 of 4, data: raw text to clean documents")
        make_documents(DataConfig(**recipe.data.settings), corpus, places.data)
        say("stage 2 of 4, tokenizer")
        tokenizer = start or _tokenizer(recipe, places)
        say("stage 3 of 4, tokens")
        files = write_tokens(
            places.data / "documents",
            tokenizer,
            places.tokens,
            seed=recipe.training.seed,
            validation=recipe.data.validation,
        )
        _held_out_texts(files)
        say(f"stage 4 of 4, training: {recipe.training.steps:,} steps")
    world.barrier()
    return pretrain(recipe, open_tokens(places.tokens), places.training, world, start)


def _check_vocabulary(asked: int | None, folder: Path) -> None:
    """Raises TrainError for a size that is none, and where there is a tokenizer of another."""
    wanted = RANKS + len(CONTROL)
    if asked is not None:
        wanted = ranks_of(asked, "data.vocabulary") + len(CONTROL)
    if (folder / FILE).is_file() and (size := load_tokenizer(folder).size) != wanted:
        raise TrainError(
            f"data.vocabulary: {wanted:,} ids; the tokenizer in {folder} has {size:,}; delete it or give another --out"
        )


def _tokenizer(recipe: Recipe, places: Places) -> Path:
    """The folder of the tokenizer: trained on the documents, or Qwen's own."""
    folder = places.tokenizer
    if (folder / FILE).is_file():
        return folder
    if recipe.data.vocabulary is None:
        import shutil

        from qwen_model.catalogue import obtain_vocabulary

        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{FILE}.partial"
        shutil.copyfile(obtain_vocabulary(), partial)
        partial.replace(folder / FILE)
        return folder
    tokens = train(texts([places.data / "documents"]), ranks_of(recipe.data.vocabulary, "data.vocabulary"))
    write_vocabulary(folder, tokens)
    return folder


def _held_out_texts(files: TokenFiles) -> None:
    """The documents held out as text, for `harness run --task long-ppl --documents`."""
    path = files.folder / HELD_OUT
    if path.is_file() or VALIDATION not in files.manifest["sets"]:
        return
    stream, tokenizer = files.open(VALIDATION), load_tokenizer(files.folder / TOKENIZER)
    lines, begin = [], 0
    for number, end in enumerate(stream.ends.tolist()):
        text = tokenizer.decode(stream.read(begin, end - begin - 1).tolist())
        lines.append(json.dumps({"id": f"held-out-{number}", "text": text}, ensure_ascii=False) + "\n")
        begin = end
    write_atomic(path, "".join(lines))
