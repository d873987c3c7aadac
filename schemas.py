"""The JSON that crosses a border: model.json beside the weights, and what the API says to its clients."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DANGEROUS = ("pistol", "knife")  # of a card that does not say
WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "model.json"  # a model folder's two files

Fraction = Annotated[float, Field(ge=0, le=1)]
Verdict = Literal["alarm", "unsure", "none"]  # possible weapon; not sure, look closely; nothing found
Tiles = Literal["1x1", "2x2", "3x3", "auto"]  # looked at beside the whole picture; 1x1: none


class _Frozen(BaseModel):
    """Immutable, and a misspelt or unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class _Answer(_Frozen):
    """What the API says. A client ignores what it does not know (RFC 9457, 3.2): versions may differ."""

    model_config = ConfigDict(extra="ignore")


# --- model.json -------------------------------------------------------------------------------------


class NetworkConfig(_Frozen):
    """Everything that decides the network's shape and arithmetic, the same in training and serving."""

    architecture: str = Field(description="a key of architectures.ARCHITECTURES")
    min_size: int = Field(800, ge=32, le=2048, description="shorter side of the network's input, pixels")
    max_size: int = Field(
        1333, ge=32, le=2048, description="longer side of the network's input at most, pixels"
    )
    rpn_post_nms_top_n: int = Field(1000, ge=1, description="proposals kept per image when detecting")
    box_detections_per_img: int = Field(100, ge=1, description="detections kept per image")
    box_score_thresh: Fraction = Field(0.05, description="detections below this score are never reported")
    box_nms_thresh: Fraction = Field(
        0.5, description="IoU above which the lower of two boxes of a class goes"
    )
    box_voting_iou: Fraction | None = Field(
        None, description="IoU from which boxes that went move the one that stayed; null for none"
    )
    roi_sampling_ratio: int = Field(2, ge=1, description="RoIAlign sampling points per bin side")
    fpn_channels: int = Field(256, ge=16, description="width of the feature pyramid (light network only)")
    box_head_width: int = Field(1024, ge=16, description="width of the box head (light network only)")
    fpn_min_stride: Literal[4, 8] = Field(8, description="finest pyramid level, pixels (light network only)")
    norm: Literal["frozen", "batch"] = Field("frozen", description="batch norm statistics fixed, or learnt")
    norm_eps: float = Field(1e-5, ge=0, description="batch norm epsilon; COCO weights of version 1 want 0")
    antialias: bool = Field(True, description="average when shrinking a picture; detecto does not")
    image_mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="RGB, in [0, 1]")
    image_std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="RGB, in [0, 1]")


class SecondLookConfig(_Frozen):
    """How weapon candidates are looked at again: detection.second_look says what becomes of their scores."""

    size_px: int = Field(192, ge=32, le=512, multiple_of=32, description="sides of the crop")
    context: float = Field(1.5, ge=1, le=4, description="side of the crop in longer sides of the box")
    smallest_px: int = Field(24, ge=1, description="side of the smallest crop, in pixels of the photograph")
    most: int = Field(4, ge=1, le=100, description="candidates of a photograph that are looked at")
    score_from: Fraction = Field(0.05, description="score from which a box is a candidate")
    weight: float = Field(1.0, ge=0, le=10, description="of the crop's log odds beside the detector's")


class OperatingPoint(_Frozen):
    """A score threshold, the rule and split that chose it, and what to expect there.

    precision and recall count boxes of weapons at IoU 0.5. image_recall is the share of images
    with a weapon in which at least one weapon detection reaches the threshold; false_alarms_per_1000
    the number of weapon-free images in 1,000 in which one does.
    """

    score_threshold: Fraction
    rule: str
    split: str
    precision: Fraction
    recall: Fraction
    image_recall: Fraction
    false_alarms_per_1000: float = Field(ge=0, le=1000)
    false_alarms_per_1000_high: float | None = Field(None, ge=0, le=1000)
    weapon_images: int = Field(ge=0)
    weapon_free_images: int = Field(ge=0)


class AlarmPoint(_Frozen):
    """One point of the alarm curve: what an alarm at this score threshold would catch and cost."""

    score_threshold: Fraction
    image_recall: Fraction
    false_alarms_per_1000: float = Field(ge=0, le=1000)


class AlarmFigures(_Frozen):
    """What the alarm catches and costs on one split: at the model's points, and at every threshold."""

    operating_point: OperatingPoint
    unsure_point: OperatingPoint | None = None
    curve: tuple[AlarmPoint, ...] = ()


