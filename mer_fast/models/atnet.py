"""ATNet, the Apex-Time Network: a residual network on the apex frame, and an LSTM on the motion around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..ops._checks import require, require_count, require_float

APEX = (1, 224, 224)
SEQUENCE = (64, 128)


class ATNet(torch.nn.Module):
    """A spatial stream on the apex frame and a temporal stream on the optical flow around it, joined in front of the classifier.

    Spatial: BatchNorm -> conv 7x7, stride 2 -> BatchNorm -> ReLU -> max-pool 3, stride 2 (the last window is cut at the border)
    -> a residual block of `width` maps, then one each of 2, 4 and 8 times as many, stride 2 -> BatchNorm -> ReLU -> global
    average -> L2 norm. Blocks are pre-activated with 1x1 shortcuts; the first, behind a BatchNorm and ReLU already and of one
    width, has neither of its own. Temporal: two LSTM layers -> mean over time -> L2 norm. Both -> dropout -> Linear num_classes.

    8,316,933 parameters with 3 classes; each LSTM layer has PyTorch's two biases, where the published one has their sum. On a
    CPU it is faster after `.to(memory_format=torch.channels_last)`.

    Args:
        num_classes: how many logits.
        width: maps of the first convolution; 64 in the paper.
        hidden: of each LSTM layer; 512 in the paper.
        dropout: probability in front of the classifier.

    Shape: apex (N, 1, 224, 224), gray, on any one scale (its first layer normalises it); sequence (N, 64, 128) -> (N,
    num_classes). A row of the sequence is an 8x8 grid of (angle, magnitude) of the flow from one frame to the next,
    interleaved, with the apex at row 32 and zeros where the clip has no frames.

    Raises:
        MerFastError: counts below 1, a dropout outside 0..1; at a call, another shape, no float tensor, or apex frames and
            sequences of different number.

    Source: Peng, Wang, Bi, Chen, Zhou, Shi, "A novel apex-time network for cross-dataset micro-expression recognition", ACII
    2019, arXiv 1904.03699.
    """

    def __init__(self, num_classes: int, *, width: int = 64, hidden: int = 512, dropout: float = 0.5) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("width", width), ("hidden", hidden)):
            require_count("ATNet", name, value)
        fits = isinstance(dropout, (int, float)) and 0 <= dropout <= 1
        require(fits, "ATNet", "dropout", "must lie in 0..1, got {}", dropout)
        self.input_norm = torch.nn.BatchNorm2d(1)
        self.conv = torch.nn.Conv2d(1, width, 7, stride=2, padding=3)
        self.norm = torch.nn.BatchNorm2d(width)
        self.first = _Residual(width, width, 1)
        self.blocks = torch.nn.Sequential(*(_HalvingBlock(width << k) for k in range(3)))
        self.last_norm = torch.nn.BatchNorm2d(8 * width)
        self.lstm = _LSTM(SEQUENCE[1], hidden, num_layers=2)
        self.dropout = torch.nn.Dropout(dropout)
        self.classifier = torch.nn.Linear(8 * width + hidden, num_classes)

    def forward(self, apex: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
        for name, value, shape in (("apex", apex, APEX), ("sequence", sequence, SEQUENCE)):
            require(isinstance(value, torch.Tensor) and value.shape[1:] == shape, "ATNet", name,
                    "must be a tensor of shape (N, {}), got {}",
                    ", ".join(map(str, shape)), getattr(value, "shape", type(value).__name__))  # fmt: skip
            require_float("ATNet", name, value)
        require(apex.shape[0] == sequence.shape[0], "ATNet", "apex and sequence", "must be of the same clips, got {} and {}",
                apex.shape[0], sequence.shape[0])  # fmt: skip
        joined = torch.cat([F.normalize(self.spatial(apex)), F.normalize(self.lstm(sequence).mean(1))], 1)
        return self.classifier(self.dropout(joined))

    def spatial(self, apex: torch.Tensor) -> torch.Tensor:
        """Features (N, 8 * width) of the apex frames, before their norm."""
        maps = F.relu(self.norm(self.conv(self.input_norm(apex))))  # (N, width, 112, 112)
        maps = F.max_pool2d(maps, 3, 2, ceil_mode=True)  # (N, width, 56, 56)
        maps = self.blocks(maps + self.first(maps))  # (N, 8 * width, 7, 7)
        return F.relu(self.last_norm(maps)).mean((2, 3))


class _Residual(torch.nn.Module):
    """conv 3x3/stride -> BatchNorm -> ReLU -> conv 3x3: (N, channels, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(outputs)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.conv2(F.relu(self.norm(self.conv1(maps))))


class _HalvingBlock(_Residual):
    """A pre-activated block with a shortcut: (N, channels, H, W) -> (N, 2 * channels, H / 2, W / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels, 2)
        self.input_norm = torch.nn.BatchNorm2d(channels)
        self.shortcut = torch.nn.Conv2d(channels, 2 * channels, 1, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.input_norm(maps))
        # A slice, not a stride: the backward pass of a strided 1x1 convolution of 8 channels, channels last, crashes on a CPU.
        return self.shortcut(active[:, :, ::2, ::2]) + super().forward(active)


class _LSTM(torch.nn.RNNBase):
    """torch.nn.LSTM, parameters and all, in a form that torch.compile takes: (N, T, C) -> (N, T, hidden)."""

    def __init__(self, channels: int, hidden: int, num_layers: int) -> None:
        super().__init__("LSTM", channels, hidden, num_layers, batch_first=True)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        # torch.compile refuses torch.nn.LSTM, and has no gradient of the operator behind it on a CPU.
        if torch.compiler.is_dynamo_compiling():
            return self.unrolled(sequence)
        state = sequence.new_zeros(self.num_layers, sequence.shape[0], self.hidden_size)
        weights: list[torch.Tensor] = [weight for layer in self.all_weights for weight in layer]
        output, _, _ = torch.lstm(
            sequence, (state, state), weights, has_biases=True, num_layers=self.num_layers, dropout=0.0,
            train=self.training, bidirectional=False, batch_first=True,
        )  # fmt: skip
        return output

    def unrolled(self, sequence: torch.Tensor) -> torch.Tensor:
        """The same, step by step."""
        for weight_ih, weight_hh, bias_ih, bias_hh in self.all_weights:
            hidden = cell = sequence.new_zeros(sequence.shape[0], self.hidden_size)
            outputs = []
            for from_input in F.linear(sequence, weight_ih, bias_ih + bias_hh).unbind(1):
                i, f, g, o = torch.addmm(from_input, hidden, weight_hh.t()).chunk(4, 1)
                cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
                hidden = o.sigmoid() * cell.tanh()
                outputs.append(hidden)
            sequence = torch.stack(outputs, 1)
        return sequence
