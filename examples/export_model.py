"""A trained network as a file of torch.export, from two gray frames to probabilities: python examples/export_model.py

What can be exported: the networks of mer_fast.models, networks after swap_layers, and the ops in front of them (flow, strain,
TIM), for any batch size. What cannot: reading a video and finding the face in it (mer_fast.data), which is no tensor work. The
file holds calls of torch.ops.mer_fast, so whoever loads it imports mer_fast first; the network's Python is not needed.
"""

import tempfile
from pathlib import Path

import torch
from synthetic_clips import frame_pairs

from mer_fast import models, ops


class FramesToProbabilities(torch.nn.Module):
    """Onset and apex, uint8 (N, H, W) each -> probabilities (N, classes)."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, onset, apex):
        return self.network(ops.tvl1_flow(onset, apex)).softmax(1)


def train(onset, apex, labels, epochs=5):
    network = models.create("strcn-g", 3, width=16)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    flow, losses = ops.tvl1_flow(onset, apex), []
    for _ in range(epochs):
        for batch in torch.randperm(len(flow)).split(6):
            loss = torch.nn.functional.cross_entropy(network(flow[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return network.eval(), losses


def export(network, onset, apex, file):
    """Writes the trained network with the flow in front of it."""
    whole = FramesToProbabilities(network).eval()
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(whole, (onset, apex), dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, file)
    return whole


def main():
    torch.manual_seed(0)
    onset, apex, labels = frame_pairs()
    network, losses = train(onset, apex, labels)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.pt2"
        whole = export(network, onset, apex, file)
        loaded = torch.export.load(file)
    new_onset, new_apex, labels = frame_pairs(count=5, seed=100)  # other clips, another batch size
    with torch.no_grad():
        found, expected = loaded.module()(new_onset, new_apex), whole(new_onset, new_apex)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    print(f"the same from the file; classes {found.argmax(1).tolist()}, {labels.tolist()} planted")
    return losses, whole, loaded


if __name__ == "__main__":
    main()
