"""swap_layers on the ConvLSTM cells of others: what is recognised, what is left and why."""

import copy
import pickle

import pytest
import torch
from torch import nn as tnn

from mer_fast import ops, swap_layers

from .kit import assert_near


class ConvLSTMCell(tnn.Module):
    """The widely copied cell: gates i, f, o, g, the state a pair."""

    def __init__(self, input_dim=3, hidden_dim=5, kernel_size=(3, 3), bias=True):
        super().__init__()
        self.hidden_dim = hidden_dim
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.conv = tnn.Conv2d(input_dim + hidden_dim, 4 * hidden_dim, kernel_size, padding=padding, bias=bias)

    def forward(self, input_tensor, cur_state):
        h_cur, c_cur = cur_state
        combined_conv = self.conv(torch.cat([input_tensor, h_cur], dim=1))
        cc_i, cc_f, cc_o, cc_g = torch.split(combined_conv, self.hidden_dim, dim=1)
        i, f, o, g = torch.sigmoid(cc_i), torch.sigmoid(cc_f), torch.sigmoid(cc_o), torch.tanh(cc_g)
        c_next = f * c_cur + i * g
        h_next = o * torch.tanh(c_next)
        return h_next, c_next

    def init_hidden(self, batch_size, image_size):
        zeros = torch.zeros(batch_size, self.hidden_dim, *image_size, device=self.conv.weight.device)
        return zeros, zeros.clone()


class OurOrder(tnn.Module):
    """Gates i, f, g, o by chunk; state tensors one by one, with a default; gives h and (h, c); the state comes first."""

    def __init__(self):
        super().__init__()
        self.hidden = 4
        self.gates = tnn.Conv2d(2 + 4, 16, 3, padding="same", bias=False)
        self.act = tnn.Sigmoid()

    def forward(self, x, h=None, c=None):
        if h is None:
            h = c = x.new_zeros(x.shape[0], self.hidden, *x.shape[2:])
        i, f, g, o = self.gates(torch.cat((h, x), 1)).chunk(4, 1)
        c = self.act(f) * c + self.act(i) * g.tanh()
        h = self.act(o) * c.tanh()
        return h, (h, c)


class OtherOrder(tnn.Module):
    """Gates f, g, o, i by slices; state and result are (c, h)."""

    def __init__(self):
        super().__init__()
        self.conv = tnn.Conv2d(2 + 3, 12, (3, 5), padding=(1, 2))

    def forward(self, x, state):
        c, h = state
        z = self.conv(torch.cat([x, h], 1))
        c = z[:, :3].sigmoid() * c + z[:, 9:].sigmoid() * z[:, 3:6].tanh()
        return c, z[:, 6:9].sigmoid() * c.tanh()


class Net(tnn.Module):
    """A cell in a loop over (N, T, C, H, W), called by keywords as its authors do."""

    def __init__(self, **arguments):
        super().__init__()
        self.cell_list = tnn.ModuleList([ConvLSTMCell(**arguments), ConvLSTMCell(5, 5)])

    def forward(self, x):
        for cell in self.cell_list:
            state, outputs = cell.init_hidden(x.shape[0], x.shape[3:]), []
            for t in range(x.shape[1]):
                state = cell(input_tensor=x[:, t], cur_state=list(state))
                outputs.append(state[0])
            x = torch.stack(outputs, 1)
        return x


