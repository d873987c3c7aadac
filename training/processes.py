"""Several processes that train as one: how they meet, and what they must know of each other.

A process on its own may call everything here: it then talks to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

# How long one process may wait for another: the first reads, validates and writes while the others wait.
PATIENCE = timedelta(hours=2)


class FailedElsewhere(RuntimeError):
    """Another process cannot go on, and says why."""


def join(device: torch.device) -> None:
    """Meet the other processes that torchrun started; device is this one's own.

    The graphics card becomes the current one first: whatever names no device, the exchange of objects
    among it, would otherwise go to the first card from every process.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl", device_id=device, timeout=PATIENCE)
    else:
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)


def leave() -> None:
    """Part from the other processes, if there are any."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def count() -> int:
    """Return how many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def averaged(network: nn.Module, device: torch.device) -> nn.Module:
    """Return network so wrapped that backward() leaves the mean of all processes' gradients.

    Args:
        network: on device, with the same parameters in every process.
        device: this process's own.
    """
    if not torch.distributed.is_initialized():
        return network
    return DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)


def mean(values: Tensor) -> Tensor:
    """Return the mean of values over all processes, (N,) on the training device."""
    if not torch.distributed.is_initialized():
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total / count()


def largest(values: Sequence[float], device: torch.device) -> list[float]:
    """Return, place by place, the largest of all processes' values."""
    if not torch.distributed.is_initialized():
        return list(values)
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return [float(value) for value in shared.tolist()]


def gathered(value: T) -> list[T]:
    """Return the value of each process, in their order."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * count()
    torch.distributed.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], T]) -> T:
    """Let the first process make something, and return it in all.

    Raises:
        FailedElsewhere: in the others, where the first one raised; there its own error goes on.
    """
    if not torch.distributed.is_initialized():
        return make()
    shared: list[Any] = [None]
    if rank() == 0:
        try:
            shared = [(make(),)]
        finally:
            torch.distributed.broadcast_object_list(shared)
    else:
        torch.distributed.broadcast_object_list(shared)
    if shared[0] is None:
        raise FailedElsewhere("the first process cannot go on")
    made: T = shared[0][0]
    return made


def together(make: Callable[[], T]) -> T:
    """Let each process make its own; go on if all of them can. make must not talk to other processes.

    Raises:
        FailedElsewhere: where this process could and another could not.
    """
    made: list[T] = []
    try:
        made.append(make())
    finally:
        able = gathered(bool(made))
    if not all(able):
        raise FailedElsewhere(f"process {able.index(False)} cannot go on")
    return made[0]
