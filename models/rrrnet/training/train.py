"""The training loop: every member on its own loss, whatever else is shared (recipes: `recipes`, docs/training.md)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rrrnet.errors import CheckFailedError
from rrrnet.images.preprocess import Preprocess, Uint8Array
from rrrnet.network.ensemble import RRRNet, channels_last, normalise
from rrrnet.training import validation
from rrrnet.training.augment import make_augmentation
from rrrnet.training.balance import balanced_order, class_weights
from rrrnet.training.distill import Teaching, beside, resized
from rrrnet.training.recipes import Recipe, learning_rate
from rrrnet.training.training_state import Progress

Int64Array = npt.NDArray[np.int64]
Report = Callable[[Progress, int], None]


@dataclass(frozen=True)
class TrainingPlan:
    """What is trained, on what, and how.

    Attributes:
        recipe: numbers of the training.
        epochs: passes over the training images.
        seed: decides every random choice; each step draws from a generator of its own.
        frozen: prefixes of the modules that are not trained and run in eval mode.
        preprocess: the input's size and normalisation.
        device: "cpu" or "cuda".
        mixed_precision: compute in bfloat16 where it is safe.
        balance: "none", "weights" or "sampler" (see `balance`).
        selects: the validation images end the training and choose its epoch (see `validation.decides`).
        teaching: a teacher and how it teaches; None for none.
    """

    recipe: Recipe
    epochs: int
    seed: int
    frozen: tuple[str, ...]
    preprocess: Preprocess
    device: str
    mixed_precision: bool
    balance: str = "none"
    selects: bool = False
    teaching: Teaching | None = None


class Training:
    """A network being trained. `run` may be stopped between two steps and gone on with later."""

    def __init__(
        self,
        model: RRRNet,
        plan: TrainingPlan,
        images: Uint8Array,
        labels: Int64Array,
        held_back: tuple[Uint8Array, Int64Array] | None = None,
        unlabelled: Uint8Array | None = None,
    ) -> None:
        """Take images (N, S, S, 3) with labels (N,) to train on, and `held_back`, the same to validate on.

        With a teacher S is that of `picture_rule`, also of `unlabelled` (U, S, S, 3); to validate it is the network's.
        """
        self.model = channels_last(model.to(plan.device))
        self.plan = plan
        self.images = torch.from_numpy(images)
        self.labels = torch.from_numpy(labels)
        self.unlabelled = None if unlabelled is None else torch.from_numpy(unlabelled)
        self.held_back = None if held_back is None or not len(held_back[1]) else held_back
        classes = model.architecture.num_classes
        weights = class_weights(self.labels, classes).to(plan.device) if plan.balance == "weights" else None
        self.weights = weights
        self.best: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(plan.frozen) if plan.frozen else True)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        recipe = plan.recipe
        self.optimizer = torch.optim.AdamW(trained, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        # The average's memory is as long as its window: 59/60 over the paper's last 60 epochs.
        window = recipe.ema_epochs(plan.epochs) * (self.steps_per_epoch if recipe.ema_every == "step" else 1)
        decay = 1 - 1 / max(2, window) if recipe.ema_every == "epoch" else min(0.99, 1 - 2 / max(4, window))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.augment = make_augmentation(recipe.augmentation)
        self.progress = Progress()

    @property
    def steps_per_epoch(self) -> int:
        """Optimisation steps in one pass over the training images."""
        return math.ceil(len(self.labels) / self.plan.recipe.batch_size)

    def result(self) -> RRRNet:
        """The averaged network if averaging has begun, else the network as it is."""
        if self.progress.averaged:
            averaged: RRRNet = self.average.module  # type: ignore[assignment]  # typed as a bare Module by torch
            return averaged
        return self.model

    def run(self, report: Report, stop: Callable[[], bool]) -> bool:
        """Train until done or until `stop()` is true after a step.

        Args:
            report: called with the progress and the steps of an epoch after each step.
            stop: asked after each step.

        Returns:
            Whether the training is complete.

        Raises:
            CheckFailedError: the loss is no longer finite.
        """
        progress = self.progress
        if self.plan.epochs > progress.epoch and progress.epoch == progress.step == 0:
            self.estimate_frozen_statistics()
        while progress.epoch < self.plan.epochs and not self._stands_still():
            started = time.monotonic()
            while progress.step < self.steps_per_epoch:
                self.step()
                progress.step += 1
                report(progress, self.steps_per_epoch)
                if stop() and progress.step < self.steps_per_epoch:
                    return False
            self._end_epoch(time.monotonic() - started)
            if stop() and progress.epoch < self.plan.epochs:
                return False
        if self.best:
            self.result().load_state_dict(self.best)
        return True

    def _end_epoch(self, seconds: float) -> None:
        progress = self.progress
        if self.plan.recipe.ema_every == "epoch":
            self._average()
        row = {
            "epoch": progress.epoch + 1,
            "loss": progress.loss,
            "train_accuracy": progress.accuracy,
            "val_accuracy": self._validate(),
            "seconds": seconds,
        }
        progress.history.append(row)
        progress.epoch += 1
        progress.step = progress.correct = progress.answers = 0
        progress.loss_sum = 0.0

    def _validate(self) -> float | None:
        """Accuracy of the ensemble on the images held back; None without any, and in epochs that leave it out."""
        progress, plan = self.progress, self.plan
        if self.held_back is None:
            return None
        images, labels = self.held_back
        done = progress.epoch + 1
        if done % validation.epochs_between(len(self.labels), len(labels)) and done < plan.epochs:
            return None
        network, right = self.result().eval(), 0
        with torch.inference_mode(), self._precision():
            for start in range(0, len(labels), plan.recipe.batch_size):
                rows = slice(start, start + plan.recipe.batch_size)
                batch = normalise(torch.from_numpy(images[rows]).to(plan.device), plan.preprocess)
                answers = network(batch).float().softmax(2).mean(1).argmax(1).cpu().numpy()
                right += int((answers == labels[rows]).sum())
        accuracy = right / len(labels)
        if plan.selects:
            self.select(accuracy, network, done)
        return accuracy

    def select(self, accuracy: float, network: RRRNet, epoch: int) -> None:
        """Keep the weights of `network` after `epoch` epochs if none before was as accurate."""
        if accuracy > self.progress.best_accuracy:
            self.progress.best_accuracy, self.progress.best_epoch = accuracy, epoch
            self.best = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def _stands_still(self) -> bool:
        """Whether validation, where it decides, has found nothing better for too long."""
        progress = self.progress
        waited = progress.epoch - progress.best_epoch
        return self.plan.selects and progress.best_epoch > 0 and waited >= validation.patience(self.plan.epochs)

    def _average(self) -> None:
        """Fold the network into the running average, once the last share of the training has begun."""
        if self.progress.epoch >= self.plan.epochs - self.plan.recipe.ema_epochs(self.plan.epochs):
            self.average.update_parameters(self.model)
            self.progress.averaged += 1

    def step(self) -> None:
        """One optimisation step; its loss and answers are added to the progress."""
        plan, progress, members = self.plan, self.progress, self.model.architecture.members
        step = progress.epoch * self.steps_per_epoch + progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(plan.recipe, step, plan.epochs * self.steps_per_epoch)
        self._set_modes()
        self.optimizer.zero_grad(set_to_none=True)
        draws = range(members) if plan.recipe.own_batches else range(1)
        total = 0.0
        for draw in draws:
            torch.manual_seed(_seed(plan.seed, step, draw))  # of its own, so that no member's draws move another's
            pictures, labels = self._batch(progress.epoch, progress.step, draw)
            served = [draw] if plan.recipe.own_batches else list(range(members))
            with self._precision():
                taught = None if plan.teaching is None else plan.teaching.log_probabilities(pictures)
                features = self.model.forward_features(self._inputs(pictures, progress.epoch))
                logits = [self.model.forward_member(index, features).float() for index in served]
            # A sum over members: no member's gradient depends on how many others there are.
            loss = torch.stack([self._loss(each, labels, taught) for each in logits]).sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub leaves Tensor.backward untyped
            total += float(loss.detach())
            progress.correct += sum(int((each[: len(labels)].argmax(1) == labels).sum()) for each in logits)
            progress.answers += len(labels) * len(logits)
        if not math.isfinite(total):
            raise CheckFailedError(
                f"the loss became {total} in epoch {progress.epoch + 1}: train again with another --seed or --lr"
            )
        self.optimizer.step()
        if plan.recipe.ema_every == "step":
            self._average()
        progress.loss_sum += total / members

    def _loss(self, logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
        """Loss of one member. Class weights are 1 on average over all images, not over each batch.

        Args:
            logits: (N, C); N is larger than L where there are images without a label.
            labels: (L,), of the first images.
            taught: (N, C), what a teacher says of the images; None without one.
        """
        smoothing, labelled = self.plan.recipe.label_smoothing, logits[: len(labels)]
        if self.weights is None:
            own = F.cross_entropy(labelled, labels, label_smoothing=smoothing)
        else:
            each = F.cross_entropy(labelled, labels, label_smoothing=smoothing, reduction="none")
            own = (each * self.weights[labels]).mean()
        if self.plan.teaching is None or taught is None:
            return own
        return self.plan.teaching.loss(own, logits, taught, self.weights, labels)

    def _batch(self, epoch: int, step: int, draw: int) -> tuple[Tensor, Tensor]:
        """Augmented pictures (N, 3, H, W) in [0, 1] of one step of one draw, and the labels (L,) of the first."""
        plan = self.plan
        generator = torch.Generator().manual_seed(_seed(plan.seed, epoch, draw))
        if plan.balance == "sampler":
            order = balanced_order(self.labels, self.model.architecture.num_classes, generator)
        else:
            order = torch.randperm(len(self.labels), generator=generator)
        chosen = order[step * plan.recipe.batch_size : (step + 1) * plan.recipe.batch_size]
        if len(chosen) == 1:  # BN cannot normalise a single image whose map is 1 x 1
            chosen = order[-2:]
        images = self.images[chosen]
        if self.unlabelled is not None:
            others = beside(len(self.unlabelled), step, plan.recipe.batch_size, len(chosen), generator)
            images = torch.cat([images, self.unlabelled[others]])
        pictures = (images.permute(0, 3, 1, 2).float() / 255).to(plan.device)
        return self.augment(pictures), self.labels[chosen].to(plan.device)

    def _inputs(self, pictures: Tensor, epoch: int) -> Tensor:
        """The network's input of pictures (N, 3, H, W) in [0, 1]: as large as this epoch wants it, and normalised."""
        plan, side = self.plan, self.plan.preprocess.size
        if epoch < plan.recipe.small_share * plan.epochs:
            side = max(32, round(plan.recipe.small_scale * side))
        return self._normalise(resized(pictures, side))

    def _normalise(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] to the network's input, channels_last in memory."""
        mean = torch.tensor(self.plan.preprocess.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.plan.preprocess.std, device=images.device).view(1, 3, 1, 1)
        normalised = (images - mean) / std
        ordered = normalised.flip(1) if self.plan.preprocess.bgr else normalised
        return ordered.contiguous(memory_format=torch.channels_last)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.plan.device, torch.bfloat16, enabled=self.plan.mixed_precision)

    def _set_modes(self) -> None:
        """Training mode for what is trained; what is frozen keeps its BN statistics."""
        self.model.train()
        for name, module in self.model.named_modules():
            if self.plan.frozen and name.startswith(self.plan.frozen):
                module.eval()

    def estimate_frozen_statistics(self) -> None:
        """Re-estimate the frozen part's BN statistics by forward passes over the training images (paper's code)."""
        if self.plan.frozen and self.plan.recipe.bn_passes:
            named = list(self.model.named_modules())
            frozen = [module for name, module in named if name.startswith(self.plan.frozen)]
            self.estimate_statistics(frozen, self.plan.recipe.bn_passes)

    def estimate_statistics(self, modules: list[nn.Module], passes: int, most_batches: int | None = None) -> None:
        """Set the BN statistics of `modules` to their averages over `passes` passes of augmented training images.

        Args:
            modules: those of them that are BNs.
            passes: over the training images.
            most_batches: of each pass; None: all.
        """
        norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        self.model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all batches
            norm.train()
        with torch.no_grad(), self._precision():
            for epoch in range(passes):
                for step in range(min(self.steps_per_epoch, most_batches or self.steps_per_epoch)):
                    torch.manual_seed(_seed(self.plan.seed, -1 - epoch, step))
                    pictures, _ = self._batch(self.plan.epochs + epoch, step, 0)
                    self.model(self._inputs(pictures, self.plan.epochs))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _seed(*parts: int) -> int:
    """A 63-bit seed from integers, the same on every machine."""
    return int(np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(1, np.uint64)[0]) >> 1
