"""The augmentation kernel makes ResidentLoader's pixels, bit by bit, in one launch a chunk."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from fasttrain.cli import main as cli
from fasttrain.data import Split
from fasttrain.errors import EnvironmentProblem, UsageError
from fasttrain.loaders.draws import Draw, draw, in_order
from fasttrain.loaders.resident import ResidentLoader
from fasttrain.loaders.triton import KernelLoader

kernel = pytest.importorskip("kernels.augment", reason="triton has wheels for Linux only")

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []  # else in the interpreter
COUNT = 70
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BYTES = {"mean": (125.3, 123.0, 113.9), "std": (63.0, 62.1, 66.7)}
DRAWS = partial(draw, seed=5, count=COUNT, hole_probability=0.8)


@pytest.fixture(scope="module")
def split() -> Split:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    return Split(images, np.arange(COUNT))


def augmented(op, split: Split, drawn: Draw, *, dtype=torch.float32, side: int = 8) -> Tensor:
    """What `op` writes into a buffer of nan."""
    images, *fields = (torch.from_numpy(array).to(DEVICE) for array in (split.images, *drawn))
    out = torch.full((len(drawn.order), 32, 32, 3), torch.nan, dtype=dtype, device=DEVICE)
    op(out, images, *fields, **BYTES, side=side)
    return out


def some(size: int, **changed: np.ndarray) -> Draw:
    """The first rows of a draw; `changed` fields are set in every row."""
    drawn = Draw(*(field[:size] for field in DRAWS(1)))
    return drawn._replace(**{k: np.full_like(getattr(drawn, k), v) for k, v in changed.items()})


@pytest.mark.parametrize("size", [1, 7, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernel_gives_bitwise_what_its_reference_gives(split, size, dtype):
    ours, theirs = (
        augmented(op, split, some(size), dtype=dtype) for op in (kernel.augment_, kernel._ref)
    )
    if dtype == torch.bfloat16 and DEVICE.type == "cpu":
        # Triton's interpreter cuts bfloat16 off where the hardware, and torch, round.
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=0)
    else:
        assert torch.equal(ours, theirs)


def test_with_a_reflecting_border_too(split):
    far = some(9, crop=np.array((-7, 11)))
    ours, theirs = (
        augmented(partial(op, reflect=True), split, far) for op in (kernel.augment_, kernel._ref)
    )
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, augmented(kernel.augment_, split, far))


@pytest.mark.parametrize("side", [1, 28, 31, 33])
def test_nothing_is_written_beyond_the_last_image_whatever_the_side(side):
    images = torch.full((1, side, side, 3), 9, dtype=torch.uint8, device=DEVICE)
    numbers = torch.full((3 * side**2 + 4096,), torch.nan, device=DEVICE)
    out, beyond = numbers[: 3 * side**2].view(1, side, side, 3), numbers[3 * side**2 :]
    fields = [torch.from_numpy(array).to(DEVICE) for array in in_order(1, side)]
    kernel.augment_(out, images, *fields, **BYTES, side=0)
    assert out.isfinite().all()
    assert beyond.isnan().all()


@pytest.mark.parametrize("field", ["order", "crop", "flip", "hole"])
def test_one_wrong_number_in_one_draw_is_noticed(split, field):
    drawn = some(9)
    wrong = getattr(drawn, field).copy()
    wrong[4] = ~wrong[4] if field == "flip" else wrong[4] - 1
    ours = augmented(kernel.augment_, split, drawn)
    theirs = augmented(kernel._ref, split, drawn._replace(**{field: wrong}))
    assert (ours != theirs).flatten(1).any(1).nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize("crop", [(-16, 16), (-31, 0), (0, 32), (40, -40)])
def test_outside_the_image_is_black_and_black_is_normalised(split, crop):
    white = split._replace(images=np.full_like(split.images, 255))
    shown = augmented(kernel.augment_, white, some(3, crop=np.array(crop), hole=32)).cpu()
    y, x = (torch.arange(32) + start for start in crop)
    there = ((y >= 0) & (y < 32))[:, None] & ((x >= 0) & (x < 32))
    flipped = torch.from_numpy(some(3).flip)[:, None, None]
    inside = torch.where(flipped, there.flip(1), there)[..., None]
    black, bright = ((value - torch.tensor(BYTES["mean"])) for value in (0, 255))
    assert torch.equal(shown, torch.where(inside, bright, black) / torch.tensor(BYTES["std"]))


@pytest.mark.parametrize(
    ("hole", "side", "hidden"),
    [((0, 0), 8, 64), ((24, 24), 8, 64), ((30, 3), 8, 16), ((32, 32), 8, 0), ((5, 5), 0, 0)],
)
def test_a_hole_is_a_square_cut_off_at_the_border(split, hole, side, hidden):
    shown = augmented(kernel.augment_, split, some(3, hole=np.array(hole)), side=side).cpu()
    zeros = (shown == 0).all(-1)
    assert zeros.sum((1, 2)).tolist() == [hidden] * 3
    assert zeros[:, hole[0] : hole[0] + side, hole[1] : hole[1] + side].all()


def loader(kind, split, *, draws=DRAWS, batch_size=16, drop_last=False, **options):
    options = {"device": DEVICE, "mean": MEAN, "std": STD, "hole": 8, "chunk": 32, **options}
    return kind(split, draws, batch_size=batch_size, drop_last=drop_last, **options)


def assert_same_batches(ours, theirs) -> None:
    for batch, other in zip(ours, theirs, strict=True):
        assert torch.equal(batch.images, other.images)
        assert torch.equal(batch.labels, other.labels)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.dtype == other.images.dtype


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": torch.float16, "drop_last": True},
        {"hole": 0},
        {"draws": lambda epoch: in_order(COUNT), "hole": 0},
        {"draws": lambda epoch: Draw(*(field[1::2] for field in DRAWS(epoch)))},
        {"batch_size": 70, "chunk": 1000},
    ],
    ids=["training", "half precision", "no hole", "evaluation", "a shard", "one batch"],
)
def test_the_loader_yields_bitwise_the_resident_loaders_batches(split, options):
    ours, resident = (loader(kind, split, **options) for kind in (KernelLoader, ResidentLoader))
    assert len(ours) == len(resident)
    assert_same_batches(ours, resident)


def test_the_loader_seeks_and_goes_on_with_the_next_epoch(split):
    ours, resident = (loader(kind, split) for kind in (KernelLoader, ResidentLoader))
    for batches in (ours, resident):
        batches.seek(3, 3)
    assert_same_batches(ours, resident)
    first = next(iter(ours))
    assert first.labels.tolist() == DRAWS(4).order[:16].tolist()
    assert not torch.equal(first.images, next(iter(loader(ResidentLoader, split))).images)


def test_an_epoch_without_one_whole_batch_is_refused(split):
    with pytest.raises(UsageError, match=r"batch size \(71\): an epoch has 70 images"):
        loader(KernelLoader, split, batch_size=71, drop_last=True)


def test_on_a_cpu_the_loader_is_refused_in_one_line(split, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(EnvironmentProblem, match=r"--loader \(kernel\): .* CUDA GPU") as caught:
        loader(KernelLoader, split, device="cpu")
    assert str(caught.value).endswith("Use --loader resident.")


@pytest.mark.parametrize("name", ["loader", "optimizer"])
def test_on_a_cpu_the_command_exits_with_3(name, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    tiny = "--dataset synthetic --train-limit 128 --test-limit 16 --device cpu --lr 0.1"
    chosen = {"loader": "resident", "optimizer": "torch", name: "kernel"}
    flags = [word for key, value in chosen.items() for word in (f"--{key}", value)]
    assert cli.main([*tiny.split(), *flags, "--out", str(tmp_path / "run")]) == 3
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith(f"fasttrain: error: --{name} (kernel): Triton's kernels need")


@pytest.mark.gpu
def test_on_a_gpu_the_host_waits_for_nothing(split):
    batches = loader(KernelLoader, split)
    list(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
