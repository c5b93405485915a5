# mypy: ignore-errors
"""The kernel of triton_attention.py: a module of its own, as it can be imported only where Triton is installed."""

import triton
import triton.language as tl


@triton.jit
def sum_of_samples(
    value,
    shapes,
    starts,
    locations,
    weights,
    output,
    queries,
    keys,
    heads,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One query and head: all channels of the weighted sum of bilinear samples over levels and points.

    value: (batch, keys, heads, CHANNELS); shapes: (LEVELS, 2) int32; starts: (LEVELS,) int32; locations: (batch,
    queries, heads, LEVELS, POINTS, 2); weights: (batch, queries, heads, LEVELS, POINTS)
    WIDTH: a power of two that is at least CHANNELS
    """
    program = tl.program_id(0).to(tl.int64)
    head = program % heads
    image = program // heads // queries
    channel = tl.arange(0, WIDTH)
    inside = channel < CHANNELS
    total = tl.zeros((WIDTH,), dtype=tl.float32)
    for level in range(LEVELS):
        height = tl.load(shapes + 2 * level)
        width = tl.load(shapes + 2 * level + 1)
        first = image * keys + tl.load(starts + level)
        for point in range(POINTS):
            place = (program * LEVELS + level) * POINTS + point
            x = tl.load(locations + 2 * place) * width - 0.5
            y = tl.load(locations + 2 * place + 1) * height - 0.5
            share = tl.load(weights + place)
            left = tl.floor(x)
            top = tl.floor(y)
            for corner in range(4):
                column = left + corner % 2
                row = top + corner // 2
                on_map = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                near = (1.0 - tl.abs(x - column)) * (1.0 - tl.abs(y - row))
                cell = tl.where(on_map, row * width + column, 0.0).to(tl.int64)
                at = ((first + cell) * heads + head) * CHANNELS + channel
                sample = tl.load(value + at, mask=inside, other=0.0).to(tl.float32)
                total += tl.where(on_map, share * near, 0.0) * sample
    tl.store(output + program * CHANNELS + channel, total, mask=inside)
