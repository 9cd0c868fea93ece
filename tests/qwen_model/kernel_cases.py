"""What the tests of the C++ kernels share: instruction sets, bounds, random numbers, a whole layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from qwen_model import kernels
from qwen_model.kernels import Layer, Projection

DTYPES = [torch.float32, torch.bfloat16]
# half a unit in the last place, relative
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
VARIANTS = {
    "native": (),
    "no-bf16": ("-mno-avx512bf16",),
    "avx2": ("-mno-avx512f",),
    "sse": ("-mno-avx",),
}


def random(*shape, dtype, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class OneLayer:
    """A layer of random weights and a cache that is filled up to each row's new token, with NaN behind it."""

    def __init__(self, dtype, heads, kv_heads, dim, lengths, hidden=48, inner=72):
        self.dtype, self.heads, self.kv_heads, self.dim = dtype, heads, kv_heads, dim
        queries, read = heads * dim, kv_heads * dim
        shapes = [(queries, hidden), (read, hidden), (read, hidden), (hidden, queries)]
        shapes += [(inner, hidden), (inner, hidden), (hidden, inner)]
        self.projections = [
            # scores far from equal, so that a wrong key shows
            Projection(random(*shape, dtype=dtype, seed=i) * (2 if i < 2 else 1) * shape[1] ** -0.5)
            for i, shape in enumerate(shapes)
        ]
        for i in range(3):
            self.projections[i] = self.projections[i]._replace(bias=random(shapes[i][0], dtype=dtype, seed=20 + i))
        self.norms = [1 + random(hidden, dtype=dtype, seed=30 + i) / 4 for i in range(2)]
        rows, capacity = len(lengths), max(lengths) + 3
        self.x = random(rows, 1, hidden, dtype=dtype, seed=40)
        angles = random(rows, 1, dim // 2, dtype=torch.float32, seed=41).repeat(1, 1, 2)
        self.turns = [1.5 * angles.cos(), 1.5 * angles.sin(), angles.cos(), angles.sin()]
        # a cache with more rows and room than are used, its strides not the plain ones
        cache = random(2, rows + 1, capacity, kv_heads, dim, dtype=dtype, seed=42).transpose(2, 3)
        self.keys, self.values = cache[0], cache[1]
        self.lengths = torch.tensor(lengths)
        for row, length in enumerate(lengths):
            cache[:, row, :, length - 1 :] = float("nan")

    def run(self, rows=None, lengths=None, places=None):
        lengths = self.lengths if lengths is None else lengths
        keys, values = self.keys.clone(), self.values.clone()
        places = lengths - 1 if places is None else places
        count = len(lengths) if rows is None else rows
        turns = [turn[:count] for turn in self.turns]
        slots = keys, values, places[:count], lengths[:count]
        layer = Layer(self.norms, self.projections, turns, slots)
        return kernels.layers(self.x[:count], [layer], 1e-6), keys, values

    def exact(self):
        """The same in float64, rounded nowhere."""
        x, keys, values = self.x.double()[:, 0], self.keys.double(), self.values.double()
        weights = [(p.weight.double(), 0 if p.bias is None else p.bias.double()) for p in self.projections]
        norms = [norm.double() for norm in self.norms]

        def normed(x, weight):
            return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

        def times(x, i):
            return x @ weights[i][0].T + weights[i][1]

        def turned(x, cos, sin):
            low, high = x.chunk(2, -1)
            return x * cos.double() + torch.cat((-high, low), -1) * sin.double()

        first = normed(x, norms[0])
        q, k, v = (times(first, i).view(len(x), -1, self.dim) for i in range(3))
        q, k = turned(q, *self.turns[:2]), turned(k, *self.turns[2:])
        read = torch.empty(len(x), self.heads, self.dim, dtype=torch.float64)
        for row, length in enumerate(self.lengths.tolist()):
            keys[row, :, length - 1], values[row, :, length - 1] = k[row], v[row]
            own_keys, own_values = (
                t[row, :, :length].repeat_interleave(self.heads // self.kv_heads, 0) for t in (keys, values)
            )
            scores = (own_keys @ q[row][..., None]).squeeze(-1) * self.dim**-0.5
            read[row] = (torch.softmax(scores, -1)[..., None] * own_values).sum(1)
        x = x + times(read.flatten(1), 3)
        second = normed(x, norms[1])
        return (x + times(F.silu(times(second, 4)) * times(second, 5), 6))[:, None], keys, values