class Calibration(_Frozen):
    """How the network's score of one class becomes the probability that such a box is right.

    logit(probability) = slope * logit(score) + offset, which rises with the score: a class's boxes keep
    their order. Right means: that class, at IoU 0.5 or more with a box of the truth that no better one took.
    """

    slope: float = Field(gt=0, allow_inf_nan=False)
    offset: float = Field(allow_inf_nan=False)


class Band(_Frozen):
    """A span of scores with a word for people, and how often a box of a weapon in it was right.

    It reaches from score_from up to the next band; bands stand in the order of their scores.
    """

    name: Literal["weak", "likely", "strong"]
    score_from: Fraction
    boxes: int = Field(ge=0, description="boxes of weapons of the split that fell into it")
    right: Fraction | None = Field(description="share of them that were right; null of no box")


class ClassThreshold(_Frozen):
    """The score threshold of best F1 for one class, from raw counts at IoU 0.5."""

    score_threshold: Fraction
    precision: Fraction
    recall: Fraction
    f1: Fraction


class CurvePoint(_Frozen):
    """One point of a class's precision-recall curve, from raw counts at IoU 0.5."""

    score_threshold: Fraction
    precision: Fraction
    recall: Fraction


class LookalikeCount(_Frozen):
    """How often a weapon and a look-alike were mixed up, of how many boxes; "any" is each of them."""

    weapon: str
    lookalike: str
    lookalike_boxes: int = Field(ge=0)
    called_weapon: int = Field(ge=0)
    weapon_boxes: int = Field(ge=0)
    called_lookalike: int = Field(ge=0)


class MeasuredTables(_Frozen):
    """The curves and tables of the report on a split, counts at the operating point.

    precision_recall is by class name. confusion is (C, C): row = truth, column = detection, background first.
    """

    split: Literal["val", "test"]
    precision_recall: dict[str, tuple[CurvePoint, ...]] = Field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    lookalikes: tuple[LookalikeCount, ...] = ()


class VideoFigures(_Frozen):
    """What the cameras' rule of confirmation makes of labelled clips, at the model's points.

    An event is a span of a clip in which a weapon is to be seen. It is alarmed if an alarm is raised within
    it, noticed if at least a person is asked to look. What is raised outside of events is false.
    time_to_alarm_s is the mean over the alarmed events, from the event's first picture to the alarm: the
    "alarm activation time per interval" (AATpI, at first AApI) of Olmos, Tabik and Herrera 2018. Theirs
    raised the alarm at the fifth picture with a weapon in a row: five_in_a_row counts the events that have
    five, five_in_a_row_s is the same mean for them. Ends of 95 % intervals are called low and high.
    """

    split: Literal["train", "val", "test"] | None = Field(description="of the series; None for videos alone")
    runtime: str = Field(description="what ran the network")
    clips: int = Field(ge=1)
    panned: int = Field(0, ge=0, description="clips of one photograph, over which the view moves")
    recordings: int = Field(ge=1)
    pictures: int = Field(ge=1)
    rate: float = Field(gt=0, description="pictures looked at per second")
    needed: int = Field(ge=1)
    window: int = Field(ge=1)
    cool_down_s: float = Field(ge=0)
    alarm_from: Fraction
    unsure_from: Fraction
    events: int = Field(ge=0)
    alarmed: int = Field(ge=0)
    alarmed_share: Fraction | None = None
    alarmed_share_low: Fraction | None = None
    alarmed_share_high: Fraction | None = None
    noticed: int = Field(ge=0)
    time_to_alarm_s: float | None = None
    time_to_alarm_median_s: float | None = None
    five_in_a_row: int = Field(0, ge=0)
    five_in_a_row_s: float | None = None
    alarms_per_event: float | None = Field(None, description="of those alarmed: how often somebody is told")
    weapon_free_hours: float = Field(ge=0)
    false_alarms: int = Field(ge=0)
    false_alarms_per_hour: float | None = None
    false_alarms_per_hour_low: float | None = None
    false_alarms_per_hour_high: float | None = None
    false_suspicions_per_hour: float | None = None

    @property
    def missed(self) -> int:
        """Events without an alarm."""
        return self.events - self.alarmed


Runtime = Literal["torch", "openvino", "onnx"]  # what runs the network
Precision = Literal["int8", "float"]


