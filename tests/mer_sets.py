"""Tiny data sets and networks for the tests of evaluation and training."""

import pytest
import torch

SHAPE = (2, 6, 6)


class TinySet:
    """Clips (2, 6, 6) with a bright patch where their class says; subjects of unequal size."""

    def __init__(self, sizes=(4, 1, 5, 3), classes=3, seed=0, noise=0.5):
        draw = torch.Generator().manual_seed(seed)
        self.subjects = [f"s{k:02}" for k, size in enumerate(sizes) for _ in range(size)]
        self.classes = [i % classes for i in range(len(self.subjects))]
        self.inputs = noise * torch.randn(len(self.subjects), *SHAPE, generator=draw)
        for i, label in enumerate(self.classes):
            self.inputs[i, 0, :, 2 * label : 2 * label + 2] += 1
        self.read = []

    def __len__(self):
        return len(self.classes)

    def __getitem__(self, index):
        self.read.append(index)
        return self.inputs[index], self.classes[index]


class Tiny(torch.nn.Module):
    """A network with batch norm and dropout, so that statistics and random numbers matter."""

    def __init__(self, classes=3):
        super().__init__()
        self.conv = torch.nn.Conv2d(SHAPE[0], 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.dropout = torch.nn.Dropout(0.3)
        self.classifier = torch.nn.Linear(64, classes)

    def forward(self, maps):
        return self.classifier(self.dropout(self.norm(self.conv(maps)).relu().flatten(1)))


def gradient_steps(model, clips, steps=4):
    """A loop of the user's own."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs, labels = torch.stack([value for value, _ in clips]), torch.tensor([label for _, label in clips])
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks wait longer for a second thread than they gain by it. A file that imports this has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
