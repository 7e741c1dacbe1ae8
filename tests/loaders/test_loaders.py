"""Both loaders show exactly what was drawn: the same pixels, in its order, from any step on."""

from __future__ import annotations

import warnings
from functools import lru_cache, partial
from importlib import metadata

import numpy as np
import pytest
import torch

from fasttrain.data import Split
from fasttrain.errors import UsageError
from fasttrain.loaders.dali import DaliLoader, available
from fasttrain.loaders.draws import Draw, draw, in_order
from fasttrain.loaders.resident import ResidentLoader
from fasttrain.loaders.triton import KernelLoader

COUNT, HOLE = 1500, 8
BATCHES, WHOLE = COUNT // 128, COUNT // 128 * 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
DRAWS = partial(draw, seed=5, count=COUNT, hole=HOLE, hole_probability=0.8)


@pytest.fixture(scope="session")
def split(tmp_path_factory) -> Split:
    """1,500 images of noise in a memory-mapped file; an image's label is its index."""
    path = tmp_path_factory.mktemp("split") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8))
    return Split(np.load(path, mmap_mode="r"), np.arange(COUNT))


@pytest.fixture(scope="session")
def first_epoch(split) -> torch.Tensor:
    """The pixels of epoch 1 by the reference below."""
    return reference(split.images, DRAWS(1))


@pytest.fixture(params=[ResidentLoader, DaliLoader])
def kind(request):
    if request.param is DaliLoader and available():
        pytest.skip(f"DALI: {available()}")
    return request.param


@pytest.fixture
def make(kind, split):
    return partial(loader, kind, split)


def loader(kind, split, draws=DRAWS, *, drop_last=True, hole=HOLE, batch_size=128, **options):
    options = {"device": "cpu", "mean": MEAN, "std": STD, "chunk": 512, **options}
    return kind(split, draws, batch_size=batch_size, drop_last=drop_last, hole=hole, **options)


def epoch_of(batches) -> tuple[torch.Tensor, torch.Tensor]:
    """All images and labels that an iteration yields."""
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def reference(images: np.ndarray, drawn: Draw) -> torch.Tensor:
    """What a Draw means, one image at a time: (N, 3, 32, 32)."""
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    shown = np.zeros((len(drawn.order), 32, 32, 3))
    for i, (index, (y, x), flip, (top, left)) in enumerate(zip(*drawn, strict=True)):
        window = padded[index, 4 + y : 36 + y, 4 + x : 36 + x]
        shown[i] = ((window[:, ::-1] if flip else window) / 255 - MEAN) / STD
        shown[i, top : top + HOLE, left : left + HOLE] = 0
    return torch.from_numpy(shown).float().permute(0, 3, 1, 2)


def test_a_reflecting_border_shows_the_image_mirrored_at_its_edge(make, split):
    shown, _ = epoch_of(make(hole=0, reflect=True))
    drawn = DRAWS(1)
    padded = np.pad(split.images, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
    expected = np.zeros((WHOLE, 32, 32, 3))
    rows = zip(drawn.order[:WHOLE], drawn.crop, drawn.flip, strict=False)
    for i, (index, (y, x), flip) in enumerate(rows):
        window = padded[index, 4 + y : 36 + y, 4 + x : 36 + x]
        expected[i] = ((window[:, ::-1] if flip else window) / 255 - MEAN) / STD
    expected = torch.from_numpy(expected).float().permute(0, 3, 1, 2)
    torch.testing.assert_close(shown, expected, atol=3e-6, rtol=0)
    black, _ = epoch_of(make(hole=0))
    assert (black - expected).abs().max() > 1  # the control


def albumentations_reference(images: np.ndarray, drawn: Draw) -> torch.Tensor:
    """The same through albumentations 2.0.8, its random parameters replaced by the Draw's."""
    assert metadata.version("albumentations") == "2.0.8"  # MIT; its successor is not
    import albumentations as A

    @lru_cache
    def chain(y, x, flip):
        crop = A.Crop(x_min=4 + x, y_min=4 + y, x_max=36 + x, y_max=36 + y)
        pad = A.PadIfNeeded(40, 40, border_mode=0, fill=0)
        return A.Compose([pad, crop, A.HorizontalFlip(p=flip), A.Normalize(MEAN, STD)])

    dropout, shown = A.CoarseDropout(fill=0, p=1), []
    for index, (y, x), flip, (top, left) in zip(*drawn, strict=True):
        image = chain(int(y), int(x), float(flip))(image=images[index])["image"]
        holes = np.array([[left, top, left + HOLE, top + HOLE]])
        shown.append(dropout.apply(image, holes if top < 32 else holes[:0], seed=0))
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)


