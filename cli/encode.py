"""`alphaflow encode images|videos`: latent shards."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .command import Command
from .encode_options import (
    AutoencoderName,
    BatchSize,
    Captions,
    Changed,
    ClassList,
    ClipsPlace,
    CropName,
    Fps,
    ImagesPlace,
    Labels,
    MaxRejects,
    Measure,
    Measured,
    MeasureOn,
    Out,
    Pairs,
    PerShard,
    Prefix,
    ShardOf,
    Size,
    Split,
    Subfolder,
    TextEncoderName,
    TextLength,
    Tiling,
    Workers,
)
from .errors import INTERRUPTED, fail
from .options import Device, integers

if TYPE_CHECKING:
    from alphaflow.data_tools.decode import Transform
    from alphaflow.data_tools.encode import EncodingStats
    from alphaflow.data_tools.plan import EncodeOptions

    from alphaflow.data.decoding.sizes import Size as PixelSize
    from alphaflow.data.listing.listing import Listing
    from alphaflow.data.listing.tables import Classes
    from alphaflow.progress import Tell
    from alphaflow.text.text_encoder import TextEncoder

app = typer.Typer(help="Encode images or videos into latent shards.", no_args_is_help=True)


@app.command(no_args_is_help=True, cls=Command)
def images(
    src: ImagesPlace,
    out: Out,
    *,
    labels: Labels = None,
    classes: ClassList = None,
    autoencoder: AutoencoderName = "stabilityai/sd-vae-ft-ema",
    subfolder: Subfolder = None,
    tiling: Tiling = False,
    size: Size = "256",
    crop: CropName = "adm",
    mirror: Annotated[bool, typer.Option("--mirror", help="Also encode a mirrored copy of each image.")] = False,
    prefix: Prefix = "train",
    shard: ShardOf = None,
    samples_per_shard: PerShard = 1000,
    batch_size: BatchSize = 32,
    workers: Workers = None,
    max_rejects: MaxRejects = 0.01,
    changed: Changed = False,
    measure: Measure = None,
    measure_on: MeasureOn = None,
    captions: Captions = False,
    text_encoder: TextEncoderName = None,
    text_length: TextLength = None,
    pairs: Pairs = None,
    device: Device = "auto",
) -> None:
    """Encode images into latent shards.

    After an interruption the same command continues where it stopped.
    """
    from alphaflow.data_tools.decode import ImageTransform

    from alphaflow.autoencoders.opening import open_autoencoder
    from alphaflow.data.listing.listing import list_files

    text = _text_encoder(captions, text_encoder, text_length, device)
    transform = ImageTransform(_sides(size), crop, 2 if mirror else 1)
    options = _options(prefix, shard, samples_per_shard, batch_size, workers, max_rejects, changed, measure, measure_on)
    listing = _with_classes(
        lambda known: list_files(src, "images", classes=known, labels=labels, captions=captions, pairs=pairs),
        classes,
        out,
    )
    _encode(listing, out, open_autoencoder(autoencoder, subfolder, tiling, device), transform, options, text)


@app.command(no_args_is_help=True, cls=Command)
def videos(
    src: ClipsPlace,
    out: Out,
    *,
    clips_folder: Annotated[Path | None, typer.Option(help="Folder that holds the clips listed in the CSV.")] = None,
    split: Split = None,
    classes: ClassList = None,
    frames: Annotated[int, typer.Option(help="Number of frames in each clip.", min=1)] = 17,
    fps: Fps = None,
    clips: Annotated[int, typer.Option(help="Number of clips to take from each video, evenly spaced.", min=1)] = 1,
    autoencoder: AutoencoderName = "stabilityai/sd-vae-ft-ema",
    subfolder: Subfolder = None,
    tiling: Tiling = False,
    size: Size = "256",
    crop: CropName = "adm",
    prefix: Prefix = "train",
    shard: ShardOf = None,
    samples_per_shard: PerShard = 100,
    batch_size: BatchSize = 1,
    workers: Workers = None,
    max_rejects: MaxRejects = 0.01,
    changed: Changed = False,
    measure: Measure = None,
    measure_on: MeasureOn = None,
    device: Device = "auto",
) -> None:
    """Encode clips into latent shards.

    After an interruption the same command continues where it stopped.
    """
    from alphaflow.data_tools.decode import ClipTransform

    from alphaflow.autoencoders.opening import open_autoencoder
    from alphaflow.errors import UserError, is_number

    if fps is not None and not (is_number(fps) and fps > 0):
        raise UserError(f"--fps must be positive, got {fps:g}")
    options = _options(prefix, shard, samples_per_shard, batch_size, workers, max_rejects, changed, measure, measure_on)
    listing = _with_classes(_listing_of_clips(src, clips_folder, split, fps is not None), classes, out)
    transform = ClipTransform(_sides(size), frames, fps, crop, clips)
    _encode(listing, out, open_autoencoder(autoencoder, subfolder, tiling, device), transform, options)


def _sides(text: str) -> PixelSize:
    """--size, a number or height,width.

    Raises:
        UserError: it is neither.
    """
    from alphaflow.errors import UserError

    found = integers(text, "--size")
    if len(found) > 2 or min(found) < 1:
        raise UserError(f"--size takes a number of pixels, or height,width, for example 256 or 192,256; got {text!r}")
    return found[0] if len(set(found)) == 1 else (found[0], found[1])


def _text_encoder(captions: bool, name: str | None, length: int | None, device: str) -> TextEncoder | None:
    """What encodes captions; None where none are asked for.

    Raises:
        UserError: it is asked for, and captions are not; or there is none of this name.
    """
    from alphaflow.errors import UserError
    from alphaflow.text.text_encoders import open_text_encoder

    if captions:
        return open_text_encoder(name or "bytes", length, device)
    if name is not None or length is not None:
        raise UserError(f"--text-{'length' if name is None else 'encoder'} goes with --captions")
    return None


def _listing_of_clips(
    src: Path, clips_folder: Path | None, split: str | None, frames: bool
) -> Callable[[Classes | None], Listing]:
    """Lists clips with these classes."""
    from alphaflow.data.listing.kinetics import list_csv
    from alphaflow.data.listing.listing import list_files
    from alphaflow.errors import UserError

    if src.suffix.lower() == ".csv":
        return lambda known: list_csv(src, clips_folder, split=split, classes=known)
    if split or clips_folder:
        raise UserError(f"--{'split' if split else 'clips-folder'} goes with a CSV, and {src} is not one")
    return lambda known: list_files(src, "clips", classes=known, frames=frames)


def _with_classes(listed: Callable[[Classes | None], Listing], given: Path | None, out: Path) -> Listing:
    """What is to be encoded, its classes with the indices of a list, or of the training shards beside it.

    Raises:
        UserError: it has classes, is a split other than training's, and there is neither.
    """
    from alphaflow.data.listing.names import SPLITS
    from alphaflow.data.listing.tables import Classes, has_classes
    from alphaflow.data.shard_description import DATASET
    from alphaflow.errors import UserError

    other = out.name.lower() in SPLITS and not out.name.lower().startswith("train")
    train = next((place for place in sorted(out.parent.glob("train*/")) if (place / DATASET).is_file()), None)
    if given is None and other and train is not None and has_classes(train):
        print(f"classes: those of {train}, with their indices")
        given = train
    listing = listed(None if given is None else Classes(given))
    if listing.class_names and given is None and other:
        raise UserError(
            f"{out.name} must share its classes' indices with the training shards, and there are none at "
            f"{out.with_name('train')}: encode those first, or give --classes FILE, or the place of other shards"
        )
    return listing.mixed()


def _options(
    prefix: str,
    shard: str | None,
    per_shard: int,
    batch: int,
    workers: int | None,
    rejects: float,
    changed: bool,
    measure: Measured | None,
    measure_on: int | None,
) -> EncodeOptions:
    from alphaflow.data_tools.plan import EncodeOptions

    from alphaflow.errors import UserError

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    index, count = rank, world
    if shard is not None:
        try:
            job, jobs = (int(part) for part in shard.split("/"))
            index, count = job * world + rank, jobs * world
        except ValueError as error:
            raise UserError(f"--shard takes I/N, for example 0/8, got {shard!r}") from error
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    processes = max(_processors() // local - 1, 1) if workers is None else workers
    if measure is None and measure_on is not None:
        raise UserError("--measure-on goes with --measure channel or --measure element")
    return EncodeOptions(
        prefix, per_shard, batch, processes, index, count, rejects, changed, measure, measure_on or 2048
    )


def _processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2


def _encode(
    listing: Listing,
    out: Path,
    autoencoder: Any,
    transform: Transform,
    options: EncodeOptions,
    text: TextEncoder | None = None,
) -> None:
    from alphaflow.data_tools.encode import encode
    from alphaflow.data_tools.shard_writer import REJECTS

    from alphaflow.data.shard_description import DATASET
    from alphaflow.progress import shown

    count = options.workers
    beside = f"{count} process{'es' * (count > 1)} beside this one" if count else "this process"
    print(f"decoding in {beside}, on {_processors()} processors (--workers)", flush=True)
    try:
        with shown(sys.stdout, seconds=10.0) as tell:
            stats = encode(listing, out, autoencoder, transform, options, partial(_tell, tell), text)
    except KeyboardInterrupt:
        fail(f"interrupted; what is done stays in {out}, and the same command continues from there", INTERRUPTED)
    rate = stats.encoded / max(stats.seconds, 1e-9)
    print(f"{stats.encoded} encoded, {stats.rejected} rejected in {stats.seconds:.1f} s ({rate:.1f}/s)")
    if (stats.rejected or listing.rejects) and (out / REJECTS).is_file():
        print(f"rejects and their reasons: {out / REJECTS}")
    finished = json.loads((out / DATASET).read_text(encoding="utf-8"))["finished"]
    print(f"next: alphaflow verify {out}" if finished else f"the shards of other jobs are still missing in {out}")


def _tell(tell: Tell, stats: EncodingStats) -> None:
    seconds = max(stats.seconds, 1e-9)
    rate = stats.encoded / seconds
    shares = f"decode wait {stats.decoding / seconds:.0%}, encode {stats.encoding / seconds:.0%}"
    figures = f"{rate:.1f}/s  {shares}" + (f"  {stats.rejected} rejected" if stats.rejected else "")
    left = (stats.total - stats.done) / max(rate, 1e-9)
    line = f"{stats.done}/{stats.total}  {figures}  {left:.0f} s left"
    tell("[bold]encoding", stats.done, stats.total, figures, line)
