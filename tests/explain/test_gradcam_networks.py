"""Grad-CAM on other people's networks: the right map, or one error that says what is needed."""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fasttrain import GradCAM
from fasttrain.errors import UsageError

CLASSES = 5
TARGETS = torch.tensor([0, 4, 2, 4])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """With a core busy, two threads took 200 times as long over so little: 10 ms a barrier."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Parts(nn.Module):
    """Three convolutions and a head, to be called in many ways; padding 1 and stride 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two = (nn.Conv2d(i, 6, 3, padding=1) for i in (3, 6))
        self.three = nn.Conv2d(6, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, CLASSES)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.three(F.relu(self.bn(self.two(x)), inplace=True)))

    def head(self, x: Tensor) -> Tensor:
        return self.fc((x * x).mean(dim=(2, 3)))  # not linear: gradients differ from place to place

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(F.relu(self.one(x))))


def by_hand(model: Parts, layer: str, images: Tensor) -> Tensor:
    """An image at a time from the formula, with `.backward()`; entries are pixels here."""
    model = copy.deepcopy(model).float().eval()
    maps = []
    for image, target in zip(images, TARGETS, strict=True):
        x = image[None]
        steps = [("one", model.one), ("", F.relu), ("two", model.two), ("", model.bn)]
        for name, step in [*steps, ("", F.relu), ("three", model.three), ("", F.relu)]:
            x = step(x)
            if name == layer:
                x.retain_grad()
                kept = x
        model.head(x)[0, target].backward()
        weights = kept.grad.mean(dim=(2, 3), keepdim=True)
        found = (weights * kept.detach()).sum(dim=1).relu()[0]
        maps.append(found / found.max() if found.max() > 0 else found)
    return torch.stack(maps)


def agrees(model: nn.Module, images: Tensor, layer: str, expected: Tensor, **options: Any) -> None:
    with GradCAM(model, layer, **options) as cam:
        maps = cam(images, TARGETS)
    assert (expected.amax(dim=(1, 2)) == 1).sum() >= 3, "maps of zeros would agree too easily"
    torch.testing.assert_close(maps, expected, rtol=0, atol=2e-6)


def test_the_plain_network_is_as_worked_out_by_hand(images: Tensor) -> None:
    model = Parts()
    for layer in ("one", "two", "three"):
        agrees(model, images, layer, by_hand(model, layer, images))


# --- what a forward returns ----------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


Pair = collections.namedtuple("Pair", "features logits")


class Returns(Parts):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        features = self.body(F.relu(self.one(x)))
        return self.wrap(self.head(features), features)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits, x: (logits,),
        lambda logits, x: (x, logits),
        lambda logits, x: [logits, None],
        lambda logits, x: (logits, logits.argmax(dim=1), logits.argmax(1, keepdim=True)),
        lambda logits, x: {"out": logits, "map": x},
        lambda logits, x: {"features": x.mean((2, 3)), "logits": logits},
        lambda logits, x: collections.OrderedDict(loss=logits.sum(), out=logits),
        lambda logits, x: Answer(logits),
        lambda logits, x: Pair(x.mean((2, 3)), logits),
    ],
)
def test_logits_are_found_in_what_a_forward_returns(wrap: Any, images: Tensor) -> None:
    model = Returns(wrap)
    agrees(model, images, "two", by_hand(model, "two", images))


@pytest.mark.parametrize(
    ("wrap", "shown"),
    [
        (lambda logits, x: (logits, x.mean((2, 3))), "2 tensors"),
        (lambda logits, x: {"a": logits, "b": logits * 2}, r"dict of a: float32 \[4, 5\], b: "),
        (lambda logits, x: x, r"\[4, 6, 12, 12\]"),
        (lambda logits, x: logits[0], r"Tensor of float32 \[5\]\)"),
        (lambda logits, x: logits.repeat(2, 1), r"\[8, 5\]"),
        (lambda logits, x: logits.argmax(dim=1, keepdim=True), "int64"),
        (lambda logits, x: ((logits,),), "tuple"),
        (lambda logits, x: None, "NoneType"),
        (lambda logits, x: {}, "dict"),
    ],
)
def test_an_output_without_one_tensor_of_logits_is_one_error(
    wrap: Any, shown: str, images: Tensor
) -> None:
    with GradCAM(Returns(wrap), "two") as cam, pytest.raises(UsageError, match=shown) as error:
        cam(images, TARGETS)
    assert str(error.value).startswith("model output (")
    assert "returns the logits alone" in str(error.value)
    assert "\n" not in str(error.value)


