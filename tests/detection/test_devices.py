"""Which device a program computes on, and what it says where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from commands import EvaluateConfig, evaluate_config, train_config
from detection import devices

ROOT = Path(__file__).parents[2]


def with_cards(monkeypatch: pytest.MonkeyPatch, cards: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)


@pytest.mark.parametrize(
    ("wanted", "cards", "local_rank", "expected"),
    [
        ("auto", 0, 0, "cpu"),
        ("auto", 1, 0, "cuda:0"),
        ("auto", 2, 1, "cuda:1"),
        ("cpu", 2, 1, "cpu"),
        ("cuda", 2, 1, "cuda:1"),
    ],
)
def test_each_process_gets_a_card_of_its_own_or_the_processor(
    monkeypatch, wanted, cards, local_rank, expected
):
    with_cards(monkeypatch, cards)
    assert devices.choose_device(wanted, local_rank=local_rank) == torch.device(expected)


@pytest.mark.parametrize(
    ("wanted", "cards", "local_rank", "message"),
    [
        ("cuda", 0, 0, "PyTorch sees none: choose cpu or auto"),
        ("cuda", 1, 1, "process 2 has none: PyTorch sees 1. Lower --nproc-per-node to 1"),
        ("auto", 1, 1, "process 2 has none"),  # half on a card, half on the processor would be no training
    ],
)
def test_a_card_that_is_not_there_is_a_sentence(monkeypatch, wanted, cards, local_rank, message):
    with_cards(monkeypatch, cards)
    with pytest.raises(devices.NoSuchDevice, match=message):
        devices.choose_device(wanted, local_rank=local_rank)


def test_evaluation_takes_the_card_unless_told_otherwise():
    assert EvaluateConfig.model_fields["device"].default == "auto"


@pytest.mark.parametrize("read", [train_config, evaluate_config])
def test_mps_is_refused_with_what_there_is(read, capsys):
    with pytest.raises(SystemExit) as stop:
        read(["--data", "a", "--device", "mps"])
    said = f"{stop.value.code}\n{capsys.readouterr().err}"
    assert "'auto', 'cpu'" in said.replace("‘", "'"), said


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a graphics card")
@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "--data", "x", "--device", "cuda"],
        ["evaluate.py", "--data", "x", "--model", "weights/starter", "--device", "cuda"],
        ["mlapi.py", "--api-device", "cuda", "--api-port", "0", "--model-dir", "weights/starter"],
    ],
)
def test_no_program_answers_a_missing_card_with_a_traceback(command, tmp_path):
    output = [] if command[0] == "mlapi.py" else ["--output", str(tmp_path)]
    command = [sys.executable, *command, *output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (1, 2)
    assert "error: " in done.stderr
    assert "PyTorch sees none" in done.stderr
    assert "Traceback" not in done.stderr
