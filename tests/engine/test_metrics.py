"""Numbers that are not finite: the first bad step is named exactly, and nothing bad is kept."""

import json
import os
import signal

import numpy as np
import pytest
import torch

import fasttrain
from fasttrain.console.console import Display
from fasttrain.console.progress import ProgressLines
from fasttrain.data import Batch
from fasttrain.engine import metrics
from fasttrain.engine.loop import fit
from fasttrain.engine.state import Run
from fasttrain.errors import Diverged
from fasttrain.explain import analysis
from fasttrain.parallel.group import Group
from fasttrain.parallel.launch import Place
from fasttrain.run import resume
from fasttrain.storage import checkpoint
from tests.conftest import tiny_loader, tiny_step
from tests.engine.test_loop import Still
from tests.run.test_train import Opened, small

NAN, INF = float("nan"), float("inf")
BATCH = 32


def recorded(losses, *, lrs=None, counts=None, sums=None):
    """The metrics of steps with these losses."""
    sums = metrics.zeros(torch.device("cpu")) if sums is None else sums
    for number, loss in enumerate(losses):
        count = BATCH if counts is None else counts[number]
        metrics.record_step(sums, torch.tensor(0.1 if lrs is None else lrs[number]))
        metrics.update(sums, torch.tensor(loss), torch.zeros(count, 10), torch.zeros(count).long())
    return sums


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("at", [1, 2, 5, 6])
def test_the_first_bad_step_and_its_rate_are_named_whatever_comes_after(bad, at):
    lrs = [0.01 * step for step in range(1, 7)]
    for after in (1.0, bad, -bad):
        losses = [*[2.0] * (at - 1), bad, *[after] * (6 - at)]
        found = metrics.compute(recorded(losses, lrs=lrs), 6)
        assert found.until == at
        assert found.lr == pytest.approx(0.01 * at)
        with pytest.raises(Diverged, match=rf"not finite in epoch 3, at step {at}, at lr 0.0{at},"):
            metrics.raise_if_diverged(found, epoch=3, step=6)
    metrics.raise_if_diverged(
        metrics.compute(recorded([2.0] * 6), 6), epoch=3, step=6
    )  # the control


# Last batches that are shorter or longer, and irregular sizes.
UNEQUAL = [(32, 32, 32, 32, 32, 5), (8, 8, 8, 8, 8, 64), (1, 100, 3, 50, 7, 20)]


@pytest.mark.parametrize("counts", UNEQUAL)
@pytest.mark.parametrize("at", range(1, 7))
def test_batches_of_unequal_sizes_move_neither_the_step_nor_the_rate_that_are_named(counts, at):
    lrs = [0.01 * step for step in range(1, 7)]
    losses = [*[2.0] * (at - 1), NAN, *[2.0] * (6 - at)]
    found = metrics.compute(recorded(losses, lrs=lrs, counts=counts), 6)
    assert (found.until, found.lr) == (at, pytest.approx(0.01 * at))
    good = metrics.compute(recorded([2.0] * 6, lrs=lrs, counts=counts), 6)
    assert (good.until, good.lr, good.loss) == (6, pytest.approx(0.06), 2.0)
    assert good.images == sum(counts)


class Sized:
    """A loader of batches of these sizes."""

    def __init__(self, counts, bad=None):
        self.counts, self.bad = counts, bad

    def __iter__(self):
        for number, count in enumerate(self.counts, 1):
            images = torch.randn(count, 3, 32, 32)
            if number == self.bad:
                images[0, 0, 0, 0] = NAN
            yield Batch(images, torch.zeros(count).long())


@pytest.mark.parametrize("counts", UNEQUAL)
def test_fit_reports_the_very_rate_whatever_the_batches_sizes(counts):
    counts = [max(count, 2) for count in counts]  # BatchNorm refuses one
    rows = fit(tiny_step(), Sized(counts), Sized([4]), Still(), 2)
    assert [row.lr for row in rows] == pytest.approx([0.05, 0.05])
    assert [row.first_lr for row in rows] == pytest.approx([0.05, 0.05])
    with pytest.raises(Diverged, match=r"epoch 1, at step 3, at lr 0.05,"):
        fit(tiny_step(), Sized(counts, bad=3), Sized([4]), Still(), 1)


