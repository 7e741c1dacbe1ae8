"""A captured step equals the plain step: buffers, rate, metrics. On a GPU see test_gpu.py."""

import copy
import warnings

import pytest
import torch

from fasttrain.data import cifar10, synthetic
from fasttrain.doctor import measure
from fasttrain.engine import build, metrics
from fasttrain.engine.gradients import in_parts
from fasttrain.engine.graphs import GraphedStep
from fasttrain.engine.loop import fit
from fasttrain.engine.lr_finder import find_lr, restored
from fasttrain.engine.step import Step
from fasttrain.errors import EnvironmentProblem
from fasttrain.machine import auto
from fasttrain.machine.auto import Choice
from fasttrain.optim.clip import clip_gradients
from fasttrain.optim.schedule import EveryStep, Plateau
from fasttrain.optim.sgd import adamw, muon
from fasttrain.recipe.recipe import Recipe
from tests.conftest import tiny_loader, tiny_model, tiny_step
from tests.engine.test_step import batch
from tests.taped import Tape

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PLAIN = {"optimizer": "torch", "world": 1, "known": False}


def pair(make=tiny_step, **options):
    """A plain step and a graphed one with the same weights, and what captures the second."""
    tape = Tape()
    return make(**options), GraphedStep(make(**options), tape), tape


def same_weights(one, other):
    states = (step.model.state_dict().values() for step in (one, other))
    return all(map(torch.equal, *states))


def test_captured_steps_train_bit_for_bit_as_plain_ones():
    plain, graphed, tape = pair(lr=0.1)
    for seed in range(4):
        loss, logits = plain(*batch(seed=seed))
        found = graphed(*batch(seed=seed))
        assert torch.equal(found[0], loss)
        assert torch.equal(found[1], logits)
    assert same_weights(plain, graphed)
    assert (tape.captures, tape.replays) == (1, 4)


def test_without_undoing_what_capturing_trained_the_weights_part(monkeypatch):
    monkeypatch.setattr("fasttrain.engine.graphs.restored", lambda *kept: torch.enable_grad())
    plain, graphed, _ = pair(lr=0.1)
    plain(*batch()), graphed(*batch())
    assert not same_weights(plain, graphed)


def test_the_metrics_are_in_the_graph_and_a_capture_counts_nothing():
    plain, graphed, tape = pair(lr=0.1)
    for step in (plain, graphed):
        step.sums.fill_(5.0)  # of an epoch that is under way
        for seed in range(3):
            step(*batch(seed=seed))
    assert torch.equal(graphed.sums, plain.sums)
    assert float(graphed.sums[metrics.IMAGES]) == 5 + 3 * 32
    assert tape.replays == 3


def muon_step(**options):
    model = tiny_model()
    return Step(model, muon(model, lr=0.1, momentum=0.85, weight_decay=0.01), **options)


def adamw_step(**options):
    """Clipped, and in parts."""
    model = tiny_model()
    optimizer = adamw(model, lr=0.01, weight_decay=0.01, decay_norms=False)
    clip_gradients(optimizer, 0.1)
    return Step(model, optimizer, gradients=in_parts(2), **options)


@pytest.mark.parametrize("amp", [None, torch.float16])
@pytest.mark.parametrize("make", [tiny_step, muon_step, adamw_step])
def test_every_update_and_the_loss_scale_are_captured_with_an_overflow_in_between(make, amp):
    plain, graphed, tape = pair(make, amp=amp)
    images, labels = batch()
    for number in range(5):
        overflow = number == 2 and amp is not None
        given = images * float("inf") if overflow else images * (1 + number)
        for step in (plain, graphed):
            before = [weight.detach().clone() for weight in step.model.parameters()]
            step(given, labels)
            assert all(map(torch.equal, before, step.model.parameters())) == overflow
            if overflow:  # BatchNorm has seen the infinities
                step.model.load_state_dict(tiny_model().state_dict())
        assert same_weights(plain, graphed)
        assert torch.equal(plain.sums.nan_to_num(), graphed.sums.nan_to_num())
        assert graphed.scaler.get_scale() == plain.scaler.get_scale()
    assert tape.replays == 5
    assert graphed.sums[metrics.SKIPPED] == (amp is not None)