def assert_same_pixels(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("oracle", [reference, albumentations_reference])
def test_every_image_of_an_epoch_has_the_oracles_pixels(make, split, oracle):
    images, labels = epoch_of(make(drop_last=False))
    assert_same_pixels(images, oracle(split.images, DRAWS(1)))
    assert labels.tolist() == DRAWS(1).order.tolist()


def test_both_loaders_give_the_same_pixels_for_every_image_of_two_epochs(split):
    if available():
        pytest.skip(f"DALI: {available()}")
    ours, dali = loader(ResidentLoader, split), loader(DaliLoader, split)
    for _ in range(2):
        (images, labels), (dali_images, dali_labels) = epoch_of(ours), epoch_of(dali)
        # The last place of a float32 from 2 to 4, as README says; not bitwise.
        torch.testing.assert_close(images, dali_images, rtol=0, atol=2.4e-7)
        assert torch.equal(labels, dali_labels)


@pytest.mark.parametrize("field", ["crop", "flip", "hole", "order"])
def test_one_wrong_number_in_one_draw_is_noticed(make, split, field):
    drawn = DRAWS(1)
    wrong = getattr(drawn, field).copy()
    wrong[1234] = ~wrong[1234] if field == "flip" else wrong[1234] - 1
    images, _ = epoch_of(make(drop_last=False))
    expected = reference(split.images, drawn._replace(**{field: wrong}))
    differs = (images - expected).abs().amax(dim=(1, 2, 3)) > 1e-5
    assert differs.nonzero().flatten().tolist() == [1234]


def test_an_evaluation_shows_every_image_once_untouched_with_a_shorter_last_batch(make, split):
    batches = list(make(lambda epoch: in_order(COUNT), drop_last=False, hole=0))
    assert [len(batch.labels) for batch in batches] == [128] * BATCHES + [COUNT - WHOLE]
    images, labels = epoch_of(batches)
    assert_same_pixels(images, reference(split.images, in_order(COUNT)))
    assert labels.tolist() == list(range(COUNT))


def crops(reach: int) -> Draw:
    """An epoch in order whose crops reach so far outside, in every direction."""
    rows, columns = np.divmod(np.arange(COUNT), 2 * reach + 1)
    offsets = np.stack([rows % (2 * reach + 1), columns], axis=1) - reach
    return in_order(COUNT)._replace(crop=offsets.astype(np.int32))


def test_crops_of_any_reach_are_exact_also_where_a_later_epoch_reaches_further(make, split):
    reaches = {1: 0, 2: 1, 3: 16, 4: 4, 5: 7}
    batches = make(lambda epoch: crops(reaches[min(epoch, 5)]), hole=0, drop_last=False)
    wide = np.pad(split.images, ((0, 0), (16, 16), (16, 16), (0, 0)))
    for reach in reaches.values():
        shown = [
            wide[i, 16 + y : 48 + y, 16 + x : 48 + x] for i, (y, x) in enumerate(crops(reach).crop)
        ]
        expected = torch.from_numpy((np.stack(shown) / 255 - MEAN) / STD).float()
        assert_same_pixels(epoch_of(batches)[0], expected.permute(0, 3, 1, 2))


def test_a_hole_at_32_32_is_none(make):
    still = in_order(COUNT)
    with_holes, without = make(lambda epoch: still), make(lambda epoch: still, hole=0)
    assert torch.equal(epoch_of(with_holes)[0], epoch_of(without)[0])


def test_without_cutout_holes_that_were_drawn_are_not_made(make, split):
    no_hole = DRAWS(1)._replace(hole=in_order(COUNT).hole)
    images, _ = epoch_of(make(drop_last=False, hole=0))
    assert_same_pixels(images, reference(split.images, no_hole))


def test_drop_last_leaves_out_the_shorter_batch(make):
    batches = make()
    assert [len(batch.labels) for batch in batches] == [128] * BATCHES
    assert len(batches) == BATCHES
    assert len(make(drop_last=False)) == BATCHES + 1


def test_an_image_comes_at_most_once_an_epoch_and_other_images_are_dropped_each_time(make):
    batches, dropped = make(), []
    for _ in range(4):
        seen = epoch_of(batches)[1].tolist()
        assert len(set(seen)) == len(seen) == WHOLE
        dropped.append(frozenset(range(COUNT)) - set(seen))
    assert len(set(dropped)) == 4


def test_epochs_follow_each_other(make):
    batches = make()
    for epoch in (1, 2, 3):
        assert epoch_of(batches)[1].tolist() == DRAWS(epoch).order[:WHOLE].tolist()


@pytest.mark.parametrize("step", [1, 4, 6, 10])  # within and at the start of a chunk of 4
def test_seeking_gives_bitwise_the_rest_of_the_epoch_and_then_the_next(make, step):
    whole, later = make(), make()
    whole.seek(2)
    images, labels = epoch_of(whole)
    later.seek(2, step)
    rest_images, rest_labels = epoch_of(later)
    assert torch.equal(rest_images, images[step * 128 :])
    assert torch.equal(rest_labels, labels[step * 128 :])
    for one, other in zip(epoch_of(whole), epoch_of(later), strict=True):
        assert torch.equal(one, other)


def test_seeking_back_gives_bitwise_the_same_epoch_again(make):
    batches = make()
    first = epoch_of(batches)
    batches.seek(1)
    for one, other in zip(first, epoch_of(batches), strict=True):
        assert torch.equal(one, other)


def test_seeking_to_the_end_of_an_epoch_yields_nothing_and_goes_on_with_the_next(make):
    batches = make()
    batches.seek(4, len(batches))
    assert list(batches) == []
    assert epoch_of(batches)[1].tolist() == DRAWS(5).order[:WHOLE].tolist()


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (1, -1), (1, BATCHES + 1)])
def test_seeking_to_a_place_that_is_not_there_is_refused(make, epoch, step):
    with pytest.raises(ValueError, match="epochs start at 1, of 11 steps"):
        make().seek(epoch, step)


