"""A step of decoding as one CUDA graph: its thousand small kernels take longer to launch one by one than to run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen_model.cache import SlotCache, SlotLayout
from qwen_model.prefill import CausalLM


class StepGraph:
    """One token for each row that a cache has memory for; what rows that nobody is in come to is not looked at.

    A graph is of fixed shapes: masks cover the cache's whole capacity, and a cache that has grown wants a new graph.
    """

    def __init__(self, model: CausalLM, cache: SlotCache) -> None:
        self._model, self._cache, self._sizes = model, cache, (cache.rows, cache.capacity)
        self._input = torch.zeros(3, cache.rows, dtype=torch.long, device=model.device)
        """Each row's token, the tokens before it, and its NTK step."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor

    def fits(self, cache: SlotCache) -> bool:
        return cache is self._cache and (cache.rows, cache.capacity) == self._sizes

    def step(self, tokens: Sequence[int], lengths: Sequence[int], steps: Sequence[int]) -> Tensor:
        """Write a token into each of the first len(tokens) rows; their logits (rows, V) in the model's dtype."""
        self._input[:, : len(tokens)] = torch.tensor([tokens, lengths, steps])
        self._input[:, len(tokens) :] = 0
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        self._graph.replay()
        return self._logits[: len(tokens)].clone()

    def _capture(self) -> None:
        # what is chosen or loaded at first use may not be captured; the keys it writes are those that the step writes
        ahead = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        ahead.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(ahead):
            self._run()
        torch.cuda.current_stream().wait_stream(ahead)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._run()
        self._graph = graph

    def _run(self) -> Tensor:
        tokens, ends, steps = self._input
        layout = self._cache.lay(SlotLayout(ends, steps, self._cache.capacity), ends)
        return self._model(tokens[:, None], layout=layout, cache=self._cache)[:, 0]
