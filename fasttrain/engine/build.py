"""Builds the model, the Step and the loaders that a Recipe describes.

The parts take plain arguments and no Recipe, so that each also works in a user's own program.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..data import Data, Loader, sets
from ..errors import UsageError
from ..loaders.build import few_images, loader, loss_weights
from ..machine import auto
from ..machine.allocator import keep_pages
from ..machine.auto import Choice
from ..models.build import network, optimizer, prepare
from ..models.packed_conv import pack_convolutions
from ..models.stages import check_layer
from ..models.sync_batchnorm import synchronised
from ..optim.schedule import EveryStep, Plateau
from ..optim.warm_up import AnySchedule, WarmUp
from ..parallel.group import Group
from ..recipe.recipe import Recipe
from .average import Average
from .candidates import Settings, settings, space
from .choices import chosen_by_rule, facts, loaders_here, measured
from .gradients import in_parts, whole
from .graphs import GraphedStep
from .step import Step
from .trial import Trial
from .tune import Tuned

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}


class Built(NamedTuple):
    """The parts of a training run, what `auto` chose for it, and the table of what was measured.

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
    measured: dict[str, Any] | None = None


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


def build(
    recipe: Recipe,
    data: Data,
    group: Group | None = None,
    *,
    fresh: bool = True,
    recorded: Mapping[str, str] | None = None,
    tune: Callable[[Trial], Tuned | None] = lambda trial: None,
) -> Built:
    """Build model, optimizer, Step and loaders for a data set.

    With a `group` of several processes the loaders give this process's share of each batch. A run
    that is not `fresh` resumes a checkpoint and does not read --init's weights. What is `auto` is
    what was `recorded` for the run, else what `tune` finds for a Trial, else what the rules of
    machine/auto.py say. Raises UsageError if the batch size does not fit the data or the group, or
    --cam-layer not the network.
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
    chosen = chosen_by_rule(recipe, device, group, recorded or {})
    set_backends(seed=recipe.seed, deterministic=recipe.deterministic)
    scale, classes = data.statistics, len(data.classes)
    few = partial(few_images, recipe, data.train, scale)
    model = network(recipe, few, classes=classes, side=data.side)
    new_head = prepare(recipe, model, classes=classes, names=data.classes, fresh=fresh)
    if recipe.cam_layer is not None:
        check_layer(model, recipe.cam_layer, side=data.side)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = loss_weights(recipe, data.train, classes=classes)
    average = None if recipe.ema is None else Average(model, recipe.ema)
    updates = cache(lambda provider: optimizer(replace(recipe, optimizer=provider), model))

    def make(settings: Settings, wrap: Callable[[nn.Module], nn.Module] = lambda it: it) -> Step:
        wrapped = wrap(model)
        unsynced = getattr(wrapped, "no_sync", nullcontext)
        step = Step(
            model,
            updates(settings.optimizer),
            amp=AMP[settings.amp],
            compile=settings.compile == "on",
            label_smoothing=recipe.label_smoothing,
            class_weights=weights,
            wrap=lambda model: wrapped,
            gradients=whole if recipe.accumulate == 1 else in_parts(recipe.accumulate, unsynced),
            average=average,
        )
        return GraphedStep(step) if settings.graphs == "on" else step

    make_loader = partial(loader, recipe=recipe, device=device, scale=scale, group=group)
    train = cache(lambda kind: make_loader(kind, split=data.train, training=True, classes=classes))
    found = None
    if recorded is None:
        trial = Trial(
            space(recipe, device, model, chosen),
            settings(chosen),
            make,
            loaders_here(recipe, device, chosen["loader"]),
            train,
            device,
            recipe.epochs * (count // batch),
            partial(facts, recipe, model, data, group),
            recipe.max_time,
            group,
        )
        found = tune(trial)
    chosen |= {} if found is None else measured(chosen, found)
    for module in (model,) if average is None else (model, average):
        pack_convolutions(module, packed=chosen["convolutions"].value == "packed")
    if recipe.sync_bn and group.world > 1 and not recipe.freeze:
        model = synchronised(model)
    step = found.step if found is not None and group.world == 1 else None
    step = make(settings(chosen), group.wrap) if step is None else step
    kind = chosen["loader"].value
    train(kind).seek(1)
    test = make_loader(kind, split=data.held_out, training=False)
    final = None if data.val is None else make_loader(kind, split=data.test, training=False)
    table = found and found.table
    return Built(step, train(kind), test, device, chosen, final, new_head, table)


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