@pytest.mark.parametrize("taken", [0, 1, 6])
def test_breaking_off_early_and_iterating_again_is_the_next_epoch(make, split, taken):
    batches = make()
    for _ in zip(range(taken), batches, strict=False):
        pass
    images, labels = epoch_of(batches)
    assert labels.tolist() == DRAWS(2).order[:WHOLE].tolist()
    assert_same_pixels(images, reference(split.images, DRAWS(2))[:WHOLE])


def test_two_iterations_at_once_are_two_epochs(make, split):
    batches = make()
    expected = [reference(split.images, DRAWS(epoch)) for epoch in (1, 2)]
    for step, pair in enumerate(zip(iter(batches), iter(batches), strict=True)):
        for batch, images in zip(pair, expected, strict=True):
            assert_same_pixels(batch.images, images[step * 128 : step * 128 + 128])


def test_a_batch_that_is_kept_does_not_change(make):
    batches = make()
    kept = list(batches)
    copies = [batch.images.clone() for batch in kept]
    for _ in range(2):
        list(batches)
    assert all(torch.equal(b.images, copy) for b, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize("batch_size", [1, 128, 700, COUNT])
def test_batches_of_any_size_have_the_same_pixels(make, split, batch_size):
    drawn = DRAWS(1)._replace(order=DRAWS(1).order[:700] if batch_size == 1 else DRAWS(1).order)
    batches = make(lambda epoch: drawn, batch_size=batch_size, drop_last=False)
    images, labels = epoch_of(batches)
    expected = Draw(*(field[: len(drawn.order)] for field in drawn))
    assert_same_pixels(images, reference(split.images, expected))
    assert len(batches) == -(-len(labels) // batch_size)


def test_batches_are_channels_last_views_of_a_chunk_without_a_copy(make):
    first, second, *_ = make()
    for batch in (first, second):
        assert batch.images.shape == (128, 3, 32, 32)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == torch.int64
    storage, other = (batch.images.untyped_storage().data_ptr() for batch in (first, second))
    assert storage == other
    assert second.images.data_ptr() - first.images.data_ptr() == 128 * 32 * 32 * 3 * 4


def test_half_precision_is_the_float32_result_rounded(make):
    whole, half = epoch_of(make())[0], epoch_of(make(dtype=torch.float16))[0]
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), whole, rtol=2**-10, atol=1e-6)