def test_skipped_steps_of_unequal_batches_are_whole_steps():
    sums = metrics.zeros(torch.device("cpu"))
    for count, skip in [(64, 1), (64, 1), (3, 0), (64, 1), (2, 0)]:
        skipped = torch.tensor(bool(skip))
        metrics.record_step(sums, 0.1, scale=torch.tensor(512.0), skipped=skipped)
        metrics.update(sums, torch.tensor(2.0), torch.zeros(count, 10), torch.zeros(count).long())
    found = metrics.compute(sums, 5)
    assert (found.skipped, found.longest, found.scale) == (3, 2, 512)


@pytest.mark.parametrize(("saved", "world"), [(1, 1), (1, 3), (4, 4), (4, 1), (4, 2)])
def test_a_tally_goes_on_in_a_group_of_another_size(saved, world):
    """Two steps by `saved` processes, two more by `world`; the fourth is bad on one of them."""
    begun = [metrics.start(metrics.zeros(torch.device("cpu")), 0.1) for _ in range(saved)]
    halves = [recorded([2.0, 2.0], lrs=[0.1, 0.2], sums=sums) for sums in begun]
    run = Run(step=2, sums=torch.stack(halves))
    ranks = []
    for rank in range(world):
        group = Group(Place(rank=rank, world=world))
        sums = resume._sums(run, group)
        losses = [2.0, NAN if rank == 0 else 2.0, 2.0]
        ranks.append(recorded(losses, lrs=[0.3, 0.4, 0.5], sums=sums))
    found = metrics.compute(sum(ranks), 5)
    assert found.until == 4 if world == 1 else found.until in (4, 5)
    assert found.first_lr == pytest.approx(0.1)
    whole = [resume._sums(run, Group(Place(rank=rank, world=world))) for rank in range(world)]
    found = metrics.compute(sum(recorded([2.0], lrs=[0.3], sums=sums) for sums in whole), 3)
    assert (found.until, found.lr, found.loss) == (3, pytest.approx(0.3), 2.0)
    assert found.images == BATCH * (2 * saved + world)


def test_a_tally_of_the_first_release_goes_on_where_it_stood():
    """It counted steps in images: two steps of 32 at the rate 0.2, one of them skipped."""
    places = [128.0, 9, 64, 2 * 32, 0.2 * 32, 512 * 32, 1 * 32, 0, 1 * 32, 0]
    run = Run(step=2, sums=torch.tensor(places, dtype=torch.float64))
    sums = resume._sums(run, Group())
    found = metrics.compute(sums, 2)
    assert (found.loss, found.until, found.lr, found.scale) == (2.0, 2, pytest.approx(0.2), 512)
    assert (found.skipped, found.longest) == (1, 1)
    assert found.first_lr < 0, "unknown"
    assert metrics.compute(recorded([2.0, NAN, 2.0], counts=[4, 4, 4], sums=sums), 5).until == 4


def test_the_sum_of_several_processes_metrics_names_the_step_of_the_first():
    """A NaN on one rank reaches the others' weights with its gradient, and so their next loss."""
    for at in range(1, 6):
        one = recorded([*[2.0] * (at - 1), *[NAN] * (7 - at)])
        others = [recorded([*[2.0] * at, *[NAN] * (6 - at)]) for _ in range(3)]
        found = metrics.compute(sum(others, one), 6)
        assert found.until == at
        assert found.lr == pytest.approx(0.1)
    finite = metrics.compute(recorded([2.0] * 6) + recorded([4.0] * 6), 6)
    assert (finite.loss, finite.images, finite.until) == (3.0, 2 * 6 * BATCH, 6)
    metrics.raise_if_diverged(finite, epoch=1, step=6)


def scaled(skips, *, scale=1024.0):
    sums = metrics.zeros(torch.device("cpu"))
    for skip in skips:
        skipped = torch.tensor(bool(skip))
        metrics.record_step(sums, torch.tensor(0.1), scale=torch.tensor(scale), skipped=skipped)
        metrics.update(sums, torch.tensor(2.0), torch.zeros(BATCH, 10), torch.zeros(BATCH).long())
    return metrics.compute(sums, len(skips))


def test_skipped_steps_are_counted_and_their_longest_row():
    found = scaled([1, 1, 0, 1, 1, 1, 0, 0, 1])
    assert (found.skipped, found.longest, found.scale) == (6, 3, 1024.0)
    assert (scaled([0] * 9).skipped, scaled([0] * 9).longest) == (0, 0)


