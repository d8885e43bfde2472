"""The report folder of one analysis: a page for people, pictures beside it, and the numbers for programs."""

from __future__ import annotations

import json
import os
import platform
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import mer_fast
from mer_fast.data._optional import require
from mer_fast.data.flow_io import write_flow
from mer_fast.files import atomic_folder

if TYPE_CHECKING:
    from mer_fast.analysis import Analysis
    from mer_fast.classification import Classification

PAGE, SUMMARY, ARRAYS = "report.html", "summary.json", "flow.npz"
PICTURES = ("face.png", "onset.png", "apex.png", "curve.png", "tim.png", "flow.png", "strain.png", "planted.png")
NETWORK_PICTURES = ("classes.png", "relevance.png")  # where a network was given
_PROGRAM = "mer_fast"
_CURVES = {
    "difference": "difference from the onset frame\n(gray levels)",
    "flow": "motion since the onset frame\n(pixels, fastest tenth of the face)",
}


def report_folder(path: str | os.PathLike[str]) -> AbstractContextManager[Path]:
    """Gives a temporary folder for `write_report`, and moves its files into `path` when the block succeeds: `atomic_folder`."""
    return atomic_folder(path, (PAGE, SUMMARY, ARRAYS, *PICTURES, *NETWORK_PICTURES), _is_report, SUMMARY)


def write_report(analysis: Analysis, folder: Path) -> None:
    """Writes the page, its pictures, `flow.npz` (`flow` (2, H, W), `strain` (1, H, W)) and `summary.json` into a folder."""
    from mer_fast.report_page import render_page

    summary = summarize(analysis)
    _draw(analysis, folder)
    write_flow(folder / ARRAYS, analysis.motion.flow, strain=analysis.motion.strain)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(render_page(summary), encoding="utf-8")


def summarize(analysis: Analysis) -> dict[str, Any]:
    """The numbers of an analysis as JSON keeps them. Frames count from 0, lengths are pixels of the crop, times seconds."""
    video, motion, box = analysis.video, analysis.motion, analysis.box
    lengths = np.hypot(*motion.flow)
    return {
        "program": _PROGRAM,
        "video": video.name,
        "width": video.width,
        "height": video.height,
        "fps": video.fps,
        "frames_read": video.frames_read,
        "frames_declared": video.frames_declared,
        "truncated": video.truncated,
        "onset": analysis.onset,
        "apex": analysis.apex,
        "apex_method": analysis.apex_method,
        "detector": analysis.detector,
        "face_box": {"x": box.x, "y": box.y, "width": box.width, "height": box.height},
        "size": analysis.size,
        "tim_frames": len(motion.clip),
        "tim_source_frames": len(motion.between),
        "tim_thinned": len(motion.between) < analysis.apex - analysis.onset + 1,
        "motion_mean": float(lengths.mean()),
        "motion_max": float(lengths.max()),
        "strain_mean": float(motion.strain.mean()),
        "strain_max": float(motion.strain.max()),
        "endpoint_error": None if analysis.error is None else _finite(analysis.error.moving),
        "endpoint_error_whole_crop": None if analysis.error is None else analysis.error.whole,
        "planted": _planted(analysis),
        "opencv": _opencv(analysis),
        "seconds": {stage: round(seconds, 6) for stage, seconds in analysis.seconds.items()},
        "versions": _versions(),
        **({} if analysis.classification is None else {"classification": _classification(analysis.classification)}),
    }


def _classification(said: Classification) -> dict[str, Any]:
    box = said.box
    return {
        "model": said.model,
        "network": said.network,
        "classes": list(said.classes),
        "probabilities": [float(share) for share in said.probabilities],
        "predicted": said.classes[said.predicted],
        "offset": said.offset,
        "whole_frame": said.whole_frame,
        "face_box": {"x": box.x, "y": box.y, "width": box.width, "height": box.height},
        "height": said.apex.shape[0],
        "width": said.apex.shape[1],
    }


def _planted(analysis: Analysis) -> dict[str, Any] | None:
    if analysis.planted is None:
        return None
    moving = np.hypot(*analysis.planted.flow)[analysis.planted.moving]
    return {
        "onset": analysis.planted.onset,
        "apex": analysis.planted.apex,
        "motion_mean": float(moving.mean()) if moving.size else 0.0,
        "motion_max": float(moving.max()) if moving.size else 0.0,
        "moving_share": float(analysis.planted.moving.mean()),
    }


def _opencv(analysis: Analysis) -> dict[str, Any] | None:
    rival = analysis.opencv
    if rival is None:
        return None
    return {
        "seconds": rival.seconds,
        "our_seconds": rival.our_seconds,
        "mean_difference": rival.mean_difference,
        "endpoint_error": None if rival.error is None else _finite(rival.error.moving),
        "endpoint_error_whole_crop": None if rival.error is None else rival.error.whole,
        "threads": torch.get_num_threads(),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _versions() -> dict[str, str]:
    return {
        "mer_fast": mer_fast.__version__,
        "torch": torch.__version__,
        "opencv": require("cv2").__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _draw(analysis: Analysis, folder: Path) -> None:
    from mer_fast import visualize as draw

    motion, fps, box = analysis.motion, analysis.video.fps, analysis.box
    onset, apex = motion.between[0], motion.between[-1]
    flows = [motion.flow] if analysis.planted is None else [motion.flow, analysis.planted.flow]
    scale = max(draw.flow_scale(flow) for flow in flows)  # one for both, so that they can be compared
    later = f", {(analysis.apex - analysis.onset) / fps:.2f} s later" if fps else ""
    figures = {
        "face.png": draw.face_figure(analysis.frame, (box.x, box.y, box.width, box.height)),
        "onset.png": draw.crop_figure(onset, f"Onset: frame {analysis.onset}"),
        "apex.png": draw.crop_figure(apex, f"Apex: frame {analysis.apex}{later}"),
        "curve.png": draw.curve_figure(analysis.curve, analysis.onset, analysis.apex, fps, _CURVES[analysis.apex_method]),
        "tim.png": draw.tim_figure(motion.clip),
        "flow.png": draw.flow_figure(motion.flow, onset, scale),
        "strain.png": draw.strain_figure(motion.strain, onset),
    }
    if analysis.planted is not None:
        figures["planted.png"] = draw.flow_figure(analysis.planted.flow, onset, scale)
    said = analysis.classification
    if said is not None:
        figures["classes.png"] = draw.classes_figure(said.classes, said.probabilities)
        figures["relevance.png"] = draw.relevance_figure(said.apex, said.strain, said.relevance, said.classes[said.predicted])
    for name, figure in figures.items():
        draw.save_figure(figure, folder / name)


def _is_report(folder: Path) -> bool:
    """Whether a folder holds a report of ours: its summary says so."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("program") == _PROGRAM
