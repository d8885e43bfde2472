"""Videos, faces, apex frames, and synthetic clips with a known truth."""

from .apex import Apex, spot_apex
from .crops import Normalisation, eyes_and_mouth
from .faces import Box, Detector, FixedBox, LBPCascade, OpenCVCascade, YuNet, crop, face_frames, find_face, make_detector
from .synthetic import SyntheticClip, Truth, read_truth, synthetic_clip, write_frames
from .video import TruncatedVideoWarning, Video, to_gray

__all__ = [
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
    "eyes_and_mouth",
    "face_frames",
    "find_face",
    "make_detector",
    "read_truth",
    "spot_apex",
    "synthetic_clip",
    "to_gray",
    "write_frames",
]
