"""What a base model is trained for: the next token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qwen_model.decoder import Decoder
from qwen_model.layout import Documents, Layout, Plain
from qwen_train.trainer.loss import next_token_loss


class NextToken(nn.Module):
    """The sum of -log p(target), as a module that can be sharded whole."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """`targets` (R, T) stand one ahead of `input_ids` (R, T), -100 where nothing is learnt. `segments` (R, T)
        numbers the documents of a row, which then read only themselves; None lets a row read on across them."""
        if segments is None:
            steps = torch.zeros(1, 1, dtype=torch.long, device=input_ids.device)
            layout: Layout = Plain(input_ids.shape[1], steps=steps)
        else:
            layout = Documents(segments)
        return next_token_loss(self.model.hidden(input_ids, layout), self.model.lm_head.weight, targets)
