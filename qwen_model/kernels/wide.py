"""Matrix products of many rows: torch's, by the library of its that is the faster one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: x (..., size), weight (N, size), result (..., N).

    In float32 on a CPU torch takes MKL, which some processors run at half of what oneDNN reaches on them; torch offers
    oneDNN to compiled models by the operator used here, and has no gradient for it.

    A weight of another type than x is read in x's: float32 weights under a pass in bfloat16, as training has them.
    """
    by_onednn = (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
    if by_onednn:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
