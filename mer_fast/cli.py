"""The command `mer-fast`. Bad input ends it with one line on stderr and exit code 1; a traceback means a bug."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from mer_fast import cli_data, cli_training, console

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Facial micro-expression recognition made fast: flow, strain, temporal interpolation.",
)  # fmt: skip
app.add_typer(cli_data.app, name="data")
cli_training.add_to(app)


class ApexMethod(str, Enum):
    """How the apex is found."""

    difference = "difference"
    flow = "flow"


class Region(str, Enum):
    """What moves in the demo."""

    brow = "brow"
    eye = "eye"
    mouth = "mouth"


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False) -> None:
    """Show versions, devices and kernels, and why one is missing."""
    import mer_fast

    facts = mer_fast.info()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        console.print_facts(facts)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("mer-fast-demo"),
    seed: Annotated[int, typer.Option(help="Chooses the made clip.")] = 0,
    amplitude: Annotated[float, typer.Option(help="How far the skin moves at most, in pixels of the clip.")] = 1.5,
    region: Annotated[Region, typer.Option(help="What moves.")] = Region.mouth,
) -> None:
    """Plant a known motion in a face, measure it, and report how well that went."""
    from mer_fast.analysis import analyze as run
    from mer_fast.data import synthetic_clip, write_frames

    with tempfile.TemporaryDirectory(prefix="mer-fast-demo-") as folder, console.progress() as progress:
        frames = Path(folder) / "clip"
        progress("Making the clip", 0, None)
        write_frames(synthetic_clip(region.value, amplitude=amplitude, seed=seed), frames)
        name = f"a made clip ({region.value}, {amplitude:g} pixels, seed {seed})"
        analysis = run(frames, output=output, compare=True, name=name, progress=progress)
    console.print_analysis(analysis, output)


@app.command()
def analyze(
    video: Annotated[Path, typer.Argument(help="A video file, or a folder of images.")],
    output: Annotated[Path | None, typer.Option(help="Folder for the report. [default: named after the video]")] = None,
    onset: Annotated[int, typer.Option(help="Frame that motion is measured from, counted from 0.")] = 0,
    offset: Annotated[int | None, typer.Option(help="Last frame that is looked at. [default: the video's last]")] = None,
    detector: Annotated[str, typer.Option(help="lbp, opencv, a YuNet .onnx file, or the face box as x,y,width,height.")] = "lbp",
    size: Annotated[int, typer.Option(help="Side of the face crop, in pixels.")] = 128,
    frames: Annotated[int, typer.Option(help="Frames that temporal interpolation makes.")] = 10,
    apex: Annotated[ApexMethod, typer.Option(help="How the apex is found.")] = ApexMethod.difference,
    compare: Annotated[bool, typer.Option("--compare", help="Run OpenCV's TV-L1 on the same frames too.")] = False,
    model: Annotated[
        Path | None, typer.Option(help="A trained network (network.safetensors): its class for the clip, and why.")
    ] = None,
) -> None:
    """Find the face, the apex and the motion in a video, and write a report."""
    from mer_fast.analysis import analyze as run

    folder = output or default_output(video)
    with console.progress() as progress:
        analysis = run(
            video, output=folder, onset=onset, offset=offset, detector=detector, size=size, num_frames=frames,
            apex_method=apex.value, compare=compare, model=model, progress=progress,
        )  # fmt: skip
    console.print_analysis(analysis, folder)


@app.command()
def flow(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="Two images; or videos, folders of images or of clips, .txt lists of them."),
    ],
    output: Annotated[
        Path, typer.Option(help="Of clips a folder; of two images a file: .flo, .npz, or .png for a picture in colours.")
    ],
    method: Annotated[str, typer.Option(help="Which flow: tvl1, farneback.")] = "tvl1",
    preset: Annotated[
        str, typer.Option(help="Whose default parameters: opencv; ipol (tvl1), opencv-class (farneback).")
    ] = "opencv",
    pairs: Annotated[
        str, typer.Option(help="Frames that are paired: consecutive, onset (the first with each later one), onset-apex.")
    ] = "consecutive",
    step: Annotated[int, typer.Option(help="Every how many frames one is used.")] = 1,
    crop: Annotated[str | None, typer.Option(help="face: cut each clip to its face, found once. [default: whole frames]")] = None,
    detector: Annotated[
        str, typer.Option(help="As for analyze, where a face is needed: for the crop, and to find an apex.")
    ] = "lbp",
    size: Annotated[int, typer.Option(help="Side of the face crop, in pixels.")] = 128,
    format: Annotated[str, typer.Option(help="npy, npz: a file a clip. flo, png: a file a pair.")] = "npy",
    strain: Annotated[bool, typer.Option("--strain", help="Write the optical strain too.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda.")] = "cpu",
    batch: Annotated[int | None, typer.Option(help="Pairs measured at once. [default: by the size of the frames]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Drop what earlier runs have left in the folder.")] = False,
) -> None:
    """Measure optical flow between two images, or through many clips. Stopped and started again, it goes on."""
    from mer_fast.errors import MerFastError
    from mer_fast.flows import FlowOptions, measure_flows
    from mer_fast.flows.images import are_images, measure_images

    if crop not in (None, "face"):
        raise MerFastError(f"crop {crop!r} is unknown: give face")
    options = FlowOptions(
        method=method, preset=preset, pairs=pairs, step=step, crop=crop is not None, detector=detector, size=size, format=format,
        strain=strain, device=device, batch=batch,
    )  # fmt: skip
    with console.progress() as progress:
        if are_images(inputs):
            progress("Measuring the motion", 0, None)
            measure_images(inputs, output, options)
            typer.echo(f"{output}")
            return
        try:
            summary = measure_flows(inputs, output, options, overwrite=overwrite, progress=progress)
        except console.Stopped as stop:
            stop.word += f"; what is measured stays in {output}, and the same command goes on from there"
            raise
    console.print_flows(summary, output)
    raise typer.Exit(1 if summary.failures else 0)


def default_output(video: Path) -> Path:
    """The report folder of a video: named after it, in the current folder; `-report` is added where that is the video itself."""
    name = video.resolve().stem if video.is_file() else video.resolve().name
    folder = Path(name)
    return Path(f"{name}-report") if folder.resolve() == video.resolve() else folder


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits: 0, 1 on bad input, 2 on bad usage, 130 on Ctrl-C, 143 when asked to terminate."""
    from mer_fast.errors import MerFastError

    console.obey_signals()
    warnings.showwarning = _show_warning
    try:
        app(arguments)
    except console.Stopped as stop:
        console.complain(stop.word)
        console.leave(stop.exit_code)
    except MerFastError as error:
        console.complain(str(error))
        sys.exit(1)
    except OSError as error:
        console.complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        sys.exit(1)


def _show_warning(message: Warning | str, *unused: Any, **unused_too: Any) -> None:
    console.complain(f"warning: {message}")


if __name__ == "__main__":
    main()
