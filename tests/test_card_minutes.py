"""bench/card_minutes.sh: a kit that comes whole, a plan, a training that survives being cut off, results."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wait_until

from commands import train_config
from detection import detector as detectors
from photosets.samples import read_samples
from photosets.synthetic import draw_synthetic

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "bench" / "card_minutes.sh"
LIGHT, LARGE = "fasterrcnn_mobilenet_v2_fpn", "fasterrcnn_resnet50_fpn_v2"
JOIN = "cat result.tar.gz.?? > result.tar.gz && sha256sum --check SHA256SUMS && tar xzf result.tar.gz"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="a bash script for rented Linux machines")

spec = importlib.util.spec_from_file_location("card_plan", ROOT / "bench" / "card_plan.py")
assert spec is not None
assert spec.loader is not None
card_plan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(card_plan)


def card(folder: Path, *words: object, python: str = sys.executable, status: int = 0) -> str:
    """Run the script in folder and return what it said."""
    environment = {**os.environ, "PYTHON": python, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [SCRIPT, *map(str, words)], cwd=folder, env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture
def kit(tmp_path) -> Path:
    """A kit of two small roots in several parts."""
    draw_synthetic(tmp_path / "one", train=24, test=8, seed=0)
    draw_synthetic(tmp_path / "two", train=24, test=8, seed=1)
    words = ["--longer-side", "96", "--part-mb", "0.02"]
    card(tmp_path, "kit", "--data", "one", "two", "--kit", "kit", *words)
    assert len(list((tmp_path / "kit" / "data").glob("data-*.tar.gz"))) > 2
    return tmp_path / "kit"


# --- the kit ----------------------------------------------------------------------------------------


def test_a_kit_that_comes_in_several_visits_gives_the_same_roots(kit, tmp_path):
    *first, last = sorted((kit / "data").glob("data-*.tar.gz"))
    last.rename(tmp_path / last.name)
    there = ("--kit", "kit", "--work", "work")
    assert f"still missing: {last.name}" in card(tmp_path, "receive", *there)
    for part in first:
        part.unlink()  # each visit brings its own parts
    assert f"expected the whole kit, still missing: {last.name}" in card(
        tmp_path, "train", *there, "--minutes", 1, status=1
    )
    (kit / "data" / last.name).write_bytes((tmp_path / last.name).read_bytes()[:-9])
    assert "did not come whole" in card(tmp_path, "receive", *there, status=1)
    shutil.copy(tmp_path / last.name, kit / "data")
    assert "all data parts are here" in card(tmp_path, "receive", *there)
    for name in ("one", "two"):
        before, after = (
            [sample.name for sample in read_samples([folder / name], "train")]
            for folder in (tmp_path, tmp_path / "work" / "data")
        )
        assert before == after


def test_coco_weights_travel_in_parts_to_where_torchvision_looks(kit, tmp_path):
    weights = os.urandom(100_000)
    (tmp_path / "fasterrcnn_coco.pth").write_bytes(weights)
    words = ("--coco", "fasterrcnn_coco.pth", "--part-mb", "0.03")
    card(tmp_path, "kit", "--data", "one", *words, "--kit", "other")
    assert len(list((tmp_path / "other" / "coco").glob("*.part"))) == 4
    last = tmp_path / "other" / "coco" / "03.part"
    last.rename(tmp_path / "03.part")
    assert "COCO weights are not whole yet" in card(tmp_path, "receive", "--kit", "other", "--work", "work")
    large = ("--work", "work", "--minutes", 9, "--architecture", LARGE)
    assert "expected whole COCO weights" in card(tmp_path, "train", "--kit", "other", *large, status=1)
    (tmp_path / "03.part").rename(last)
    card(tmp_path, "receive", "--kit", "other", "--work", "work")
    there = tmp_path / "work" / "torch" / "hub" / "checkpoints" / "fasterrcnn_coco.pth"
    assert there.read_bytes() == weights


def fake_python(folder: Path, body: str) -> str:
    """Write a program that does body for some calls and is Python for all others."""
    program = folder / "python"
    program.write_text(f'#!/bin/bash\n{body}\nexec {shlex.quote(sys.executable)} "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_wheels_are_those_that_training_needs_and_the_machine_lacks(tmp_path):
    draw_synthetic(tmp_path / "one", train=4, test=0, seed=0)
    (tmp_path / "have.txt").write_text("numpy==9.9\nPyYAML\nsafetensors  0.1\nscikit_learn\n")
    python = fake_python(
        tmp_path,
        f'[[ $* == "-m pip download"* ]] && {{ cat >{tmp_path}/asked; echo "$*" >{tmp_path}/words; exit; }}',
    )
    card(tmp_path, "kit", "--data", "one", "--kit", "kit", "--have", "have.txt", python=python)
    asked = {line.partition("==")[0] for line in (tmp_path / "asked").read_text().split()}
    assert {"mlflow", "detecto", "pydantic", "sqlalchemy", "nvidia-ml-py"} <= asked
    assert not asked & {"numpy", "pyyaml", "safetensors", "scikit-learn"}
    assert not {name for name in asked if re.match("torch|triton|cuda-|nvidia-cu|pillow-heif", name)}
    assert "--python-version 3.12" in (tmp_path / "words").read_text()


# --- the plan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "memory_mib", "most", "images"),
    [
        (LIGHT, 81_559, 0, 64),  # 115 would fit, and be too few steps
        (LIGHT, 24_576, 0, 32),
        (LIGHT, 16_384, 0, 16),
        (LIGHT, 81_559, 24, 16),
        (LIGHT, 0, 0, 8),
        (LARGE, 81_559, 0, 32),
        (LARGE, 16_384, 0, 8),
        (LARGE, 1_000, 0, 1),
    ],
)
def test_images_a_step_follow_the_cards_memory(architecture, memory_mib, most, images):
    assert card_plan.images_a_step(architecture, memory_mib, most) == images


def test_the_rate_follows_the_images_a_step():
    light, large = (train_config(["--preset", name, "--data", "a"]) for name in ("card", "best"))
    assert card_plan.learning_rate(light, light.batch_size) == light.lr
    assert card_plan.learning_rate(light, light.batch_size // 4) == pytest.approx(light.lr / 2)  # AdamW
    assert card_plan.learning_rate(large, large.batch_size * 2) == pytest.approx(2 * large.lr)  # SGD


def test_readers_fit_into_shared_memory():
    batch = 64 * 3 * 640 * 640
    assert card_plan.workers_that_fit(64, 6 * 3 * batch) == 6
    assert card_plan.workers_that_fit(64, 64 * 2**20) == 0, "what Docker gives by default holds none"


def test_a_version_too_old_is_told_by_numbers():
    assert card_plan.numbers("2.11.0+cu130") == (2, 11, 0)
    assert card_plan.numbers("2.9") < card_plan.numbers("2.11.0+cu130")
    assert set(card_plan.least_versions()) == {"torch", "torchvision"}


def test_a_machine_without_pytorch_is_a_sentence(kit, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('nothing here')")
    python = fake_python(tmp_path, f"export PYTHONPATH={tmp_path}")
    said = card(tmp_path, "train", "--kit", "kit", "--work", "work", "--minutes", 9, python=python, status=1)
    assert "error: expected PyTorch and torchvision on the card's machine (nothing here)" in said
    assert "Traceback" not in said


# train.py and evaluate.py played by a few lines of shell: only a card runs out of a card's memory.
PLAYED = r"""
case $1 in
    bench/card_plan.py)
        most=$(sed 's/.*--most //' <<<"$*")
        printf '%s\n' --batch-size $((most ? most : 64)) --lr 1 --minutes 1
        exit ;;
    train.py)
        size=$(sed 's/.*--batch-size \([0-9]*\).*/\1/' <<<"$*")
        out=$(sed 's/.*--output \([^ ]*\).*/\1/' <<<"$*")
        if ((size > FIT)); then echo "torch.OutOfMemoryError: CUDA out of memory."; exit 1; fi
        mkdir -p "$out/report" "$out/best" && echo "{}" >"$out/report/report.json"
        exit ;;
    evaluate.py) exit EVALUATED ;;
