"""Builds the model, the Step and the loaders that a Recipe describes.

The parts take plain arguments and no Recipe, so that each also works in a user's own program.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data import Data, Loader, sets
from ..errors import UsageError
from ..loaders.build import few_images, loader, loss_weights
from ..machine import auto
from ..machine.allocator import keep_pages
from ..machine.auto import Choice
from ..models.build import network, optimizer, prepare
from ..models.packed_conv import pack_convolutions, suits
from ..models.stages import check_layer
from ..models.sync_batchnorm import synchronised
from ..optim.schedule import EveryStep, Plateau
from ..optim.warm_up import AnySchedule, WarmUp
from ..parallel.group import Group
from ..recipe.recipe import Recipe
from .gradients import in_parts, whole
from .graphs import GraphedStep
from .step import Step

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


class Built(NamedTuple):
    """The parts of a training run, and what `auto` chose for it.

    `test` goes over the split that chooses the best epoch, `final` over one that is evaluated
    once, at the end, if there is another. `new_head` has the names of the weights that do not come
    from --init.
    """

    step: Step
    train: Loader
    test: Loader
    device: torch.device
    choices: dict[str, Choice]
    final: Loader | None = None
    new_head: tuple[str, ...] = ()


def splits(recipe: Recipe, **options: Any) -> Data:
    """The Recipe's data set, cut to its limits; `options` are those of sets.load."""
    return sets.load(
        str(recipe.dataset),
        data_dir=Path(recipe.data_dir) if recipe.data_dir else None,
        cache_dir=Path(recipe.cache_dir) if recipe.cache_dir else None,
        side=None if recipe.side == "auto" else int(recipe.side),
        classes=recipe.classes,
        fit=recipe.fit,
        holdout=recipe.holdout,
        train_limit=recipe.train_limit,
        test_limit=recipe.test_limit,
        first=recipe.limits == "first",
        skip_bad_files=recipe.skip_bad_files,
        reference=recipe.statistics == "reference",
        **options,
    )


def build(recipe: Recipe, data: Data, group: Group | None = None, *, fresh: bool = True) -> Built:
    """Build model, optimizer, Step and loaders for a data set.

    With a `group` of several processes the loaders give this process's share of each batch. A run
    that is not `fresh` resumes a checkpoint and does not read --init's weights. Raises UsageError
    if the batch size does not fit the data or the group, or --cam-layer not the network.
    """
    group = group or Group()
    count, batch = len(data.train.labels), recipe.batch_size
    if batch > count:
        raise UsageError(
            f"--batch-size ({batch}): more than the {count} training images. "
            f"Use --batch-size {count} or less."
        )
    device = group.device(auto.device(recipe.device))
    auto.make_current(device)
    if device.type == "cpu":
        keep_pages()
    chosen = {
        "amp": auto.amp(recipe.amp, device),
        "compile": auto.compiled(recipe.compile, device, steps=recipe.epochs * (count // batch)),
        "loader": auto.loader(recipe.loader, _dali_problem(recipe.loader)),
    }
    chosen["graphs"] = auto.graphs(
        recipe.graphs, device, optimizer=recipe.optimizer, world=group.world
    )
    set_backends(seed=recipe.seed, deterministic=recipe.deterministic)
    scale, classes = data.statistics, len(data.classes)
    few = partial(few_images, recipe, data.train, scale)
    model = network(recipe, few, classes=classes, side=data.side)
    new_head = prepare(recipe, model, classes=classes, names=data.classes, fresh=fresh)
    if recipe.cam_layer is not None:
        check_layer(model, recipe.cam_layer, side=data.side)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.sync_bn and group.world > 1 and not recipe.freeze:
        model = synchronised(model)
    amp = AMP[chosen["amp"].value]
    if suits(device, amp):
        pack_convolutions(model)
    wrapped = group.wrap(model)
    unsynced = getattr(wrapped, "no_sync", nullcontext)
    step = Step(
        model,
        optimizer(recipe, model),
        amp=amp,
        compile=chosen["compile"].value == "on",
        label_smoothing=recipe.label_smoothing,
        class_weights=loss_weights(recipe, data.train, classes=classes),
        wrap=lambda model: wrapped,
        gradients=whole if recipe.accumulate == 1 else in_parts(recipe.accumulate, unsynced),
    )
    if chosen["graphs"].value == "on":
        step = GraphedStep(step)
    make = partial(loader, chosen["loader"].value, recipe, device, scale=scale, group=group)
    loaders = make(data.train, training=True), make(data.held_out, training=False)
    final = None if data.val is None else make(data.test, training=False)
    return Built(step, *loaders, device, chosen, final, new_head)


def schedule(recipe: Recipe, step: Step, *, steps: int) -> AnySchedule:
    """The Recipe's schedule over `steps` training steps, from or up to the current rate of `step`.

    A warm-up comes before the schedule, which is made for the steps that remain.
    """
    rising = round(steps * recipe.warmup / recipe.epochs)
    made = _schedule(recipe, step, steps - rising)
    return WarmUp(made, step.optimizer, steps=rising) if rising else made


def _schedule(recipe: Recipe, step: Step, steps: int) -> Plateau | EveryStep:
    if recipe.scheduler == "plateau":
        return Plateau(
            step.optimizer,
            patience=recipe.patience,
            factor=recipe.factor,
            threshold=recipe.threshold,
        )
    return EveryStep(step.optimizer, kind=recipe.scheduler, lr=float(step.lr), steps=steps)


def set_backends(*, seed: int, deterministic: bool) -> None:
    """Set torch's global switches; no other code sets any."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:  # without it torch refuses every matrix product on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def _dali_problem(asked: str) -> str | None:
    from ..loaders import dali

    return dali.available() if asked == "auto" else None
