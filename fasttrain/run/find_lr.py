"""Runs the learning-rate range test of a recipe and describes its result.

The number of steps depends on the device, so that the test stays a small part of a run on a CPU.
"""

from __future__ import annotations

from ..console.console import Display
from ..engine.build import Built
from ..engine.lr_finder import Sweep, find_lr
from ..parallel.group import Group
from ..recipe.recipe import Recipe

# SGD with momentum learns nothing here below this rate. With 25 steps from this rate up to 1, the
# rule gave 0.015, 0.015 and 0.022 for three seeds, on 5,000 images of CIFAR-10 at batch 128.
LOWEST_LR, HIGHEST_LR = 1e-4, 1.0
# An update of AdamW has the size of the rate, whatever that of the gradient.
LOWEST_ADAMW, HIGHEST_ADAMW = 1e-6, 0.1


def range_test(recipe: Recipe, built: Built, display: Display, group: Group) -> Sweep:
    """Run it on the Step and Loader used for training; all processes get the same result."""
    steps = range_test_steps(recipe, built)
    is_adamw = recipe.optimizer == "adamw"
    watched = group.watched(recipe.hang_timeout, lambda: "the range test")
    with display.steps("range test", steps) as show, watched as progressed:
        sweep = find_lr(
            built.step,
            built.train,
            low=LOWEST_ADAMW if is_adamw else LOWEST_LR,
            high=HIGHEST_ADAMW if is_adamw else HIGHEST_LR,
            steps=steps,
            on_step=[show, progressed],
            agree=group.mean,
        )
    display.log(f"  {describe_sweep(sweep)}")
    return sweep


def range_test_steps(recipe: Recipe, built: Built) -> int:
    """Return 100 steps, or on a CPU fewer: under 3 % of the run, but at least 25."""
    if built.device.type != "cpu":
        return 100
    return max(25, min(100, int(0.03 * recipe.epochs * len(built.train))))


def describe_sweep(sweep: Sweep) -> str:
    """Describe the result of the range test in one line, plus its notes."""
    return (
        f"lr {sweep.suggestion:.3g} ({sweep.rule}; range test of {len(sweep.lrs)} steps, "
        f"{sweep.stopped})" + "".join(f"\n  note: {note}" for note in sweep.notes)
    )
