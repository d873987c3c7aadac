"""Where the network computes: the one place that turns "auto", "cpu" or "cuda" into a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class NoSuchDevice(RuntimeError):
    """The device that was asked for is not in this machine, or PyTorch cannot use it."""


def choose_device(wanted: str, *, local_rank: int = 0) -> torch.device:
    """Return the device that wanted means on this machine.

    Args:
        wanted: "cpu", "cuda", or "auto": a graphics card if there is one, else the processor. Never mps:
            torchvision's RoIAlign fails there.
        local_rank: which of this machine's graphics cards, where each process has its own.

    Raises:
        NoSuchDevice: a graphics card was asked for and there is none, or fewer than processes.
    """
    import torch  # here: an API without it serves exports on the processor

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not cards):
        return torch.device("cpu")
    if not cards:
        raise NoSuchDevice(
            "expected an NVIDIA graphics card for the device cuda, but PyTorch sees none: choose cpu or "
            "auto, or install the driver and a PyTorch with CUDA"
        )
    if local_rank >= cards:
        raise NoSuchDevice(
            f"expected a graphics card for each process of this machine, but process {local_rank + 1} has "
            f"none: PyTorch sees {cards}. Lower --nproc-per-node to {cards}, or choose the device cpu"
        )
    return torch.device("cuda", local_rank)


def make_deterministic(device: torch.device) -> None:
    """Let every operation from now on give the same bits each time, where PyTorch has such a form of it.

    On a graphics card an operation without one is named in a warning, and training goes on. On the
    processor it is an error; training uses none.
    """
    import torch

    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it chooses by the clock