def test_a_shard_is_a_loader_over_a_slice_of_the_draw(make):
    halves = [
        epoch_of(make(lambda epoch, s=start: Draw(*(f[s::2] for f in DRAWS(epoch)))))[1].tolist()
        for start in (0, 1)
    ]
    assert [len(half) for half in halves] == [5 * 128, 5 * 128]
    assert halves[0] == DRAWS(1).order[::2][: 5 * 128].tolist()
    assert not set(halves[0]) & set(halves[1])


def test_an_epoch_without_one_whole_batch_is_refused(make):
    with pytest.raises(UsageError, match=r"batch size \(1501\): an epoch has 1500 images"):
        make(batch_size=COUNT + 1)


def test_resident_pixels_are_the_splits_own_memory_and_no_warning_is_given(split):
    torch.set_warn_always(True)  # torch says most things once a process
    try:
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            resident = loader(ResidentLoader, split)
    finally:
        torch.set_warn_always(False)
    assert [str(warning.message) for warning in given] == []
    assert resident._images.data_ptr() == split.images.ctypes.data
    assert resident._images.dtype == torch.uint8


def test_images_in_any_memory_order_are_read_right(make, kind, split):
    scattered = Split(np.asfortranarray(split.images), split.labels)
    assert torch.equal(epoch_of(loader(kind, scattered))[0], epoch_of(make())[0])


@pytest.fixture(params=[ResidentLoader, KernelLoader, DaliLoader])
def on_gpu(request, split):
    if request.param is DaliLoader and available():
        pytest.skip(f"DALI: {available()}")
    return partial(loader, request.param, split, device="cuda", drop_last=False)


@pytest.mark.gpu
def test_on_a_gpu_the_pixels_are_the_same_and_torch_never_waits(on_gpu, first_epoch):
    batches = on_gpu()
    list(batches)
    batches.seek(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        epoch = list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(batch.images.is_cuda and batch.labels.is_cuda for batch in epoch)
    assert_same_pixels(epoch_of(epoch)[0].cpu(), first_epoch)


@pytest.mark.gpu
def test_on_a_gpu_they_are_also_while_it_is_busy_and_the_loader_far_ahead(on_gpu, first_epoch):
    """A chunk whose memory were used again too early would show another chunk's pixels."""
    work, kept = torch.randn(4096, 4096, device="cuda"), []
    for images, _ in on_gpu():
        for _ in range(20):
            work = (work @ work).clamp(-1, 1)
        kept.append(images + 0 * work[0, 0])
    assert_same_pixels(torch.cat(kept).cpu(), first_epoch)


@pytest.mark.gpu
def test_on_a_gpu_half_precision_with_a_hole_is_the_float32_result_rounded(on_gpu):
    whole, half = (epoch_of(on_gpu(**more))[0] for more in ({}, {"dtype": torch.float16}))
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), whole, rtol=2**-10, atol=1e-6)
