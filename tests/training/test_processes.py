"""Several processes as one: two real ones through gloo, and what several graphics cards would be told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training import checkpoints, processes

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run_two(folder: Path, act: str, *arguments: str) -> list[dict[str, Any]]:
    """Run an act of two_processes.py and return what each process has seen."""
    command = [*TORCHRUN, "-m", "tests.two_processes", act, str(folder), *arguments]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=900)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_know_of_each_other_what_they_must(tmp_path):
    first, second = run_two(tmp_path, "talk")
    same = {
        "count": 2,
        "mean": [0.5, 5.0],
        "largest": [1.0, 0.0],
        "gathered": ["word of 0", "word of 1"],
        "from_first": "made by 0",
    }
    assert first == {
        **same,
        "the first fails": "ValueError: process 0 is at fault",
        "the second fails": "FailedElsewhere: process 1 cannot go on",
    }
    assert second == {
        **same,
        "the first fails": "FailedElsewhere: the first process cannot go on",
        "the second fails": "ValueError: process 1 is at fault",
    }


def test_two_processes_train_one_network_and_resume_to_the_same_weights(tmp_path):
    first, second = run_two(tmp_path, "steps")
    assert first["whole"] == second["whole"], "without the mean gradient they drift apart"
    assert first["losses"] == second["losses"], "what is logged is of all images"
    assert first["images"] == second["images"] == 3 * 8
    assert (first["checkpoint"], second["checkpoint"]) == (True, False)
    assert first["resumed"] == second["resumed"] == first["whole"]


def test_a_process_on_its_own_talks_to_nobody():
    cpu = torch.device("cpu")
    network = torch.nn.Linear(1, 1)
    assert processes.averaged(network, cpu) is network
    assert processes.mean(torch.tensor([3.0])).tolist() == [3.0]
    assert processes.largest([1, 0.5], cpu) == [1, 0.5]
    assert processes.gathered("a") == ["a"]
    assert processes.from_first(lambda: 4) == processes.together(lambda: 4) == 4
    assert (processes.count(), processes.rank()) == (1, 0)


class Calls(list[Any]):
    """Notes what it is called for, with what."""

    def note(self, name: str):
        def call(*args, **kwargs):
            self.append((name, *args, {key: value for key, value in kwargs.items() if key != "timeout"}))

        return call


SECOND_CARD = torch.device("cuda", 1)


def test_a_process_takes_its_own_card_before_it_meets_the_others(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(torch.cuda, "set_device", calls.note("set_device"))
    monkeypatch.setattr(torch.distributed, "init_process_group", calls.note("init_process_group"))
    processes.join(SECOND_CARD)
    assert calls == [
        ("set_device", SECOND_CARD, {}),
        ("init_process_group", "nccl", {"device_id": SECOND_CARD}),
    ]


@pytest.mark.parametrize(("device", "device_ids"), [(SECOND_CARD, [1]), (torch.device("cpu"), None)])
def test_gradients_are_averaged_on_the_card_of_the_process(monkeypatch, device, device_ids):
    calls = Calls()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(processes, "DistributedDataParallel", calls.note("averaged"))
    processes.averaged(torch.nn.Linear(1, 1), device)
    assert [call[-1] for call in calls] == [{"device_ids": device_ids}]


def test_the_random_numbers_of_the_card_are_kept_and_put_back(monkeypatch):
    drawn = {SECOND_CARD: torch.tensor([5], dtype=torch.uint8)}
    put_back = Calls()
    monkeypatch.setattr(torch.cuda, "get_rng_state", drawn.__getitem__)
    monkeypatch.setattr(torch.cuda, "set_rng_state", put_back.note("set"))
    state = checkpoints._random_state(SECOND_CARD)
    checkpoints._set_random_state(state, SECOND_CARD)
    assert put_back == [("set", drawn[SECOND_CARD], SECOND_CARD, {})]