esac"""


def test_a_step_that_does_not_fit_is_halved(kit, tmp_path):
    python = fake_python(tmp_path, PLAYED.replace("FIT", "16").replace("EVALUATED", "0"))
    card(tmp_path, "train", "--kit", "kit", "--work", "work", "--minutes", 9, python=python)
    plan = (tmp_path / "work" / "plan").read_text().split()
    assert plan[plan.index("--batch-size") + 1] == "16"


def test_a_card_that_holds_no_image_is_a_sentence(kit, tmp_path):
    python = fake_python(tmp_path, PLAYED.replace("FIT", "0").replace("EVALUATED", "0"))
    said = card(tmp_path, "train", "--kit", "kit", "--work", "work", "--minutes", 9, python=python, status=1)
    assert "not even one image a step fits the card's memory" in said


def test_weights_come_home_though_the_evaluation_fails(kit, tmp_path):
    python = fake_python(tmp_path, PLAYED.replace("FIT", "64").replace("EVALUATED", "1"))
    said = card(tmp_path, "train", "--kit", "kit", "--work", "work", "--minutes", 9, python=python, status=1)
    assert "evaluate.py ended with status 1" in said
    subprocess.run(["bash", "-ec", JOIN], cwd=tmp_path / "work" / "results", check=True)
    assert (tmp_path / "work" / "results" / "best").is_dir()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "expected kit, receive or train, got nothing"),
        (["train"], "expected --minutes N, got none"),
        (["kit"], "expected --data ROOT..., got none"),
        (["kit", "--colour", "red"], "unknown flag --colour"),
        (["train", "--minutes"], "expected a value after --minutes"),
    ],
)
def test_wrong_words_are_a_sentence(words, sentence, tmp_path):
    assert f"error: {sentence}" in card(tmp_path, *words, status=1)


# --- the whole --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rehearsal_from_data_to_weights_at_home(kit, tmp_path):
    """Cut off outright in the first visit and by the visit's end in the second, done in the third."""
    words = [
        "train",
        "--kit",
        "kit",
        "--work",
        "work",
        "--minutes",
        "3",
        "--reserve",
        "2.2",
        "--result-mb",
        "4",
    ]
    flags = ["--", "--min-size", "96", "--max-size", "96", "--workers", "0", "--checkpoint-minutes", "0.001"]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [SCRIPT, *words, *flags], cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until((tmp_path / "work" / "out" / "checkpoint.pt").exists, process=first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    plan = (tmp_path / "work" / "plan").read_text()
    assert "not done yet" in card(tmp_path, *words, "--visit-minutes", "0.02", *flags, status=75)
    assert JOIN in card(tmp_path, *words, *flags)
    assert (tmp_path / "work" / "plan").read_text() == plan

    results = tmp_path / "work" / "results"
    parts = sorted(results.glob("result.tar.gz.??"))
    assert len(parts) > 2
    assert max(part.stat().st_size for part in parts) <= 4_000_000
    subprocess.run(["bash", "-ec", JOIN], cwd=results, check=True)
    model = detectors.load_folder(results / "best")
    assert (model.card.network.min_size, model.card.network.max_size) == (96, 96)
    assert model.card.operating_point is not None
    assert json.loads((results / "evaluation" / "report.json").read_text())["images"] == 16
    damaged = parts[0].read_bytes()
    parts[0].write_bytes(b"?" + damaged[1:])
    assert subprocess.run(["bash", "-ec", JOIN], cwd=results, check=False).returncode != 0
