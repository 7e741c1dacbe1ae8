"""The learning-rate range test (Smith, arXiv 1506.01186), on the Step and loader that will train.

With another precision, graph or loader the answer would be for another training. Afterwards the
state is restored bit for bit, so that a run does not depend on whether the test was made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import Diverged, UsageError
from ..loaders.batches import checked
from .lr_rules import RULES, TRIM, suggest

GRACE = 5  # steps before the loss can count as diverged: the first losses are mostly noise
Batches = Iterable[tuple[Tensor, Tensor]]


class Sweep(NamedTuple):
    """The result of a range test in plain numbers: `_asdict()` is its JSON.

    `lrs`, `losses` (smoothed) and `raw` have one finite entry per step. `rule` is the rule that
    gave the suggestion, another than the requested one if that had no answer. `stopped` says why
    the test ended, `notes` what makes the suggestion doubtful.
    """

    lrs: list[float]
    losses: list[float]
    raw: list[float]
    suggestion: float
    rule: str
    stopped: str
    suggestions: dict[str, float]
    notes: list[str]


class Trainable(Protocol):
    """The part of a Step that the range test uses."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # disabled if nothing is scaled
    lr: Any  # only floats are assigned to it

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]: ...


def find_lr(
    step: Trainable,
    loader: Batches,
    *,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
    rule: str = "steepest",
    smoothing: float = 0.1,
    diverge: float = 4.0,
    read_every: int = 10,
    on_step: Sequence[Callable[[int], None]] = (),
    agree: Callable[[Tensor], Tensor] = lambda losses: losses,
) -> Sweep:
    """Train `steps` steps while the rate rises exponentially from `low` to `high`; then undo them.

    The test stops early if the loss is not finite, or if its average over about the last
    `smoothing` of all steps exceeds `diverge` times the best average. Raises Diverged if the first
    loss is not finite. The host reads the losses every `read_every` steps. Hooks get the number of
    finished steps. `agree` turns the losses of this process into those that all processes of a
    group use. A short loader is repeated, and rewound to epoch 1; an empty one raises DataError.
    The rates are those of the optimizer's first group; the other groups keep their ratios to it.
    """
    valid = 0 < low < high < np.inf and steps > 1 and 0 <= smoothing < 1 < diverge
    if not valid or rule not in RULES:
        values = f"{low:g} to {high:g}, {steps=}, {rule=}, {smoothing=}, {diverge=}"
        why = f"0 < low < high, steps > 1, smoothing < 1 < diverge, a rule of {', '.join(RULES)}"
        raise UsageError(f"range test ({values}): impossible. It needs {why}.")
    grid: list[float] = np.geomspace(low, high, steps).tolist()
    losses, raw = list[Tensor](), list[float]()
    factor = 1 - 1 / max(1, smoothing * steps)
    with contextlib.ExitStack() as undo:
        if hasattr(loader, "seek"):
            undo.callback(loader.seek, 1)
        undo.enter_context(restored(step))
        for done, loss in enumerate(_train_steps(step, loader, grid), 1):
            losses.append(loss)
            for hook in on_step:
                hook(done)
            if done % read_every == 0 or done == steps:
                raw += agree(torch.stack(losses[len(raw) :])).tolist()
                count, stopped = _valid_points(grid, raw, factor, diverge)
                if stopped:
                    break
    return _summarise(grid, raw[:count], factor, rule, stopped or "finished")


def _train_steps(step: Trainable, loader: Batches, grid: list[float]) -> Iterator[Tensor]:
    """Train one step at each rate of `grid`; yield the losses, which stay on the device."""
    step.model.train()
    done = 0
    while True:
        for images, labels in checked(loader, step, "range test"):
            step.lr = grid[done]
            # A copy, because a captured graph overwrites its loss at the next step.
            yield step(images, labels)[0].to(torch.float64, copy=True)
            done += 1
            if done == len(grid):
                return


def _valid_points(
    grid: list[float], raw: list[float], factor: float, diverge: float
) -> tuple[int, str]:
    """Return how many points are valid, and why the test must stop after them, if it must."""
    best = np.inf
    for i, (loss, mean) in enumerate(zip(raw, smooth(raw, factor), strict=True)):
        at = f"at lr {grid[i]:.3g}"
        if not np.isfinite(loss):
            if i == 0:
                raise Diverged(f"first loss ({loss}): not finite, {at}. Check the images.")
            return i, f"not finite: the loss is {loss} {at}"
        best = min(best, mean)
        if i >= GRACE and mean - best > (diverge - 1) * abs(best):
            return i + 1, f"diverged: the smoothed loss is {mean:.4g} {at}, its best {best:.4g}"
    return len(raw), ""


def smooth(raw: Sequence[float], factor: float) -> list[float]:
    """The exponential moving average of `raw`, corrected for its bias towards zero at the start."""
    weights = factor ** np.arange(len(raw))
    return (np.convolve(raw, weights)[: len(raw)] / weights.cumsum()).tolist()


def _summarise(
    grid: list[float], raw: list[float], factor: float, rule: str, stopped: str
) -> Sweep:
    lrs, losses, notes = grid[: len(raw)], smooth(raw, factor), []
    suggestions = suggest(lrs, losses)
    lr = suggestions[used := rule if rule in suggestions else "minimum"]
    if used != rule:
        notes.append(f"the curve is too short or too flat for {rule}: {used} was used")
    place = np.log(lr / grid[0]) / np.log(grid[-1] / grid[0])
    if not TRIM + 1 / len(grid) < place < 1 - TRIM:
        end = "low" if place < 0.5 else "high"
        notes.append(f"the suggestion {lr:.3g} is at the {end} end of the range: widen it")
    return Sweep(lrs, losses, raw, lr, used, stopped, suggestions, notes)


@contextlib.contextmanager
def restored(step: Trainable, *also: Tensor) -> Iterator[None]:
    """Undo, bit for bit, all training inside the block, also when the block raises.

    Restores weights, buffers, their average, gradients, optimizer (with its rates), scaler,
    training flags, the tensors `also` and torch's random state. Values are copied back into the
    same tensors, so that the addresses in a captured graph stay valid.
    """
    grads = {weight: weight.grad for weight in step.model.parameters()}
    holders: list[Any] = [grads, step.optimizer.state, *step.optimizer.param_groups]
    average = getattr(step, "average", None)
    averaged = () if average is None else average.modules()
    holders += map(vars, (*step.model.modules(), *averaged, step.scaler))
    # The nested dicts hold the parameters and buffers of a module and the momentum of a weight.
    holders += [item for holder in holders for item in holder.values() if isinstance(item, dict)]
    items = [dict(holder) for holder in holders]
    tensors = [v.detach() for each in items for v in each.values() if isinstance(v, Tensor)]
    tensors += also
    copies = [tensor.clone() for tensor in tensors]
    with torch.random.fork_rng(sorted({w.device.index for w in grads if w.is_cuda})):
        try:
            yield
        finally:
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
            for holder, before in zip(holders, items, strict=True):
                for key in holder.keys() - before.keys():
                    del holder[key]
                holder.update(before)
            for weight, grad in grads.items():
                weight.grad = grad
