"""Clips for the examples: a face whose brow, eyes or mouth move by known amounts. Put your own clips in their place."""

import torch

from mer_fast.data import synthetic_clip

REGIONS = ("brow", "eye", "mouth")
FRAMES, SIZE = 18, 64


def gray_clips(count=12, seed=0):
    """Gray values about zero (N, 1, 18, 64, 64), as MicroExpSTCNN reads them, and classes (N,)."""
    frames, labels = [], []
    for k in range(count):
        clip = synthetic_clip(
            REGIONS[k % 3], amplitude=1.0, frames=FRAMES, onset=0, apex=9, offset=17, size=SIZE, seed=seed + k
        )  # fmt: skip
        frames.append(torch.from_numpy(clip.frames).float().mean(3)[None] / 255)  # (1, T, H, W)
        labels.append(k % 3)
    values = torch.stack(frames)
    # The still face says nothing of the movement: what is left of it is small, so it is brought to a scale of one.
    motion = values - values[:, :, :1]
    return motion / motion.std(), torch.tensor(labels)


def frame_pairs(count=12, seed=0):
    """Onset and apex frames in gray, uint8 (N, 64, 64) each, and classes (N,)."""
    onsets, apexes, labels = [], [], []
    for k in range(count):
        clip = synthetic_clip(REGIONS[k % 3], amplitude=1.0, frames=3, onset=0, apex=1, offset=2, size=SIZE, seed=seed + k)
        onset, apex = torch.from_numpy(clip.frames[:2]).float().mean(3).round().to(torch.uint8)
        onsets.append(onset)
        apexes.append(apex)
        labels.append(k % 3)
    return torch.stack(onsets), torch.stack(apexes), torch.tensor(labels)
