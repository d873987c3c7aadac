"""The training loop: it learns, stops on nonsense, and goes on as if never interrupted."""

import collections
import copy
import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from detection import architectures, imaging
from detection.detections import CLASS_NAMES
from detection.detector import Detector
from photosets.samples import Sample
from schemas import ModelCard
from tests.training.test_transforms import red_box, red_box_image, sample
from training import checkpoints, engine, transforms
from training import loader as loading
from training.checkpoints import Progress, Training, WrongCheckpoint
from training.engine import NonFiniteLoss
from training.schedule import MovingAverage, build_optimizer, learning_rate_factor


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads that wait for each other are slower than one on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_training(
    *, lr: float = 1e-3, decay: float = 0.9, precision: torch.dtype = torch.float32
) -> Training:
    torch.manual_seed(1)
    sizes = {"min_size": 64, "max_size": 64, "fpn_channels": 16, "box_head_width": 16}
    config = architectures.network_config("fasterrcnn_mobilenet_v2_fpn", norm="batch", **sizes)
    detector = Detector(ModelCard(network=config, class_names=CLASS_NAMES))
    network = detector.network
    network.rpn.fg_bg_sampler.batch_size_per_image = network.roi_heads.fg_bg_sampler.batch_size_per_image = 16
    network.rpn._pre_nms_top_n["training"] = network.rpn._post_nms_top_n["training"] = 50
    optimizer = build_optimizer(detector.network, "adamw", lr=lr, backbone_lr_factor=0.5)
    average = MovingAverage(detector.network, decay)
    return Training(
        detector, detector.network, optimizer, lambda progress: 1.0, average=average, clip_norm=10.0,
        precision=precision,
    )  # fmt: skip


def make_samples() -> list[Sample]:
    return [sample([(10 + 5 * i, 20, 60 + 5 * i, 70)], [1 + i % 2]) for i in range(8)]


def draw(one):
    return red_box_image(tuple(one.boxes[0].astype(int)))


def make_batches(samples, order) -> DataLoader[Any]:
    flip = transforms.augmentation("flip", min_size=90, max_size=120)
    images = loading.TrainingImages(samples, flip, seed=0, read=draw)
    generator = torch.Generator()  # as in train.py: a new iterator must not draw from the network's numbers
    return DataLoader(images, batch_sampler=order, collate_fn=loading.collate, generator=generator)


@pytest.fixture
def samples():
    return make_samples()


@pytest.fixture
def order(samples):
    return loading.EpochOrder(np.ones(len(samples)), 2, seed=0)


@pytest.fixture
def batches(samples, order):
    return make_batches(samples, order)


def jittered(samples, order, workers):
    """Return batches that differ from epoch to epoch in place, colour and sharpness."""
    augment = transforms.augmentation("surveillance", min_size=64, max_size=64)
    images = loading.TrainingImages(samples, augment, seed=0, read=draw)
    return DataLoader(
        images, batch_sampler=order, num_workers=workers, collate_fn=loading.collate,
        worker_init_fn=loading.one_thread, persistent_workers=bool(workers), generator=torch.Generator(),
    )  # fmt: skip


def run_epochs(training, order, batches, epochs, *, stop_at_step=None):
    def after_step(_losses):
        return training.progress.step == stop_at_step

    means = []
    while training.progress.epoch < epochs:
        order.epoch, order.first_batch = training.progress.epoch, training.progress.batch
        means.append(engine.train_one_epoch(training, batches, names=["x"] * 8, after_step=after_step))
        if training.progress.step == stop_at_step:
            break
    return means


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_truth_boxes_reach_the_box_loss_unrounded_in_any_precision(order, batches, monkeypatch, precision):
    training = make_training(precision=precision)
    heads = training.detector.network.roi_heads
    given, sample_boxes = [], heads.select_training_samples

    def keep(proposals, targets):
        chosen = sample_boxes(proposals, targets)
        given.append((proposals, targets, chosen))
        return chosen

    monkeypatch.setattr(heads, "select_training_samples", keep)
    run_epochs(training, order, batches, 1, stop_at_step=1)
    [(proposals, targets, (_, _, labels, deltas))] = given
    assert {boxes.dtype for boxes in proposals} == {torch.float32}
    assert {delta.dtype for delta in deltas} == {torch.float32}
    # each truth box is a proposal of itself: what regression asks for there is no change at all
    for target, label, delta in zip(targets, labels, deltas, strict=True):
        assert target["boxes"].dtype == torch.float32
        assert (delta[label > 0].abs().amax(1) < 1e-5).any()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_that_is_not_forked_feeds_a_step(samples, order, method):
    """What macOS and Windows do, and Linux from Python 3.14 on: everything the worker needs is pickled."""
    augment = transforms.augmentation("large_scale_jitter", min_size=96, max_size=96)
    images = loading.TrainingImages(samples, augment, seed=0, read=draw)
    batches = DataLoader(
        images, batch_sampler=order, num_workers=1, collate_fn=loading.collate,
        worker_init_fn=loading.one_thread, multiprocessing_context=method,
    )  # fmt: skip
    training = make_training()
    run_epochs(training, order, batches, 1, stop_at_step=1)
    assert training.progress.step == 1


