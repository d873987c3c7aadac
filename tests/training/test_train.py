"""train.py from the command line to the registry, on pictures the project draws itself."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from conftest import LONGEST_S, wait_until
from mlflow import MlflowClient
from PIL import Image as PillowImage

import metrics
import train
from commands import train_config
from detection import architectures, devices, weights
from detection import detector as detectors
from detection.card import DetectorError, read_card, write_card
from detection.detections import CLASS_NAMES, SIX, Classes
from evaluation import calibration, chosen
from evaluation import report as reports
from photosets import layout, synthetic
from photosets import samples as photographs
from schemas import ModelCard
from settings import TorchrunSettings
from tracking import run as runs
from tracking import tracker, versions
from training import checkpoints, engine, reading, terminal, transforms
from training import loader as loading
from training.interruption import Interruption
from training.start import build_detector, build_training, network_overrides, training_precision

ROOT = Path(__file__).parents[2]
TINY = [
    "--preset", "smoke", "--epochs", "2", "--eval-epochs", "1", "--batch-size", "4", "--min-size", "96",
    "--max-size", "96", "--fpn-channels", "16", "--box-head-width", "16", "--threads", "1", "--workers", "0",
]  # fmt: skip


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "set"
    synthetic.draw_synthetic(root, train=24, test=4, seed=0)
    return root


@pytest.fixture
def arguments(drawn, tmp_path, tracker_uri) -> list[str]:
    name = tmp_path.name.replace("_", "-")
    return [
        *TINY, "--data", str(drawn), "--output", str(tmp_path / "run"), "--experiment", name,
        "--model-name", name,
    ]  # fmt: skip


def run(arguments) -> None:
    train.train(train_config(arguments), TorchrunSettings())


def press_ctrl_c_at(step: int, monkeypatch) -> None:
    """Let Ctrl-C be pressed once, when that many steps are done."""
    real = engine.train_one_epoch
    pressed: list[int] = []

    def interrupted(training, batches, *, names, after_step):
        def press_ctrl_c(losses):
            if training.progress.step == step and not pressed:
                pressed.append(step)
                signal.raise_signal(signal.SIGINT)  # on this thread, not on a library's
            return after_step(losses)

        return real(training, batches, names=names, after_step=press_ctrl_c)

    monkeypatch.setattr(engine, "train_one_epoch", interrupted)


def with_data(arguments: list[str], data: Path | str) -> list[str]:
    """The same arguments, with other data."""
    at = arguments.index("--data")
    return [*arguments[:at], "--data", str(data), *arguments[at + 2 :]]


def only_run(uri: str, experiment: str):
    client = MlflowClient(uri)
    made = client.get_experiment_by_name(experiment)
    assert made is not None
    found = client.search_runs([made.experiment_id])
    assert len(found) == 1
    return client, found[0]


def test_a_run_ends_with_a_champion_a_report_and_curves(arguments, drawn, tmp_path, tracker_uri, capsys):
    run(arguments)
    name = arguments[-1]
    client, logged = only_run(tracker_uri, name)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["lr"] == "0.001"
    assert len(client.get_metric_history(logged.info.run_id, "val/map")) == 2
    for curve in ("epoch_loss_classifier", "loss", "lr", "images_per_s"):
        assert client.get_metric_history(logged.info.run_id, f"train/{curve}"), curve
    inputs = {given.dataset.name for given in logged.inputs.dataset_inputs}
    assert inputs == {"train", "val"}
    for given in logged.inputs.dataset_inputs:
        assert json.loads(given.dataset.source) == {"folders": [str(drawn / "images")]}
    version = versions.find_version(name, alias="champion", tracking_uri=tracker_uri)
    folder = versions.download_version(version, tmp_path / "served")
    card = detectors.load_folder(folder).card
    assert card.operating_point is not None
    assert card.operating_point.split == "val"
    assert card.tables is not None
    assert card.tables.split == "val"
    assert card.run_id == logged.info.run_id
    assert card.data["train"]["images"] + card.data["val"]["images"] == 24
    assert (tmp_path / "run" / "report" / "report.html").stat().st_size > 10_000
    written = reports.read_report(tmp_path / "run" / "report" / "report.json")
    assert written.latency is not None
    assert written.latency.detect_median_ms > 0
    assert written.data["MLflow run"] == logged.info.run_id
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert "false alarms per 1,000 weapon-free images (validation split)" in capsys.readouterr().out


def test_a_run_holds_no_password_of_the_trackers_address(
    arguments, tmp_path, tracker_server, tracker_uri, monkeypatch, capsys, caplog
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker_uri.replace("://", "://mluser:s3cretpass@"))
    run(arguments)
    _, logged = only_run(tracker_uri, arguments[-1])
    assert logged.data.params["mlflow_tracking_uri"] == tracker_uri
    kept = tracker_server.folder / "artifacts" / logged.info.experiment_id
    files = [path for folder in (tmp_path / "run", kept) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    printed = capsys.readouterr()
    assert "s3cretpass" not in f"{logged.to_dictionary()} {printed.out} {printed.err} {caplog.text}"
    assert not [path for path in files if b"s3cretpass" in path.read_bytes()]


def test_it_is_said_how_train_and_val_were_divided_and_when_a_share_is_missed(tmp_path, capsys):
    image = PillowImage.new("RGB", (20, 20))
    for folder in ("images", "annotations/xmls"):
        (tmp_path / folder).mkdir(parents=True)
    stills = [(f"series ({50 * number})", "tarjeta") for number in range(1, 41)]
    for stem, name in [*((f"frame_{number}", "pistol") for number in range(60)), *stills]:
        image.save(tmp_path / "images" / f"{stem}.png")
        xml_path = tmp_path / "annotations" / "xmls" / f"{stem}.xml"
        synthetic.write_voc(xml_path, f"{stem}.png", image.size, [name], [(1, 1, 9, 9)])
    config = train_config(["--data", str(tmp_path), "--negative-val-fraction", "0.4"])
    _, val_samples = reading.read_data(config, SIX, TorchrunSettings())
    said = capsys.readouterr().err
    assert f"train and val of {tmp_path}: whole recordings, as many as come nearest" in said
    assert f"{len(val_samples)} of 100 pictures" in said
    assert "warning: " in said
    assert "val has 0 of the 60 pictures of the other recordings (0.0%), far from the 12.0% asked for" in said


def test_the_operating_point_is_measured_on_the_model_as_it_is_served(
    drawn, tmp_path, tracker_uri, monkeypatch
):
    monkeypatch.setattr("detection.devices.has_fast_bf16", lambda: True)  # everywhere, slow as it may be
    folder = shutil.copytree(ROOT / "weights" / "starter", tmp_path / "best")
    card = read_card(folder)
    small = card.network.model_copy(update={"min_size": 128, "max_size": 128, "box_score_thresh": 0.001})
    write_card(folder, card.model_copy(update={"network": small}))
    mined = shutil.copytree(drawn, tmp_path / "mined")
    flags = [
        "--data", str(drawn), str(mined), "--point-data", str(drawn), "--output", str(tmp_path),
        "--weights", str(folder), "--no-register-model",
    ]  # fmt: skip
    config, cpu = train_config(flags), torch.device("cpu")
    samples, beside = (photographs.read_samples([root], "train") for root in (drawn, mined))
    monkeypatch.setattr(calibration, "FEWEST_TO_FIT", 3)  # few pictures are drawn
    with runs.training_run(tracker_uri, tmp_path.name, None, {}, folder=tmp_path) as logged:
        train.finish(config, cpu, 0, samples, [*samples, *beside[:9]], logged, workers=0)
        card = read_card(folder)
        train.finish(config, cpu, 0, samples, samples, logged, workers=0)  # as after a failed registration
    assert read_card(folder).calibration == card.calibration, "it is fitted to scores calibrated already"
    truths, groups = [sample.truth for sample in samples], [sample.recording for sample in samples]
    as_served, as_trained = (
        chosen.choose(truths, detect_all(folder, samples, optimize=fast, raw=True), groups=groups)
        for fast in (True, False)
    )
    assert as_served.onto(card) != as_trained.onto(card), "bfloat16 changes nothing, which would tell nothing"
    assert as_served.onto(card) == card
    assert card.calibration
    assert card.metrics["val/map"] == metrics.coco_summary(truths, as_served.detections, CLASS_NAMES)["map"]
    for now, then in zip(detect_all(folder, samples), as_served.detections, strict=True):
        assert now.scores.tolist() == then.scores.tolist()


def detect_all(folder, samples, *, optimize=True, raw=False):
    """What a model folder finds; with raw, the network's own scores."""
    served = detectors.load_folder(folder, optimize=optimize)
    if raw:
        served.card = chosen.uncalibrated(served.card)
    return engine.evaluate(served, samples, progress=False)[0]


