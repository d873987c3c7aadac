"""What can be said to dataset.py and archive.py, and what other programs say of data in the same words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliPositionalArg,
    CliSubCommand,
    SettingsConfigDict,
    get_subcommand,
)

from arguments import TEXT_FLAGS, parse_arguments, refuse
from schemas import Tiles
from settings import WantedRuntime

# What several programs say of the same setting.
DATA = "folders of data: Pascal VOC, COCO, YOLO, CVAT, Label Studio, or packs; found by looking"
CLASSES = (
    'what names in the data mean, as in "pistol=handgun,gun knife=blade -other"; -NAME leaves those out; '
    'case and spaces do not matter. A name of your own, as in "rifle=ak47 axe", makes a class: then the '
    "classes named are the model's"
)
DANGEROUS = "which of the classes are weapons; the others are look-alikes; unset = pistol and knife"
NEGATIVES = "pictures without an annotation show no object"
VAL_FRACTION = "share of train held out, by recording; a root with a validation split keeps its own"
NEGATIVE_VAL_FRACTION = "share of the recordings without a weapon held out; unset = as the others"


class Read(BaseModel):
    """How annotations are read."""

    classes: str = Field("", description=CLASSES)
    negatives: CliImplicitFlag[bool] = Field(False, description=NEGATIVES)


class HeldOut(Read):
    """How they are read, and what of train validates."""

    val_fraction: float = Field(0.12, gt=0, lt=0.5, description=VAL_FRACTION)
    negative_val_fraction: float | None = Field(None, gt=0, lt=1, description=NEGATIVE_VAL_FRACTION)


class CheckCommand(HeldOut):
    """Look for all that would spoil training or its numbers; exit status 1 on errors."""

    data: CliPositionalArg[list[Path]] = Field(description=DATA)
    dangerous: list[str] = Field([], description=DANGEROUS)
    near: int = Field(40, ge=0, le=64, description="bits of 256 in which near duplicates differ at most")
    show: int = Field(5, ge=0, description="findings of a kind to list; 0: all")


class DownloadCommand(BaseModel):
    """Fetch the original data set (about 5,900 photographs); the same command resumes."""

    folder: CliPositionalArg[Path] = Field(Path("data"), description="where to put it: new, or begun before")
    url: str = Field("https://github.com/ari-dasci/OD-WeaponDetection", description="git repository")
    name: str = Field("Sohas_weapon-Detection", description="folder to fetch from it")


class StatsCommand(Read):
    """Plot classes, sizes and places of the boxes."""

    data: CliPositionalArg[list[Path]] = Field(description=DATA)
    output: Path = Field(Path("data-stats"), description="folder for stats.png and stats.json")


class SynthCommand(BaseModel):
    """Draw a small data set with six simple classes, to try training out."""

    folder: CliPositionalArg[Path] = Field(description="new folder")
    train: int = Field(240, ge=1, description="pictures to train and validate on")
    test: int = Field(60, ge=0, description="pictures to test on")
    seed: int = Field(0, ge=0, description="the same seed draws the same pictures")


class PackCommand(BaseModel):
    """Write data as few small files that, unpacked, give the same roots with smaller pictures."""

    data: CliPositionalArg[list[Path]] = Field(description=DATA)
    output: Path = Field(Path("runs/pack"), description="folder for the parts; an earlier pack goes")
    longer_side: int = Field(640, ge=32, description="of a packed picture at most, pixels")
    quality: int = Field(70, ge=1, le=100, description="of WebP")
    part_mb: float = Field(47.0, gt=0, description="millions of bytes in a part at most")


class ConvertCommand(Read):
    """Write data in another layout; what cannot be used is said and left out."""

    folders: CliPositionalArg[list[Path]] = Field(
        min_length=2, description=f"{DATA}; the last one is the folder to write: new or empty"
    )
    to: Literal["voc", "coco", "yolo"] = Field(description="the layout to write")


class DatasetCommand(BaseSettings):
    """Fetch, check, convert, plot, draw or pack training data."""

    model_config = SettingsConfigDict(
        env_prefix="DATASET_", frozen=True, extra="ignore", cli_prog_name="dataset.py", cli_kebab_case=True,
        cli_avoid_json=True, cli_hide_none_type=True,
    )  # fmt: skip

    check: CliSubCommand[CheckCommand] = Field(description="what is wrong with the data; status 1 on errors")
    convert: CliSubCommand[ConvertCommand] = Field(description="write Pascal VOC, COCO or YOLO")
    download: CliSubCommand[DownloadCommand] = Field(description="fetch the original data set, resumably")
    pack: CliSubCommand[PackCommand] = Field(description="few small files, for a machine elsewhere")
    stats: CliSubCommand[StatsCommand] = Field(description="plot classes, sizes and places of the boxes")
    synth: CliSubCommand[SynthCommand] = Field(description="draw a small data set, to try training out")


class Looking(BaseModel):
    """Which model looks, and how."""

    model: Path | None = Field(None, description="model folder; without it the registry is asked")
    runtime: WantedRuntime = Field("auto", description="what runs the network; auto: as the API chooses")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where the network runs")


class ScanCommand(Looking):
    """Look at every photo where it lies and write a row for each; the same command goes on after an end."""

    sources: CliPositionalArg[list[str]] = Field(
        description="folders, .tar shards, or addresses such as s3://bucket/folder"
    )
    output: str = Field("runs/archive", description="folder or address of the Parquet files")
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="lowest score kept; unset = the model's operating point"
    )
    tiles: Tiles = Field("1x1", description="overlapping tiles looked at too, for small objects")
    max_pixels: int = Field(
        40_000_000, ge=1, le=178_000_000, description="width x height of one picture at most"
    )
    cluster: str | None = Field(None, description="address of a Ray cluster; unset: this machine's cores")
    actors: int = Field(0, ge=0, description="photos looked at at once; 0: one for each core, or card")
    retry_failed: CliImplicitFlag[bool] = Field(False, description="look again at photos that failed")


class ReportCommand(Looking, HeldOut):
    """Say in one page how photos differ from the validation split."""

    photos: CliPositionalArg[str] = Field(
        description="what scan wrote, or the API's metrics, as http://127.0.0.1:8000/metrics"
    )
    data: list[Path] = Field(description=f"{DATA}; their validation split is looked at too")
    output: Path = Field(Path("runs/drift.html"), description="the page")


class ArchiveCommand(BaseSettings):
    """Look at archives of photos, from thousands to millions, and say what is different in them."""

    model_config = SettingsConfigDict(
        env_prefix="ARCHIVE_", frozen=True, extra="ignore", cli_prog_name="archive.py", cli_kebab_case=True,
        cli_avoid_json=True, cli_hide_none_type=True, protected_namespaces=(),
    )  # fmt: skip

    mlflow_tracking_uri: str = Field(
        "http://127.0.0.1:5000", validation_alias="mlflow_tracking_uri", description="MLflow tracker"
    )
    model_name: str = Field("weapon-detector", validation_alias="model_name", description="registered model")
    model_version: str | None = Field(
        None, validation_alias="model_version", description="its version; wins over the alias"
    )
    model_alias: str = Field("champion", validation_alias="model_alias", description="its alias")
    scan: CliSubCommand[ScanCommand] = Field(description="a row for each photo, in Parquet files")
    report: CliSubCommand[ReportCommand] = Field(description="how photos differ from validation")


def archive_command(arguments: Sequence[str] | None = None) -> tuple[ArchiveCommand, BaseModel]:
    """Return the settings of archive.py and its command, or say in sentences what is wrong and exit 2."""
    settings = parse_arguments(ArchiveCommand, arguments, list_flags=("--data",))
    command = get_subcommand(settings, is_required=False)
    if not isinstance(command, BaseModel):
        refuse("error: expected a command, as in: python archive.py scan photos/ (all: --help)")
    return settings, command


def dataset_command(arguments: Sequence[str] | None = None) -> BaseModel:
    """Return the command of dataset.py, or say in sentences what is wrong and exit 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given = _flags_first(given) if given[:1] == ["convert"] else given
    settings = parse_arguments(DatasetCommand, given, list_flags=("--dangerous",))
    command = get_subcommand(settings, is_required=False)
    if not isinstance(command, BaseModel):
        refuse("error: expected a command, as in: python dataset.py check data (all: --help)")
    return command


def _flags_first(given: Sequence[str]) -> list[str]:
    """Return a command's flags before its folders: argparse takes no folder behind a flag as one more."""
    flags: list[str] = []
    folders: list[str] = []
    waiting = iter(given[1:])
    for word in waiting:
        (flags if word.startswith("-") else folders).append(word)
        if word in ("--to", *TEXT_FLAGS):
            flags += [value for value in (next(waiting, None),) if value is not None]
    return [given[0], *flags, *folders]
