"""A training loop of your own, on a plain PyTorch network whose layers were swapped: python examples/handwritten_loop.py"""

import torch
from synthetic_clips import gray_clips
from torch import nn

import mer_fast


def make_network(classes=3):
    """A 3-D convolution, pool and two linear layers, written without mer_fast."""
    return nn.Sequential(
        nn.Conv3d(1, 32, (15, 3, 3)), nn.ReLU(), nn.MaxPool3d(3), nn.Dropout(0.2),
        nn.Flatten(), nn.Linear(32 * 1 * 20 * 20, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


def main(epochs=6):
    torch.manual_seed(0)
    network = make_network()
    print(mer_fast.swap_layers(network))  # in place, so before or after the optimizer is made

    clips, labels = gray_clips()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for epoch in range(epochs):
        network.train()
        for batch in torch.randperm(len(clips)).split(4):
            loss = nn.functional.cross_entropy(network(clips[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}")

    network.eval()
    with torch.inference_mode():
        right = (network(clips).argmax(1) == labels).float().mean()
    print(f"right on the clips that it was trained on: {right:.0%}")
    return losses


if __name__ == "__main__":
    main()
