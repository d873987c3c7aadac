"""The optimiser, its learning rate over time, and the moving average of the weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.optim import Optimizer


def build_optimizer(
    network: nn.Module,
    name: str,
    *,
    lr: float,
    backbone_lr_factor: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Return SGD or AdamW over the parameters that learn; the backbone's body may learn more slowly."""
    body: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (body if parameter_name.startswith("backbone.body.") else rest).append(parameter)
    groups = [
        {"params": parameters, "lr": rate, "peak_lr": rate}
        for parameters, rate in ((body, lr * backbone_lr_factor), (rest, lr))
        if parameters
    ]
    # Fused: one pass over each weight and not one for each operation, which was a tenth of ResNet-50's step.
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)


def learning_rate_factor(
    schedule: str,
    fraction: float,
    *,
    step: int,
    warmup_steps: int = 0,
    epoch: int = 0,
    lr_step_epochs: int = 5,
    lr_gamma: float = 0.1,
) -> float:
    """Return the factor on the highest learning rate.

    Args:
        schedule: "cosine" falls to a hundredth from the end of the warm-up on, "step" by lr_gamma every
            lr_step_epochs, "constant" stays.
        fraction: share of the training that is done, in [0, 1].
        step: optimiser updates done; below warmup_steps the factor rises linearly.
        warmup_steps: length of that rise.
        epoch: epochs done.
        lr_step_epochs: see schedule.
        lr_gamma: see schedule.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "cosine":
        fraction = min(1.0, fraction)
        before = fraction * warmup_steps / max(1, step)  # the share that was done when the warm-up ended
        done = (fraction - before) / (1 - before) if before < 1 else 1.0
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "step":
        return lr_gamma ** (epoch // lr_step_epochs)
    return 1.0


class MovingAverage(nn.Module):
    """An exponential moving average of a network's weights that follows quickly at first.

    torch.optim.swa_utils.AveragedModel copies every buffer by itself at each step, and asks the card for
    its counter; here a step is two operations over all tensors, and the counter is a number of Python's.

    Attributes:
        module: a network of the same form, with the averaged weights.
        updates: how many networks were averaged.

    Source:
        The warm-up of the decay, min(decay, (1 + n) / (10 + n)), is TensorFlow's
        ExponentialMovingAverage with num_updates.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from a copy of network."""
        super().__init__()
        self.module, self.decay, self.updates = copy.deepcopy(network), decay, 0

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Move the average towards network; the first time all the way."""
        n = self.updates
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(list(self.module.parameters()), list(network.parameters()), 1 - decay)
        buffers = list(self.module.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(network.buffers()))
        self.updates += 1

    def get_extra_state(self) -> int:
        """Return what state_dict holds beside the tensors."""
        return self.updates

    def set_extra_state(self, state: int) -> None:
        """Take back what get_extra_state returned."""
        self.updates = state