def test_the_loss_falls_and_every_image_is_counted(order, batches):
    training = make_training()
    means = run_epochs(training, order, batches, 5)
    assert sum(means[-1].values()) < 0.8 * sum(means[0].values())
    assert training.progress.images == 5 * 8
    assert training.progress.step == 5 * 4
    assert training.progress.batch == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_training_ends_with_the_same_weights(samples, order, workers, tmp_path):
    batches = jittered(samples, order, workers)
    whole = make_training()
    whole_means = run_epochs(whole, order, batches, 2)

    first = make_training()
    run_epochs(first, order, batches, 2, stop_at_step=6)  # in the middle of the second epoch
    checkpoints.save_checkpoint(first, tmp_path / "checkpoint.pt", identity={})
    torch.rand(1000)  # whatever else happened in between
    second = make_training(lr=123.0)  # the optimiser's state comes from the checkpoint
    checkpoints.load_checkpoint(second, tmp_path / "checkpoint.pt", identity={})
    assert second.progress == first.progress
    resumed_means = run_epochs(second, order, batches, 2)

    assert resumed_means[-1] == whole_means[-1]
    for name, value in whole.detector.network.state_dict().items():
        torch.testing.assert_close(
            second.detector.network.state_dict()[name], value, rtol=0, atol=0, msg=name
        )
    assert whole.average is not None
    assert second.average is not None
    for name, value in whole.average.state_dict().items():
        torch.testing.assert_close(second.average.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_checkpoint_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"the old one")
    seen = []

    def fsync(descriptor):
        seen.append((os.fstat(descriptor).st_size > 100_000, path.read_bytes() == b"the old one"))

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoints.save_checkpoint(make_training(), path, identity={})
    assert seen == [(True, True)]
    assert path.stat().st_size > 100_000


def test_float16_scales_its_loss_and_resumes_with_the_same_scale(order, batches, tmp_path):
    first = make_training(precision=torch.float16)
    scale = first.scaler.get_scale()
    run_epochs(first, order, batches, 1)
    assert first.scaler.is_enabled()
    first.scaler.update(scale / 8)  # as after gradients that were too large
    checkpoints.save_checkpoint(first, tmp_path / "checkpoint.pt", identity={})
    second = make_training(precision=torch.float16)
    checkpoints.load_checkpoint(second, tmp_path / "checkpoint.pt", identity={})
    assert second.scaler.get_scale() == scale / 8


def test_float16_clips_gradients_at_their_own_size(order, batches):
    """Clipped while scaled by 65,536, they would all but vanish beside those of float32."""
    moved = []
    for precision in (torch.float32, torch.float16):
        training = make_training(precision=precision)
        training.optimizer = torch.optim.SGD(training.detector.network.parameters(), lr=1.0)
        training.optimizer.param_groups[0]["peak_lr"] = 1.0
        training.scaler = torch.amp.GradScaler(  # small enough that no gradient overflows at once
            "cpu", init_scale=256.0, enabled=precision == torch.float16
        )
        before = [value.detach().clone() for value in training.detector.network.parameters()]
        run_epochs(training, order, batches, 1, stop_at_step=1)
        after = training.detector.network.parameters()
        moved.append(
            sum(float((a.detach() - b).square().sum()) for a, b in zip(after, before, strict=True)) ** 0.5
        )
    assert moved[1] == pytest.approx(moved[0], rel=0.2)


class Calls(TorchDispatchMode):
    """Counts PyTorch's operations by name."""

    def __init__(self):
        super().__init__()
        self.names: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