def test_only_the_folders_named_choose_the_points(drawn, tmp_path):
    mined = shutil.copytree(drawn, tmp_path / "mined")
    flags = ["--data", str(drawn), str(mined), "--val-fraction", "0.3"]
    _, every = reading.read_data(train_config(flags), SIX, TorchrunSettings())
    config = train_config([*flags, "--point-data", str(drawn)])
    assert {sample.root for sample in reading.point_samples(config, every)} == {drawn}
    assert len(every) == 2 * len(reading.point_samples(config, every))
    assert reading.point_samples(train_config(flags), every) == every
    card_data: Any = train.provenance(config, every, every, SIX, "")["data"]
    assert card_data["points"]["images"] == len(every) // 2 == card_data["val"]["images"] // 2


def test_a_folder_that_is_no_data_cannot_choose_the_points(drawn, tmp_path):
    other = shutil.copytree(drawn, tmp_path / "other")
    config = train_config(["--data", str(drawn), "--point-data", str(other)])
    with pytest.raises(layout.DatasetError, match=f"expected folders of --data at --point-data, got {other}"):
        reading.read_data(config, SIX, TorchrunSettings())


def test_a_second_run_becomes_the_challenger(arguments, tmp_path, tracker_uri):
    run([*arguments, "--epochs", "1"])
    run([*arguments, "--epochs", "1", "--output", str(tmp_path / "second")])
    challenger = versions.find_version(arguments[-1], alias="challenger", tracking_uri=tracker_uri)
    assert challenger.version == "2"


