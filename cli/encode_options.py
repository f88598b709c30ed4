"""The options of `alphaflow encode images` and `alphaflow encode videos`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Out = Annotated[
    Path,
    typer.Argument(
        metavar="OUT",
        help="Folder for the shards. It is created, or continued if an earlier run was interrupted.",
    ),
]
AutoencoderName = Annotated[
    str,
    typer.Option(
        help="Autoencoder to encode with: pixels (none), grey (none, one channel), a diffusers model on the Hub or in "
        "a folder, or module:name for your own."
    ),
]
Subfolder = Annotated[
    str | None,
    typer.Option(help="Subfolder of the model that holds the autoencoder, for example vae in a whole pipeline."),
]
Tiling = Annotated[
    bool,
    typer.Option(
        "--tiling", help="Encode and decode in overlapping tiles, to save memory on large images and long clips."
    ),
]
Size = Annotated[
    str,
    typer.Option(
        metavar="N|H,W",
        help="Size in pixels of every encoded image or frame: one number for a square, or height,width.",
    ),
]
CropName = Annotated[
    Literal["adm", "centre", "resize"],
    typer.Option(
        help="How to bring images to the size. adm: halve by box averaging, resize bicubically, cut out the centre. "
        "centre: cut out the largest part of the same aspect in the centre, resize with Lanczos. resize: stretch."
    ),
]
Prefix = Annotated[str, typer.Option(help="Prefix of the shard files: train gives train-000000.tar.")]
ClassList = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="File that lists all classes in order, one per line, with other names of a class after tabs; or a folder "
        "of shards whose class indices to use.",
        show_default="the classes found; for OUT/../val those of OUT/../train",
    ),
]
Changed = Annotated[
    bool, typer.Option("--changed", help="Encode again the shards whose files were replaced, added or removed since.")
]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="I/N: make only a part of the shards, as job I of N, counted from 0. Processes under torchrun divide the "
        "work by themselves.",
    ),
]
PerShard = Annotated[int, typer.Option(help="Number of samples in each shard.", min=1)]
BatchSize = Annotated[int, typer.Option(help="Number of samples that the autoencoder encodes at once.", min=1)]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Number of processes that decode files; 0 decodes in the main process.",
        min=0,
        show_default="processors − 1",
    ),
]
MaxRejects = Annotated[
    float,
    typer.Option(
        help="Largest share of the files, from 0 to 1, that may be unreadable before encoding stops.", min=0, max=1
    ),
]
ClipsPlace = Annotated[
    Path,
    typer.Argument(
        metavar="SRC",
        help="Where the clips are: a folder, zip or tars of CLASS/NAME.mp4; a folder of frames CLASS/VIDEO/0001.jpg "
        "(with --fps); or a CSV in Kinetics' format.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Split of the CSV to take.", show_default="the only one")]
Fps = Annotated[
    float | None,
    typer.Option(
        help="Frames per second, taken by time stamps; for folders of frames, the rate they were recorded at.",
        show_default="as stored",
    ),
]
Measured = Literal["channel", "element"]
Measure = Annotated[
    Measured | None,
    typer.Option(
        help="Measure shift and scale on the encoded samples: one pair for each channel, or for each element (channel "
        "and position).",
        show_default="the autoencoder's own",
    ),
]
MeasureOn = Annotated[
    int | None,
    typer.Option(
        help="Number of samples to measure shift and scale on, spread over all shards.", min=2, show_default="2048"
    ),
]
ImagesPlace = Annotated[
    Path,
    typer.Argument(
        metavar="SRC",
        help="Where the images are: a folder or zip of CLASS/NAME.jpg, WebDataset tars, or ImageNet's tars by "
        "class (n01440764.tar).",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="File of labels: a name and a label per line, or one label per line in the order of the file names, as "
        "in ILSVRC's ground truth."
    ),
]
Captions = Annotated[
    bool,
    typer.Option(
        "--captions",
        help="Also encode the caption of each image: the text NAME.txt beside NAME.jpg, or KEY.txt in WebDataset tars.",
    ),
]
TextEncoderName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FOLDER",
        help="Encoder of the captions: bytes (their bytes in UTF-8), or a text encoder of transformers on the Hub or "
        "in a folder.",
        show_default="bytes",
    ),
]
TextLength = Annotated[
    int | None,
    typer.Option(
        help="Largest number of tokens in a caption. Longer ones are rejects.",
        min=1,
        show_default="64 for bytes, else 77",
    ),
]
Pairs = Annotated[
    Path | None,
    typer.Option(
        metavar="PLACE",
        help="Folder, zip or tars of images with the same names as in SRC, whatever their endings: the images that the "
        "samples are conditioned on.",
    ),
]
