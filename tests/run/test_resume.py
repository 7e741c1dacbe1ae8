"""A checkpoint with a valid digest that is not of this run, or was made to do harm, is refused."""

import copy

import pytest
import torch

from fasttrain.cli import main as cli
from fasttrain.engine import metrics
from fasttrain.engine.state import Run, set_random_state
from fasttrain.engine.step import Step
from fasttrain.errors import CheckpointError
from fasttrain.optim.schedule import Plateau
from fasttrain.optim.sgd import adamw
from fasttrain.recipe.recipe import Recipe
from fasttrain.run import resume
from fasttrain.storage import checkpoint
from tests.conftest import tiny_model, tiny_step

PLATEAU = {"patience": 3, "factor": 0.1, "threshold": 0.001}


def captured():
    """A step, its schedule, and what a run in the middle of its second epoch saves of them."""
    step = tiny_step()
    schedule = Plateau(step.optimizer, **PLATEAU)
    row = [1, 0.05, 2.0, 0.1, 2.0, 0.1, 1.0, 512.0, 0.1, 0]
    run = Run(epoch=1, step=3, sums=metrics.zeros(step.device))
    state = resume.capture(run, step, schedule, Recipe())
    state["run"]["history"] = [row]
    return step, schedule, copy.deepcopy({**state, "ledger": {"total": 3.0}})


def put(*keys, value):
    """A change of a captured state: what lies under these keys becomes `value`."""

    def change(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


MOMENTUM = ("step", "optimizer", "state", 0, "momentum_buffer")
GROUP = ("step", "optimizer", "param_groups", 0)
DO_NOT_FIT = {
    "weights of another shape": put("step", "model", "0.weight", value=torch.zeros(1)),
    "weights of another name": put("step", "model", "nosuch", value=torch.zeros(1)),
    "no weights": put("step", "model", value={}),
    "momentum too small": put(*MOMENTUM, value=torch.zeros(1)),
    "momentum of another shape": put(*MOMENTUM, value=torch.zeros(3, 8, 3, 3)),
    "momentum that is none": put(*MOMENTUM, value="x"),
    "momentum of a weight that is not there": put(
        "step", "optimizer", "state", 99, value={"momentum_buffer": torch.zeros(1)}
    ),
    "a list for a rate": put(*GROUP, "lr", value=[0.9]),
    "a text for a rate": put(*GROUP, "initial_lr", value="x"),
    "several rates": put(*GROUP, "lr", value=torch.zeros(3)),
    "a schedule's place that is none": put("schedule", "num_bad_epochs", value="x"),
    "sums of another shape": put("run", "sums", value=torch.zeros(3)),
    "sums that are none": put("run", "sums", value=[1.0]),
    "random state too short": put("rng", value=torch.zeros(3, dtype=torch.uint8)),
    "an unknown field": put("run", "nosuch", value=1),
}


ADAMW = {
    "an average of another shape": put(*MOMENTUM[:-1], "exp_avg", value=torch.zeros(1)),
    "a count of steps of another shape": put(*MOMENTUM[:-1], "step", value=torch.zeros(3)),
    "an average that is missing": lambda state: state["step"]["optimizer"]["state"][0].pop(
        "exp_avg_sq"
    ),
}


@pytest.mark.parametrize("name", ADAMW)
def test_a_state_of_adamw_of_another_form_is_refused_as_well(name):
    model = tiny_model()
    step = Step(model, adamw(model, lr=0.1))
    schedule = Plateau(step.optimizer, **PLATEAU)
    state = copy.deepcopy(resume.capture(Run(), step, schedule, Recipe()))
    resume.restore(copy.deepcopy(state), step, schedule)  # the control: it fits
    ADAMW[name](state)
    with pytest.raises(CheckpointError, match="does not fit this network"):
        resume.restore(state, step, schedule)


@pytest.mark.parametrize("name", DO_NOT_FIT)
def test_a_state_of_another_form_is_refused_and_not_trained_with(name):
    step, schedule, state = captured()
    resume.restore(copy.deepcopy(state), step, schedule)  # the control: it fits
    DO_NOT_FIT[name](state)
    with pytest.raises(CheckpointError, match="does not fit this network") as caught:
        resume.restore(state, step, schedule)
    assert "\n" not in str(caught.value)


FOREIGN = {
    "no run": put("run", value=None),
    "an epoch that is none": put("run", "epoch", value="1"),
    "a negative step": put("run", "step", value=-1),
    "a step and a half": put("run", "step", value=1.5),
    "a history of text": put("run", "history", value=["x" * 10]),
    "a history that is none": put("run", "history", value=3),
    "a shorter history": put("run", "history", value=[]),
    "a time that is none": put("ledger", "total", value=float("nan")),
    "a recipe of another program": put("recipe", value={"nosuch": 1}),
    "a recipe that is impossible": put("recipe", "epochs", value=0),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_checkpoint_that_no_run_wrote_is_refused(name):
    *_, state = captured()
    resume.check_form(state)  # the control
    FOREIGN[name](state)
    with pytest.raises(CheckpointError, match="not a checkpoint that a run can") as caught:
        resume.check_form(state)
    assert "\n" not in str(caught.value)


def test_momentum_of_another_shape_would_be_taken_over_by_torch_itself():
    """The control: torch alone says nothing."""
    step, _, state = captured()
    put(*MOMENTUM, value=torch.zeros(1))(state)
    step.optimizer.load_state_dict(state["step"]["optimizer"])
    weight = next(step.model.parameters())
    assert step.optimizer.state[weight]["momentum_buffer"].shape != weight.shape


def test_the_weights_alone_are_nothing_to_go_on_from(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    best = {"progress": [1, 0], "model": tiny_model().state_dict(), "recipe": Recipe().as_dict()}
    checkpoint.save(tmp_path / "checkpoints" / "best.pt", best)
    (tmp_path / "recipe.json").write_text('{"recipe": "resnet18", "epochs": 50}')
    assert cli.main(["--resume", str(tmp_path / "checkpoints" / "best.pt")]) == 5
    err = capsys.readouterr().err
    assert "that a run can resume from. Resume a run directory, or its last.pt" in err
    assert err.count("\n") == 1


def test_on_a_gpu_its_random_state_is_kept_too_and_given_back_only_to_one(monkeypatch):
    """Dropout draws from the GPU's own generator."""
    step, schedule, on_cpu = captured()
    assert "cuda_rng" not in on_cpu
    given = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.full((16,), 7))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *state: given.append(state))
    step.device = torch.device("cuda", 2)
    run = Run(epoch=1)
    on_gpu = copy.deepcopy(resume.capture(run, step, schedule, Recipe()))
    for device, state in (("cpu", on_gpu), ("cuda:2", on_cpu), ("cuda:2", on_gpu)):
        step.device = torch.device(device)
        set_random_state(state, step.device)
    ((found, device),) = given
    assert found.tolist() == [7] * 16
    assert device == torch.device("cuda", 2)