def test_more_than_fifty_in_a_row_or_a_scale_at_its_floor_is_refused():
    metrics.raise_if_diverged(scaled([0, *[1] * 50, 0]), epoch=1, step=52)
    with pytest.raises(Diverged, match=r"51 fp16 steps in a row were skipped in epoch 1"):
        metrics.raise_if_diverged(scaled([0, *[1] * 51, 0]), epoch=1, step=53)
    metrics.raise_if_diverged(scaled([0], scale=metrics.LOWEST_SCALE), epoch=1, step=1)
    with pytest.raises(Diverged, match="under its floor"):
        metrics.raise_if_diverged(scaled([0], scale=metrics.LOWEST_SCALE / 2), epoch=1, step=1)


class Poisoned:
    """A loader that puts a number into one pixel of one batch of every epoch."""

    def __init__(self, loader, at, number):
        self.loader, self.at, self.number = loader, at, number

    def __iter__(self):
        for step, (images, labels) in enumerate(self.loader, 1):
            if step == self.at:
                images = images.clone()
                images[0, 0, 0, 0] = self.number
            yield Batch(images, labels)


@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", [NAN, INF])
@pytest.mark.parametrize("at", [1, 7, 16])
def test_one_bad_pixel_ends_the_epoch_with_its_step(tiny_splits, amp, number, at):
    train, test = (tiny_loader(half, training=not i) for i, half in enumerate(tiny_splits))
    run, step = Run(), tiny_step(amp=amp)
    scale = "loss scale 65536" if amp is torch.float16 else "no loss scale"
    with pytest.raises(Diverged, match=rf"epoch 1, at step {at}, at lr 0.05, {scale}"):
        fit(step, Poisoned(train, at, number), test, Still(), 2, run=run)
    assert (run.history, run.epoch, run.step) == ([], 0, 16)


def broken_update(step, at):
    """Make the gradient of update number `at` not finite, under a finite loss."""
    seen = []

    def spoil(optimizer, args, options):
        seen.append(1)
        if len(seen) == at:
            optimizer.param_groups[0]["params"][-1].grad[0] = NAN

    step.optimizer.register_step_pre_hook(spoil)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (7, r"training loss \(nan\): not finite in epoch 1, at step 8"),
        (15, r"training loss \(nan\): not finite in epoch 1, at step 16"),
        (16, r"weights \(nan\): not finite in epoch 1, at step 16"),
    ],
)
def test_a_bad_gradient_shows_in_the_next_loss_and_after_the_last_step_in_the_weights(
    tiny_splits, at, said
):
    train, test = (tiny_loader(half, training=not i) for i, half in enumerate(tiny_splits))
    step = tiny_step()
    broken_update(step, at)
    with pytest.raises(Diverged, match=said):
        fit(step, train, test, Still(), 2)


def test_statistics_that_overflow_under_finite_losses_are_found(tiny_splits):
    train, test = (tiny_loader(half, training=not i) for i, half in enumerate(tiny_splits))
    step, run = tiny_step(), Run()

    def overflow(run):
        step.model[1].running_var[0] = INF

    with pytest.raises(Diverged, match=r"weights \(inf\)"):
        fit(step, train, test, Still(), 1, run=run, on_step=[overflow])


def test_a_test_loss_that_is_not_finite_never_makes_a_row(tiny_splits):
    train, test = (tiny_loader(half, training=not i) for i, half in enumerate(tiny_splits))
    run = Run()
    with pytest.raises(Diverged, match=r"loss \(nan\): not finite after epoch 1, step 16"):
        fit(tiny_step(), train, Poisoned(test, 2, NAN), Still(), 1, run=run)
    assert run.history == []


def test_an_fp16_run_counts_the_steps_that_it_skips_and_goes_on(tiny_splits):
    train, test = (tiny_loader(half, training=not i) for i, half in enumerate(tiny_splits))
    step = tiny_step(amp=torch.float16)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)  # far too large a start
    before = [weight.detach().clone() for weight in step.model.parameters()]
    rows = fit(step, train, test, Still(), 2)
    assert 3 < rows[0].skipped_steps < 16
    assert rows[1].skipped_steps == 0
    assert step.scaler.get_scale() == 2.0 ** (30 - rows[0].skipped_steps)
    assert not any(map(torch.equal, step.model.parameters(), before))
    assert [row.skipped_steps for row in fit(tiny_step(), train, test, Still(), 1)] == [0]


