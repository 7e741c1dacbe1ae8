"""A captured step equals the plain step: buffers, rate, errors; on a GPU, the graph itself."""

import copy

import pytest
import torch

from fasttrain.data import cifar10, synthetic
from fasttrain.doctor import measure
from fasttrain.engine import build
from fasttrain.engine.graphs import GraphedStep
from fasttrain.engine.lr_finder import restored
from fasttrain.engine.step import Step
from fasttrain.errors import EnvironmentProblem
from fasttrain.machine import auto
from fasttrain.machine.auto import Choice
from fasttrain.optim.schedule import Plateau
from fasttrain.optim.sgd import sgd
from fasttrain.recipe.recipe import Recipe
from tests.conftest import tiny_model, tiny_step
from tests.engine.test_step import batch

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PLAIN = {"amp": "bf16", "optimizer": "torch", "filters": "sgd", "world": 1}


class Recorder:
    """Stands in for a CUDA graph: warms up, and replays by running again into the same outputs."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, work):
        self.captures += 1
        for _ in range(3):
            outputs = tuple(tensor.clone() for tensor in work())

        def replay():
            self.replays += 1
            for output, new in zip(outputs, work(), strict=True):
                output.copy_(new)

        return replay, outputs


def pair(**options):
    """A plain step and a graphed one with the same weights, and what captures the second."""
    recorder = Recorder()
    return tiny_step(**options), GraphedStep(tiny_step(**options), recorder), recorder


def same_weights(one, other):
    states = (step.model.state_dict().values() for step in (one, other))
    return all(map(torch.equal, *states))


def test_captured_steps_train_bit_for_bit_as_plain_ones():
    plain, graphed, recorder = pair(lr=0.1)
    for seed in range(4):
        loss, logits = plain(*batch(seed=seed))
        found = graphed(*batch(seed=seed))
        assert torch.equal(found[0], loss)
        assert torch.equal(found[1], logits)
    assert same_weights(plain, graphed)
    assert (recorder.captures, recorder.replays) == (1, 4)


def test_without_undoing_what_capturing_trained_the_weights_part(monkeypatch):
    monkeypatch.setattr("fasttrain.engine.graphs.restored", lambda step: torch.enable_grad())
    plain, graphed, _ = pair(lr=0.1)
    plain(*batch()), graphed(*batch())
    assert not same_weights(plain, graphed)


def test_a_batch_of_another_shape_runs_plainly_and_the_graph_stays():
    plain, graphed, recorder = pair(lr=0.1)
    for count in (32, 16, 32):
        plain(*batch(count)), graphed(*batch(count))
    assert same_weights(plain, graphed)
    assert (recorder.captures, recorder.replays) == (1, 2)


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
    plain, graphed, recorder = pair(lr=0.1)
    graphed(*batch())
    plain(*batch(seed=5)), plain(*batch(seed=6))
    graphed.load_state_dict(copy.deepcopy(plain.state_dict()))
    plain(*batch(seed=7)), graphed(*batch(seed=7))
    assert same_weights(plain, graphed)
    assert recorder.captures == 2


def test_the_range_tests_undoing_leaves_the_addresses_that_were_captured():
    plain, graphed, _ = pair(lr=0.1)
    with restored(graphed):
        graphed(*batch(seed=1)), graphed(*batch(seed=2))
    plain(*batch()), graphed(*batch())
    assert same_weights(plain, graphed)


def test_predictions_are_kept_by_the_caller_and_other_shapes_run_plainly():
    plain, graphed, recorder = pair(amp=torch.bfloat16)
    for step in (plain, graphed):
        step.model.eval()
    with torch.no_grad():
        first, other = batch()[0], batch(seed=1)[0]
        kept = graphed.predict(first)
        graphed.predict(other)
        assert torch.equal(kept, plain.predict(first))
        assert torch.equal(graphed.predict(first[:5]), plain.predict(first[:5]))
        assert torch.equal(graphed.predict_mirrored(first), plain.predict_mirrored(first))
    assert recorder.captures == 1


def test_a_step_that_cannot_be_captured_is_refused():
    with pytest.raises(ValueError, match="no loss scale"):
        GraphedStep(tiny_step(amp=torch.float16))
    model = tiny_model()
    with pytest.raises(ValueError, match="rate in a tensor"):
        GraphedStep(Step(model, torch.optim.SGD(model.parameters(), lr=0.1)))


def test_auto_leaves_graphs_off_until_they_are_measured_and_says_so():
    choice = auto.graphs("auto", GPU, **PLAIN)
    assert choice == Choice("off", "not measured yet; the doctor command times them")
    assert auto.graphs("on", GPU, **PLAIN).value == "on"
    assert auto.graphs("off", GPU, **PLAIN) == Choice("off", "requested")
    assert auto.graphs("auto", CPU, **PLAIN).value == "off"
    with pytest.raises(EnvironmentProblem, match=r"--graphs \(on\): cpu has no CUDA graphs"):
        auto.graphs("on", CPU, **PLAIN)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"amp": "fp16"}, "loss scale"),
        ({"optimizer": "apex"}, "apex"),
        ({"filters": "muon"}, "--filters muon"),
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


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_the_doctor_tries_graphs_where_they_can_be_captured(monkeypatch, amp):
    monkeypatch.setattr(measure, "_precisions", lambda device: (amp,))
    chosen = {
        "amp": Choice(amp, ""),
        "graphs": auto.graphs("auto", GPU, **{**PLAIN, "amp": amp}),
    }
    built = build.Built(tiny_step(), [], [], GPU, chosen)
    tried = {kind: recipe for kind, _, recipe in measure.changes(Recipe(), built)}
    assert ("graphs" in tried) == (amp == "bf16")
    if amp == "bf16":
        assert tried["graphs"] == Recipe(graphs="on")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_captured_steps_train_as_plain_ones():
    def step():
        model = tiny_model().cuda().to(memory_format=torch.channels_last)
        return Step(model, sgd(model, lr=0.1, momentum=0.9, weight_decay=5e-4))

    plain, graphed = step(), GraphedStep(step())
    for seed in range(6):
        images, labels = (tensor.cuda() for tensor in batch(seed=seed))
        graphed.lr = plain.lr = 0.1 / (seed + 1)
        torch.testing.assert_close(graphed(images, labels)[0], plain(images, labels)[0])
    for one, other in zip(plain.model.parameters(), graphed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
