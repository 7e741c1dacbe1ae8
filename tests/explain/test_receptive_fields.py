"""Where entries lie in the image, against what gradients reach; and maps that lie there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fasttrain
from fasttrain.explain.gradient_path import GradientPath
from fasttrain.explain.receptive_fields import Places
from fasttrain.models.resnet import ResNet18
from fasttrain.models.sprint import Sprint

SIDE = 24


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """With a core busy, two threads took 200 times as long over so little: 10 ms a barrier."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def conv(channels: int, size: int, **options: object) -> nn.Conv2d:
    """Every weight positive, so that no pixel that is read cancels."""
    made = nn.Conv2d(channels, 2, size, bias=False, **options)  # type: ignore[arg-type]
    nn.init.uniform_(made.weight, 0.5, 1)
    return made


class Residual(nn.Module):
    """Two ways whose windows begin at different pixels, as in ResNet-D."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.short = conv(3, 3, stride=2, padding=1), conv(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.long(x) + self.short(F.avg_pool2d(x, 2))


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def linear_last(x: Tensor) -> Tensor:
    """Linear layers over the channels of (N, H, W, C), whose result has them last still."""
    x = F.layer_norm(x.permute(0, 2, 3, 1), (3,), eps=1.0).relu() + 1
    x = F.linear(x, torch.rand(4, 3), torch.rand(4))
    return F.linear(x.relu(), torch.rand(2, 4))


def merged(x: Tensor) -> Tensor:
    """Four neighbours become channels, as where a Swin network halves its map."""
    x = x.permute(0, 2, 3, 1)
    parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return F.linear(torch.cat(parts, dim=-1), torch.rand(2, 12))


def shuffled(x: Tensor) -> Tensor:
    """Channels in groups, exchanged: the tensor has five axes on the way."""
    x = F.max_pool2d(F.conv2d(x, torch.rand(4, 3, 2, 2)), 2)
    return x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)


def gated(x: Tensor) -> Tensor:
    """Squeeze and excitation: the whole image steers channels, and moves nothing."""
    x = F.conv2d(x, torch.rand(2, 3, 2, 2), stride=2)
    return x * F.conv2d(F.adaptive_avg_pool2d(x, 1), torch.rand(2, 2, 1, 1)).detach().sigmoid()


# name: the layers, and by hand (centre of entry 0, pixels from an entry to the next)
LAYERS: dict[str, tuple[nn.Module, float, float]] = {
    "convolution": (conv(3, 3, padding=1), 0, 1),
    "no padding": (conv(3, 5), 2, 1),
    "stride": (conv(3, 3, stride=2, padding=1), 0, 2),
    "even kernel": (conv(3, 2), 0.5, 1),
    "dilation": (conv(3, 3, dilation=2), 2, 1),
    "same": (conv(3, 4, padding="same"), 0.5, 1),
    "mirrored border": (conv(3, 3, padding=1, padding_mode="reflect"), 0, 1),
    "pool": (nn.MaxPool2d(2), 0.5, 2),
    "pool that drops a row": (nn.Sequential(conv(3, 2), nn.MaxPool2d(2)), 1, 2),
    "overlapping pool": (nn.MaxPool2d(3, 2, padding=1), 0, 2),
    "pool with holes": (nn.MaxPool2d(2, 1, dilation=3), 1.5, 1),
    "average": (nn.AvgPool2d(3, 2, 1, False, False), 0, 2),
    "a square average": (nn.AvgPool2d(4), 1.5, 4),
    "adaptive average": (nn.AdaptiveAvgPool2d(6), 1.5, 4),
    "adaptive maximum": (nn.AdaptiveMaxPool2d(8), 1, 3),
    "stem of ImageNet": (
        nn.Sequential(conv(3, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, padding=1)),
        0,
        4,
    ),
    "padding on one side": (nn.ZeroPad2d((3, 0, 3, 0)), -3, 1),
    "a repeated border": (nn.ReplicationPad2d((2, 0, 2, 0)), -2, 1),
    "cropped": (nn.ZeroPad2d(-2), 2, 1),
    "slice": (Apply(lambda x: x[:, :, 3:-1:2, 3:-1:2]), 3, 2),
    "slice from the end": (Apply(lambda x: x[..., -20:, -20:]), 4, 1),
    "patches": (Apply(merged), 0.5, 2),
    "flip": (nn.Sequential(Apply(lambda x: x.flip(2, 3)), conv(3, 3, stride=2)), SIDE - 2, -2),
    "larger": (nn.Upsample(scale_factor=2), -0.25, 0.5),
    "smoothly smaller": (nn.Upsample(size=12, mode="bilinear"), 0.5, 2),
    "corner to corner": (nn.Upsample(size=47, mode="bilinear", align_corners=True), 0, 23 / 46),
    "transposed": (nn.ConvTranspose2d(3, 2, 2, stride=2), -0.25, 0.5),
    "channels last": (Apply(linear_last), 0, 1),
    "channels exchanged": (Apply(shuffled), 1, 2),
    "colours exchanged": (nn.Sequential(Apply(lambda x: x[:, [2, 1, 0]]), conv(3, 2)), 0.5, 1),
    "two ways": (Residual(), 0, 2),
    "gated": (Apply(gated), 0.5, 2),
    "batch normalisation": (nn.Sequential(conv(3, 2, stride=2), nn.BatchNorm2d(2)), 0.5, 2),
    "group normalisation": (nn.Sequential(conv(3, 2, stride=2), nn.GroupNorm(1, 2)), 0.5, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_centres_are_those_worked_out_by_hand(name: str) -> None:
    layers, centre, step = LAYERS[name]
    images = torch.rand(2, 3, SIDE, SIDE)
    with Places(images) as places:
        out = layers.eval()(images)
    place = places.of(out)
    assert place is not None
    assert place.axes == ((-3, -2) if name in ("channels last", "patches") else (-2, -1))
    assert place.rows == place.columns
    assert (place.rows.centre, place.rows.step) == pytest.approx((centre, step))


# Resizings read two or four pixels and are centred between them; group statistics read them all.
EXACT = set(LAYERS) - {"larger", "smoothly smaller", "corner to corner", "transposed", "gated"}
EXACT -= {"a repeated border", "mirrored border", "group normalisation"}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_centre_and_width_are_those_of_the_pixels_that_gradients_reach(name: str) -> None:
    layers, _, _ = LAYERS[name]
    torch.manual_seed(0)
    images = torch.rand(32, 3, SIDE, SIDE, requires_grad=True)
    with Places(images) as places:
        out = layers.eval()(images)
    place = places.of(out)
    assert place is not None
    down, across = (axis + 4 for axis in place.axes)
    entry = (out.shape[down] // 2, out.shape[across] // 3)
    seen = out.select(down, entry[0]).select(across - 1, entry[1])
    (grad,) = torch.autograd.grad(seen.sum(), images)
    reached = grad.abs().amax(dim=(0, 1)) > 0
    for axis, i, lines in zip(
        (place.rows, place.columns), entry, (reached.any(1), reached.any(0)), strict=True
    ):
        at = lines.nonzero().flatten()
        first, last = at[0].item(), at[-1].item()
        assert axis.centre + i * axis.step == pytest.approx((first + last) / 2)
        assert axis.width == last - first


@pytest.mark.parametrize(
    "lost",
    [
        lambda x: x.roll(3, 2),
        lambda x: x[:, :, torch.arange(SIDE - 1, -1, -1)],
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: F.unfold(x, 2),
        lambda x: x.reshape(2, SIDE, SIDE, 3),
        lambda x: F.grid_sample(x, torch.rand(2, SIDE, SIDE, 2), align_corners=False),
    ],
)
def test_what_cannot_be_followed_has_no_place(lost: Callable[[Tensor], Tensor]) -> None:
    images = torch.rand(2, 3, SIDE, SIDE)
    with Places(images) as places:
        out = lost(images)
        still = out + 1
    assert places.of(out) is None
    assert places.of(still) is None
    assert places.of(images) is not None


@pytest.mark.parametrize("mode", [Places, lambda images: GradientPath()])
def test_following_changes_no_bit(mode: Callable[[Tensor], Places]) -> None:
    torch.manual_seed(0)
    model, images = Sprint((4, 8, 8)).eval(), torch.randn(2, 3, 32, 32)
    plain = model(images)
    with mode(images):
        assert torch.equal(model(images), plain)


# --- maps ----------------------------------------------------------------------------------------


class OnePixel(nn.Module):
    """Every entry of the last map sees one pixel: all kernels are their middle tap."""

    def __init__(self, *shrink: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Sequential(*shrink)
        for module in self.layer:
            if isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight)
        self.fc = nn.Linear(3, 2, bias=False)
        nn.init.ones_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer(x).amax(dim=(2, 3)))


def plain(size: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(3, 3, size, bias=False, **options)


ONE_PIXEL = {
    "stride from the corner": (OnePixel(plain(3, stride=2, padding=1), plain(3, stride=2)), 2, 4),
    "rows dropped": (OnePixel(plain(7, stride=8)), 3, 8),
    "rows dropped twice": (OnePixel(plain(3, stride=4), plain(3, stride=2, padding=1)), 1, 8),
    "every third": (OnePixel(plain(1, stride=3), plain(1, stride=3)), 0, 9),
}


@pytest.mark.parametrize("name", ONE_PIXEL)
@pytest.mark.parametrize("entry", [(0, 0), (1, 2), (2, 1)])
def test_a_network_that_sees_one_pixel_is_shown_to_look_there(
    name: str, entry: tuple[int, int]
) -> None:
    model, first, step = ONE_PIXEL[name]
    row, column = (first + step * i for i in entry)
    image = torch.zeros(1, 3, 32, 32)
    image[0, :, row, column] = 1
    with fasttrain.GradCAM(model, "layer") as cam:
        (found,) = cam(image, [0])
    assert found[row, column] == 1
    # Before the first centre the map goes on to the border as it is there.
    rows = [row] if entry[0] else list(range(row + 1))
    columns = [column] if entry[1] else list(range(column + 1))
    assert (found == 1).nonzero().tolist() == [[r, c] for r in rows for c in columns]
    # It falls in a straight line to nothing at the neighbours' centres.
    assert found[row, column + step // 2] == pytest.approx(1 - step // 2 / step, abs=1e-6)
    assert found[row + step, column] == 0


def test_the_sprint_networks_maps_lie_at_4_12_and_20() -> None:
    """31, 15, 7, 3 entries: the border's rows are dropped. Evenly it was 4.8, 15.5 and 26.2."""
    model = Sprint((4, 8, 8)).eval()
    images = torch.zeros(1, 3, 32, 32)
    found = {}
    for name in model.stages:
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, out, name=name: found.update({name: places.of(out)})
        )
    with Places(images) as places:
        model(images)
    spread = [(found[name].rows.centre, found[name].rows.step) for name in model.stages]
    assert spread == [(1, 2), (2, 4), (4, 8)]
    moved = [(i + 0.5) * 32 / 3 - 0.5 - (4 + 8 * i) for i in range(3)]
    assert moved == pytest.approx([0.83, 3.5, 6.17], abs=0.01), "what the maps were too far right"


