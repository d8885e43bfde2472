"""Videos, faces, apex frames, temporal augmentation, and synthetic clips with a known truth."""

from .apex import Apex, spot_apex
from .crops import Normalisation, eyes_and_mouth
from .faces import Box, Detector, FixedBox, LBPCascade, OpenCVCascade, YuNet, crop, face_frames, find_face, make_detector
from .synthetic import SyntheticClip, Truth, read_truth, synthetic_clip, write_frames
from .temporal import DROP_RATIOS, drop_frames, tim_lengths
from .video import TruncatedVideoWarning, Video, to_gray

__all__ = [
    "DROP_RATIOS",
    "Apex",
    "Box",
    "Detector",
    "FixedBox",
    "LBPCascade",
    "Normalisation",
    "OpenCVCascade",
    "SyntheticClip",
    "TruncatedVideoWarning",
    "Truth",
    "Video",
    "YuNet",
    "crop",
    "drop_frames",
    "eyes_and_mouth",
    "face_frames",
    "find_face",
    "make_detector",
    "read_truth",
    "spot_apex",
    "synthetic_clip",
    "tim_lengths",
    "to_gray",
    "write_frames",
]
