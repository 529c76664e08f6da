"""What a stopped training needs to go on exactly where it was: one safetensors file in the checkpoint's folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

RESUME = "resume.safetensors"


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        epoch: epochs done.
        step: optimisation steps done in the running epoch.
        loss_sum: sum of the losses of the running epoch's steps.
        correct: correct member answers in the running epoch.
        answers: member answers in the running epoch.
        averaged: how many times the running average was updated.
        history: one row for each finished epoch.
        best_accuracy: the highest on the validation images, where these decide (see `validation.decides`), else -1,
        best_epoch: and after how many epochs; 0 before there is one.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    answers: int = 0
    averaged: int = 0
    history: list[dict[str, float | None]] = field(default_factory=list)
    best_accuracy: float = -1.0
    best_epoch: int = 0

    @property
    def loss(self) -> float:
        """Mean loss of a member in the running epoch."""
        return self.loss_sum / max(1, self.step)

    @property
    def accuracy(self) -> float:
        """Share of correct member answers in the running epoch."""
        return self.correct / max(1, self.answers)

    @property
    def val_accuracy(self) -> float | None:
        """Accuracy on the validation images when they were last looked at."""
        return next((found for row in reversed(self.history) if (found := row.get("val_accuracy")) is not None), None)


def save_state(
    folder: Path,
    model: nn.Module,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: dict[str, Any],
    best: Mapping[str, Tensor],
) -> None:
    """Write what a training stands at to `folder`; each step's seed follows from the settings."""
    tensors: dict[str, Tensor] = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.module.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    metadata = {"progress": json.dumps(vars(progress)), "settings": json.dumps(settings, sort_keys=True)}
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, folder / RESUME, metadata)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that the stopped training ran with."""
    with safe_open(folder / RESUME, "pt") as file:
        settings: dict[str, Any] = json.loads(file.metadata()["settings"])
    return settings


def load_state(
    folder: Path, model: nn.Module, average: AveragedModel, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor]]:
    """Restore what `save_state` wrote, in place; returns the progress and the best epoch's tensors."""
    with safe_open(folder / RESUME, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
        progress = Progress(**json.loads(file.metadata()["progress"]))
    model.load_state_dict(_under(tensors, "model."))
    average.module.load_state_dict(_under(tensors, "average."))
    average.n_averaged.fill_(progress.averaged)
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    # The fused AdamW walks parameter and state in memory order, so both need the same layout (channels_last).
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter).copy_(value)
    return progress, _under(tensors, "best.")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