# --- gradients switched off ----------------------------------------------------------------------


class Without(Parts):
    """The body under `mode`, alone or next to a second call, or the whole forward."""

    def __init__(self, mode: Callable[[], Any], where: str) -> None:
        super().__init__()
        self.mode, self.where = mode, where

    def forward(self, x: Tensor) -> Any:
        if self.where == "everything":
            with self.mode():
                return super().forward(x)
        if self.where == "before":
            with self.mode():
                x = F.relu(self.one(x))
            return self.head(self.body(x.clone()))
        x = F.relu(self.one(x))
        with self.mode():
            y = self.body(x)
        return self.head(y if self.where == "body" else x + y)


@pytest.mark.parametrize("mode", [torch.no_grad, lambda: torch.set_grad_enabled(False)])
@pytest.mark.parametrize("where", ["everything", "body", "parallel"])
@pytest.mark.parametrize("layer", ["one", "two", "three"])
def test_a_forward_without_gradients_is_one_error(
    mode: Any, where: str, layer: str, images: Tensor
) -> None:
    with (
        GradCAM(Without(mode, where), layer) as cam,
        pytest.raises(UsageError, match="runs without gradients") as error,
    ):
        cam(images, TARGETS)
    assert "no_grad" in str(error.value)


@pytest.mark.parametrize("where", ["everything", "body"])
def test_a_forward_in_inference_mode_is_one_error(where: str, images: Tensor) -> None:
    with (
        GradCAM(Without(torch.inference_mode, where), "one") as cam,
        pytest.raises(UsageError, match="inference_mode"),
    ):
        cam(images, TARGETS)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_frozen_part_before_the_layer_is_none_of_its_business(mode: Any, images: Tensor) -> None:
    model = Without(mode, "before")
    agrees(model, images, "two", by_hand(model, "two", images))


