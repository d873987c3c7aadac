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


def fast_precision(device: torch.device) -> torch.dtype:
    """Return the fastest floating point type that device multiplies in hardware.

    On a graphics card bfloat16, or float16 where the card only emulates that, slowly (before Ampere); on a
    processor bfloat16, or float32 where it does not multiply it.
    """
    import torch

    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if has_fast_bf16() else torch.float32


def has_fast_bf16() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware; where it does not, it is far slower."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def make_deterministic(device: torch.device) -> None:
    """Let every operation from now on give the same bits each time, where PyTorch has such a form of it.

    On a graphics card an operation without one is named in a warning, and training goes on. On the
    processor it is an error; training uses none.
    """
    import torch

    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it chooses by the clock
