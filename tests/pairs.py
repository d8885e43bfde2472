"""Pairs of frames whose motion is known, and how near a flow must be to another."""

import torch


def pattern(x, y, seed):
    """Sixty random waves of 6 to 60 pixels, uint8: detail at every scale of the pyramid."""
    generator = torch.Generator().manual_seed(seed)
    angle, phase = 2 * torch.pi * torch.rand(2, 60, generator=generator)
    number = torch.logspace(-1, 0, 60) * 2 * torch.pi / 6
    waves = torch.sin(number * (x[..., None] * angle.cos() + y[..., None] * angle.sin()) + phase)
    return (127.5 + 11 * waves.sum(-1)).clamp(0, 255).round().to(torch.uint8)


def motion(height, width, shift):
    """Flow (2, H, W) of `shift` = (u, v) pixels in the middle, fading out towards the border, as an expression does."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    bump = torch.exp(-3 * ((2 * x / width - 1) ** 2 + (2 * y / height - 1) ** 2))
    return torch.tensor(shift)[:, None, None] * bump


def pair(height=37, width=45, shift=(1.3, -0.6), seed=0):
    """Two frames (H, W), the second one moved by `motion`."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    u, v = motion(height, width, shift)
    return pattern(x, y, seed), pattern(x - u, y - v, seed)


def assert_flow_near(out, ref, share=0.95, mean=0.02, near=0.1):
    """95% of pixels within 0.1 px of the reference, 0.02 px on average."""
    assert out.shape == ref.shape
    distance = (out.double().cpu() - ref.double().cpu()).norm(dim=-3)
    assert (distance <= near).double().mean() >= share, f"{(distance <= near).double().mean():.1%} within {near} px"
    assert distance.mean() <= mean, f"{distance.mean():.2g} px on average"
