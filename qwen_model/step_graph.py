"""A step of decoding as one CUDA graph: its thousand small kernels take longer to launch one by one than to run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qwen_model.cache import SlotCache, SlotLayout
from qwen_model.prefill import CausalLM


class StepGraph:
    """One token for each of up to `rows` rows; those that nobody is in are computed too and their logits dropped.

    A graph is of fixed shapes and places: masks cover the cache's whole capacity, and a cache that has grown wants a
    new graph.
    """

    def __init__(self, model: CausalLM, cache: SlotCache, rows: int) -> None:
        self._model, self._cache, self._rows, self._where = model, cache, rows, _places(cache)
        self._input = torch.zeros(3, rows, dtype=torch.long, device=model.device)
        """Each row's token, the tokens before it, and its NTK step."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor

    def fits(self, cache: SlotCache, rows: int) -> bool:
        return rows == self._rows and self._where == _places(cache)

    def step(self, tokens: Sequence[int], lengths: Sequence[int], steps: Sequence[int]) -> Tensor:
        """Write a token into each of the first len(tokens) rows; their logits (rows, V) in the model's dtype."""
        self._input[:, : len(tokens)] = torch.tensor([tokens, lengths, steps])
        self._input[:, len(tokens) :] = 0
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()
        return self._logits[: len(tokens)].clone()

    def _capture(self) -> torch.cuda.CUDAGraph:
        # of the model's own device: a thread's current one may be another, and a capture there would be empty
        with torch.cuda.device(self._model.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                # what is chosen or loaded at first use may not be captured; it writes the keys that the step writes
                self._run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._logits = self._run()
        return graph

    def _run(self) -> Tensor:
        tokens, ends, steps = self._input
        layout = self._cache.lay(SlotLayout(ends, steps, self._cache.capacity), ends)
        return self._model(tokens[:, None], layout=layout, cache=self._cache)[:, 0]


def _places(cache: SlotCache) -> list[tuple[int, torch.Size]]:
    return [(tensor.data_ptr(), tensor.shape) for tensor in (*cache.keys, *cache.values)]
