"""Videos, faces, apex frames, temporal augmentation, synthetic clips with a known truth, and readers of licensed data sets."""

from .apex import Apex, spot_apex
from .check import CheckReport, check_folder
from .crops import Normalisation, eyes_and_mouth
from .faces import Box, Detector, FixedBox, LBPCascade, OpenCVCascade, YuNet, crop, face_frames, find_face, make_detector
from .readers import READERS, Clip, ClipSet, Fault, FaultReport, read_clips, recognised, write_clips
from .readers.composite import Composite, read_composite
from .readers.generate import make_example_folder
from .synthetic import SyntheticClip, Truth, read_truth, synthetic_clip, write_frames
from .temporal import DROP_RATIOS, drop_frames, tim_lengths
from .video import TruncatedVideoWarning, Video, to_gray

__all__ = [
    "DROP_RATIOS",
    "READERS",
    "Apex",
    "Box",
    "CheckReport",
    "Clip",
    "ClipSet",
    "Composite",
    "Detector",
    "Fault",
    "FaultReport",
    "FixedBox",
    "LBPCascade",
    "Normalisation",
    "OpenCVCascade",
    "SyntheticClip",
    "TruncatedVideoWarning",
    "Truth",
    "Video",
    "YuNet",
    "check_folder",
    "crop",
    "drop_frames",
    "eyes_and_mouth",
    "face_frames",
    "find_face",
    "make_detector",
    "make_example_folder",
    "read_clips",
    "read_composite",
    "read_truth",
    "recognised",
    "spot_apex",
    "synthetic_clip",
    "tim_lengths",
    "to_gray",
    "write_clips",
    "write_frames",
]
