"""What a card's machine can do: is PyTorch there, which card, how many images a step, at which learning rate.

    python bench/card_plan.py --preset card --minutes 11.5

What it says on standard error is for a person; standard output holds flags for train.py, one word a line.
bench/card_minutes.sh calls it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands import TrainConfig, train_config
from settings import TorchrunSettings

# MiB of a card's memory for one image of 640 pixels in bfloat16: guesses on the safe side, not measured.
MIB_PER_IMAGE = {"fasterrcnn_mobilenet_v2_fpn": 600, "fasterrcnn_resnet50_fpn_v2": 1700}
USABLE = 0.85  # of the memory: cuDNN's work space and the averaged weights want the rest
MOST_IMAGES = {"fasterrcnn_mobilenet_v2_fpn": 64, "fasterrcnn_resnet50_fpn_v2": 32}  # beyond: too few steps
WITHOUT_CARD = 8  # images a step on a processor
AHEAD = 2  # batches that a process of PyTorch's loader reads ahead


def main() -> None:
    """Print card and flags, or say in a sentence what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="card", help="of train.py")
    parser.add_argument("--minutes", type=float, required=True, help="for training, its validations included")
    parser.add_argument(
        "--most", type=int, default=0, help="images a step at most; 0: as many as fit and pay"
    )
    given = parser.parse_args()
    if given.minutes <= 0:
        raise SystemExit("error: no minute is left for training: give more --minutes or less --reserve")
    name, memory_mib = find_card()
    config = train_config(["--preset", given.preset, "--data", "unused"])
    images = images_a_step(config.architecture, memory_mib, given.most)
    lr = learning_rate(config, images)
    print(f"{name}: {images} images a step, learning rate {lr:.2g}", file=sys.stderr)
    flags = {"--batch-size": images, "--lr": f"{lr:.3g}", "--minutes": f"{given.minutes:.3f}"}
    usual = usual_workers(config)
    workers = min(usual, workers_that_fit(images, shared_memory()))
    if workers < usual:
        print(f"/dev/shm is small: {workers} processes read images instead of {usual}", file=sys.stderr)
        flags["--workers"] = workers
    print("\n".join(str(word) for flag in flags.items() for word in flag))


def find_card() -> tuple[str, int]:
    """Return the name of what PyTorch computes on and its memory in MiB, 0 for a processor.

    Raises:
        SystemExit: PyTorch or torchvision is missing or too old.
    """
    try:
        import torch
        import torchvision
    except ImportError as error:
        raise SystemExit(
            f"error: expected PyTorch and torchvision on the card's machine ({error}). They are too large to "
            "bring along (gigabytes with CUDA): take an image that has them"
        ) from error
    for library, least in least_versions().items():
        has = {"torch": torch.__version__, "torchvision": torchvision.__version__}[library]
        if numbers(has) < numbers(least):
            raise SystemExit(f"error: expected {library} {least} or newer, got {has}: take a newer image")
    if not torch.cuda.is_available():
        return f"no card, PyTorch {torch.__version__} on the processor", 0
    card = torch.cuda.get_device_properties(0)
    return f"{card.name}, PyTorch {torch.__version__}", card.total_memory // 2**20


def least_versions() -> dict[str, str]:
    """Return the oldest torch and torchvision that the requirement lists allow."""
    listed = (Path(__file__).parents[1] / "requirements" / "api-torch.txt").read_text()
    return dict(re.findall(r"^(torch|torchvision)>=([\d.]+)", listed, flags=re.MULTILINE))


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 2.11.0+cu130 is (2, 11, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def images_a_step(architecture: str, memory_mib: int, most: int) -> int:
    """Return how many images of 640 pixels to take in a step: a power of two, at least 1.

    Args:
        architecture: of the network.
        memory_mib: of the card; 0 where there is none.
        most: at most so many; 0 for no other limit than what fits and pays.
    """
    fit = int(USABLE * memory_mib / MIB_PER_IMAGE[architecture]) if memory_mib else WITHOUT_CARD
    fit = max(1, min(fit, MOST_IMAGES[architecture], most or fit))
    return int(2 ** (fit.bit_length() - 1))


def usual_workers(config: TrainConfig) -> int:
    """Return how many processes train.py lets read images by itself."""
    from training.loader import loader_workers  # needs PyTorch, which find_card has found by now

    return loader_workers(config, TorchrunSettings())


def shared_memory() -> int:
    """Return the free bytes of /dev/shm, through which images reach a card; a lot where there is none."""
    return shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 2**40


def workers_that_fit(images: int, free_bytes: int) -> int:
    """Return how many processes may read batches of so many images of 640 pixels ahead of a card."""
    batch = images * 3 * 640 * 640
    return int(free_bytes / (batch * (AHEAD + 1)))


def learning_rate(config: TrainConfig, images: int) -> float:
    """Return the preset's rate for steps of so many images.

    Source:
        Goyal et al., Accurate, Large Minibatch SGD, 2017: in proportion for SGD. Malladi et al., On the SDEs
        and Scaling Rules for Adaptive Gradient Algorithms, NeurIPS 2022: by the square root for Adam.
    """
    ratio = images / config.batch_size
    return config.lr * (ratio if config.optimizer == "sgd" else ratio**0.5)


if __name__ == "__main__":
    main()