def test_ctrl_c_saves_and_resume_finishes_the_same_run(arguments, tmp_path, tracker_uri, monkeypatch):
    press_ctrl_c_at(3, monkeypatch)
    run(arguments)
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    _, logged = only_run(tracker_uri, arguments[-1])
    assert logged.info.status == "KILLED"
    with pytest.raises(train.UnusableOutput, match="unfinished training"):
        run(arguments)
    run([*arguments, "--resume"])
    _, logged = only_run(tracker_uri, arguments[-1])
    assert logged.info.status == "FINISHED"
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_resume_needs_no_start_weights_and_minds_no_spelling_of_a_path(
    drawn, arguments, tmp_path, tracker_uri, monkeypatch
):
    config = train_config(arguments)
    start_weights = tmp_path / "start.safetensors"
    start_from = build_detector(config, SIX, torch.device("cpu")).network.state_dict()
    safetensors.torch.save_file(start_from, start_weights)
    monkeypatch.chdir(drawn.parent)
    press_ctrl_c_at(3, monkeypatch)
    run([*with_data(arguments, drawn.name), "--weights", os.path.relpath(start_weights)])
    start_weights.unlink()
    run([*with_data(arguments, drawn.resolve()), "--weights", str(start_weights), "--resume"])
    assert only_run(tracker_uri, arguments[-1])[1].info.status == "FINISHED"


def test_resume_with_other_data_is_refused(drawn, arguments, tmp_path, tracker_uri, monkeypatch):
    shutil.copytree(drawn, tmp_path / "set")
    press_ctrl_c_at(3, monkeypatch)
    arguments = with_data(arguments, tmp_path / "set")
    run(arguments)
    annotation = sorted((tmp_path / "set" / "annotations" / "xmls").iterdir())[0]
    annotation.write_text(re.sub(r"<xmax>(\d+)", lambda x: f"<xmax>{int(x[1]) - 1}", annotation.read_text()))
    with pytest.raises(checkpoints.WrongCheckpoint, match=r"(train|val) data was"):
        run([*arguments, "--resume"])


def test_a_training_that_fails_is_a_failed_run(arguments, tracker_uri):
    with pytest.raises(engine.NonFiniteLoss):
        run([*arguments, "--lr", "1e30", "--optimizer", "sgd", "--clip-norm", "0", "--warmup-steps", "0"])
    assert only_run(tracker_uri, arguments[-1])[1].info.status == "FAILED"


@pytest.fixture
def deterministic_mode_ends():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def test_a_deterministic_training_gives_the_same_weights_twice(
    arguments, tmp_path, tracker_uri, monkeypatch, deterministic_mode_ends
):
    real, modes = engine.train_one_epoch, []

    def watched(*given, **named):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return real(*given, **named)

    monkeypatch.setattr(engine, "train_one_epoch", watched)
    for name in ("once", "twice"):
        flags = ["--deterministic", "--epochs", "1", "--limit", "8", "--no-register-model"]
        flags += ["--augmentation", "large_scale_jitter"]  # whose pictures are all of one size
        run([*arguments, *flags, "--output", str(tmp_path / name)])
    once, twice = (
        weights.load_state_dict(tmp_path / name / "best" / "weights.safetensors")
        for name in ("once", "twice")
    )
    assert modes == [True, True]
    assert all(torch.equal(value, twice[name]) for name, value in once.items())
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark, "it would choose by the clock"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_clock_that_sets_the_rate_is_refused_in_a_deterministic_training():
    with pytest.raises(SystemExit, match="--deterministic cannot keep its promise with --minutes"):
        train_config(["--data", "a", "--deterministic", "--minutes", "5"])