class NetworkGeometry(_Frozen):
    """What an exported network needs to be told, beside its card, to place and choose boxes.

    cell_anchors is (levels, anchors, 4): xyxy pixels around a cell's centre. pool_strides are those of the
    pyramid's levels that RoIAlign reads, finest first.
    """

    cell_anchors: tuple[tuple[tuple[float, float, float, float], ...], ...]
    pool_strides: tuple[int, ...]
    pool_size: int = Field(7, ge=1, description="bins of RoIAlign on each side")
    canonical_scale: int = Field(224, description="side of a box that RoIAlign reads at canonical_level")
    canonical_level: int = 4
    size_divisible: int = Field(32, ge=1, description="the network's input is padded to a multiple")
    rpn_pre_nms_top_n: int = Field(1000, ge=1, description="best anchors of each level that are looked at")
    rpn_nms_thresh: Fraction = 0.7
    rpn_score_thresh: Fraction = 0.0
    rpn_min_size: float = Field(1e-3, ge=0, description="sides of the smallest proposal, pixels")
    rpn_box_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)


class ComparedFigure(_Frozen):
    """A figure of the validation split, with PyTorch and with the export.

    low and high are the 95 % interval of PyTorch's, where there is one.
    """

    torch: float
    exported: float
    low: float | None = None
    high: float | None = None


class ExportComparison(_Frozen):
    """An export beside PyTorch on the validation split, and the time a photo takes, on one machine.

    figures are named as in the report: map, map_50, image_recall, false_alarms_per_1000 at the alarm point,
    and unsure/... at the unsure point. Milliseconds are medians from pixels to boxes, measured in turns.
    """

    split: Literal["val"] = "val"
    images: int = Field(ge=1)
    figures: dict[str, ComparedFigure]
    torch_ms: float = Field(gt=0)
    exported_ms: float = Field(gt=0)
    machine: str = ""


class Export(_Frozen):
    """The network in files of another runtime, beside weights.safetensors in the model folder.

    files are by their path in the folder, with their SHA-256. weights_sha256 is that of the weights they were
    made of. in_float names the parts that int8 would have spoilt. Without a comparison it is not served.
    """

    runtime: Literal["openvino", "onnx"]
    precision: Precision
    in_float: tuple[str, ...] = ()
    files: dict[Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z_]+\.[a-z]+$")], str]
    weights_sha256: str
    geometry: NetworkGeometry
    library_versions: dict[str, str] = Field(default_factory=dict)
    comparison: ExportComparison | None = None


class ModelCard(_Frozen):
    """model.json: with weights.safetensors beside it, all that is needed to rebuild and run a detector.

    class_names has "__background__" first; dangerous are those of them that are weapons, pistol and knife
    where an old card does not say. metrics are fractions named split/word, as in MLflow.
    From operating_point a weapon is an alarm, from unsure_point a person is asked to look closely.
    Both, alarm_curve and bands are of the validation split, which chose them and so flatters them;
    tested_alarm is of the test split, once evaluate.py has kept it. All scores and thresholds are
    calibrated ones, by class name, where there is a calibration; without one they are the network's own.
    data_fingerprint is the SHA-256 of the training and validation file names, boxes and bytes.
    weights_sha256 is that of weights.safetensors, so that a mixed-up pair is noticed.
    exports are the same network for other runtimes, at most one of each runtime and precision.
    """

    format: Literal[1] = 1
    network: NetworkConfig
    class_names: tuple[str, ...]
    dangerous: tuple[str, ...] = ()
    second_look: SecondLookConfig | None = Field(None, description="None: the detector's scores stand")
    weights_sha256: str = ""
    exports: tuple[Export, ...] = ()
    calibration: dict[str, Calibration] = Field(default_factory=dict)
    operating_point: OperatingPoint | None = None
    unsure_point: OperatingPoint | None = None
    bands: tuple[Band, ...] = ()
    class_thresholds: dict[str, ClassThreshold] = Field(default_factory=dict)
    alarm_curve: tuple[AlarmPoint, ...] = ()
    tested_alarm: AlarmFigures | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    tables: MeasuredTables | None = None
    video: VideoFigures | None = Field(None, description="of evaluate.py --video on the test split")
    data_fingerprint: str = ""
    data: dict[str, Any] = Field(default_factory=dict, description="roots, images and boxes per split")
    library_versions: dict[str, str] = Field(default_factory=dict)
    git_commit: str = ""
    created_at: str = ""
    run_id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_the_six(cls, given: Any) -> Any:
        """Let a card that does not say what is dangerous mean pistol and knife."""
        if isinstance(given, dict) and "dangerous" not in given:
            names = given.get("class_names")
            names = names if isinstance(names, list | tuple) else ()
            return {**given, "dangerous": tuple(name for name in names if name in DANGEROUS)}
        return given

    @model_validator(mode="after")
    def _dangerous_are_classes(self) -> Self:
        if unknown := set(self.dangerous) - set(self.class_names[1:]):
            raise ValueError(
                f"expected dangerous to be some of {', '.join(self.class_names[1:])}, "
                f"got {', '.join(sorted(unknown))}"
            )
        return self

    @property
    def alarm(self) -> AlarmFigures | None:
        """The alarm's figures on the best evidence there is: test, else validation, else None."""
        if self.tested_alarm or self.operating_point is None:
            return self.tested_alarm
        return AlarmFigures(
            operating_point=self.operating_point, unsure_point=self.unsure_point, curve=self.alarm_curve
        )