class FourLosses(torch.nn.Module):
    """What a detection network is to the loop: images and targets in, named losses out."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, images, targets):
        mean = self.weight * torch.stack([image.mean() for image in images]).mean()
        return {f"loss_{i}": i * mean for i in range(4)}


def test_the_losses_of_a_step_are_read_from_the_device_at_once(order, batches):
    training = make_training()
    training.network = FourLosses()
    training.optimizer = torch.optim.SGD([{"params": training.network.parameters(), "peak_lr": 0.1}])
    ready = list(batches)[:1]
    seen = []

    def after_step(losses):
        seen.append(losses)
        return True

    with Calls() as calls:
        engine.train_one_epoch(training, ready, names=["x"] * 8, after_step=after_step)
    mean = float(np.mean([image.numpy() / 255 for image in ready[0][0]]))
    assert list(seen[0].values()) == pytest.approx([0, mean, 2 * mean, 3 * mean], rel=1e-5)
    assert calls.names["aten._local_scalar_dense"] == 0


def test_the_average_takes_as_many_operations_for_a_large_network_as_for_a_small_one():
    network = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(50)), torch.nn.BatchNorm1d(3))
    average = MovingAverage(network, 0.9)
    with Calls() as calls:
        average.follow(network)
    assert sum(calls.names.values()) <= 4
    assert calls.names["aten._foreach_lerp_"] == 1


def test_the_average_goes_on_from_a_checkpoint_as_fast_as_it_was():
    def after(updates, average, network):
        for value in updates:
            with torch.no_grad():
                network.weight.fill_(value)
            average.follow(network)
        return float(average.module.weight.detach())

    network = torch.nn.Linear(1, 1, bias=False)
    whole, first, second = (MovingAverage(network, 0.99) for _ in range(3))
    expected = after([1.0, 2.0, 3.0, 5.0], whole, network)
    after([1.0, 2.0, 3.0], first, network)
    second.load_state_dict(first.state_dict())
    assert after([5.0], second, network) == expected


def test_what_batch_norm_learnt_is_taken_over_as_it_is():
    network = torch.nn.BatchNorm1d(2)
    average = MovingAverage(network, 0.9)
    network(torch.tensor([[1.0, 3.0], [5.0, 3.0]]))
    average.follow(network)
    average.follow(network)
    for name, value in network.state_dict().items():
        assert torch.equal(average.module.state_dict()[name], value), name
    assert int(network.state_dict()["num_batches_tracked"]) == 1


# --- detecting on a whole split -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of six sizes, two of which become one at the network's input."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    made = []
    sizes = [(160, 90), (90, 160), (160, 90), (320, 180), (100, 100), (160, 120), (158, 90), (160, 90)]
    for i, (width, height) in enumerate(sizes):
        ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
        pixels = (ramp + rng.normal(0, 40, ramp.shape)).clip(0, 255).astype(np.uint8)
        path = folder / f"{i}.png"
        path.write_bytes(imaging.encode_image(pixels, "PNG"))
        made.append(Sample(path, (width, height), *nothing, recording=str(i), root=folder))
    return made


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (3, 2)])
def test_a_split_seen_in_batches_gives_the_boxes_of_each_photograph_alone(photographs, batch_size, workers):
    torch.manual_seed(3)
    config = architectures.network_config(
        "fasterrcnn_mobilenet_v2_fpn", min_size=128, max_size=160, box_score_thresh=0.01
    )
    detector = Detector(ModelCard(network=config, class_names=CLASS_NAMES))
    alone, _ = engine.evaluate(detector, photographs, progress=False)
    together = engine.detect_all(
        detector, photographs, workers=workers, batch_size=batch_size, progress=False
    )
    assert len(together) == len(photographs)
    for one, other in zip(alone, together, strict=True):
        assert len(one) > 10, "a network that says nothing would agree with anything"
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-5)
        np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-2)


def test_only_photographs_that_the_network_sees_at_one_size_are_batched(photographs):
    config = architectures.network_config("fasterrcnn_mobilenet_v2_fpn", min_size=128, max_size=160)
    detector = Detector(ModelCard(network=config, class_names=CLASS_NAMES))
    # 160 x 90 and what has its form become 160 x 90 and lie on 160 x 96; 158 x 90 becomes 160 x 91
    # 90 x 160 lies on 96 x 160, 100 x 100 becomes 128 x 128, 160 x 120 stays and lies on 160 x 128
    batches = engine.batches_of_one_size(detector, photographs, 3)
    assert sorted(map(sorted, batches)) == [[0, 2, 3], [1], [4], [5], [6, 7]]


def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoints.save_checkpoint(make_training(), path, identity={"lr": "0.1", "epochs": "3"})
    with pytest.raises(WrongCheckpoint, match=r"another configuration: lr was 0\.1, now 0\.2\. Give"):
        checkpoints.load_checkpoint(make_training(), path, identity={"lr": "0.2", "epochs": "3"})


def write_nothing(path):
    pass


def write_garbage(path):
    path.write_bytes(b"PK garbage")


def write_weights(path):
    torch.save({"weight": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_nothing, "found none"),
        (write_garbage, "no readable checkpoint"),
        (write_weights, "not a checkpoint"),
    ],
)
def test_a_bad_checkpoint_is_a_sentence(write, message, tmp_path):
    write(tmp_path / "checkpoint.pt")
    with pytest.raises(WrongCheckpoint, match=message):
        checkpoints.load_checkpoint(make_training(), tmp_path / "checkpoint.pt", identity={})


def test_a_loss_that_is_not_finite_names_the_images(order, batches):
    training = make_training()
    with torch.no_grad():
        training.detector.network.roi_heads.box_predictor.cls_score.bias.fill_(math.nan)
    before = copy.deepcopy(training.detector.network.state_dict())
    with pytest.raises(NonFiniteLoss, match=r"loss_classifier.*nan.*gun_1, gun_|gun_\d, gun_\d"):
        engine.train_one_epoch(
            training, batches, names=[f"gun_{i}" for i in range(8)], after_step=lambda losses: False
        )
    for name, value in training.detector.network.state_dict().items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(value, before[name], equal_nan=True)


def test_a_batch_of_negatives_trains(order):
    negatives = [sample((), ())] * 8
    unchanged = transforms.augmentation("none", min_size=90, max_size=120)
    images = loading.TrainingImages(negatives, unchanged, seed=0, read=red_box)
    batches = DataLoader(images, batch_sampler=order, collate_fn=loading.collate)
    means = engine.train_one_epoch(make_training(), batches, names=["n"] * 8, after_step=lambda losses: False)
    assert means["loss_box_reg"] == 0
    assert means["loss_classifier"] > 0


def test_the_average_follows_quickly_at_first_and_slowly_later():
    network = torch.nn.Linear(1, 1, bias=False)
    average = MovingAverage(network, 0.5)
    for value in (0.0, 8.0, 16.0):
        with torch.no_grad():
            network.weight.fill_(value)
        average.follow(network)
    # first update copies 0; then decay 2/11: 8 * 9/11; then 3/12: 16 * 3/4 + that / 4
    assert average.module.state_dict()["weight"].item() == pytest.approx(16 * 3 / 4 + 8 * 9 / 11 / 4)


@pytest.mark.parametrize(
    ("schedule", "fraction", "step", "epoch", "expected"),
    [
        ("cosine", 0.0, 0, 0, 1 / 11),  # the first of ten warm-up steps
        ("cosine", 0.09, 9, 0, 10 / 11),  # the last
        ("cosine", 0.1, 10, 0, 1.0),  # the highest rate is reached, and then it falls
        ("cosine", 0.55, 55, 0, 0.505),  # half of what is left after the warm-up
        ("cosine", 1.0, 100, 0, 0.01),
        ("cosine", 1.7, 100, 0, 0.01),  # past the end: a time budget was overrun
        ("cosine", 0.3, 10, 0, 1.0),  # three tenths of a time budget went into the warm-up
        ("cosine", 1.0, 10, 0, 0.01),  # the training ends as the warm-up does
        ("step", 0.9, 99, 4, 1.0),
        ("step", 0.9, 99, 10, 0.01),
        ("step", 0.0, 4, 0, 5 / 11),
        ("constant", 0.9, 99, 10, 1.0),
    ],
)
def test_learning_rate_by_hand(schedule, fraction, step, epoch, expected):
    factor = learning_rate_factor(schedule, fraction, step=step, epoch=epoch, warmup_steps=10)
    assert factor == pytest.approx(expected)


def test_without_a_warm_up_the_cosine_starts_at_the_highest_rate():
    assert learning_rate_factor("cosine", 0.0, step=0) == 1.0
    assert learning_rate_factor("cosine", 0.5, step=50) == pytest.approx(0.505)


def test_the_backbone_learns_at_its_own_rate():
    training = make_training(lr=1e-2)
    assert [group["peak_lr"] for group in training.optimizer.param_groups] == [5e-3, 1e-2]
    body = {id(p) for p in training.detector.network.backbone.body.parameters()}
    assert {id(p) for p in training.optimizer.param_groups[0]["params"]} == body


def test_progress_survives_as_plain_values():
    progress = Progress(epoch=3, sums={"loss": 1.5})
    assert Progress(**vars(progress)) == progress
