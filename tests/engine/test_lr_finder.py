"""The range test against closed forms and plain loops; every bit of the step is left unchanged."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasttrain.engine.lr_finder import GRACE, find_lr, restored, smooth
from fasttrain.engine.lr_rules import suggest
from fasttrain.errors import DataError, Diverged, UsageError

Batch = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """With a core busy, two threads took 200 times as long over so little: 10 ms a barrier."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Step:
    """The interface of fasttrain's Step, with any loss."""

    def __init__(
        self,
        model: nn.Module,
        *,
        momentum: float = 0.9,
        scaled: bool = False,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        compile: Callable[..., Any] | None = None,
    ) -> None:
        self.model, self.loss = model, loss
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=torch.tensor(0.05), momentum=momentum, fused=True
        )
        self.scaler = torch.amp.GradScaler("cpu", enabled=scaled, growth_interval=3)
        self.forward = torch.compile(model, backend=compile) if compile else model
        self.rates: list[float] = []
        self.trained = [False]

    def __call__(self, images: Tensor, labels: Tensor) -> Batch:
        self.rates.append(self.lr.item())
        self.trained.append(self.model.training)
        logits = self.forward(images)
        loss = self.loss(logits, labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), logits.detach()

    @property
    def lr(self) -> Tensor:
        return self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(value)


class Loader:
    """`count` batches an epoch; records the calls."""

    def __init__(self, count: int = 100, fails_at: int | None = None) -> None:
        generator = torch.Generator().manual_seed(3)
        labels = torch.randint(0, 4, (count, 16), generator=generator)
        images = torch.randn(count, 16, 3, 8, 8, generator=generator)
        self.batches = list(zip(images + labels[:, :, None, None, None], labels, strict=True))
        self.fails_at, self.shown, self.sought = fails_at, list[int](), list[int]()

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches):
            if len(self.shown) == self.fails_at:
                raise OSError("the disk is gone")
            self.shown.append(number)
            yield batch

    def seek(self, epoch: int, step: int = 0) -> None:
        assert step == 0
        self.sought.append(epoch)


def network(seed: int = 0) -> nn.Module:
    """A network with buffers, a frozen BatchNorm and dropout."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def marks(step: Step) -> dict[str, object]:
    """Every bit, and the address of every tensor, that the range test must leave unchanged."""
    tensors = {f"model.{key}": value for key, value in step.model.state_dict().items()}
    for number, weight in enumerate(step.model.parameters()):
        for key, value in step.optimizer.state.get(weight, {}).items():
            tensors[f"{key}.{number}"] = value
        if weight.grad is not None:
            tensors[f"grad.{number}"] = weight.grad
    tensors["lr"] = step.lr
    return {
        "bits": {key: value.numpy().tobytes() for key, value in tensors.items()},
        "places": {key: value.data_ptr() for key, value in tensors.items()},
        "objects": [id(step.lr), *map(id, step.model.parameters())],
        "momentum": [sorted(state) for state in step.optimizer.state.values()],
        "options": sorted(step.optimizer.param_groups[0]),
        "scaler": step.scaler.state_dict(),
        "training": [module.training for module in step.model.modules()],
        "random": torch.get_rng_state().numpy().tobytes(),
    }


def used_step(*, scaled: bool = False) -> Step:
    """A step in the middle of a training: momentum, statistics, a grown scale, a stray gradient."""
    step = Step(network(), scaled=scaled)
    for images, labels in itertools.islice(Loader(), 4):
        step(images, labels)
    step.model[1].eval()
    step.model[0].weight.grad = torch.ones_like(step.model[0].weight)
    return step


# --- the range test ------------------------------------------------------------------------------


def test_the_grid_is_exponential_and_is_what_the_step_trains_with() -> None:
    step, loader, done = Step(network()), Loader(), list[int]()
    sweep = find_lr(step, loader, low=1e-4, high=0.1, steps=31, diverge=1e9, on_step=[done.append])
    expected = [1e-4 * 1000 ** (i / 30) for i in range(31)]
    assert sweep.lrs == pytest.approx(expected, rel=1e-12)
    assert (sweep.lrs[0], sweep.lrs[-1]) == (1e-4, 0.1)
    assert step.rates == torch.tensor(sweep.lrs, dtype=torch.float32).tolist()
    assert all(step.trained[1:])
    assert len(sweep.losses) == len(sweep.raw) == 31
    assert sweep.stopped == "finished"
    assert done == list(range(1, 32))
    assert json.loads(json.dumps(sweep._asdict()))["suggestion"] == sweep.suggestion


def test_raw_losses_are_those_of_a_plain_loop() -> None:
    sweep = find_lr(Step(network()), Loader(), low=1e-3, high=1.0, steps=23, diverge=1e9)
    step, plain = Step(network()), []
    for lr, (images, labels) in zip(sweep.lrs, Loader(), strict=False):
        step.lr = lr
        plain.append(step(images, labels)[0].item())
    assert sweep.raw == plain
    assert sweep.losses == pytest.approx(smooth(plain, 1 - 1 / 2.3))


class Bowl(nn.Module):
    """One weight; with `curved` as the loss, gradient descent multiplies it by 1 - lr L a step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * 1