@pytest.mark.parametrize("entry", [(0, 0), (1, 2), (2, 1)])
def test_a_map_of_the_sprint_network_peaks_where_the_only_bright_pixel_is(
    entry: tuple[int, int],
) -> None:
    """Its convolutions start as the identity, and each entry takes the largest of 9x9 pixels."""
    torch.manual_seed(0)
    model = Sprint((24, 24, 24)).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module is not model.stem:
            nn.init.dirac_(module.weight)
    nn.init.ones_(model.stem.weight)
    nn.init.ones_(model.fc.weight)
    row, column = (4 + 8 * i for i in entry)
    image = torch.zeros(1, 3, 32, 32)
    image[0, :, row, column] = 1
    with fasttrain.GradCAM(model, "layer3") as cam:
        (found,) = cam(image, [3])
    middle = (found == 1).nonzero().double()
    assert found[row, column] == 1
    assert [row, column] in (found == 1).nonzero().tolist()
    if 1 in entry:
        axis = entry.index(1)
        assert middle[:, axis].mean() == 12


def test_the_mission_networks_maps_begin_at_the_corner() -> None:
    """3x3 windows with stride 2 and padding 1 are centred on every second pixel from the first."""
    images = torch.zeros(1, 3, 32, 32)
    model = ResNet18().eval()
    found = []
    model.layer4.register_forward_hook(lambda m, i, out: found.append(places.of(out)))
    with torch.no_grad(), Places(images) as places:
        model(images)
    assert found[0].rows[::2] == (0, 4)
    assert found[0].columns == found[0].rows
