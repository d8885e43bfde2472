"""float64 on a GPU, where it serves checks and not work: the steps of the recurrent operators by the library's operations.

Each takes what the kernel of that name takes, and fills what it fills.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..reference.recurrent_conv2d import same

if TYPE_CHECKING:
    from ._recurrent import Cell
    from .conv_lstm import Lstm

Maybe = torch.Tensor | None


def maps(rows: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W), a view of (N, H, W, C)."""
    return rows.permute(0, 3, 1, 2)


def fill(*pairs: tuple[Maybe, torch.Tensor]) -> None:
    """Copies (N, C, H, W) into rows (N, H, W, C), where there are some."""
    for rows, value in pairs:
        if rows is not None:
            maps(rows).copy_(value)


def state_share(h: Maybe, weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if h is None else F.conv2d(maps(h), weight, padding=same(weight))


def carried(after: Maybe, weight: torch.Tensor, carry: Maybe) -> torch.Tensor:
    """(N, D, H, W): what the later steps send back to the state behind a step."""
    total = torch.zeros((), dtype=weight.dtype, device=weight.device)
    if after is not None:
        total = F.conv_transpose2d(maps(after), weight, padding=same(weight))
    return total if carry is None else total + maps(carry)


def where(running: Maybe, new: torch.Tensor, old: torch.Tensor | float) -> torch.Tensor:
    return new if running is None else torch.where(running, new, old)


def lstm_step(
    cell: Lstm, t: int, ahead: torch.Tensor, h: Maybe, c: Maybe, next_h: torch.Tensor, next_c: torch.Tensor, output: Maybe,
    gates: Maybe, kept: Maybe,
) -> None:  # fmt: skip
    share = maps(ahead) + state_share(h, cell.weight_hh, maps(ahead))
    i, f, g, o = (share if cell.bias is None else share + cell.bias.view(-1, 1, 1)).chunk(4, 1)
    peep = [0, 0, 0] if cell.peephole is None else cell.peephole[..., None, None]
    h, c = (torch.zeros_like(i) if one is None else maps(one) for one in (h, c))
    i, f, g = (i + peep[0] * c).sigmoid(), (f + peep[1] * c).sigmoid(), g.tanh()
    new_c = f * c + i * g
    o = (o + peep[2] * new_c).sigmoid()
    new_h, running = o * new_c.tanh(), cell.running(t)
    if output is not None:
        output.copy_(where(running, new_h, 0))
    new_h, new_c = where(running, new_h, h), where(running, new_c, c)
    fill((next_h, new_h), (next_c, new_c), (gates, torch.cat((i, f, g, o), 1)))
    if kept is not None:
        fill((kept[0], new_h), (kept[1], new_c))


def lstm_replay(
    cell: Lstm, times: list[int], gates: torch.Tensor, states: torch.Tensor, cells: torch.Tensor, hidden: torch.Tensor
) -> None:
    h, c = states
    for s, t in enumerate(times):
        at, running = t - min(times), cell.running(t)
        cells[s], hidden[at] = c, h
        i, f, g, o = gates[at].chunk(4, -1)
        new = f * c + i * g
        h, c = where(running, o * new.tanh(), h), where(running, new, c)


def lstm_gradient(
    cell: Lstm, t: int, after: Maybe, grad: torch.Tensor, carry: Maybe, carried_on: Maybe, of_c: torch.Tensor,
    next_c: torch.Tensor, gates: torch.Tensor, before: torch.Tensor, of_gates: torch.Tensor, sums: Maybe,
) -> None:  # fmt: skip
    running, back, c = cell.running(t), carried(after, cell.weight_hh, carry), maps(before)
    i, f, g, o = where(running, maps(gates), 0).chunk(4, 1)
    peep = c.new_zeros(3, 1, 1, 1) if cell.peephole is None else cell.peephole[..., None, None]
    new = f * c + i * g
    dh = back + where(running, grad, 0)
    do = dh * new.tanh() * o * (1 - o)
    dc = maps(of_c) + dh * o * (1 - new.tanh() ** 2) + peep[2] * do
    di, df, dg = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g)
    fill(
        (next_c, where(running, dc * f + peep[0] * di + peep[1] * df, maps(of_c))),
        (carried_on, where(running, torch.zeros_like(back), back)), (of_gates, torch.cat((di, df, dg, do), 1)),
    )  # fmt: skip
    if sums is not None:
        sums[0] = torch.stack([one.sum((0, 2, 3)) for one in (di, df, dg, do, di * c, df * c, do * new)])


def gru_step(
    cell: Cell, biases: tuple[Maybe, Maybe], t: int, ahead: torch.Tensor, h: Maybe, next_h: torch.Tensor, output: Maybe,
    gates: Maybe, kept: Maybe,
) -> None:  # fmt: skip
    shares = maps(ahead), state_share(h, cell.weight_hh, maps(ahead))
    ahead, share = (
        one if bias is None else one + bias.view(-1, 1, 1) for one, bias in zip(shares, biases, strict=True)
    )
    (ahead_r, ahead_z, ahead_n), (share_r, share_z, q) = ahead.chunk(3, 1), share.chunk(3, 1)
    r, z = (ahead_r + share_r).sigmoid(), (ahead_z + share_z).sigmoid()
    n = (ahead_n + r * q).tanh()
    before, running = torch.zeros_like(n) if h is None else maps(h), cell.running(t)
    new = n + z * (before - n)
    if output is not None:
        output.copy_(where(running, new, 0))
    new = where(running, new, before)
    fill((next_h, new), (gates, torch.cat((r, z, n, q), 1)), (kept, new))


def gru_replay(
    cell: Cell, times: list[int], gates: torch.Tensor, state: torch.Tensor, states: torch.Tensor, hidden: torch.Tensor
) -> None:
    h = state
    for s, t in enumerate(times):
        at = t - min(times)
        states[s] = hidden[at] = h
        _, z, n, _ = gates[at].chunk(4, -1)
        h = where(cell.running(t), n + z * (h - n), h)


def gru_gradient(
    cell: Cell, t: int, after: Maybe, grad: torch.Tensor, carry: torch.Tensor, carried_on: torch.Tensor, gates: torch.Tensor,
    before: torch.Tensor, of_input: torch.Tensor, of_state: torch.Tensor, sums: Maybe,
) -> None:  # fmt: skip
    running, back, h = cell.running(t), carried(after, cell.weight_hh, carry), maps(before)
    dh = where(running, back + where(running, grad, 0), 0)
    r, z, n, q = where(running, maps(gates), 0).chunk(4, 1)
    dn, dz = dh * (1 - z) * (1 - n * n), dh * (h - n) * z * (1 - z)
    dr, dq = dn * q * r * (1 - r), dn * r
    fill(
        (carried_on, where(running, dh * z, back)), (of_input, torch.cat((dr, dz, dn), 1)),
        (of_state, torch.cat((dr, dz, dq), 1)),
    )  # fmt: skip
    if sums is not None:
        sums[0] = torch.stack([one.sum((0, 2, 3)) for one in (dr, dz, dn, dq)])