CURVATURE = 4.0


def curved(weight: Tensor, labels: Tensor) -> Tensor:
    return CURVATURE / 2 * weight.square().sum()


def test_on_a_quadratic_it_suggests_the_analytic_rate_and_stops_beyond_stability() -> None:
    """At lr_0 r^k the loss is near exp(-2 L lr / ln r), steepest in ln lr at ln r / (2 L)."""
    step = Step(Bowl(), momentum=0.0, loss=curved)
    sweep = find_lr(step, Loader(5), low=1e-4, high=10.0, steps=200, smoothing=0.0, read_every=7)
    weight, plain = 1.0, []
    for lr in sweep.lrs:
        plain.append(CURVATURE / 2 * weight * weight)
        weight *= 1 - lr * CURVATURE
    np.testing.assert_allclose(sweep.raw, plain, rtol=1e-3, atol=1e-30)
    ratio = math.log(1e5) / 199
    assert sweep.suggestion == pytest.approx(ratio / (2 * CURVATURE), rel=1.5 * ratio)
    assert sweep.rule == "steepest"
    assert sweep.stopped.startswith("diverged: ")
    limit = 2 / CURVATURE
    turn = sweep.lrs[int(np.argmin(sweep.raw))]
    assert limit / 1.1 < turn < limit * 1.1
    assert limit < sweep.lrs[-1] < 1.6 * limit
    assert sweep.suggestion < limit


def test_with_smoothing_the_suggestion_stays_within_a_few_times_the_analytic_one() -> None:
    step = Step(Bowl(), momentum=0.0, loss=curved)
    sweep = find_lr(step, Loader(5), low=1e-4, high=10.0, steps=200)
    analytic = math.log(1e5) / 199 / (2 * CURVATURE)
    assert analytic / 1.2 < sweep.suggestion < 4 * analytic