def test_a_first_signal_is_answered_and_a_ctrl_c_after_it_stops_at_once(capfd):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        interruption = Interruption(tell=True)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.asked
        assert "Ctrl-C again stops at once" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGTERM)  # from systemd, and again from the torchrun it has told
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_time_budget_ends_the_run_with_a_model(arguments, tmp_path, tracker_uri):
    run([*arguments, "--epochs", "1000", "--minutes", "0.02"])
    assert versions.find_version(arguments[-1], alias="champion", tracking_uri=tracker_uri).version == "1"


def test_minutes_can_count_from_the_start(arguments, monkeypatch, tracker_uri):
    """A machine paid by the minute is paid while it reads, too."""

    def slow(*words):
        time.sleep(8)
        return read_data(*words)

    read_data = reading.read_data
    monkeypatch.setattr(train, "read_data", slow)
    budget = [*arguments, "--epochs", "1000", "--minutes", "0.1"]
    with pytest.raises(train.NoTimeLeft, match=r"expected --minutes 0\.1 to hold more than reading the data"):
        run([*budget, "--minutes-from", "start"])
    run(budget)


def test_patience_ends_a_run_that_no_longer_improves(arguments, tracker_uri):
    run([*arguments, "--epochs", "50", "--lr", "1e-12", "--patience", "2"])
    client, logged = only_run(tracker_uri, arguments[-1])
    evaluations = client.get_metric_history(logged.info.run_id, "val/map")
    assert 3 <= len(evaluations) < 10


# --- bad input --------------------------------------------------------------------------------------


def test_an_absent_tracker_is_told_before_anything_else(drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(tracker.TrackerUnreachable, match=r"127\.0\.0\.1:9"):
        run([*TINY, "--data", str(drawn), "--output", str(tmp_path / "run")])
    assert time.monotonic() - start < 120, "it must not try for minutes"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (["--data", "nowhere"], layout.WrongLayout, "nowhere"),
        (["--resume"], checkpoints.WrongCheckpoint, "found none; leave --resume out"),
        (["--weights", "nothing.pth"], DetectorError, "expected a weights file at nothing.pth"),
        (["--weights", "coco"], DetectorError, "no COCO weights for fasterrcnn_mobilenet_v2_fpn"),
        (["--architecture", "yolo"], DetectorError, "unknown architecture 'yolo'"),
        (["--output", "/proc/nothing"], train.UnusableOutput, "expected a folder to write to"),
        (["--trainable-layers", "5", "--architecture", "fasterrcnn_resnet50_fpn", "--norm", "frozen",
          "--device", "cuda"], devices.NoSuchDevice, "graphics card for the device cuda"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(change, error, message, arguments):
    if "cuda" in change and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(error, match=message):
        run([*arguments, *change])


def test_an_empty_folder_says_what_is_expected(arguments, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(layout.DatasetError, match="empty"):
        run(with_data(arguments, tmp_path / "empty"))


def test_a_damaged_picture_is_named_before_the_run_begins(drawn, arguments, tmp_path, tracker_uri):
    shutil.copytree(drawn, tmp_path / "damaged")
    picture = sorted((tmp_path / "damaged" / "images").iterdir())[2]
    picture.write_bytes(picture.read_bytes()[:900])  # its head, with the size, is whole
    with pytest.raises(photographs.DamagedImages, match=re.escape(picture.name)):
        run([*arguments, "--data", str(tmp_path / "damaged")])
    assert MlflowClient(tracker_uri).get_experiment_by_name(arguments[-1]) is None
    assert list((tmp_path / "run").iterdir()) == []


def test_the_program_prints_a_sentence_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "train.py", "--preset", "smoke", "--data", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


# --- configuration ----------------------------------------------------------------------------------


def test_flags_win_over_environment_over_preset_over_default(monkeypatch):
    assert train_config(["--data", "a"]).lr == 5e-3
    assert train_config(["--data", "a", "--preset", "cpu"]).lr == 6e-4
    monkeypatch.setenv("TRAIN_LR", "0.5")
    assert train_config(["--data", "a", "--preset", "cpu"]).lr == 0.5
    assert train_config(["--data", "a", "--preset", "cpu", "--lr", "0.25"]).lr == 0.25


def test_a_choice_among_numbers_is_taken_from_a_flag_and_from_the_environment(monkeypatch):
    assert train_config(["--data", "a", "--fpn-min-stride", "4"]).fpn_min_stride == 4
    monkeypatch.setenv("TRAIN_FPN_MIN_STRIDE", "8")
    assert train_config(["--data", "a"]).fpn_min_stride == 8
    with pytest.raises(SystemExit, match="4 or 8"):
        train_config(["--data", "a", "--fpn-min-stride", "5"])


def training_and_batches(flags, samples):
    """Return the training of flags, from random weights, and its first batch."""
    config = train_config([*flags, "--data", "unused"])
    process = TorchrunSettings()
    training, order = build_training(config, process, samples, SIX, torch.device("cpu"))
    return training, loading.loader(config, process, training, samples, order)


@pytest.fixture
def no_benchmark():
    """The presets turn cuDNN's on, for the whole process."""
    yield
    torch.backends.cudnn.benchmark = False


@pytest.mark.usefixtures("no_benchmark")
@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "config").glob("*.toml")))
def test_every_preset_trains_on_pictures_of_its_networks_own_size(preset, drawn):
    samples = photographs.read_samples([drawn], "train")
    training, batches = training_and_batches(
        ["--preset", preset, "--weights", "none", "--workers", "0"], samples
    )
    images, targets = next(iter(batches))
    assert len(images) == batches.batch_sampler.batch_size
    for image, target in zip(images[:4], targets[:4], strict=True):
        seen, _ = training.detector.network.transform([transforms.develop(image, target["look"])])
        assert image.dtype == torch.uint8
        assert seen.image_sizes == [tuple(image.shape[-2:])]
    if torch.backends.cudnn.benchmark:
        assert len({image.shape for image in images}) == 1, "what is tried out must be of use again"