def test_an_fp16_run_whose_scale_falls_through_the_floor_ends(tiny_splits):
    train, test = (tiny_loader(half, training=not i) for i, half in enumerate(tiny_splits))
    step = tiny_step(amp=torch.float16)
    # A loss whose gradient overflows at any scale, as a broken network's does.
    tiny = 2.0**-20
    step.scaler = torch.amp.GradScaler("cpu", init_scale=metrics.LOWEST_SCALE * 8)
    for weight in step.model.parameters():
        weight.register_hook(lambda grad: grad * INF + tiny)
    with pytest.raises(Diverged, match=r"loss scale \(.*\): under its floor of 0.000976562 in epo"):
        fit(step, train, test, Still(), 1)


class Spoiling(Display):
    """Breaks the loss of a training step, counted over all; may send a signal after another."""

    def __init__(self, spoil, stop=0):
        super().__init__()
        self.spoil, self.stop, self.seen = spoil, stop, 0

    def follow(self, plan):
        follower = ProgressLines(self.log, plan)
        step = follower.step

        def counted(run):
            self.seen += run.phase == "train"
            if self.seen == self.spoil and run.phase == "train":
                run.sums[metrics.LOSS] = NAN
            if self.seen == self.stop:
                os.kill(os.getpid(), signal.SIGTERM)
            step(run)

        follower.step = counted
        return Opened(follower)


# The second epoch's first step of three is broken; its end finds it, or a signal after the second.
@pytest.mark.parametrize("stop", [0, 5])
def test_after_a_nan_neither_the_end_nor_a_signal_saves_over_the_good_checkpoint(
    tiny, tmp_path, stop
):
    out = tmp_path / "a"
    with pytest.raises(Diverged, match=r"epoch 2, at step \d, at lr 0.05, no loss scale") as caught:
        fasttrain.train(small(), out=out, display=Spoiling(4, stop))
    assert caught.value.code == 7
    for name in ("last.pt", "best.pt"):
        state = checkpoint.load(out / "checkpoints" / name)  # which refuses any that is not finite
        assert state["progress"] == [1, 0]
    (row,) = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert (row["epoch"], row["skipped_steps"]) == (1, 0)


@pytest.mark.parametrize(
    ("classes", "images"), [(2, 9), (3, 50), (10, 100), (10, 7), (100, 60), (1000, 300)]
)
def test_means_over_classes_are_those_of_the_confusion_matrix(classes, images):
    random = np.random.default_rng(classes + images)
    labels = torch.from_numpy(random.integers(0, classes, images) ** 2 % classes)  # not equal
    logits = torch.from_numpy(random.normal(size=(images, classes)))
    logits[torch.arange(images), labels] += 1.5
    sums, counts = metrics.zeros(torch.device("cpu")), None
    for start in range(0, images, 8):  # in batches
        part = slice(start, start + 8)
        metrics.update(sums, torch.tensor(1.0), logits[part], labels[part])
        counts = metrics.count(counts, logits[part], labels[part])
    found = metrics.evaluation(torch.cat([sums, counts]))
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels.numpy(), logits.argmax(dim=1).numpy()), 1)
    assert found._asdict() == pytest.approx(
        {"loss": 1.0, "accuracy": np.trace(confusion) / images, **analysis.means(confusion)}
    )
    rows = [
        (np.trace(confusion[[c]][:, [c]]), confusion[c].sum(), confusion[:, c].sum())
        for c in range(classes)
    ]
    assert found.balanced_accuracy == pytest.approx(np.mean([h / n for h, n, _ in rows if n]))
    f1 = [2 * h / (n + p) for h, n, p in rows if n + p]
    assert found.macro_f1 == pytest.approx(np.mean(f1))


def test_counts_add_up_over_processes_and_without_them_there_are_no_means():
    labels, logits = torch.tensor([0, 1, 1, 2]), torch.eye(3)[[0, 1, 2, 2]]
    halves = [metrics.count(None, logits[part], labels[part]) for part in (slice(2), slice(2, 4))]
    assert torch.equal(sum(halves), metrics.count(None, logits, labels))
    assert metrics.evaluation(metrics.zeros(torch.device("cpu"))).macro_f1 is None


def test_counting_classes_is_a_few_kernels_and_none_that_the_host_waits_for():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorded(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.ops = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.ops.append(func.overloadpacket._qualified_op_name)
            return func(*args, **(kwargs or {}))

    logits, labels = torch.randn(32, 10), torch.arange(32) % 10
    counts = metrics.count(None, logits, labels)
    with Recorded() as recorded:
        metrics.count(counts, logits, labels)
    assert len(recorded.ops) <= 9
    waiting = ("_local_scalar_dense", "nonzero", "bincount", "_to_host", "unique")
    assert not [op for op in recorded.ops if any(word in op for word in waiting)]
