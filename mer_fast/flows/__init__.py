"""The flow of many clips: videos, folders of images and lists, streamed through one op into a folder, resumable at any moment."""

from .clips import Clip, Failure
from .formats import FORMATS
from .job import Summary, measure_flows
from .methods import METHODS
from .options import FlowOptions
from .search import find_clips

__all__ = ["FORMATS", "METHODS", "Clip", "Failure", "FlowOptions", "Summary", "find_clips", "measure_flows"]