def spoiled(at: int, value: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy, but `value` is added from call `at`, counted from 0, on."""
    calls = itertools.count()
    return lambda logits, labels: (
        F.cross_entropy(logits, labels) + (value if next(calls) >= at else 0.0)
    )


@pytest.mark.parametrize("read_every", [1, 10, 64])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_it_stops_before_the_first_loss_that_is_not_finite(read_every: int, value: float) -> None:
    step = Step(network(), loss=spoiled(23, value))
    sweep = find_lr(step, Loader(), steps=50, high=0.1, read_every=read_every)
    assert len(sweep.lrs) == len(sweep.losses) == len(sweep.raw) == 23
    assert np.isfinite(sweep.raw).all()
    assert np.isfinite(sweep.losses).all()
    assert sweep.stopped.startswith("not finite: ")
    assert 1e-5 <= sweep.suggestion < sweep.lrs[-1]


@pytest.mark.parametrize("read_every", [1, 10, 64])
def test_it_stops_at_the_step_where_the_smoothed_loss_has_diverged(read_every: int) -> None:
    step = Step(network(), loss=spoiled(30, 100.0))
    sweep = find_lr(step, Loader(), steps=60, high=0.1, read_every=read_every)
    ends = [i for i, loss in enumerate(sweep.losses) if loss > 4 * min(sweep.losses[: i + 1])]
    assert ends == [30] == [len(sweep.losses) - 1]
    assert sweep.stopped.startswith("diverged: ")
    calm = find_lr(Step(network(), loss=spoiled(30, 100.0)), Loader(), steps=60, diverge=1e6)
    assert (len(calm.lrs), calm.stopped) == (60, "finished")


@pytest.mark.parametrize(("last", "stops"), [(3.9, False), (4.1, True)])
def test_diverged_means_over_so_many_times_the_best(last: float, stops: bool) -> None:
    losses = iter([2.0, 1.0, 1.5, 1.2, 1.1, 1.0, 1.3, last, 1.0, 1.0])
    step = Step(network(), loss=lambda logits, labels: logits.sum() * 0 + next(losses))
    sweep = find_lr(step, Loader(), steps=10, smoothing=0.0)
    assert len(sweep.lrs) == (8 if stops else 10)


def test_the_first_losses_do_not_stop_it_and_the_ones_after_do() -> None:
    noisy = iter([1.0, *[100.0] * 49])
    step = Step(network(), loss=lambda logits, labels: logits.sum() * 0 + next(noisy))
    sweep = find_lr(step, Loader(), steps=50, smoothing=0.0)
    assert sweep.stopped.startswith("diverged: ")
    assert len(sweep.lrs) == GRACE + 1


def test_a_first_loss_that_is_not_finite_raises_diverged_and_restores() -> None:
    step, loader = used_step(), Loader()
    before, step.loss = marks(step), spoiled(0, math.nan)
    with pytest.raises(Diverged, match=r"\(nan\): not finite"):
        find_lr(step, loader)
    assert marks(step) == before
    assert loader.sought == [1]


def test_losses_are_read_a_chunk_at_a_time_and_agreed_upon() -> None:
    chunks: list[int] = []

    def doubled(losses: Tensor) -> Tensor:
        chunks.append(len(losses))
        return losses * 2

    alone = find_lr(Step(network()), Loader(), steps=25)
    agreed = find_lr(Step(network()), Loader(), steps=25, agree=doubled)
    assert chunks == [10, 10, 5]
    assert agreed.raw == [2 * loss for loss in alone.raw]


def test_a_step_that_writes_every_loss_into_the_same_tensor_is_read_rightly() -> None:
    """As a captured CUDA graph does."""

    class Captured(Step):
        place = torch.zeros((), dtype=torch.float64)

        def __call__(self, images: Tensor, labels: Tensor) -> Batch:
            loss, logits = super().__call__(images, labels)
            return self.place.copy_(loss), logits

    plain = find_lr(Step(network()), Loader(), steps=25)
    assert find_lr(Captured(network()), Loader(), steps=25).raw == plain.raw
    assert len(set(plain.raw)) == 25


# --- restoration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
def test_every_bit_and_every_tensor_is_back_after_a_sweep(scaled: bool) -> None:
    step, loader = used_step(scaled=scaled), Loader()
    before = marks(step)
    find_lr(step, loader, steps=30)
    assert marks(step) == before
    assert loader.sought == [1]


def test_the_comparison_sees_what_a_sweep_without_restoration_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "fasttrain.engine.lr_finder.restored", lambda step: contextlib.nullcontext()
    )
    step = used_step(scaled=True)
    before = marks(step)
    find_lr(step, Loader(), steps=30)
    after = marks(step)
    changed = {key for key in before if after[key] != before[key]}
    assert changed >= {"bits", "scaler", "training", "random"}
    for key in ("model.0.weight", "model.1.running_mean", "momentum_buffer.0", "lr"):
        assert after["bits"][key] != before["bits"][key]


def test_every_bit_is_back_when_the_loader_or_a_hook_raises() -> None:
    step, loader = used_step(scaled=True), Loader(fails_at=17)
    before = marks(step)
    with pytest.raises(OSError, match="the disk is gone"):
        find_lr(step, loader)
    assert len(loader.shown) == 17
    assert marks(step) == before
    assert loader.sought == [1]

    def interrupted(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_lr(step, Loader(), on_step=[interrupted])
    assert marks(step) == before


def test_an_exception_between_backward_and_update_leaves_no_gradient_and_no_half_step() -> None:
    step = Step(network(), scaled=True)
    before = marks(step)

    def broken() -> None:
        raise MemoryError

    step.scaler.update = broken  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        find_lr(step, Loader())
    del step.scaler.update
    assert marks(step) == before
    step(*next(iter(Loader())))  # a scaler left in the middle of a step would refuse


def test_an_empty_optimizer_is_empty_again_and_zero_momentum_zero() -> None:
    fresh = Step(network())
    find_lr(fresh, Loader(), steps=5)
    assert len(fresh.optimizer.state) == 0
    zeroed = Step(network())
    for weight in zeroed.model.parameters():
        zeroed.optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    before = marks(zeroed)
    find_lr(zeroed, Loader(), steps=5)
    assert marks(zeroed) == before
    assert len(zeroed.optimizer.state) == 6


def test_training_after_a_sweep_is_bitwise_training_without_one() -> None:
    swept, plain = Step(network()), Step(network())
    find_lr(swept, Loader(), steps=20)
    for step in (swept, plain):
        torch.manual_seed(1)
        for images, labels in itertools.islice(Loader(), 5):
            step(images, labels)
    assert marks(swept)["bits"] == marks(plain)["bits"]


def test_a_compiled_step_is_not_compiled_again_and_trains_as_an_eager_one_does() -> None:
    graphs: list[object] = []

    def counting(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled, eager = Step(network(), compile=counting), Step(network())
    batch = next(iter(Loader()))
    with restored(compiled):
        compiled(*batch)
    count = len(graphs)
    assert count > 0
    find_lr(compiled, Loader(), steps=12)
    for step in (compiled, eager):
        torch.manual_seed(5)
        step(*batch)
    assert len(graphs) == count
    assert marks(compiled)["bits"] == marks(eager)["bits"]


# --- the loader ----------------------------------------------------------------------------------


def test_a_loader_shorter_than_the_sweep_is_cycled_then_rewound() -> None:
    loader = Loader(3)
    find_lr(Step(network()), loader, steps=8)
    assert loader.shown == [0, 1, 2, 0, 1, 2, 0, 1]
    assert loader.sought == [1]
    batches = Loader(3).batches
    assert len(find_lr(Step(network()), batches, steps=8).lrs) == 8, "a list has no seek"


def test_a_loader_without_batches_is_refused_instead_of_cycled_for_ever() -> None:
    step = used_step()
    before = marks(step)
    with pytest.raises(DataError, match="0 batches"):
        find_lr(step, [])
    with pytest.raises(DataError, match="0 batches"):
        find_lr(step, iter(Loader(3).batches))
    assert marks(step) == before


# --- smoothing and rules -------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.98])
def test_smoothing_is_the_average_of_a_straightforward_loop(factor: float) -> None:
    raw = np.random.default_rng(0).normal(2, 1, 50).tolist()
    mean, expected = 0.0, []
    for count, loss in enumerate(raw, 1):
        mean = factor * mean + (1 - factor) * loss
        expected.append(mean / (1 - factor**count))
    assert smooth(raw, factor) == pytest.approx(expected, rel=1e-12)
    assert smooth([3.0] * 9, factor) == pytest.approx([3.0] * 9), "no bias towards zero"


GRID = np.geomspace(1e-5, 1.0, 101)


def s_curve(*, tail: int = 0) -> np.ndarray:
    """Falls like a logistic around GRID[60], is lowest at GRID[80], then rises; a NaN tail."""
    i = np.arange(101)
    curve = 1 + 1.5 / (1 + np.exp((i - 60) / 4)) - 0.002 * np.minimum(i, 80)
    curve[80:] += 0.05 * np.arange(21)
    curve[101 - tail :] = np.nan
    return curve


@pytest.mark.parametrize("tail", [0, 5])
def test_rules_find_the_known_points_of_a_curve_even_with_a_nan_tail(tail: int) -> None:
    found = suggest(GRID, s_curve(tail=tail))
    assert found["steepest"] == GRID[60]
    assert found["minimum"] == pytest.approx(GRID[80] / 10)
    first = int(0.1 * (101 - tail))
    fall = 81 - first  # points, all from the trimmed start to 80
    assert found["valley"] == GRID[first - 1 + fall // 3 + fall // 6]


def longest_falls(losses: list[float]) -> list[tuple[int, ...]]:
    """The longest falling subsequences that end first, by trying every one."""
    falls = [
        part
        for size in range(1, len(losses) + 1)
        for part in itertools.combinations(range(len(losses)), size)
        if all(losses[a] > losses[b] for a, b in itertools.pairwise(part))
    ]
    longest = [part for part in falls if len(part) == max(map(len, falls))]
    return [part for part in longest if part[-1] == min(fall[-1] for fall in longest)]


def published_valley(losses: list[float]) -> int:
    """fastai's rule: the end of the fall, less its length, and a third and half a third of it."""
    fall = longest_falls(losses)[0]
    return fall[-1] - len(fall) + int(len(fall) / 3) + int(len(fall) / 3 / 2)


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        ([9, 8, 7, 6, 5, 4], 5 - 6 + 2 + 1),  # one fall: half way down
        ([9, 8, 7, 6, 5, 4, 7, 8, 9], 5 - 6 + 2 + 1),
        ([5, 9, 8, 7, 6, 5.5, 4, 3, 8], 7 - 7 + 2 + 1),
        # Six points that fall among five that do not: counted from the end, not from where it began
        ([9, 9.5, 8, 8.5, 7, 7.5, 6, 6.5, 5, 5.5, 4], 10 - 6 + 2 + 1),
        ([3, 5, 5, 5, 1], 4 - 2),  # shorter than three: no third to add
    ],
)
def test_valley_is_fastais_point_as_worked_out_by_hand(losses: list[float], index: int) -> None:
    lrs = np.geomspace(1e-3, 1, len(losses) + 1)  # a first point, which is trimmed
    trimmed = int(0.1 * len(lrs))
    curve = [*[9.0] * trimmed, *losses, *[9.0] * (1 - trimmed)]
    assert published_valley(losses) == index
    assert suggest(lrs, curve)["valley"] == lrs[trimmed + index]