@pytest.mark.usefixtures("no_benchmark")
def test_a_model_folder_to_go_on_from_brings_the_size_of_the_pictures(small_model, drawn):
    samples = photographs.read_samples([drawn], "train")
    folder = ["--weights", str(small_model), "--workers", "0", "--preset", "cpu"]
    _, batches = training_and_batches(folder, samples)
    assert {image.shape for image in next(iter(batches))[0]} == {(3, 64, 64)}
    _, batches = training_and_batches([*folder, "--max-size", "128", "--min-size", "128"], samples)
    assert {image.shape for image in next(iter(batches))[0]} == {(3, 128, 128)}


@pytest.mark.usefixtures("no_benchmark")
def test_batches_are_the_same_however_many_processes_make_them(small_model, drawn):
    samples = photographs.read_samples([drawn], "train")
    flags = ["--weights", str(small_model), "--preset", "cpu", "--paste", "0.5", "--mosaic", "0.3"]
    alone, shared = (list(training_and_batches([*flags, "--workers", n], samples)[1]) for n in ("0", "2"))
    assert len(alone) == len(shared) == 2
    for (images, targets), (others, other_targets) in zip(alone, shared, strict=True):
        assert all(map(torch.equal, images, others))
        for one, other in zip(targets, other_targets, strict=True):
            assert torch.equal(one["boxes"], other["boxes"])
            assert torch.equal(one["look"].colour, other["look"].colour)
            assert one["look"].sigma == other["look"].sigma


def test_processes_on_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(12)), raising=False)
    config = train_config(["--data", "a"])
    assert loading.loader_workers(config, TorchrunSettings()) == 11
    assert loading.loader_workers(config, TorchrunSettings(local_world_size=4)) == 2
    assert loading.loader_workers(config, TorchrunSettings(local_world_size=12)) == 1
    assert loading.loader_workers(train_config(["--data", "a", "--workers", "0"]), TorchrunSettings()) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(96)))
    assert loading.loader_workers(config, TorchrunSettings()) == loading.MOST_WORKERS


@pytest.mark.usefixtures("no_benchmark")
def test_the_containers_shared_memory_holds_the_batches_of_the_best_preset(drawn):
    samples = photographs.read_samples([drawn], "train")
    _, batches = training_and_batches(["--preset", "best", "--weights", "none", "--workers", "2"], samples)
    images = loading.TrainingImages(samples, batches.dataset.augment, seed=0)
    picture = images[(0, 0, 0)][0]
    ahead = loading.MOST_WORKERS * (batches.prefetch_factor + 1) * batches.batch_sampler.batch_size
    compose = yaml.safe_load((ROOT / "mlflow_tracker.compose.yaml").read_text())
    size = compose["services"]["train"]["shm_size"]
    assert size.endswith("g")
    assert ahead * picture.nbytes < int(size[:-1]) * 2**30