def results(cell, arguments):
    """Values and all gradients, flat."""
    out = cell(*arguments)
    flat = [part for one in out for part in (one if isinstance(one, tuple) else (one,))]
    total = sum((part * torch.linspace(0.5, 1.5, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in flat)
    return [*flat, *torch.autograd.grad(total, list(cell.parameters()))]


def maps(channels, size=(6, 7)):
    return torch.randn(2, channels, *size, dtype=torch.float64)


CELLS = {
    "i, f, o, g": (ConvLSTMCell, "i, f, o, g", lambda: (maps(3), (maps(5), maps(5)))),
    "i, f, g, o": (OurOrder, "i, f, g, o", lambda: (maps(2), maps(4), maps(4))),
    "f, g, o, i": (OtherOrder, "f, g, o, i", lambda: (maps(2), (maps(3), maps(3)))),
}


@pytest.mark.parametrize("case", CELLS)
def test_a_cell_is_swapped(case):
    make, order, arguments = CELLS[case]
    cell = make().double()
    original, parameters = copy.deepcopy(cell), list(cell.parameters())
    report = swap_layers(cell)
    assert [entry.names for entry in report.swapped] == [("",)] and f"gates {order} put in order" in str(report)
    assert isinstance(cell, make) and type(cell) is not make
    assert all(a is b for a, b in zip(cell.parameters(), parameters, strict=True))
    assert list(cell.state_dict()) == list(original.state_dict())
    given = arguments()
    for got, want in zip(results(cell, given), results(original, given), strict=True):
        assert_near(got, want, torch.float64, gradient=True)


def counted(monkeypatch):
    calls = []
    run = ops.conv_lstm
    monkeypatch.setattr(ops, "conv_lstm", lambda *args, **kwargs: (calls.append(1), run(*args, **kwargs))[1])
    return calls


def test_a_swapped_network_runs_by_the_op(monkeypatch):
    net = Net()
    original = copy.deepcopy(net)
    report = swap_layers(net)
    assert [entry.names[0] for entry in report.swapped] == ["cell_list.0", "cell_list.1"] and not report.left
    calls = counted(monkeypatch)
    x = torch.randn(2, 4, 3, 8, 9)
    assert_near(net(x), original.double()(x.double()), torch.float32)
    assert len(calls) == 8


def test_without_a_state_the_cells_own_code_runs(monkeypatch):
    cell = OurOrder()
    original = copy.deepcopy(cell)
    swap_layers(cell)
    calls = counted(monkeypatch)
    x, h = maps(2).float(), maps(4).float()
    assert torch.equal(cell(x)[0], original(x)[0]) and not calls
    assert_near(cell(x, c=h, h=h.clone())[0], original(x, h, h)[0], torch.float32)
    assert len(calls) == 1


def test_weights_changed_after_the_swap_are_seen():
    cell = ConvLSTMCell()
    original = copy.deepcopy(cell)
    swap_layers(cell)
    given = maps(3).float(), (maps(5).float(), maps(5).float())
    other = {key: torch.randn_like(value) for key, value in cell.state_dict().items()}
    cell.load_state_dict(other)
    original.load_state_dict(other)
    assert_near(cell(*given)[0], original(*given)[0], torch.float32)


def test_weights_that_are_zero_do_not_hide_the_order():
    cell = ConvLSTMCell()
    for parameter in cell.parameters():
        tnn.init.zeros_(parameter)
    assert "gates i, f, o, g" in str(swap_layers(cell))
    assert not any(parameter.any() for parameter in cell.parameters())


def test_a_swapped_cell_copies_pickles_and_is_not_swapped_again():
    cell = ConvLSTMCell(bias=False)
    swap_layers(cell)
    given = maps(3).float(), (maps(5).float(), maps(5).float())
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert type(other) is type(cell) and torch.equal(other(*given)[1], cell(*given)[1])
        assert other.conv.weight is not cell.conv.weight and other.init_hidden(1, (2, 2))[0].shape == (1, 5, 2, 2)
    again = swap_layers(cell)
    assert not again.swapped and not again.left


def test_a_swapped_cell_compiles_without_a_graph_break():
    torch.compiler.reset()
    cell = ConvLSTMCell()
    swap_layers(cell)
    given = maps(3).float(), (maps(5).float(), maps(5).float())
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), cell(*given))


def test_reading_cells_draws_no_random_numbers_and_changes_no_mode():
    cell = ConvLSTMCell().eval()
    before = copy.deepcopy(cell.state_dict())
    torch.manual_seed(1)
    swap_layers(cell)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1)) and not cell.training
    assert all(torch.equal(before[key], value) for key, value in cell.state_dict().items())


