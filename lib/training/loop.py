"""The training loop: epochs of optimizer steps, a validation after each, and a resumable state."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor
from tqdm import tqdm

from lib.config.recipe import Recipe
from lib.errors import FlukeError, Interrupted, Pruned
from lib.files import write_text
from lib.images.dataset import FeatureDataset, Images, make_train_loader
from lib.images.samplers import ShardedBatches, derive_seed
from lib.metrics.registry import METRICS
from lib.models.network import Network
from lib.models.weights import save_network
from lib.process import progress_bar_options
from lib.training import checkpoint
from lib.training.accelerator import describe_numerics, explain_step_errors
from lib.training.distributed import SIGNALLED, broadcast_from_main, pool_batchnorm, run_on_main
from lib.training.inference import InferenceOptions, predict_batches, to_device
from lib.training.optimizer import make_optimizer, make_plateau, plateau_factor, schedule_factor, set_learning_rate
from lib.training.preparation import checkpoint_gradients, note_no_progress, prepare_batchnorm
from lib.training.run import Run
from lib.training.state import Outcome, TrainState, describe_epoch, is_better
from lib.training.tasks import Task
from lib.training.time_budget import BatchTimes, TimeBudget, describe_duration

SAVE, OUT_OF_TIME, NOT_FINITE = 1, 2, 3
"""What a process may ask for after a step: save; save and end; give up. The largest of all processes holds."""


class Datasets(NamedTuple):
    """Images to train on and to validate on, or their features."""

    train: Images
    val: Images


def fit(trainer: Trainer) -> Outcome:
    """Train as the recipe says; writes best/, last/ and metrics.jsonl into the run's folder.

    Raises Interrupted after saving when a signal came. Raises FlukeError when the loss is no longer finite or the disk is full;
    what was saved before stays intact. Raises Pruned after an epoch that `Run.is_hopeless` calls the last one.
    """
    t, state = trainer.recipe.train, trainer.state
    if t.epochs == 0:
        trainer.save_weights(trainer.validate())
    while state.epoch < t.epochs and not (t.patience and state.waited >= t.patience):
        began = time.monotonic()
        in_time = trainer.train_epoch()
        if not in_time and state.best_epoch is not None:
            return trainer.outcome(finished=False)
        is_last = state.epoch + 1 == t.epochs
        due = not in_time or is_last or (state.epoch + 1) % t.validate_every == 0
        metrics = trainer.validate() if due and trainer.validates else None
        if not in_time:  # not one epoch in time: these weights count as the best so far, but not as an epoch
            trainer.save_weights(metrics)
            return trainer.outcome(finished=False)
        trainer.end_epoch(metrics, began)
        if not is_last and broadcast_from_main(trainer.accelerator, lambda: trainer.run.is_hopeless(state.history)):
            for tracker in trainer.accelerator.trackers:
                tracker.finish()
            raise Pruned(f"epoch {state.epoch}")
    return trainer.outcome(finished=True)


class Trainer:
    """The network, the optimizer and the state of a training, and the steps that change them.

    `task` evaluates the gathered outputs of `data.val`; its metric chooses the best epoch. `images_to_predict` images have to be
    predicted after the training, before the run's deadline.
    """

    def __init__(self, run: Run, recipe: Recipe, task: Task, network: Network, data: Datasets, images_to_predict: int):
        self.run, self.recipe, self.task, self.network, self.data = run, recipe, task, network, data
        self.accelerator, self.device = run.accelerator, run.accelerator.device
        t, o, num_processes = recipe.train, recipe.optim, run.accelerator.num_processes
        network = prepare_batchnorm(network, t, run)
        network.to(self.device).to(memory_format=torch.channels_last)
        self.ema = ModelEmaV3(network, decay=t.ema, use_warmup=True) if t.ema else None
        self.evaluated: Network = network if self.ema is None else self.ema.module
        """The network that is validated and kept."""
        assert network.objective is not None
        head = torch.nn.ModuleList([network.pool, network.head, network.objective])
        network.freeze(tuple(o.freeze))
        self.optimizer = self.accelerator.prepare(make_optimizer(o, network.backbone, head))
        self.higher_is_better = METRICS[task.metric].higher_is_better
        self.plateau = make_plateau(o, self.higher_is_better)
        if t.grad_checkpointing:
            checkpoint_gradients(network)
        if t.compile:
            network.compile_training()
        self.reads_images = not isinstance(data.train, FeatureDataset)
        """False for features, whose time says nothing about a prediction's."""
        order = task.make_order()
        self.batches = ShardedBatches(order, order.n, t.images_per_batch, self.accelerator.process_index, num_processes)
        workers = recipe.data.workers if self.reads_images else 0
        self.loader = make_train_loader(data.train, self.batches, workers)
        self.inference = replace(InferenceOptions.from_recipe(recipe, num_processes), workers=workers)
        self.val_loader = self.inference.make_loader(data.val, self.accelerator, passes=t.epochs)
        self.validates = True
        """False for a training on all rows, which keeps its last weights."""
        self.val_outputs: np.ndarray | None = None
        """Outputs of the last validation."""
        self.kept_outputs: np.ndarray | None = None
        """Validation outputs of the weights on disk."""
        self.steps_per_epoch = math.ceil(self.batches.count / t.accumulate)
        self.model, self.backbone_frozen = self.accelerator.prepare_model(network), False
        self.state = TrainState()
        self.loss_sum = torch.zeros((), device=self.device)
        """Sum of this process's losses in this epoch."""
        self.speed: dict[str, float] = {}
        """Images per second and the share of waiting of this epoch."""
        self.budget = TimeBudget(run.deadline, len(data.val) if self.reads_images else 0, images_to_predict)
        self.saved_at = time.monotonic()

    # --- resumable state ----------------------------------------------------------------------------------------------------------

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the modules that a resumable state holds, by file name."""
        return {"model": self.network} | ({"ema": self.ema.module} if self.ema else {})

    def resume(self, folder: Path) -> None:
        """Load a resumable state; the caller has checked that it belongs to this recipe. Raises FlukeError when it doesn't fit."""
        saved, state = checkpoint.load_checkpoint(folder, self.modules()), checkpoint.read_state(folder)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.plateau.load_state_dict(saved["plateau"])
        if self.accelerator.scaler is not None and saved.get("scaler"):
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        running, rank = state["running"], self.accelerator.process_index
        # On another number of processes each has an equal part: what counts is their mean.
        same = len(running) == self.accelerator.num_processes
        self.loss_sum += running[rank] if same else sum(running) / len(running)
        for name in asdict(self.state):
            setattr(self.state, name, state[name])
        epoch, batch = self.state.epoch, self.state.batch
        self.run.log(
            f"resuming {self.run.folder} after epoch {epoch}" + (f", batch {batch} of {self.batches.count}" if batch else "")
        )

    def save(self) -> None:
        """Write a resumable state. Raises FlukeError when the disk is full, and when the loss is no longer finite."""
        running = self.accelerator.gather(self.loss_sum[None]).tolist()
        if not all(map(math.isfinite, running)):
            raise self._not_finite()
        state = {**asdict(self.state), "running": running}
        state |= {"recipe": asdict(self.recipe), "world": self.accelerator.num_processes, **describe_numerics(self.accelerator)}
        parts = {"optimizer": self.optimizer.state_dict(), "plateau": self.plateau.state_dict()}
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler.state_dict()
        run_on_main(self.accelerator, lambda: checkpoint.save_checkpoint(self.run.folder.checkpoints, state, self.modules(), parts))
        self.saved_at = time.monotonic()

    # --- an epoch -----------------------------------------------------------------------------------------------------------------

    def train_epoch(self) -> bool:
        """Train on the batches of an epoch that are left; returns False when the time is over before its end.

        Raises Interrupted after saving when a signal came, and FlukeError when the loss is no longer finite.
        """
        state, t, first = self.state, self.recipe.train, self.state.batch
        self.start_epoch()
        title, times = f"epoch {state.epoch + 1}/{t.epochs}", BatchTimes()
        with tqdm(self.loader, title, total=self.batches.count, initial=first, **progress_bar_options()) as progress:
            for batch, (images, targets, _) in enumerate(progress, start=first):
                times.start_batch()
                steps = self.train_step(batch, images, targets)
                times.end_batch()
                if times.batches > 5:
                    self._measure_steps(times)
                    progress.set_postfix_str(self._describe_time_left(batch + 1), refresh=False)
                if steps and self._after_step(batch + 1) == OUT_OF_TIME:
                    return False
                times.wait()
        if times.batches > 1:
            self._measure_steps(times)
        self.speed, state.batch = times.speed(self.batches.size), self.batches.count
        return True

    def _measure_steps(self, times: BatchTimes) -> None:
        seconds, batches = times.after_first()
        images = batches * self.batches.size
        self.budget.measure_steps(seconds, batches, images if self.reads_images else None)

    def start_epoch(self) -> None:
        """Make the network and the order of batches those of the state's epoch."""
        self._freeze_backbone()
        self.batches.epoch, self.batches.start = self.state.epoch, self.state.batch
        self.model.train()

    def seconds_left(self, batches_done: int) -> float | None:
        """Return how long the rest of the run takes, with the folds to come, after so many batches of this epoch.

        None while it isn't known. train.patience may end the run earlier.
        """
        epochs, every, done = self.recipe.train.epochs, self.recipe.train.validate_every, self.state.epoch
        validations = (epochs - 1) // every + 1 if self.validates else 0  # every n-th epoch, and the last one
        validated = done // every if self.validates else 0
        left = self.budget.seconds_left((epochs - done) * self.batches.count - batches_done, validations - validated)
        fold = self.budget.seconds_left(epochs * self.batches.count, validations)
        return None if left is None or fold is None else left + self.run.folds_to_come * fold

    def _describe_time_left(self, batches_done: int = 0) -> str:
        left = self.seconds_left(batches_done)
        return "" if left is None else f"{describe_duration(left)} left of {'all folds' if self.run.kfold else 'the run'}"

    def train_step(self, batch: int, images: Tensor, targets: Tensor) -> bool:
        """Add a batch's gradients, and take an optimizer step at the end of an accumulation window; returns whether it did."""
        state, t, o = self.state, self.recipe.train, self.recipe.optim
        window = batch // t.accumulate * t.accumulate
        in_window = min(t.accumulate, self.batches.count - window)
        steps = batch == window + in_window - 1
        # Dropout, MixUp and the like draw from this generator: no random state has to be saved.
        torch.manual_seed(derive_seed(t.seed, 1, state.epoch, batch, self.accelerator.process_index))
        factor = schedule_factor(o, state.step, self.steps_per_epoch * t.epochs, self.steps_per_epoch)
        set_learning_rate(self.optimizer, o.lr * factor * plateau_factor(self.plateau))
        with explain_step_errors(t, self.accelerator.num_processes):
            images = to_device(images, self.device)
            with nullcontext() if steps else self.accelerator.no_sync(self.model):
                loss = self.model(images, targets.to(self.device, non_blocking=True))["loss"]
                self.accelerator.backward(loss / in_window)
            if steps:
                if o.clip_norm is not None:
                    self.accelerator.clip_grad_norm_(self.network.parameters(), o.clip_norm)
                self.optimizer.step()  # the first one allocates the moments
        if steps:
            self.optimizer.zero_grad()
            state.step += not self.optimizer.step_was_skipped
            if self.ema is not None:
                self.ema.update(self.network, state.step)
        self.loss_sum += loss.detach()
        return steps

    def _freeze_backbone(self) -> None:
        """Freeze or unfreeze the backbone as `optim.freeze_epochs` says.

        The network is wrapped again, because DistributedDataParallel must know which parameters have gradients.
        """
        if self.backbone_frozen != (self.state.epoch < self.recipe.optim.freeze_epochs):
            self.backbone_frozen = not self.backbone_frozen
            self.network.freeze(("",) if self.backbone_frozen else tuple(self.recipe.optim.freeze))
            self.model = self.accelerator.prepare_model(self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False))

    def _request(self) -> int:
        """Return what this process asks for after a step, 0 for nothing."""
        # Reading the loss waits for a GPU; a loss that is not finite stays so, and each save looks again.
        if (self.device.type == "cpu" or self.state.step % 10 == 0) and not math.isfinite(self.loss_sum.item()):
            return NOT_FINITE
        if self.budget.is_spent():
            return OUT_OF_TIME
        minutes = self.recipe.train.save_minutes
        return SAVE if minutes is not None and time.monotonic() - self.saved_at > 60 * minutes else 0

    def _after_step(self, batches_done: int) -> int:
        """Agree with the other processes on saving and stopping; returns what was agreed. Raises as `train_epoch` does."""
        agreed = self.run.stop.agree(self._request)
        if agreed == NOT_FINITE:
            raise self._not_finite()
        if agreed:
            self.state.batch = batches_done
            self.save()
        if agreed == SIGNALLED:
            raise Interrupted(f"Stopped by a signal in epoch {self.state.epoch + 1}; {self.run.resume_command}")
        return agreed

    def _not_finite(self) -> FlukeError:
        kept = "no epoch was finished"
        if self.state.best_epoch is not None:
            kept = f"the best weights, of epoch {self.state.best_epoch}, are in {self.run.folder.weights.parent}"
        return FlukeError(
            f"The loss is no longer finite in epoch {self.state.epoch + 1}; {kept}. A lower optim.lr, or optim.clip_norm, may help."
        )

    # --- the end of an epoch ------------------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Return the validation metric, and the loss of a classifier, the same on every process.

        Raises Interrupted after saving when a signal came.
        """
        pool_batchnorm(self.evaluated, self.accelerator)
        began, check = time.monotonic(), self.run.stop.check
        try:
            (outputs,) = predict_batches(
                [self.evaluated], self.val_loader, self.accelerator, self.inference.flips, check, title="validate"
            )
        except Interrupted:
            self.save()
            raise Interrupted(
                f"Stopped by a signal while validating epoch {self.state.epoch + 1}; {self.run.resume_command}"
            ) from None
        if self.reads_images:
            self.budget.measure_validation(time.monotonic() - began, len(self.data.val))
        self.val_outputs = outputs
        return broadcast_from_main(self.accelerator, lambda: self.task.measure(outputs, self.evaluated.objective))

    def save_weights(self, metrics: dict[str, float] | None) -> bool:
        """Write the weights if they are the best, or if the last ones are kept; returns whether they are the best."""
        state, metric = self.state, self.task.metric
        best = None if state.best_epoch is None else state.history[state.best_epoch - 1][metric]
        is_best = metrics is not None and (best is None or is_better(metrics[metric], best, self.higher_is_better))
        if is_best or self.recipe.train.keep == "last":
            run_on_main(self.accelerator, partial(save_network, self.run.folder.weights, self.evaluated))
            self.kept_outputs = self.val_outputs if metrics is not None else None
        return is_best

    def end_epoch(self, metrics: dict[str, float] | None, began: float) -> None:
        """Keep the weights, note the epoch in the history, and save; `metrics` are None where the epoch wasn't validated.

        Raises FlukeError when the mean loss isn't finite.
        """
        state, metric = self.state, self.task.metric
        mean_loss = self.accelerator.reduce(self.loss_sum, "mean").item() / self.batches.count
        if not math.isfinite(mean_loss):
            raise self._not_finite()
        is_best = self.save_weights(metrics)
        if metrics is not None:
            state.best_epoch = state.epoch + 1 if is_best else state.best_epoch
            state.waited = state.epoch + 1 - (state.best_epoch or 0)
            if self.recipe.optim.schedule == "plateau":
                self.plateau.step(metrics[metric])
        group = self.optimizer.param_groups[0]
        entry = {"epoch": state.epoch + 1, "train_loss": mean_loss, "lr": group["lr"] / group["lr_scale"], **(metrics or {})}
        state.history.append({**entry, "seconds": round(time.monotonic() - began, 1), **self.speed})
        state.epoch, state.batch, self.loss_sum = state.epoch + 1, 0, torch.zeros_like(self.loss_sum)
        run_on_main(self.accelerator, self._write_history)  # before the state: a run killed between the two writes the line again
        self.save()
        line = describe_epoch(state.history[-1], metric, self.recipe.train.epochs, is_best)
        self.run.log(line if state.epoch == self.recipe.train.epochs else f"{line}  {self._describe_time_left()}".rstrip())
        if metrics is not None and (note := note_no_progress(state.history, metric, self.task.chance)):
            self.run.log(note)

    def _write_history(self) -> None:
        write_text(self.run.folder.history, "".join(json.dumps(entry) + "\n" for entry in self.state.history))
        logged = {key: value for key, value in self.state.history[-1].items() if key != "epoch"}
        self.accelerator.log(logged, step=self.state.epoch)

    def outcome(self, finished: bool) -> Outcome:
        """Return what training leaves."""
        history = self.state.history
        keeps_last = self.recipe.train.keep == "last" and history
        return Outcome(history, len(history) if keeps_last else self.state.best_epoch, self.kept_outputs, finished)
