"""What can be said to the programs that train, evaluate, predict, and look after models."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliPositionalArg,
    CliSubCommand,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
    get_subcommand,
)

from arguments import parse_arguments, refuse
from commands_data import CLASSES, DANGEROUS, DATA, NEGATIVE_VAL_FRACTION, NEGATIVES, VAL_FRACTION, HeldOut
from schemas import Tiles
from settings import Device, WantedRuntime

PRESETS = Path(__file__).parent / "config"
# What two programs say of the same setting.
MAX_FALSE_ALARMS = (
    "weapon-free images in 1,000, at most, at the alarm point; the upper end of the 95 % interval counts"
)
MAX_UNSURE = "the same at the unsure point, from which a person is asked to look"


class ListCommand(BaseModel):
    """All versions with their measured numbers, newest first."""


class ShowCommand(BaseModel):
    """One version, and who made which version champion when and why."""

    version: CliPositionalArg[str | None] = Field(None, description="version number; default: the champion")


class PromoteCommand(BaseModel):
    """Make a version the champion, unless it is worse than the present one."""

    version: CliPositionalArg[str | None] = Field(None, description="version number; default: the challenger")
    why: str = Field("", description="the reason, for the record")
    force: CliImplicitFlag[bool] = Field(False, description="promote it even if it is worse")


class RollbackCommand(BaseModel):
    """Make the champion before this one champion again."""

    why: str = Field("", description="the reason, for the record")


class ImportCommand(BaseModel):
    """Register a model folder as a new version, unless the very same one is registered."""

    folder: CliPositionalArg[Path] = Field(description="holds model.json and weights.safetensors")
    source: str = Field("", description="where it comes from, in words; default: the folder's path")
    if_none: CliImplicitFlag[bool] = Field(False, description="only if there is no version at all yet")


class ExportCommand(HeldOut):
    """Write a version's model folder; with --format, export a model folder for another runtime."""

    folder: CliPositionalArg[Path] = Field(description="new or empty; with --format, a model folder")
    version: str | None = Field(None, description="version number; wins over --alias")
    alias: str = Field("champion", description="alias of the version")
    format: Literal["openvino", "onnx"] | None = Field(
        None, description="runtime that shall serve the folder's model without PyTorch; needs --data"
    )
    float_: CliImplicitFlag[bool] = Field(False, alias="float", description="no int8 (--format openvino)")
    data: list[Path] = Field(
        [],
        description="roots it was trained on: train calibrates int8, on val it is compared with PyTorch",
    )

    @model_validator(mode="after")
    def _data_for_a_format(self) -> Self:
        if bool(self.data) != bool(self.format):
            raise ValueError("--format and --data go together: an export is compared on photographs")
        return self


class CompareCommand(BaseModel):
    """The last runs side by side, and MLflow's page of the same."""

    runs: int = Field(4, ge=1, le=50, description="how many")
    experiment: str | None = Field(None, description="only this experiment's runs; default: all")
    parameters: int = Field(12, ge=0, description="differing parameters to show, the most telling first")
    markdown: CliImplicitFlag[bool] = Field(False, description="print what decides as a Markdown table")


class SyncCommand(BaseModel):
    """Send what a training run could not send because the tracker was away at its end."""

    folder: CliPositionalArg[Path] = Field(description="the run's --output folder")


class RegistryCommand(BaseSettings):
    """Look after the registered versions of the weapon detector."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", protected_namespaces=(), cli_prog_name="registry.py",
        cli_kebab_case=True, cli_avoid_json=True, cli_hide_none_type=True,
    )  # fmt: skip

    mlflow_tracking_uri: str = Field("http://127.0.0.1:5000", description="address of the MLflow tracker")
    model_name: str = Field("weapon-detector", description="registered model")
    experiment: str = Field("weapon-detector", description="MLflow experiment for imported models")
    list_: CliSubCommand[ListCommand] = Field(alias="list", description="all versions and their numbers")
    show: CliSubCommand[ShowCommand] = Field(description="one version, and all champions so far")
    promote: CliSubCommand[PromoteCommand] = Field(description="make a version the champion")
    rollback: CliSubCommand[RollbackCommand] = Field(description="go back to the champion before")
    import_: CliSubCommand[ImportCommand] = Field(alias="import", description="register a model folder")
    export: CliSubCommand[ExportCommand] = Field(
        description="write a version as a model folder, or a folder's model for another runtime"
    )
    compare: CliSubCommand[CompareCommand] = Field(description="the last runs side by side")
    sync: CliSubCommand[SyncCommand] = Field(description="send what a training run could not send")


def registry_command(arguments: Sequence[str] | None = None) -> tuple[RegistryCommand, BaseModel]:
    """Return the settings of registry.py and its command, or say in sentences what is wrong and exit 2."""
    settings = parse_arguments(RegistryCommand, arguments, list_flags=("--data",))
    command = get_subcommand(settings, is_required=False)
    if not isinstance(command, BaseModel):
        refuse("error: expected a command, as in: python registry.py list (all: --help)")
    return settings, command


def _number_of(value: Any) -> Any:
    """Turn "4" into 4: a flag and a variable bring text, and a choice among numbers does not take text."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