def test_several_roots_follow_one_flag():
    config = train_config(["--data", "a", "b c", "d", "--epochs", "3"])
    assert [str(root) for root in config.data] == ["a", "b c", "d"]
    assert config.epochs == 3


def test_a_persons_text_is_said_as_typed(capsys):
    terminal.say("stopped; /data/shots [/v2] :knife: holds an unfinished training")
    assert capsys.readouterr().err == "stopped; /data/shots [/v2] :knife: holds an unfinished training\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "a", "--learning-rate", "1"], "error: unknown flag --learning-rate"),
        (["--data", "a", "--lr", "fast"], r"lr: .*\(got 'fast'\)"),
        (["--data", "a", "--epochs", "0"], "epochs: .*greater than or equal to 1"),
        (["--epochs", "1"], "data: expected a value, got none"),
        (["--data", "a", "--preset", "tiny"], "presets: best, card, cpu, original, second-look, smoke"),
    ],
)
def test_a_wrong_flag_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        train_config(arguments)
    said = f"{stop.value.code}\n{capsys.readouterr().err}"
    assert re.search(message, said), said


def test_a_misspelt_key_in_a_preset_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_text("learning_rat = 1.0\n")
    with pytest.raises(SystemExit, match="learning_rat: Extra inputs are not permitted"):
        train_config(["--data", "a", "--preset", str(tmp_path / "mine.toml")])


def build(arguments, classes=SIX):
    return build_detector(train_config(arguments), classes, torch.device("cpu"))


def test_weights_of_a_folder_go_to_the_classes_they_were_learnt_for(arguments, tmp_path):
    learnt = build(arguments)
    turned = (CLASS_NAMES[0], *reversed(CLASS_NAMES[1:]))
    learnt.card = learnt.card.model_copy(update={"class_names": turned})
    learnt.save_folder(tmp_path / "turned")
    head = learnt.network.roi_heads.box_predictor
    own = build([*arguments, "--weights", str(tmp_path / "turned")]).network.roi_heads.box_predictor
    for label, name in enumerate(CLASS_NAMES):
        there = turned.index(name)
        for layer, rows in (("cls_score", 1), ("bbox_pred", 4)):
            for part in ("weight", "bias"):
                ours = getattr(getattr(own, layer), part)[rows * label : rows * (label + 1)]
                theirs = getattr(getattr(head, layer), part)[rows * there : rows * (there + 1)]
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=f"{name} {layer}.{part}")


def test_weights_of_a_folder_with_other_classes_give_the_rows_that_both_know(arguments, tmp_path, capsys):
    learnt = build(arguments)
    learnt.save_folder(tmp_path / "six")
    mine = Classes(("__background__", "rifle", "smartphone", "pistol"), ("rifle", "pistol"))
    detector = build([*arguments, "--weights", str(tmp_path / "six")], mine)
    assert (detector.card.class_names, detector.card.dangerous) == (mine.names, mine.dangerous)
    own, six = (one.network.roi_heads.box_predictor for one in (detector, learnt))
    assert own.cls_score.out_features == 4
    for label, name in enumerate(mine.names):
        for layer, rows in (("cls_score", 1), ("bbox_pred", 4)):
            ours = getattr(own, layer).weight[rows * label : rows * (label + 1)]
            if name == "rifle":
                assert ours.abs().max() > 0
                continue
            there = CLASS_NAMES.index(name)
            theirs = getattr(six, layer).weight[rows * there : rows * (there + 1)]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=f"{name} {layer}")
    said = capsys.readouterr().err
    assert "new here: rifle; left out: knife, billete, monedero, tarjeta" in said


@pytest.mark.parametrize(
    ("device", "native", "wanted", "expected"),
    [
        ("cuda", True, "auto", torch.bfloat16),
        ("cuda", False, "auto", torch.float16),  # T4, V100: bfloat16 is there, but emulated
        ("cuda", False, "bfloat16", torch.bfloat16),
        ("cpu", True, "auto", torch.bfloat16),
        ("cpu", False, "auto", torch.float32),
        ("cpu", True, "float32", torch.float32),
    ],
)
def test_auto_computes_in_what_the_hardware_multiplies(monkeypatch, device, native, wanted, expected):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation
    )
    monkeypatch.setattr("detection.devices.has_fast_bf16", lambda: native)
    assert training_precision(wanted, torch.device(device)) == expected


def test_the_originals_double_normalisation_is_two_normalisations():
    config = train_config(["--data", "a", "--preset", "original", "--weights", "none"])
    network = architectures.network_config(config.architecture, **network_overrides(config))
    x, m, s = 0.8, 0.485, 0.229  # red
    twice = ((x - m) / s - m) / s
    assert (x - network.image_mean[0]) / network.image_std[0] == pytest.approx(twice)