# --- the API ----------------------------------------------------------------------------------------


class EncodedImages(_Frozen):
    """The JSON body of POST /predict: encoded pictures in base64, a data URL's beginning allowed."""

    images: list[str]


class Box(_Answer):
    """xyxy pixels of the upright image, x1 < x2 <= width and y1 < y2 <= height."""

    x1: float
    y1: float
    x2: float
    y2: float


class Detection(_Answer):
    """One object: label is the model's class name, dangerous what its card calls so."""

    label: str
    dangerous: bool
    score: Fraction
    box: Box
    probabilities: dict[str, float] | None = Field(None, description="by class name; on request only")


class ImageSize(_Answer):
    """Pixels of the upright image."""

    width: int
    height: int


class TimeMs(_Answer):
    """Milliseconds this file spent in each step."""

    decode: float
    queue: float
    inference: float


class Problem(_Answer):
    """A problem document (RFC 9457). type is stable; title and detail are for people."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    request_id: str | None = None
    errors: list[dict[str, Any]] | None = Field(None, description="what was wrong with each parameter")


class ImageResult(_Answer):
    """The answer for one file: detections, or error in their place.

    notes, where there are any, say why "nothing found" means little: "too-dark", nothing could be seen in
    the picture; "blank", it has one colour throughout; "partly-missing", its lower part is the grey of lost
    data. More may come.
    """

    file: str
    image_size: ImageSize | None = None
    alarm: bool | None = Field(None, description="something dangerous reaches the model's operating point")
    verdict: Verdict | None = Field(
        None,
        description="alarm; unsure: a weapon reaches the unsure point, or the picture has notes, so a person "
        "should look closely; none: nothing found, which is no proof that there is none",
    )
    detections: list[Detection] | None = None
    notes: list[str] | None = Field(
        None,
        description="what makes the picture hard to judge: too-dark, blank, partly-missing; else absent",
    )
    time_ms: TimeMs | None = None
    error: Problem | None = None


class ModelName(_Answer):
    """Which model answered. version and alias are null for a model folder served without a registry."""

    name: str
    version: str | None = None
    alias: str | None = None


class PredictResponse(_Answer):
    """POST /predict: one result per file, in the order of the files."""

    model: ModelName
    score_threshold: Fraction
    results: list[ImageResult]


class ListedVersion(_Answer):
    """One model that could be served. version is null for a model folder without a registry."""

    version: str | None
    aliases: list[str] = Field(default_factory=list)
    served: bool = Field(description="whether this is the one that answers now")
    created_at: str = Field("", description="UTC, ISO 8601")
    metrics: dict[str, float] = Field(default_factory=dict, description="the main ones, with their intervals")
    version_url: str | None = Field(None, description="the version's page in the tracker")
    run_url: str | None = Field(None, description="the page of the run that made it")


class ModelList(_Answer):
    """GET /models: every version of the registered model, newest first."""

    name: str
    versions: list[ListedVersion]


class RuntimeInfo(_Answer):
    """What runs the network, and in sentences why nothing else that was asked for or is faster does."""

    name: Runtime
    precision: Precision
    notes: list[str] = Field(default_factory=list)


class ModelInfo(_Answer):
    """GET /model: what is served and what was measured of it."""

    model: ModelName
    source: str = Field(description="where it was loaded from: a registry address or a folder")
    loaded_at: str
    card: ModelCard
    dangerous: list[str]
    version_url: str | None = Field(None, description="the version's page in the tracker, its run among it")
    runtime: RuntimeInfo | None = Field(None, description="what runs the network, and why nothing else")
    watch_error: str | None = Field(None, description="why a newer version could not be loaded, if so")