# --- what is left ----------------------------------------------------------------------------------------------------
class Coupled(ConvLSTMCell):
    """The forget gate is 1 - i."""

    def forward(self, x, state):
        h, c = state
        i, _, o, g = torch.split(self.conv(torch.cat([x, h], 1)), self.hidden_dim, dim=1)
        c = (1 - i.sigmoid()) * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ForgetBias(ConvLSTMCell):
    def forward(self, x, state):
        h, c = state
        i, f, o, g = torch.split(self.conv(torch.cat([x, h], 1)), self.hidden_dim, dim=1)
        c = (f + 1).sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class Rectified(ConvLSTMCell):
    def forward(self, x, state):
        h, c = state
        i, f, o, g = torch.split(self.conv(torch.cat([x, h], 1)), self.hidden_dim, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.relu()
        return o.sigmoid() * c.tanh(), c


class Peephole(ConvLSTMCell):
    def __init__(self):
        super().__init__()
        self.w_ci = tnn.Parameter(torch.zeros(5, 1, 1))


class Dropped(ConvLSTMCell):
    def __init__(self):
        super().__init__()
        self.drop = tnn.Dropout(0.5)

    def forward(self, x, state):
        return super().forward(self.drop(x), state)


class InTraining(ConvLSTMCell):
    def forward(self, x, state):
        h, c = super().forward(x, state)
        return (h * 2, c) if self.training else (h, c)


class Deciding(ConvLSTMCell):
    def forward(self, x, state):
        return super().forward(x, state) if x.sum() > 0 else state


class ConvGRUCell(tnn.Module):
    def __init__(self):
        super().__init__()
        self.conv_gates, self.conv_can = tnn.Conv2d(8, 10, 3, padding=1), tnn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x, h):
        r, z = self.conv_gates(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
        n = self.conv_can(torch.cat([x, r * h], 1)).tanh()
        return (1 - z) * h + z * n


def with_conv(**arguments):
    cell = ConvLSTMCell()
    cell.conv = tnn.Conv2d(8, 20, **{"kernel_size": 3, "padding": 1, **arguments})
    return cell


def hooked():
    cell = ConvLSTMCell()
    cell.conv.register_forward_hook(lambda module, args, out: out * 2)
    return cell


def parametrized():
    cell = ConvLSTMCell()
    tnn.utils.parametrizations.weight_norm(cell.conv)
    return cell


def replaced():
    cell = ConvLSTMCell()
    cell.forward = lambda x, state: ConvLSTMCell.forward(cell, x, state)
    return cell


LEFT = {
    "coupled gates": (Coupled, "no order of four LSTM gates gives its results"),
    "a forget bias": (ForgetBias, "no order of four LSTM gates gives its results"),
    "another activation": (Rectified, "it calls relu, which is no part of an LSTM cell"),
    "peepholes": (Peephole, "it has weights or buffers besides those of one convolution"),
    "dropout": (Dropped, "it has a Dropout besides the gates"),
    "another result in training": (InTraining, "no order of four LSTM gates gives its results"),
    "code that asks for values": (Deciding, "it cannot be traced or compared"),
    "a GRU": (ConvGRUCell, "it has weights or buffers besides those of one convolution"),
    "stride": (lambda: with_conv(stride=2), "not one with an odd kernel, stride 1 and zero padding"),
    "no padding": (lambda: with_conv(padding=0), "not one with an odd kernel"),
    "padding mode": (lambda: with_conv(padding_mode="reflect"), "not one with an odd kernel"),
    "groups": (lambda: with_conv(groups=2), "not one with an odd kernel"),
    "hooks": (hooked, "its convolution conv has hooks"),
    "parametrized": (parametrized, "its convolution conv is parametrized"),
    "complex": (lambda: with_conv(dtype=torch.complex64), "its weights are torch.complex64, not floats"),
    "forward": (replaced, "its forward was replaced"),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_with_the_reason(case):
    make, reason = LEFT[case]
    model = tnn.ModuleDict({"cell": make()})
    kind = type(model["cell"])
    report = swap_layers(model)
    assert type(model["cell"]) is kind and not report.swapped
    assert [entry.name for entry in report.left] == ["cell"] and reason in report.left[0].reason


class Up(tnn.Module):
    """Two inputs and a convolution, but no cell."""

    def __init__(self):
        super().__init__()
        self.conv = tnn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x, skip):
        return self.conv(torch.cat([x, skip], 1)).relu()


class Block(tnn.Module):
    def __init__(self):
        super().__init__()
        self.conv = tnn.Conv2d(4, 16, 3)

    def forward(self, x):
        return self.conv(x)


def test_ordinary_blocks_are_not_spoken_of():
    report = swap_layers(tnn.ModuleList([Block(), Up(), tnn.Conv2d(16, 4, 1)]))
    assert not report.swapped and not report.left


class Memory(tnn.Module):
    """A cell in all but its name, with a forget gate of 1 - i."""

    def __init__(self):
        super().__init__()
        self.conv = tnn.Conv2d(8, 20, 3, padding=1)

    def forward(self, x, state):
        return Coupled.forward(self, x, state)

    hidden_dim = 5


def test_what_only_looks_like_a_cell_is_spoken_of():
    report = swap_layers(tnn.ModuleList([Memory()]))
    assert not report.swapped and "no order of four LSTM gates" in report.left[0].reason