def fix_cublas_workspace() -> None:
    """Have cuBLAS sum in the same order each time; before its first use in this process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class TrainConfig(BaseSettings):
    """Fine-tune the weapon detector, log the run to MLflow and register the model.

    Flags win over TRAIN_... environment variables, those over the preset, that over the defaults here.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRAIN_", frozen=True, extra="forbid", cli_kebab_case=True, cli_implicit_flags=True,
        cli_prog_name="train.py", cli_avoid_json=True, protected_namespaces=(),
    )  # fmt: skip

    preset: str | None = Field(
        None, description="original, best, card, cpu, smoke or second-look: config/NAME.toml, or a path"
    )

    # data
    data: list[Path] = Field(description=DATA)
    classes: str = Field("", description=CLASSES)
    dangerous: list[str] = Field([], description=DANGEROUS)
    negatives: bool = Field(False, description=NEGATIVES)
    val_fraction: float = Field(0.12, gt=0, lt=0.5, description=VAL_FRACTION)
    negative_val_fraction: float | None = Field(None, gt=0, lt=1, description=NEGATIVE_VAL_FRACTION)
    limit: int | None = Field(None, ge=2, description="use at most this many training images")
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that read images; 0 = none of their own; unset = cores - 1, up to 16",
    )

    # network
    architecture: str = Field("fasterrcnn_resnet50_fpn", description="a key of architectures.ARCHITECTURES")
    weights: str = Field("coco", description="coco, none, a weights file, or a model folder to go on from")
    backbone_weights: Path | None = Field(None, description="state dict for the backbone alone")
    second_look_of: Path | None = Field(
        None,
        description="model folder: leave its network as it is, and train a second look at its weapon "
        "candidates, or go on with the one it has; --backbone-weights: EfficientNet-Lite0's to begin with. "
        "See the preset second-look",
    )
    trainable_layers: int = Field(3, ge=0, le=6, description="backbone stages that learn, from the last")
    min_size: int | None = Field(None, ge=32, description="network input, shorter side, pixels")
    max_size: int | None = Field(None, ge=32, description="network input, longer side at most, pixels")
    fpn_channels: int | None = Field(None, ge=16, description="pyramid width (light network)")
    fpn_min_stride: Annotated[Literal[4, 8], BeforeValidator(_number_of)] | None = Field(
        None, description="finest pyramid level (light network)"
    )
    box_head_width: int | None = Field(None, ge=16, description="box head width (light network)")
    rpn_post_nms_top_n: int | None = Field(None, ge=1, description="proposals per image when detecting")
    roi_sampling_ratio: int | None = Field(None, ge=1, description="RoIAlign points per bin side")
    norm: Literal["frozen", "batch"] | None = Field(None, description="batch norm: fixed or learning")
    image_mean: tuple[float, float, float] | None = Field(
        None, description="what the backbone expects: RGB mean in [0, 1], as 0.485,0.456,0.406"
    )
    image_std: tuple[float, float, float] | None = Field(None, description="and its standard deviation")
    double_normalise: bool = Field(False, description="normalise twice, as the original project did")

    # optimisation
    epochs: int = Field(10, ge=1, description="passes over the training split")
    minutes: float | None = Field(None, gt=0, description="time budget; the schedule ends with it")
    minutes_from: Literal["training", "start"] = Field(
        "training",
        description="start: the budget holds reading the data too, on a machine paid by the minute",
    )
    batch_size: int = Field(4, ge=1, description="images per optimiser step, over all processes")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="update rule")
    lr: float = Field(5e-3, gt=0, description="highest learning rate; scale it with batch_size")
    backbone_lr_factor: float = Field(1.0, gt=0, le=1, description="backbone learning rate / lr")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="L2 for SGD, decoupled for AdamW")
    schedule: Literal["step", "cosine", "constant"] = Field("step", description="how lr falls")
    lr_step_epochs: int = Field(5, ge=1, description="epochs between falls (step)")
    lr_gamma: float = Field(0.1, gt=0, le=1, description="factor of each fall (step)")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    clip_norm: float = Field(0.0, ge=0, description="largest gradient norm; 0 = no clipping")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights; 0 = none")
    rpn_batch: int = Field(256, ge=8, description="anchors sampled per image for the RPN loss")
    roi_batch: int = Field(512, ge=8, description="proposals sampled per image for the box loss")
    train_proposals: int = Field(2000, ge=16, description="proposals kept per image when training")

    # augmentation and sampling
    augmentation: Literal["none", "flip", "original", "large_scale_jitter", "surveillance"] = Field(
        "flip", description="surveillance: large_scale_jitter in poorer light and less sharp"
    )
    jitter_low: float = Field(0.5, gt=0, le=1, description="smallest zoom (the last two augmentations)")
    jitter_high: float = Field(1.6, ge=1, description="largest zoom (the last two augmentations)")
    mosaic: float = Field(0.0, ge=0, le=1, description="share of images laid together from four first")
    paste: float = Field(0.0, ge=0, le=1, description="share of the others with an object of another image")
    repeat_threshold: float = Field(0.0, ge=0, le=1, description="repeat images of classes rarer than this")
    repeat_negatives: float = Field(1.0, ge=1, description="times an epoch shows an image without objects")

    # evaluation and stopping
    eval_epochs: int = Field(1, ge=1, description="epochs between evaluations on the validation split")
    patience: int = Field(0, ge=0, description="evaluations without a better mAP before stopping; 0 = never")
    point_data: list[Path] = Field(
        [],
        description="the roots of --data whose validation split chooses points, calibration and bands; "
        "unset = all. Leave out roots whose photos were picked because a model was wrong on them",
    )
    max_false_alarms: float = Field(50.0, ge=0, description=MAX_FALSE_ALARMS)
    max_unsure: float = Field(200.0, ge=0, description=MAX_UNSURE)

    # machine
    device: Device = Field("auto", description="where the network learns; auto: cuda if there, else cpu")
    threads: int = Field(0, ge=0, description="CPU threads of the network; 0 = all")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the hardware multiplies it, float16 on other graphics cards"
    )
    deterministic: bool = Field(
        False,
        description="the same weights, bit for bit, from the same command on the same machine; "
        "takes an eighth longer on a processor, more on a graphics card",
    )
    channels_last: bool = Field(False, description="memory layout in which convolutions are fastest")
    seed: int = Field(0, ge=0, description="seeds split-free randomness: shuffling, sampling, new layers")

    # output
    output: Path = Field(Path("runs/latest"), description="folder of checkpoint, best model and report")
    resume: bool = Field(False, description="go on from output/checkpoint.pt, which also has the weights")
    checkpoint_minutes: float = Field(5.0, gt=0, description="minutes between checkpoints")
    half: bool = Field(False, description="store the model's weights as float16")
    mlflow_tracking_uri: str = Field(
        "http://127.0.0.1:5000", validation_alias="MLFLOW_TRACKING_URI", description="MLflow tracker"
    )
    experiment: str = Field("weapon-detector", description="MLflow experiment")
    run_name: str | None = Field(None, description="MLflow run name")
    parent_run: str | None = Field(None, description="MLflow run that this one is a part of, as of a sweep")
    model_name: str = Field("weapon-detector", description="registered model")
    register_model: bool = Field(True, description="register the best model when done")
    export: bool = Field(True, description="export the best model, to be served without PyTorch too")

    @model_validator(mode="after")
    def _no_clock_decides(self) -> Self:
        if self.second_look_of is not None and self.minutes is not None:
            raise ValueError("a second look is trained for whole passes: give --epochs instead of --minutes")
        if self.second_look_of is not None and self.dangerous:
            raise ValueError("the model of --second-look-of says what is dangerous: leave out --dangerous")
        if self.deterministic and self.minutes is not None:
            raise ValueError(
                "--deterministic cannot keep its promise with --minutes, which lets the clock set the "
                "learning rate: give --epochs instead"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Rank the preset below the environment."""
        preset = settings_cls.model_config.get("toml_file")
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, preset))


def train_config(arguments: Sequence[str] | None = None) -> TrainConfig:
    """Return the trainer's configuration: flags > environment > preset > defaults."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = os.environ.get("TRAIN_PRESET")
    for i, argument in enumerate(given):
        if argument == "--preset":
            name = given[i + 1] if i + 1 < len(given) else None
        elif argument.startswith("--preset="):
            name = argument.partition("=")[2]
    config_class: type[TrainConfig] = TrainConfig
    if name:
        path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
        if not path.is_file():
            known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.toml")))
            refuse(f"error: expected a preset file at {path}, found none; presets: {known}")
        config_class = type(
            "TrainConfig", (TrainConfig,),
            {"model_config": SettingsConfigDict(**{**TrainConfig.model_config, "toml_file": path}),
             "__doc__": TrainConfig.__doc__, "__module__": __name__},
        )  # fmt: skip
    return parse_arguments(config_class, given, list_flags=("--data", "--point-data", "--dangerous"))


class SweepConfig(BaseSettings):
    """Try many settings of train.py and say which is best. What all trials share stands behind --.

    python sweep.py config/sweeps/example.toml --minutes 20 --trials 30 -- --preset cpu --data FOLDER
    """

    model_config = SettingsConfigDict(
        env_prefix="SWEEP_", frozen=True, extra="ignore", cli_kebab_case=True, cli_prog_name="sweep.py",
        cli_avoid_json=True, cli_hide_none_type=True,
    )  # fmt: skip

    space: CliPositionalArg[Path] = Field(description="TOML file: what a trial may choose, knob by knob")
    trials: int = Field(20, ge=1, description="trials in all, those of an earlier start counted in")
    minutes: float = Field(20.0, gt=0, description="of training that each trial gets")
    prune: CliImplicitFlag[bool] = Field(
        True, description="stop a trial whose validation mAP is below the others' median at the same time"
    )
    seed: int = Field(0, ge=0, description="of the choices")
    output: Path = Field(Path("runs/sweep"), description="folder of the trials' folders, tables and plots")
    name: str = Field("sweep", description="of the study; the same one goes on")
    storage: str | None = Field(
        None,
        description="database of the study; unset = OUTPUT/study.db; a postgresql+psycopg:// address lets "
        "several machines work on one sweep",
    )
    ray: str | None = Field(
        None, description="spread the trials over a Ray cluster: its address, or local for this machine"
    )
    trial_cpus: float = Field(2.0, ge=0, description="cores that a trial takes (--ray)")
    trial_gpus: float = Field(0.0, ge=0, description="graphics cards that a trial takes (--ray)")
    experiment: str = Field("weapon-detector", description="MLflow experiment")
    mlflow_tracking_uri: str = Field(
        "http://127.0.0.1:5000", validation_alias="mlflow_tracking_uri", description="MLflow tracker"
    )


def sweep_config(arguments: Sequence[str] | None = None) -> tuple[SweepConfig, list[str]]:
    """Return what sweep.py is to do, and the flags behind -- that are train.py's."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    return parse_arguments(SweepConfig, given[:at]), given[at + 1 :]


class PredictConfig(BaseSettings):
    """Run photos through the model API and write what it finds."""

    model_config = SettingsConfigDict(
        env_prefix="PREDICT_", frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True,
        cli_kebab_case=True, cli_prog_name="client.py predict", cli_avoid_json=True, cli_hide_none_type=True,
    )  # fmt: skip

    photos: CliPositionalArg[list[str]] = Field(description="photos, folders of photos, or globs")
    format: Literal["jsonl", "csv", "coco", "label-studio", "pictures"] = Field(
        "jsonl", description="what to write"
    )
    studio_prefix: str = Field(
        "/data/local-files/?d=",
        description="what Label Studio puts before a photo's path (--format label-studio); as it is, its "
        "LOCAL_FILES_DOCUMENT_ROOT is /",
    )
    output: Path | None = Field(None, description="file, or folder for pictures; standard output if unset")
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="lowest score wanted; unset = the model's operating point"
    )
    labels: list[str] = Field([], description="class names wanted; unset = all")
    nms_iou: float | None = Field(
        None,
        gt=0,
        le=1,
        description="overlap above which the lower of two boxes of a class goes; unset = the model's",
    )
    max_detections: int | None = Field(None, ge=1, le=1000, description="at most so many per photo")
    probabilities: CliImplicitFlag[bool] = Field(
        False, description="add the probability of every class to each detection (JSON lines only)"
    )
    tiles: Tiles = Field(
        "1x1",
        description="look at so many overlapping tiles too, for small objects; auto: by the photo's size",
    )
    jobs: int = Field(2, ge=1, le=32, description="photos under way at once")
    api_url: str = Field(
        "http://127.0.0.1:8000", validation_alias="api_url", description="address of the model API"
    )
    api_key: str | None = Field(None, validation_alias="api_key", description="key for an API with API_KEYS")
    timeout: float = Field(60.0, gt=0, description="longest wait for one photo's answer, seconds")


def predict_config(arguments: Sequence[str] | None = None) -> PredictConfig:
    """Build the predict command's settings, or say in sentences what is wrong and exit 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] != ["predict"] and given[:1] not in (["-h"], ["--help"]):
        refuse("error: expected the command predict, as in: python client.py predict photos/")
    return parse_arguments(
        PredictConfig, given[1:] if given[:1] == ["predict"] else given, list_flags=("--labels",)
    )


class EvaluateConfig(BaseSettings):
    """Score a model on a split and write a report: report.html, report.json and plots.

    The model is a folder (--model) or comes from the registry (--model-name with --model-version or
    --model-alias).
    """

    model_config = SettingsConfigDict(
        env_prefix="EVALUATE_", frozen=True, extra="forbid", cli_kebab_case=True, cli_implicit_flags=True,
        cli_prog_name="evaluate.py", cli_avoid_json=True, protected_namespaces=(),
    )  # fmt: skip

    data: list[Path] = Field([], description=DATA)
    classes: str = Field("", description=CLASSES)
    split: Literal["train", "val", "test"] = Field("test", description="which images")
    video: bool = Field(
        False,
        description="also play the split's series of pictures as cameras see them, and score the alarms that "
        "the cameras' rule raises: missed events, time to alarm, false alarms per hour",
    )
    clips: list[Path] = Field(
        [],
        description="score them on labelled videos too: files, or folders of them, each with a JSON file "
        'beside it, {"weapons": [{"from_s": 3.2, "to_s": 9}]}; without --data on nothing else',
    )
    rate: float = Field(2.0, gt=0, le=30, description="pictures looked at per second (--video, --clips)")
    pan_seconds: float = Field(
        0.0, ge=0, le=600, description="with --video, move so long over each photograph that is in no series"
    )
    negatives: bool = Field(False, description=NEGATIVES)
    val_fraction: float = Field(0.12, gt=0, lt=0.5, description=f"{VAL_FRACTION}; as in training")
    negative_val_fraction: float | None = Field(
        None, gt=0, lt=1, description=f"{NEGATIVE_VAL_FRACTION}; as in training"
    )
    limit: int | None = Field(None, ge=1, description="use only this many images, evenly spread")
    model: Path | None = Field(None, description="model folder; without it the registry is asked")
    output: Path = Field(Path("reports/latest"), description="folder of the report")
    tiles: Tiles = Field(
        "1x1", description="look at overlapping tiles too, for small objects; auto: by the image's size"
    )
    compare_to_original: bool = Field(
        False, description="show the original project's published figures too (official test split only)"
    )
    robustness: bool = Field(False, description="also score darker, blurred, ... images: six times the work")
    latency: bool = Field(True, description="time the detector; leave it out where other work runs too")
    against: Path | None = Field(
        None, description="another evaluation's report: its figures beside these, and where the two differ"
    )
    fiftyone: bool = Field(False, description="also write a data set of FiftyOne; it need not be installed")
    log: bool = Field(False, description="log figures and report to the MLflow run that made the model")
    keep: bool = Field(
        False,
        description="write into the model folder: of the test split, its figures; of --split val, the "
        "points, calibration and bands that it chooses anew",
    )
    max_false_alarms: float = Field(50.0, ge=0, description=f"{MAX_FALSE_ALARMS} (--keep --split val)")
    max_unsure: float = Field(200.0, ge=0, description=f"{MAX_UNSURE} (--keep --split val)")
    device: Device = Field("auto", description="where the network runs; auto: cuda if there, else cpu")
    threads: int = Field(0, ge=0, description="CPU threads of the network; 0 = all")
    runtime: WantedRuntime = Field("torch", description="what runs the network; auto: as the API chooses")
    mlflow_tracking_uri: str = Field(
        "http://127.0.0.1:5000", validation_alias="mlflow_tracking_uri", description="MLflow tracker"
    )
    model_name: str = Field("weapon-detector", validation_alias="model_name", description="registered model")
    model_version: str | None = Field(None, validation_alias="model_version", description="before the alias")
    model_alias: str = Field("champion", validation_alias="model_alias", description="its alias")

    @model_validator(mode="after")
    def _has_something_to_score(self) -> Self:
        if not self.data and not self.clips:
            raise ValueError("data: expected a folder of photographs, or labelled videos with --clips")
        return self


def evaluate_config(arguments: Sequence[str] | None = None) -> EvaluateConfig:
    """Return what evaluate.py is to do: flags > environment > defaults."""
    return parse_arguments(EvaluateConfig, arguments, list_flags=("--data", "--clips"))
