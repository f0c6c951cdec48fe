"""The one loop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from tqdm import tqdm

from lib.config.recipe import Recipe, Train
from lib.errors import FlukeError, Interrupted
from lib.files import write_text
from lib.images.dataset import ImageDataset, make_train_loader
from lib.images.samplers import ShardedBatches, derive_seed
from lib.metrics.registry import METRICS
from lib.models.network import Network
from lib.models.weights import save_network
from lib.training import checkpoint
from lib.training.distributed import SIGNALLED, StopSignal, broadcast_buffers, broadcast_from_main, run_on_main
from lib.training.inference import predict, progress_bar_options
from lib.training.optimizer import make_optimizer, make_plateau, plateau_factor, schedule_factor, set_learning_rate
from lib.training.tasks import Task

DUE, LATE, BROKEN = 1, 2, 3  # what a process may wish for after a step: save; save and end; give up


@dataclass
class Outcome:
    """What the loop leaves behind beside the files."""

    history: list[dict[str, Any]]
    """One dict an epoch: epoch, train_loss, lr, seconds, and every validation metric."""
    best_epoch: int | None
    finished: bool
    """False when train.max_minutes cut the job short: --resume goes on."""


def fit(
    network: Network,
    train_images: ImageDataset,
    batches: ShardedBatches,
    val_images: ImageDataset,
    task: Task,
    recipe: Recipe,
    accelerator: Accelerator,
    run: Path,
    stop: StopSignal,
    say: Callable[[str], None],
    deadline: float | None = None,
    images_to_predict: int = 0,
) -> Outcome:
    """Train `network` as the recipe says, leaving best/model.safetensors, last/ and metrics.jsonl in `run`.

    `task` turns the gathered outputs of `val_images` into metrics, one of which chooses the best epoch. A resumable state in
    `run`/last is taken up: the caller has checked that it belongs to this recipe. `deadline` is a time.monotonic() by which
    training, its validations and then the prediction of `images_to_predict` images have to be done. Raises Interrupted after
    saving when a signal came; FlukeError when the loss is no longer finite or the disk is full, with what was saved intact.
    """
    t, o, metric = recipe.train, recipe.optim, task.metric
    device, main, world = accelerator.device, accelerator.is_main_process, accelerator.num_processes
    direction: Literal["max", "min"] = "max" if METRICS[metric].higher_is_better else "min"
    network.to(device).to(memory_format=torch.channels_last if t.channels_last else torch.contiguous_format)
    ema = ModelEmaV3(network, decay=t.ema, use_warmup=True) if t.ema else None
    assert network.objective is not None
    rest = torch.nn.ModuleList([network.pool, network.head, network.objective])
    network.freeze(tuple(o.freeze))
    optimizer = accelerator.prepare(make_optimizer(o, network.backbone, rest))
    plateau = make_plateau(o, direction)
    if t.compile:
        network.backbone.compile()

    epoch, first, step = 0, 0, 0
    history: list[dict[str, Any]] = []
    running = torch.zeros((), device=device)
    best_epoch: int | None = None
    waited = 0
    folder, skipped = checkpoint.find_checkpoint(run / "last")
    for sentence in skipped:
        say(sentence)
    if folder is not None:
        modules = {"model": network} | ({"ema": ema.module} if ema else {})
        saved, state = checkpoint.load_checkpoint(folder, modules), checkpoint.read_state(folder)
        optimizer.load_state_dict(saved["optimizer"])
        plateau.load_state_dict(saved["plateau"])
        if accelerator.scaler is not None and saved.get("scaler"):
            accelerator.scaler.load_state_dict(saved["scaler"])
        epoch, first, step, history = state["epoch"], state["batch"], state["step"], state["history"]
        running += state["running"][accelerator.process_index]
        best_epoch, waited = state["best_epoch"], state["waited"]
        say(f"resuming {run} after epoch {epoch}" + (f", batch {first} of {batches.count}" if first else ""))

    def save(epoch: int, batch: int) -> None:
        sums = accelerator.gather(running[None]).tolist()
        state = {"epoch": epoch, "batch": batch, "step": step, "running": sums, "history": history, "best_epoch": best_epoch}
        state |= {"waited": waited, "recipe": asdict(recipe), "world": world, **describe_numerics(accelerator)}
        parts = {"optimizer": optimizer.state_dict(), "plateau": plateau.state_dict()}
        if accelerator.scaler is not None:
            parts["scaler"] = accelerator.scaler.state_dict()
        modules = {"model": network} | ({"ema": ema.module} if ema else {})
        run_on_main(accelerator, lambda: checkpoint.save_checkpoint(run / "last", state, modules, parts, t.keep_last))

    def wish() -> int:
        if not math.isfinite(running.item()):
            return BROKEN
        to_come = len(val_images) + images_to_predict  # a validation may begin before the next look
        if deadline is not None and time.monotonic() + 1.3 * seconds_an_image * to_come + 5 > deadline:
            return LATE
        return DUE if t.save_minutes is not None and time.monotonic() - saved_at > 60 * t.save_minutes else 0

    def broken() -> FlukeError:
        kept = (
            f"the best weights, of epoch {best_epoch}, are in {run / 'best'}" if best_epoch is not None else "no epoch was finished"
        )
        return FlukeError(
            f"The loss is no longer finite in epoch {epoch + 1}; {kept}. A lower optim.lr, or optim.clip_norm, may help."
        )

    per_epoch = math.ceil(batches.count / t.accumulate)
    loader = make_train_loader(train_images, batches, recipe.data.workers)
    model, frozen = accelerator.prepare_model(network), False
    finished, saved_at, seconds_an_image, timed = True, time.monotonic(), 0.0, False
    while epoch < t.epochs and not (t.patience and waited >= t.patience):
        began = time.monotonic()
        if frozen != (epoch < o.freeze_epochs):
            # Wrapped anew: DistributedDataParallel must learn which parameters have gradients now.
            frozen = not frozen
            network.freeze(("",) if frozen else tuple(o.freeze))
            model = accelerator.prepare_model(accelerator.unwrap_model(model, keep_fp32_wrapper=False))
        batches.epoch, batches.start = epoch, first
        model.train()
        bar = tqdm(loader, f"epoch {epoch + 1}/{t.epochs}", total=batches.count, initial=first, **progress_bar_options(accelerator))
        for batch, (images, targets, _) in enumerate(bar, start=first):
            window = batch // t.accumulate * t.accumulate
            in_window = min(t.accumulate, batches.count - window)
            step_now = batch == window + in_window - 1
            # Dropout, MixUp and the like draw from here: nothing random is left to save.
            torch.manual_seed(derive_seed(t.seed, 1, epoch, batch, accelerator.process_index))
            set_learning_rate(optimizer, o.lr * schedule_factor(o, step, per_epoch * t.epochs, per_epoch) * plateau_factor(plateau))
            images = images.to(device, non_blocking=True)
            if t.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with explain_step_errors(t, world), nullcontext() if step_now else accelerator.no_sync(model):
                loss = model(images, targets.to(device, non_blocking=True))["loss"]
                accelerator.backward(loss / in_window)
            if step_now:
                if o.clip_norm is not None:
                    accelerator.clip_grad_norm_(network.parameters(), o.clip_norm)
                with explain_step_errors(t, world):  # the first step allocates the moments
                    optimizer.step()
                optimizer.zero_grad()
                step += not optimizer.step_was_skipped
                if ema is not None:
                    ema.update(network, step)
            running += loss.detach()
            if batch == first:
                warm = time.monotonic()
            elif not timed and batch >= first + 5:  # roughly: a step's backward pass against flips and a larger size
                seconds_an_image = (time.monotonic() - warm) / ((batch - first) * batches.share * world)
            # always at an epoch's end: of fewer than ten steps none might be a tenth call, for validation calls as well
            verdict = stop.agreed(wish, always=batch == batches.count - 1) if step_now else 0
            if verdict == BROKEN:
                raise broken()
            if verdict:
                save(epoch, batch + 1)
                saved_at = time.monotonic()
            if verdict == SIGNALLED:
                raise Interrupted(f"Stopped by a signal in epoch {epoch + 1}; go on with: --out {run} --resume")
            if verdict == LATE:
                finished = False
                break
        bar.close()
        if not finished and best_epoch is not None:
            break
        chosen = network if ema is None else ema.module
        broadcast_buffers(chosen, accelerator)
        timer = time.monotonic()
        try:
            batch_size = recipe.predict.batch_size or max(64, t.batch_size // world)
            outputs = predict(
                [chosen],
                val_images,
                accelerator,
                batch_size,
                recipe.data.workers,
                recipe.predict.tta,
                check=stop.check,
                title="validate",
            )
        except Interrupted:
            save(epoch, batches.count)
            raise Interrupted(f"Stopped by a signal while validating epoch {epoch + 1}; go on with: --out {run} --resume") from None
        seconds_an_image, timed = (time.monotonic() - timer) / len(val_images), True
        metrics = broadcast_from_main(accelerator, partial(task.evaluate, outputs[0], chosen.objective))
        better = best_epoch is None or _is_better(metrics[metric], history[best_epoch - 1][metric], direction)
        if better or t.keep == "last":
            run_on_main(accelerator, partial(save_network, run / "best" / "model.safetensors", chosen))
        if not finished:  # not one epoch in time: what there is counts as the best so far, but not as an epoch
            break
        if better:
            best_epoch, waited = epoch + 1, 0
        else:
            waited += 1
        mean_loss = accelerator.reduce(running, "mean").item() / batches.count
        if not math.isfinite(mean_loss):
            raise broken()
        line = {
            "epoch": epoch + 1,
            "train_loss": mean_loss,
            "lr": optimizer.param_groups[0]["lr"] / optimizer.param_groups[0]["lr_scale"],
        }
        history.append({**line, **metrics, "seconds": round(time.monotonic() - began, 1)})
        if o.schedule == "plateau":
            plateau.step(metrics[metric])
        epoch, first, running = epoch + 1, 0, torch.zeros_like(running)
        if main:  # before the state: who is killed between them writes the line again
            write_text(run / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
            accelerator.log({key: value for key, value in history[-1].items() if key != "epoch"}, step=epoch)
        save(epoch, 0)
        saved_at = time.monotonic()
        say(_describe_epoch(history[-1], metric, t.epochs, better))
    return Outcome(history, len(history) if t.keep == "last" and history else best_epoch, finished)


def describe_numerics(accelerator: Accelerator) -> dict[str, Any]:
    """What the last bits of a job's numbers depend on beside its recipe and the number of processes."""
    return {"threads": torch.get_num_threads(), "precision": accelerator.mixed_precision, "device": accelerator.device.type}