@pytest.mark.parametrize("kind", ["onecycle", "cosine", "linear"])
def test_a_whole_training_is_replayed_without_a_warning(tiny_splits, kind):
    """torch's schedules warn of an optimizer whose `step`, Python, was never called."""
    train, test = (tiny_loader(half, training=not i) for i, half in enumerate(tiny_splits))
    plain, graphed, tape = pair(lr=0.1)
    found = []
    for step in (plain, graphed):
        find_lr(step, train, steps=4)  # the capture comes before the schedule
        schedule = EveryStep(step.optimizer, kind=kind, lr=0.1, steps=32)
        train.seek(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rows = fit(step, train, test, schedule, 2)
        found.append([row[:6] for row in rows])
    assert found[0] == found[1]
    assert same_weights(plain, graphed)
    assert tape.captures == 2, "a training and an evaluation"
    assert tape.replays == 4 + 32 + 8


def test_a_batch_of_another_shape_runs_plainly_and_the_graph_stays():
    plain, graphed, tape = pair(lr=0.1)
    for count in (32, 16, 32):
        plain(*batch(count)), graphed(*batch(count))
    assert same_weights(plain, graphed)
    assert (tape.captures, tape.replays) == (1, 2)


def test_buffers_are_copies_in_channels_last_that_every_call_fills():
    _, graphed, _ = pair()
    images, labels = batch()
    graphed(images, labels)
    buffers = graphed._step.buffers
    assert buffers[0].data_ptr() != images.data_ptr()
    assert buffers[0].is_contiguous(memory_format=torch.channels_last)
    others = batch(seed=1)
    graphed(*others)
    assert graphed._step.buffers[0] is buffers[0]
    assert all(map(torch.equal, buffers, others))
    assert torch.equal(images, batch()[0])  # the caller's batch is left alone


def test_a_rate_that_plateau_lowers_reaches_the_captured_tensor():
    _, graphed, _ = pair(lr=0.1)
    plateau = Plateau(graphed.optimizer, patience=0, factor=0.1, threshold=0.001)
    graphed(*batch())
    rate, address = graphed.lr, graphed.lr.data_ptr()
    plateau.after_epoch(0.5), plateau.after_epoch(0.5)
    assert graphed.lr is rate
    assert graphed.lr.data_ptr() == address
    assert float(rate) == pytest.approx(0.01)
    graphed.lr = 0.0
    before = copy.deepcopy(graphed.model)
    graphed(*batch())
    assert all(map(torch.equal, graphed.model.parameters(), before.parameters()))


def test_a_loaded_state_is_trained_on_and_not_the_momentum_that_was_captured():
    plain, graphed, tape = pair(lr=0.1)
    graphed(*batch())
    plain(*batch(seed=5)), plain(*batch(seed=6))
    graphed.load_state_dict(copy.deepcopy(plain.state_dict()))
    plain(*batch(seed=7)), graphed(*batch(seed=7))
    assert same_weights(plain, graphed)
    assert tape.captures == 2


def test_the_range_tests_undoing_leaves_the_addresses_that_were_captured():
    plain, graphed, _ = pair(lr=0.1)
    with restored(graphed):
        graphed(*batch(seed=1)), graphed(*batch(seed=2))
    plain(*batch()), graphed(*batch())
    assert same_weights(plain, graphed)


def test_predictions_are_kept_by_the_caller_and_other_shapes_run_plainly():
    plain, graphed, tape = pair(amp=torch.bfloat16)
    for step in (plain, graphed):
        step.model.eval()
    with torch.no_grad():
        first, other = batch()[0], batch(seed=1)[0]
        kept = graphed.predict(first)
        graphed.predict(other)
        assert torch.equal(kept, plain.predict(first))
        assert torch.equal(graphed.predict(first[:5]), plain.predict(first[:5]))
        assert torch.equal(graphed.predict_mirrored(first), plain.predict_mirrored(first))
    assert tape.captures == 1


def test_a_step_that_cannot_be_captured_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="rate in a tensor"):
        GraphedStep(Step(model, torch.optim.SGD(model.parameters(), lr=0.1)))


def test_without_a_measurement_auto_captures_networks_of_the_package_alone_and_says_why():
    assert auto.graphs("auto", GPU, **PLAIN) == Choice("off", "not measured")
    choice = auto.graphs("auto", GPU, **{**PLAIN, "known": True})
    assert (choice.value, choice.why) == ("on", auto.LAUNCHES)
    assert auto.graphs("on", GPU, **PLAIN).value == "on"
    assert auto.graphs("off", GPU, **PLAIN) == Choice("off", "requested")
    assert auto.graphs("auto", CPU, **PLAIN).value == "off"
    with pytest.raises(EnvironmentProblem, match=r"--graphs \(on\): cpu has no CUDA graphs"):
        auto.graphs("on", CPU, **PLAIN)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"optimizer": "apex"}, "apex"),
        ({"world": 2}, "processes"),
    ],
)
def test_what_is_not_captured_trains_plainly_with_a_reason(given, why):
    choice = auto.graphs("on", GPU, **{**PLAIN, **given})
    assert choice.value == "off"
    assert why in choice.why


@pytest.mark.parametrize("value", ["on", "off"])
def test_a_run_gets_the_step_that_was_chosen(monkeypatch, value):
    monkeypatch.setattr(auto, "graphs", lambda *a, **k: Choice(value, "a test"))
    recipe = Recipe(batch_size=8, lr=0.1, loader="resident", device="cpu", amp="off")
    built = build.build(recipe, cifar10.data(*synthetic.load(16, 8)))
    assert type(built.step) is (GraphedStep if value == "on" else Step)


@pytest.mark.parametrize("optimizer", ["torch", "apex"])
def test_the_doctor_tries_graphs_where_they_can_be_captured(monkeypatch, optimizer):
    monkeypatch.setattr(measure, "precisions", lambda device: ("bf16",))
    choice = auto.graphs("auto", GPU, **{**PLAIN, "optimizer": optimizer})
    chosen = {"amp": Choice("bf16", ""), "graphs": choice}
    built = build.Built(tiny_step(), [], [], GPU, chosen)
    tried = {kind: recipe for kind, _, recipe in measure.changes(Recipe(), built)}
    assert tried.get("graphs") == (Recipe(graphs="on") if optimizer == "torch" else None)
