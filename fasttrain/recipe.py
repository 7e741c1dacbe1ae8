"""What was asked: a frozen dataclass of scalars whose fields are the command line's flags.

Standard library only, so that `--help` and every complaint about a flag come before torch is
imported.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from .errors import UsageError

Scalar = bool | int | float | str | None


def _number(
    default: Scalar, low: float, high: float, group: str, text: str, *, also: tuple[str, ...] = ()
) -> Any:
    """A field that holds a number in [low, high]; whole if `low` is an int; or a word of `also`."""
    facts = {"low": low, "high": high, "group": group, "help": text, "also": also}
    return dataclasses.field(default=default, metadata=facts)


def _choice(default: str, choices: tuple[str, ...], group: str, text: str) -> Any:
    return dataclasses.field(
        default=default, metadata={"choices": choices, "group": group, "help": text}
    )


def _text(default: Scalar, group: str, text: str, *, metavar: str) -> Any:
    facts = {"group": group, "help": text, "metavar": metavar}
    return dataclasses.field(default=default, metadata=facts)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run computes; `Recipe(epochs=5)` is the mission,
    shorter.

    Raises UsageError, naming the flag, the value and its range, when a field is impossible.
    """

    recipe: str = _choice("resnet18", ("resnet18", "reference"), "recipe", "named defaults")
    epochs: int = _number(50, 1, 100_000, "recipe", "passes over the training images")
    batch_size: int = _number(128, 1, 50_000, "recipe", "images per step, over all processes")
    lr: float | str = _number(
        "auto", 1e-8, 1e3, "recipe", "learning rate; auto runs the range test first", also=("auto",)
    )
    momentum: float = _number(0.9, 0.0, 0.9999, "recipe", "of SGD")
    weight_decay: float = _number(5e-4, 0.0, 1.0, "recipe", "L2 penalty of SGD")
    scheduler: str = _choice(
        "plateau", ("plateau", "onecycle", "cosine"), "recipe", "how the learning rate falls"
    )
    patience: int = _number(3, 0, 1000, "recipe", "epochs without progress that plateau waits")
    factor: float = _number(0.1, 1e-4, 0.9999, "recipe", "what plateau multiplies the rate by")
    threshold: float = _number(
        0.001, 0.0, 1.0, "recipe", "gain in test accuracy, a fraction, that plateau calls progress"
    )

    crop_padding: int = _number(
        4, 0, 16, "augmentation", "black pixels around an image that the random crop moves over"
    )
    flip: float = _number(0.5, 0.0, 1.0, "augmentation", "probability of a horizontal flip")
    cutout: int = _number(8, 0, 32, "augmentation", "side of the CutOut hole in pixels; 0 is none")
    cutout_probability: float = _number(
        1.0, 0.0, 1.0, "augmentation", "probability that an image gets its hole"
    )
    statistics: str = _choice(
        "measured",
        ("measured", "reference"),
        "augmentation",
        "normalisation: CIFAR-10's own, or the source experiment's",
    )

    dataset: str = _choice("cifar10", ("cifar10", "synthetic"), "data", "what to train on")
    data_dir: str | None = _text(
        None,
        "data",
        "CIFAR-10's archive or folder; without it the cache, then the network",
        metavar="PATH",
    )
    train_limit: int | None = _number(None, 1, 50_000, "data", "first training images to use")
    test_limit: int | None = _number(None, 1, 10_000, "data", "first test images to use")
    loader: str = _choice(
        "auto", ("auto", "dali", "resident", "kernel"), "data", "what augments and normalises"
    )

    device: str = _text("auto", "machine", "auto, cpu, cuda or cuda:N", metavar="DEVICE")
    amp: str = _choice(
        "auto",
        ("auto", "bf16", "fp16", "off"),
        "machine",
        "mixed precision; auto asks the hardware",
    )
    compile: str = _choice("auto", ("auto", "on", "off"), "machine", "torch.compile")
    optimizer: str = _choice("auto", ("auto", "torch", "apex", "kernel"), "machine", "whose SGD")
    seed: int = _number(0, 0, 2**32 - 1, "machine", "of weights, order and augmentation")
    deterministic: bool = dataclasses.field(
        default=False,
        metadata={"group": "machine", "help": "refuse operations that differ from run to run"},
    )

    target_accuracy: float | None = _number(
        None, 0.0, 1.0, "stopping", "stop at this test accuracy, a fraction"
    )
    max_time: float | None = _number(
        None, 0.001, 1e9, "stopping", "stop at the first epoch that ends after so many seconds"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))

    def as_dict(self) -> dict[str, Scalar]:
        """The fields as plain values, for recipe.json."""
        return dataclasses.asdict(self)


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Recipe)}

RECIPES: dict[str, dict[str, Scalar]] = {
    "resnet18": {},
    # The source experiment, as far as it is known. It also rotated by up to 7 degrees: left out.
    "reference": {
        "lr": 0.0534,
        "weight_decay": 0.0,
        "crop_padding": 0,
        "cutout": 16,
        "cutout_probability": 0.5,
        "statistics": "reference",
    },
}


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")


def make(given: Mapping[str, Scalar]) -> Recipe:
    """The named recipe of `given` with the given fields laid over it."""
    name = given.get("recipe", "resnet18")
    if name not in RECIPES:
        raise _complaint("recipe", name, f"must be one of {', '.join(RECIPES)}")
    fields: dict[str, Any] = {**RECIPES[str(name)], **given}
    return Recipe(**fields)


def parse(name: str, text: str) -> Scalar:
    """The value of field `name` that a person wrote as `text`."""
    facts = FIELDS[name].metadata
    if "low" not in facts or text in facts["also"]:
        return text
    whole = isinstance(facts["low"], int)
    try:
        value: Scalar = int(text) if whole else float(text)
    except ValueError:
        raise _complaint(name, text, _range(facts)) from None
    return value


def _check(field: dataclasses.Field[Any], value: object) -> None:
    facts = field.metadata
    if value is None and field.default is None:
        return
    if "choices" in facts:
        if value not in facts["choices"]:
            raise _complaint(field.name, value, f"must be one of {', '.join(facts['choices'])}")
    elif "low" in facts:
        if value in facts["also"]:
            return
        kinds = (int,) if isinstance(facts["low"], int) else (int, float)
        fits = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if not (fits and facts["low"] <= value <= facts["high"]):
            raise _complaint(field.name, value, _range(facts))
    elif isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise _complaint(field.name, value, "must be true or false")
    elif not isinstance(value, str) or not value or not value.isprintable():
        raise _complaint(field.name, value, "must be a non-empty line of text")


def _range(facts: Mapping[str, Any]) -> str:
    kind = "a whole number" if isinstance(facts["low"], int) else "a finite number"
    words = "".join(f", or {word}" for word in facts["also"])
    return f"must be {kind} from {facts['low']:g} to {facts['high']:.10g}{words}"


def _complaint(name: str, value: object, why: str) -> UsageError:
    shown = str(value) if str(value).isprintable() else repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return UsageError(f"{flag(name)} ({shown}): {why}. See --help.")