@contextmanager
def explain_step_errors(t: Train, world: int) -> Iterator[None]:
    """Turn what a step's size may raise into one sentence: no memory left, or too few images for BatchNorm."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        fitting = max(t.batch_size // 2 // world, 1) * world
        cure = f"try --train.batch_size {fitting} --train.accumulate {t.accumulate * 2}, which trains much alike"
        if fitting == t.batch_size:
            cure = "one image is too large: lower data.size, or take a smaller model"
        raise FlukeError(
            f"Out of GPU memory with train.batch_size {t.batch_size} on {world} process{'es' * (world > 1)}; {cure}."
        ) from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise FlukeError(
            f"train.batch_size {t.batch_size} leaves each of {world} processes one image a batch, of which BatchNorm can't take "
            f"statistics; {2 * world} is the least."
        ) from None


def _is_better(value: float, best: float, direction: str) -> bool:
    if math.isnan(best):
        return not math.isnan(value)
    return value > best if direction == "max" else value < best


def _describe_epoch(entry: dict[str, Any], metric: str, epochs: int, better: bool) -> str:
    shown = [key for key in dict.fromkeys(["loss", metric, "recall@1", "auroc"]) if key in entry]
    parts = [f"train loss {entry['train_loss']:.4f}", *(f"val {key} {entry[key]:.4f}" for key in shown)]
    parts += [f"lr {entry['lr']:.2e}", f"{entry['seconds']:.0f} s"]
    return f"epoch {entry['epoch']}/{epochs}  " + "  ".join(parts) + ("  best" if better else "")