def test_the_normalisation_a_backbone_expects_reaches_the_network():
    flags = ["--image-mean", "0.1,0.2,0.3", "--image-std", "0.5,0.25,0.2"]
    config = train_config(["--data", "a", "--preset", "cpu", *flags])
    network = architectures.network_config(config.architecture, **network_overrides(config))
    assert (network.image_mean, network.image_std) == ((0.1, 0.2, 0.3), (0.5, 0.25, 0.2))


# --- slow -------------------------------------------------------------------------------------------


def start(arguments, uri, *, launcher=(sys.executable,), **how) -> subprocess.Popen[Any]:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*launcher, "train.py", *arguments], cwd=ROOT, env=environment, **how)


@pytest.mark.parametrize(("flags", "status"), [((), 0), (("--lr", "1e30", "--clip-norm", "0"), 1)])
def test_the_program_ends_though_its_workers_are_deaf_to_signals(arguments, tracker_uri, flags, status):
    """With a good end and with an error, which holds on to everything that was under way."""
    words = [
        *arguments,
        "--epochs",
        "2",
        "--eval-epochs",
        "2",
        "--no-register-model",
        "--workers",
        "1",
        *flags,
    ]
    assert start(words, tracker_uri).wait(LONGEST_S) == status


@pytest.mark.slow
def test_a_run_killed_outright_resumes_to_the_same_weights(arguments, tmp_path, tracker_uri):
    arguments = [*arguments, "--epochs", "4", "--checkpoint-minutes", "0.0001", "--no-register-model"]
    whole = [*arguments, "--output", str(tmp_path / "whole")]
    assert start(whole, tracker_uri).wait() == 0

    killed = start(arguments, tracker_uri)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    wait_until(checkpoint.exists, process=killed)
    first = checkpoint.stat().st_mtime_ns
    wait_until(lambda: checkpoint.stat().st_mtime_ns > first, process=killed)
    killed.kill()  # SIGKILL: no handler runs
    killed.wait()
    assert start([*arguments, "--resume"], tracker_uri).wait() == 0
    left, right = (
        weights.load_state_dict(tmp_path / name / "best" / "weights.safetensors") for name in ("whole", "run")
    )
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], rtol=0, atol=0, msg=key)


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to signal")
@pytest.mark.parametrize(("launcher", "status"), [((sys.executable,), 0), (TORCHRUN, 1)])
def test_sigterm_to_the_whole_group_saves_and_resume_ends_with_the_same_weights(
    launcher, status, arguments, tmp_path, tracker_uri
):
    """torchrun answers a SIGTERM with status 1 whatever its processes do; they save all the same."""
    arguments = [
        *arguments, "--epochs", "6", "--eval-epochs", "6", "--workers", "1", "--no-register-model",
    ]  # fmt: skip
    whole = [*arguments, "--output", str(tmp_path / "whole"), "--experiment", "whole"]
    assert start(whole, tracker_uri, launcher=launcher).wait(900) == 0

    told = start(
        arguments, tracker_uri, launcher=launcher, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    assert told.stderr is not None
    said, signalled = "", False
    for line in told.stderr:  # the bar's next state is a line too
        said += line
        if "loss=" in line and not signalled:
            os.killpg(told.pid, signal.SIGTERM)
            signalled = True
    assert told.wait(900) == status, said
    assert "stopped after" in said
    assert "is killed by signal" not in said
    assert "DataLoader worker" not in said
    _, logged = only_run(tracker_uri, arguments[arguments.index("--experiment") + 1])
    assert logged.info.status == "KILLED"
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert f"stopped after {kept['progress']['step']} steps" in said

    assert start([*arguments, "--resume"], tracker_uri, launcher=launcher).wait(900) == 0
    left, right = (
        weights.load_state_dict(tmp_path / name / "best" / "weights.safetensors") for name in ("whole", "run")
    )
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], rtol=0, atol=0, msg=key)


def run_program_twice(folder: Path, how: str, arguments, uri: str) -> list[dict[str, Any]]:
    """Train in two processes, and return what each of them saw."""
    folder.mkdir()
    flags = ["--minutes", "30", "--output", str(folder / "run"), "--no-register-model"]
    command = (*TORCHRUN, "-m", "tests.two_processes", "program", str(folder), how)
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *arguments, *flags], cwd=ROOT, env=environment, check=True, timeout=900)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_train_one_network_and_end_it_together(arguments, tmp_path, tracker_uri):
    first, second = run_program_twice(tmp_path / "shared", "together", arguments, tracker_uri)
    assert first["weights"] == second["weights"]
    assert first["epochs"] == second["epochs"] == 1, "the first alone saw the half hour pass"
    first, second = run_program_twice(tmp_path / "apart", "apart", arguments, tracker_uri)
    assert first["weights"] != second["weights"], "the comparison must see a missing mean gradient"


