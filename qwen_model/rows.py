"""Sequences being written side by side: they enter with a prompt, take a token each per step, and leave singly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen_model import kernels
from qwen_model.cache import SlotCache
from qwen_model.memory import out_of_memory
from qwen_model.prefill import CausalLM, Reader
from qwen_model.step_graph import StepGraph


class Rows:
    """The model's side of decoding, without any choice of tokens.

    Dynamic NTK: a row keeps the step of its prompt; in the mode `exact` a row that outgrows its step is read anew at
    the next one. Turning its cached keys to the new base would be cheaper and not the same: from the second layer on,
    keys come from states that attended under the old base (docs/decisions/0005).
    """

    def __init__(self, model: CausalLM, reader: Reader, slots: int) -> None:
        self.model, self.reader = model, reader
        self.texts: list[list[int]]
        """All tokens of each row, prompt and written."""
        self._steps: list[int]
        self.cache: SlotCache
        self.clear(slots)
        self._settings = model.settings

    def __len__(self) -> int:
        return len(self.texts)

    @torch.inference_mode()
    def enter(self, prompts: Sequence[Sequence[int]], batch: Sequence[tuple[int, int]]) -> tuple[list[int], Tensor]:
        """Read the prompts that `batch` names (as `Reader.read` does) into new rows, the last ones.

        Returns their indices among `prompts` and the logits (n, V) of their next tokens, float32. Raises ValueError if
        other rows were begun under other long-context settings, OutOfMemory where the rows find no room; then none
        has entered.
        """
        self._check_settings()
        read = self.reader.read(prompts, batch, [[len(prompt) - 1] for prompt in prompts])
        with out_of_memory():
            shared = self.cache.share(self.reader.stack, batch[0][1])
            longest = max(len(prompts[member]) for member in read.members) - shared.shape[3]
            self.cache.make_room(len(self) + len(batch), longest + 1)
        for member, (start, end) in zip(read.members, read.spans, strict=True):
            self.cache.admit(self.reader.stack, read.prefix, start, end, shared=shared)
            self.texts.append(list(prompts[member]))
            self._steps.append(self.model.ntk_step(len(prompts[member])))
        return read.members, read.logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row; returns the logits (rows, V) of what comes next, in the model's dtype.

        Raises OutOfMemory; the rows are of no use then: `clear` them.
        """
        self._check_settings()
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)
        with out_of_memory():
            if self.model.captured:
                logits = self._graphed(tokens)
            else:
                layout = self.cache.begin_step(self._steps)
                written = torch.tensor(tokens, device=self.model.device)[:, None]
                logits = self.model(written, layout=layout, cache=self.cache)[:, 0]
        self.cache.end_step()
        if self.model.settings.dynamic_ntk == "exact":
            for row, text in enumerate(self.texts):
                if self.model.ntk_step(len(text)) != self._steps[row]:
                    logits[row] = self._read_anew(row)
        return logits

    @torch.inference_mode()
    def leave(self, row: int) -> int:
        """Free a row. The last row moves into its place; its old index is returned."""
        last = self.cache.release(row)
        self.texts[row], self._steps[row] = self.texts[last], self._steps[last]
        self.texts.pop()
        self._steps.pop()
        return last

    def clear(self, slots: int) -> None:
        """Leave all rows and their memory; there are `slots` from now on."""
        self.texts, self._steps = [], []
        model = self.model
        shares = slots <= kernels.MAX_ROWS and model.shares_keys
        self.cache = SlotCache(model.cache_shape, slots, model.dtype, model.device, shares=shares)
        self._graph: StepGraph | None = None

    def _graphed(self, tokens: Sequence[int]) -> Tensor:
        longest = max(self.cache.lengths) + 1
        if longest > self.cache.capacity:
            self._graph = None  # its memory goes before more is taken
        self.cache.make_room(len(self), longest)
        rows = min(self.cache.rows, 1 << (len(self) - 1).bit_length())
        if self._graph is None or not self._graph.fits(self.cache, rows):
            self._graph = None
            self._graph = StepGraph(self.model, self.cache, rows)
        return self._graph.step(tokens, self.cache.lengths, self._steps)

    def _check_settings(self) -> None:
        if self.model.settings == self._settings:
            return
        if self.texts:
            raise ValueError("texts were begun under other long-context settings than those in force; end them first")
        self._settings = self.model.settings
        self.clear(self.cache.slots)

    def _read_anew(self, row: int) -> Tensor:
        text = self.texts[row]
        read = self.reader.read([text], [(0, 0)], [[len(text) - 1]])
        self.cache.admit(self.reader.stack, read.prefix, *read.spans[0], row=row)
        self._steps[row] = self.model.ntk_step(len(text))
        return read.logits[0]
