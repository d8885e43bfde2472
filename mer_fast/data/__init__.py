"""Videos, faces, apex frames, temporal augmentation, a preprocessing cache, synthetic clips with a known truth, and readers of
licensed data sets."""

from .apex import Apex, spot_apex
from .apex_time import apex_time_sequence
from .benchmark.clip import BenchmarkClip
from .benchmark.clip_set import SyntheticSet
from .cache import Cache, Entry
from .cached_clips import CachedClips
from .check import CheckReport, check_folder
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
from .readers import READERS, Clip, ClipSet, Fault, FaultReport, read_clips, recognised, write_clips
from .readers.composite import Composite, read_composite
from .readers.generate import make_example_folder
from .synthetic import SyntheticClip, Truth, read_truth, synthetic_clip, write_frames
from .temporal import DROP_RATIOS, drop_frames, tim_lengths
from .video import TruncatedVideoWarning, Video, to_gray
from .video_clip import VideoClip

__all__ = [
    "DROP_RATIOS",
    "NETWORK_INPUTS",
    "READERS",
    "Apex",
    "ArrayClip",
    "BenchmarkClip",
    "Box",
    "Cache",
    "CachedClips",
    "CheckReport",
    "Clip",
    "ClipSet",
    "Composite",
    "Detector",
    "Entry",
    "Fault",
    "FaultReport",
    "FixedBox",
    "LBPCascade",
    "NetworkInput",
    "Normalisation",
    "OpenCVCascade",
    "Preprocessing",
    "SyntheticClip",
    "SyntheticSet",
    "TruncatedVideoWarning",
    "Truth",
    "Video",
    "VideoClip",
    "YuNet",
    "apex_time_sequence",
    "check_folder",
    "crop",
    "drop_frames",
    "eyes_and_mouth",
    "face_frames",
    "find_face",
    "find_face_in",
    "make_detector",
    "make_example_folder",
    "network_input",
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