@pytest.mark.slow
def test_a_second_machine_without_the_data_is_a_sentence(drawn, arguments, tmp_path, tracker_uri):
    """Both processes look for the data at a path of their own."""
    program = f"""
import os, runpy, sys
data = {str(drawn)!r} if os.environ["RANK"] == "0" else {str(tmp_path / "nowhere")!r}
sys.argv = ["train.py", *(data if word == "HERE" else word for word in sys.argv[1:])]
runpy.run_path("train.py", run_name="__main__")
"""
    script = tmp_path / "start.py"
    script.write_text(program)
    environment = {"MLFLOW_TRACKING_URI": tracker_uri, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*TORCHRUN, str(script), *with_data(arguments, "HERE")],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    ours = done.stderr.partition("torch/distributed/elastic")[0]  # before torchrun's own words
    assert re.search(r"error: .*nowhere", ours), ours
    assert "Traceback" not in ours, ours


@pytest.mark.slow
def test_the_smoke_preset_really_learns(tmp_path, tracker_uri):
    """Random weights score below 0.01; the preset must find most of what it never trained on."""
    root, output = tmp_path / "drawn", tmp_path / "run"
    synthetic.draw_synthetic(root, train=240, test=60, seed=0)
    arguments = ["--preset", "smoke", "--data", str(root), "--output", str(output)]
    arguments += ["--experiment", "smoke", "--model-name", "smoke", "--workers", "0"]
    assert start(arguments, tracker_uri).wait() == 0
    report = json.loads((output / "report" / "report.json").read_text())
    assert report["coco"]["map_50"] > 0.5
    trained = detectors.load_folder(output / "best")
    untrained = detectors.Detector(trained.card)
    samples = photographs.read_samples([root], "test")
    truths = [sample.truth for sample in samples]
    scores = [
        metrics.coco_summary(truths, engine.evaluate(one, samples, progress=False)[0])["map_50"]
        for one in (trained, untrained)
    ]
    assert scores[0] > 0.5
    assert scores[1] < 0.05


@pytest.mark.slow
def test_a_second_look_is_trained_beside_a_model_and_travels_with_it(drawn, tmp_path, tracker_uri):
    first, second = tmp_path / "first", tmp_path / "second"
    network = architectures.network_config("fasterrcnn_mobilenet_v2_fpn", min_size=96, max_size=96)
    torch.manual_seed(0)
    detectors.Detector(ModelCard(network=network, class_names=CLASS_NAMES)).save_folder(first)
    flags = ["--preset", "second-look", "--data", str(drawn), "--second-look-of", str(first), "--epochs", "1"]
    flags += ["--limit", "12", "--batch-size", "4", "--workers", "0", "--output", str(second)]
    train.train_second_look(train_config([*flags, "--no-register-model"]), TorchrunSettings())
    card = read_card(second / "best")
    assert card.second_look is not None
    assert card.operating_point is not None
    seeing = detectors.load_folder(second / "best")
    assert seeing.second_look is not None
    assert not (second / "crops.npz").exists()
    before, after = (detectors.load_folder(folder, optimize=False) for folder in (first, second / "best"))
    for name, value in before.network.state_dict().items():
        torch.testing.assert_close(value.half(), after.network.state_dict()[name].half(), msg=name)

    flags += ["--second-look-of", str(second / "best"), "--output", str(tmp_path / "on"), "--lr", "1e-9"]
    train.train_second_look(train_config([*flags, "--no-register-model"]), TorchrunSettings())
    went_on = detectors.load_folder(tmp_path / "on" / "best", optimize=False)
    assert went_on.second_look is not None
    assert after.second_look is not None
    weights_now = went_on.second_look.state_dict()
    for name, value in after.second_look.state_dict().items():
        torch.testing.assert_close(value, weights_now[name], atol=1e-3, rtol=1e-3, msg=name)


def test_a_second_look_is_trained_for_whole_passes_by_one_process(tmp_path):
    flags = ["--preset", "second-look", "--data", str(tmp_path), "--second-look-of", str(tmp_path)]
    with pytest.raises(SystemExit, match="give --epochs instead of --minutes"):
        train_config([*flags, "--minutes", "5"])
    with pytest.raises(SystemExit, match="leave out torchrun"):
        train.train_second_look(train_config(flags), TorchrunSettings(world_size=2))
