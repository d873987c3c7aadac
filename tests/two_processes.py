"""What torchrun runs for the tests, twice at the same time: python -m tests.two_processes ACT FOLDER ...

Each process writes what it has seen to FOLDER/RANK.json.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import train
from commands import train_config
from settings import TorchrunSettings
from tests.training.test_engine import make_batches, make_samples, make_training, run_epochs
from training import checkpoints, processes
from training import loader as loading


def hash_of(network: nn.Module) -> str:
    """Of the weights that learn: each process keeps running statistics of its own pictures."""
    values = b"".join(value.detach().numpy().tobytes() for value in network.parameters())
    return hashlib.sha256(values).hexdigest()


def talk(_folder: Path) -> dict[str, object]:
    rank = processes.rank()

    def fail() -> None:
        raise ValueError(f"process {rank} is at fault")

    def raised(call) -> str:
        try:
            call()
        except (ValueError, processes.FailedElsewhere) as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    return {
        "count": processes.count(),
        "mean": processes.mean(torch.tensor([rank, 10.0 * rank])).tolist(),
        "largest": processes.largest([rank, -rank], torch.device("cpu")),
        "gathered": processes.gathered(f"word of {rank}"),
        "from_first": processes.from_first(lambda: f"made by {rank}"),
        "the first fails": raised(lambda: processes.from_first(fail)),
        "the second fails": raised(lambda: processes.together(fail if rank else lambda: None)),
    }


def steps(folder: Path) -> dict[str, object]:
    """Train six steps without a break, and again with one after the third."""
    rank = processes.rank()
    samples = make_samples()

    def begin(seed: int) -> tuple[checkpoints.Training, loading.EpochOrder]:
        training = make_training()
        training.network = processes.averaged(training.network, torch.device("cpu"))
        torch.manual_seed(seed + rank)
        return training, loading.EpochOrder(np.ones(8), 4, seed=0, rank=rank, world_size=2)

    whole, order = begin(7)
    losses = run_epochs(whole, order, make_batches(samples, order), 3)
    first, order = begin(7)
    run_epochs(first, order, make_batches(samples, order), 3, stop_at_step=3)
    here = folder / f"machine-{rank}"  # each with a disk of its own: the second has no checkpoint
    here.mkdir()
    checkpoints.save_checkpoint(first, here / "checkpoint.pt", identity={})
    second, order = begin(1000)
    checkpoints.load_checkpoint(second, here / "checkpoint.pt", identity={})
    run_epochs(second, order, make_batches(samples, order), 3)
    return {
        "checkpoint": (here / "checkpoint.pt").exists(),
        "images": whole.progress.images,
        "losses": losses,
        "whole": hash_of(whole.detector.network),
        "resumed": hash_of(second.detector.network),
    }


def program(_folder: Path) -> dict[str, object]:
    """Run train.py; for the first process alone, the first validation takes an hour."""
    kept: list[checkpoints.Training] = []
    validate = train.validate

    def slow(config, training, samples, run, *, workers):
        kept.append(training)
        validate(config, training, samples, run, workers=workers)
        training.progress.seconds += 3600 * (processes.rank() == 0)

    train.validate = slow
    if sys.argv[3] == "apart":
        processes.averaged = lambda network, device: network
    train.train(train_config(sys.argv[4:]), TorchrunSettings())
    return {"epochs": kept[0].progress.epoch, "weights": hash_of(kept[0].detector.network)}


def main() -> None:
    act = {"talk": talk, "steps": steps, "program": program}[sys.argv[1]]
    folder, rank = Path(sys.argv[2]), TorchrunSettings().rank
    torch.set_num_threads(1)
    if act is not program:  # which joins by itself
        processes.join(torch.device("cpu"))
    seen = act(folder)
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    processes.leave()


if __name__ == "__main__":
    main()
