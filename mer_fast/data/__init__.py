"""Videos, faces, apex frames, temporal augmentation, a preprocessing cache, and synthetic clips with a known truth."""

from .apex import Apex, spot_apex
from .apex_time import apex_time_sequence
from .cache import Cache, Entry
from .cached_clips import CachedClips
from .crops import Normalisation, eyes_and_mouth
from .faces import (
    Box,
    Detector,
    FixedBox,
    LBPCascade,
    OpenCVCascade,
    YuNet,
    crop,
    face_frames,
    find_face,
    find_face_in,
    make_detector,
)  # fmt: skip
from .network_inputs import NETWORK_INPUTS, NetworkInput, network_input
from .preprocessing import ArrayClip, Preprocessing
from .synthetic import SyntheticClip, Truth, read_truth, synthetic_clip, write_frames
from .temporal import DROP_RATIOS, drop_frames, tim_lengths
from .video import TruncatedVideoWarning, Video, to_gray

__all__ = [
    "DROP_RATIOS",
    "NETWORK_INPUTS",
    "Apex",
    "ArrayClip",
    "Box",
    "Cache",
    "CachedClips",
    "Detector",
    "Entry",
    "FixedBox",
    "LBPCascade",
    "NetworkInput",
    "Normalisation",
    "OpenCVCascade",
    "Preprocessing",
    "SyntheticClip",
    "TruncatedVideoWarning",
    "Truth",
    "Video",
    "YuNet",
    "apex_time_sequence",
    "crop",
    "drop_frames",
    "eyes_and_mouth",
    "face_frames",
    "find_face",
    "find_face_in",
    "make_detector",
    "network_input",
    "read_truth",
    "spot_apex",
    "synthetic_clip",
    "tim_lengths",
    "to_gray",
    "write_frames",
]