def test_valley_is_fastais_point_of_noisy_curves() -> None:
    random, lrs = np.random.default_rng(4), np.geomspace(1e-3, 1, 13)
    compared, middles = 0, 0
    for _ in range(30):
        losses = 6 - 0.2 * np.arange(13) + random.normal(0, 0.6, 13)
        found = suggest(lrs, losses)
        if "valley" in found:
            compared += 1
            trimmed = losses[1:].tolist()
            index = published_valley(trimmed)
            assert found["valley"] == lrs[1 + index]
            middles += index in {(fall[0] + fall[-1]) // 2 for fall in longest_falls(trimmed)}
    assert compared >= 20
    assert middles < compared / 2, "the middle of the fall is another point"


def test_steepest_looks_before_the_minimum_and_not_at_the_trimmed_start() -> None:
    curve = s_curve()
    curve[:3] = [9.0, 5.0, 2.6]  # the first loss being forgotten
    curve[95:] = np.linspace(6, 2, 6)  # chaos after divergence
    assert suggest(GRID, curve)["steepest"] == GRID[60]


@pytest.mark.parametrize(
    "losses",
    [
        np.full(101, 2.3),
        2.3 - 0.0001 * np.arange(101),
        np.linspace(2, 9, 101),
        np.array([2.0, 1.0]),
    ],
    ids=["constant", "hardly falling", "rising", "two points"],
)
def test_a_curve_too_short_or_too_flat_has_only_the_last_resort(losses: np.ndarray) -> None:
    assert list(suggest(GRID[: len(losses)], losses)) == ["minimum"]


def test_a_curve_without_a_finite_value_has_no_suggestion() -> None:
    assert suggest(GRID, np.full(101, np.nan)) == {}
    assert suggest([], []) == {}


def test_a_flat_sweep_says_that_another_rule_answered_and_that_it_is_at_the_edge() -> None:
    step = Step(network(), loss=lambda logits, labels: logits.sum() * 0 + 2.3)
    sweep = find_lr(step, Loader(), steps=20, rule="valley")
    assert sweep.rule == "minimum"
    assert any("too flat for valley" in note for note in sweep.notes)
    assert any("low end of the range" in note for note in sweep.notes)


def test_a_suggestion_inside_the_range_has_no_notes_and_one_at_the_top_has() -> None:
    inside = find_lr(Step(Bowl(), momentum=0.0, loss=curved), Loader(), low=1e-4, high=10.0)
    assert inside.notes == []
    below = find_lr(Step(Bowl(), momentum=0.0, loss=curved), Loader(), low=1e-6, high=3e-3)
    assert any("high end of the range" in note for note in below.notes)


@pytest.mark.parametrize(
    "options",
    [
        {"low": 0.0},
        {"low": 1.0, "high": 0.1},
        {"high": math.inf},
        {"steps": 1},
        {"smoothing": 1.0},
        {"diverge": 1.0},
        {"rule": "best"},
    ],
)
def test_impossible_requests_are_refused_before_a_step_is_trained(options: dict[str, Any]) -> None:
    step = Step(network())
    with pytest.raises(UsageError, match=r"range test \("):
        find_lr(step, Loader(), **options)
    assert step.rates == []