def test_statistics_taken_without_gradients_are_allowed(images: Tensor) -> None:
    class Watching(Parts):
        def body(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.norm = (x.square().sum() * 2).sqrt()
            return super().body(x)

    model = Watching()
    agrees(model, images, "one", by_hand(Parts(), "one", images))


def test_functions_with_a_backward_of_their_own_are_no_break(images: Tensor) -> None:
    """Their forward runs without gradients, and they have them all the same."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return (x * 1) * (x * 1)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2 * ctx.saved_tensors[0] * grad

    class Owning(Parts):
        def head(self, x: Tensor) -> Tensor:
            return self.fc(Square.apply(x).mean(dim=(2, 3)))

    agrees(Owning(), images, "two", by_hand(Parts(), "two", images))


@pytest.mark.parametrize("way", ["detach", "unused"])
def test_a_layer_that_no_gradient_reaches_is_one_error(way: str, images: Tensor) -> None:
    class Cut(Parts):
        def forward(self, x: Tensor) -> Any:
            x = F.relu(self.one(x))
            y = self.body(x)
            return self.head(y.detach() + (x if way == "unused" else 0))

    with (
        GradCAM(Cut(), "two") as cam,
        pytest.raises(UsageError, match=r"layer \('two'\).*gradient"),
    ):
        cam(images, TARGETS)


# --- activation checkpoints ----------------------------------------------------------------------


class Checkpointed(Parts):
    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.one(x))
        return self.head(checkpoint(self.body, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("layer", ["one", "two", "three", "bn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpointed_forward_gives_the_maps_of_a_plain_one(
    layer: str, dtype: torch.dtype, images: Tensor
) -> None:
    model = Checkpointed().to(dtype).train()
    plain = Parts().to(dtype)
    plain.load_state_dict(model.state_dict())
    with GradCAM(plain, layer) as cam, GradCAM(model, layer) as other:
        expected, maps = cam(images, TARGETS), other(images, TARGETS)
    assert torch.equal(maps, expected)
    if layer != "bn":
        torch.testing.assert_close(expected, by_hand(plain, layer, images), rtol=0, atol=5e-6)


def test_all_layers_of_a_checkpointed_forward_at_once(images: Tensor) -> None:
    model = Checkpointed()
    with GradCAM(model, "one", "two", "three") as cam:
        for layer, maps in cam.layers(images, TARGETS).items():
            expected = by_hand(model, layer, images)
            torch.testing.assert_close(maps, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("layer", ["one", "two", "three"])
def test_a_reentrant_checkpoint_is_one_error(layer: str, images: Tensor) -> None:
    with (
        GradCAM(Checkpointed(reentrant=True), layer) as cam,
        pytest.raises(UsageError, match="use_reentrant=False"),
    ):
        cam(images, TARGETS)


# --- layers used several times -------------------------------------------------------------------


class Twice(Parts):
    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.two(x))))


def test_a_layer_used_twice_needs_a_choice_of_call(images: Tensor) -> None:
    model = Twice().eval()
    with (
        GradCAM(model, "two") as cam,
        pytest.raises(UsageError, match=r"calls it 2 times.*call=-1"),
    ):
        cam(images, TARGETS)
    x = F.relu(model.one(images)).detach()
    first = model.two(x)
    second = model.two(F.relu(first))
    score = model.head(F.relu(second)).gather(1, TARGETS[:, None]).sum()
    expected = []
    for kept, grad in zip(
        (first, second), torch.autograd.grad(score, (first, second)), strict=True
    ):
        found = (grad.mean(dim=(2, 3), keepdim=True) * kept).sum(dim=1).relu().detach()
        expected.append(found / found.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30))
    assert (expected[0] - expected[1]).abs().max() > 0.1
    for call in (0, 1, -1, -2):
        agrees(model, images, "two", expected[call], call=call)


@pytest.mark.parametrize("call", [2, -3])
def test_a_call_that_is_not_made_is_one_error(call: int, images: Tensor) -> None:
    with (
        GradCAM(Twice(), "two", call=call) as cam,
        pytest.raises(UsageError, match=rf"call \({call}\): .*2 times.*from -2 to 1"),
    ):
        cam(images, TARGETS)


def test_a_module_under_two_names_is_one_that_is_used_twice(images: Tensor) -> None:
    model = Parts()
    model.three = model.two
    with GradCAM(model, "three") as cam, pytest.raises(UsageError, match="calls it 2 times"):
        cam(images, TARGETS)
    expected = by_hand(model, "three", images)
    agrees(model, images, "three", expected, call=-1)


def test_a_network_that_goes_through_its_images_one_by_one_is_refused(images: Tensor) -> None:
    class Single(Parts):
        def forward(self, x: Tensor) -> Any:
            return torch.cat([super(Single, self).forward(image[None]) for image in x])

    with GradCAM(Single(), "two", call=-1) as cam, pytest.raises(UsageError, match=r"not \(4, C"):
        cam(images, TARGETS)


# --- layouts -------------------------------------------------------------------------------------


class ConvNeXt(Parts):
    """A block whose middle has channels last, as ConvNeXt and Swin have them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)
        self.same = nn.Identity()

    def body(self, x: Tensor) -> Tensor:
        y = self.two(x).permute(0, 2, 3, 1)
        y = self.same(self.down(F.gelu(self.up(self.norm(y)))))
        return x + self.three(y.permute(0, 3, 1, 2))


@pytest.mark.parametrize("layer", ["norm", "up", "down", "same"])
def test_channels_last_are_found_and_give_the_maps_of_channels_first(
    layer: str, images: Tensor
) -> None:
    model = ConvNeXt().eval()

    def first(module: nn.Module, inputs: Any, out: Tensor) -> None:
        out.retain_grad()
        kept.append(out)

    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(first)
    model(images).gather(1, TARGETS[:, None]).sum().backward()
    handle.remove()
    out, grad = kept[0].detach().movedim(3, 1), kept[0].grad.movedim(3, 1)
    expected = (grad.mean(dim=(2, 3), keepdim=True) * out).sum(dim=1).relu()
    peaks = expected.amax(dim=(1, 2), keepdim=True)
    agrees(model, images, layer, expected / peaks.where(peaks > 0, torch.ones(())))


class Tokens(Parts):
    """A vision transformer's way: patches in a row, then made a map again, of either layout."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.patches, self.last = nn.Conv2d(3, 6, 2, stride=2), last
        self.mix, self.grid = nn.Linear(36, 36), nn.Identity()

    def forward(self, x: Tensor) -> Any:
        rows = self.mix(self.patches(x).flatten(2)).transpose(1, 2)  # (N, 36, 6)
        grid = self.grid(
            rows.unflatten(1, (6, 6)).permute(*((0, 1, 2, 3) if self.last else (0, 3, 1, 2)))
        )
        return self.fc(grid.square().mean(dim=(1, 2) if self.last else (2, 3)))


def test_a_layout_that_cannot_be_followed_must_be_named(images: Tensor) -> None:
    last, first = Tokens(last=True), Tokens(last=False)
    first.load_state_dict(last.state_dict())
    for model in (last, first):
        with GradCAM(model, "grid") as cam, pytest.raises(UsageError, match="channels='last'"):
            cam(images, TARGETS)
    with (
        GradCAM(last, "grid", channels="last") as one,
        GradCAM(first, "grid", channels="first") as b,
    ):
        maps, other = one(images, TARGETS), b(images, TARGETS)
    assert maps.amax() == 1
    torch.testing.assert_close(maps, other, rtol=0, atol=1e-6)
    with GradCAM(last, "grid", channels="first") as wrong:
        assert (wrong(images, TARGETS) - maps).abs().max() > 0.1, "the layout must matter here"
    # The patches divide the image evenly, and so does a map of unknown place.
    coarse = maps[:, ::2, ::2]
    assert coarse.shape == (4, 6, 6)
    with GradCAM(last, "patches") as cam:
        assert cam(images, TARGETS).shape == (4, 12, 12)


def test_a_name_for_the_layout_does_not_overrule_what_was_followed(images: Tensor) -> None:
    model = ConvNeXt()
    with GradCAM(model, "norm") as cam, GradCAM(model, "norm", channels="first") as named:
        assert torch.equal(cam(images, TARGETS), named(images, TARGETS))
    with pytest.raises(UsageError, match=r"channels \('NHWC'\)"):
        GradCAM(model, "norm", channels="NHWC")


# --- side effects --------------------------------------------------------------------------------


class Busy(Parts):
    """A forward that writes wherever it can, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("average", torch.ones(6))
        self.register_buffer("replaced", torch.zeros(2))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        with torch.no_grad():
            self.average.mul_(0.5)
            self.fc.bias.add_(1)
            self.one.weight.data.clamp_(-0.1, 0.1)
        self.replaced = self.replaced + 1
        return super().forward(F.dropout(x, 0.5, training=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_forward_that_writes_everywhere_writes_into_copies(
    dtype: torch.dtype, images: Tensor
) -> None:
    model = Busy().to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with GradCAM(model, "two") as cam:
        cam(images, TARGETS)
        cam(images, TARGETS)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name: value.data_ptr() for name, value in after.items()} == places
    assert torch.equal(torch.get_rng_state(), random)
    model(images.to(dtype))
    changed = [k for k, v in before.items() if not torch.equal(model.state_dict()[k], v)]
    assert {"calls", "average", "replaced", "fc.bias", "one.weight"} <= set(changed)


class AlwaysTraining(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, training=True)


@pytest.mark.parametrize(
    "norm", [lambda: nn.BatchNorm2d(6, track_running_stats=False), lambda: AlwaysTraining(6)]
)
def test_statistics_of_the_batch_are_one_error_and_of_one_image_are_right(
    norm: Callable[[], nn.Module], images: Tensor
) -> None:
    model = Parts()
    model.bn = norm()  # type: ignore[assignment]
    with GradCAM(model, "three") as cam:
        with pytest.raises(UsageError, match="statistics of the batch"):
            cam(images, TARGETS)
        maps = torch.cat([cam(images[i : i + 1], TARGETS[i : i + 1]) for i in range(4)])
    model.bn = nn.GroupNorm(6, 6)  # of one image the same
    torch.testing.assert_close(maps, by_hand(model, "three", images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(6), nn.GroupNorm(2, 6)])
def test_statistics_of_each_image_are_no_statistics_of_the_batch(
    norm: nn.Module, images: Tensor
) -> None:
    model = Parts()
    model.bn = norm  # type: ignore[assignment]
    agrees(model, images, "three", by_hand(model, "three", images))


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(6), nn.GroupNorm(6, 6, affine=False)])
def test_a_layer_whose_mean_is_taken_away_is_refused_instead_of_drawn_from_rounding(
    norm: nn.Module, images: Tensor
) -> None:
    """Each channel's gradients add up to nothing: what is left would be blown up to a peak of 1."""
    model = Parts()
    model.bn = norm  # type: ignore[assignment]
    with GradCAM(model, "two") as cam, pytest.raises(UsageError, match="mean of its gradients"):
        cam(images, TARGETS)


def test_what_another_part_of_the_network_does_to_the_layers_output_does_not_matter(
    images: Tensor,
) -> None:
    class Through(Parts):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()

        def body(self, x: Tensor) -> Tensor:
            x = self.two(x)
            y = self.same(x)
            x.zero_()  # the very tensor that the layer handed on
            return F.relu(self.three(F.relu(self.bn(y)))) + x

    agrees(Through(), images, "same", by_hand(Parts(), "two", images))
