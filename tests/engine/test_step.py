import copy

import pytest
import torch
from torch.nn import functional as F

from fasttrain.engine import metrics
from fasttrain.engine.lr_finder import find_lr
from fasttrain.engine.step import Step
from fasttrain.errors import UsageError
from fasttrain.optim.schedule import EveryStep
from tests.conftest import tiny_model, tiny_step


def batch(count=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return images.to(memory_format=torch.channels_last), labels


def test_a_step_is_forward_loss_backward_update():
    step, (images, labels) = tiny_step(lr=0.1), batch()
    twin = copy.deepcopy(step.model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        loss, logits = step(images, labels)
        expected = twin(images)
        expected_loss = F.cross_entropy(expected, labels)
        optimizer.zero_grad()
        expected_loss.backward()
        optimizer.step()
        torch.testing.assert_close(loss, expected_loss.detach())
        torch.testing.assert_close(logits, expected.detach())
    for a, b in zip(step.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not loss.requires_grad
    assert not logits.requires_grad


def test_it_overfits_one_batch():
    step, (images, labels) = tiny_step(lr=0.1), batch(16)
    first = float(step(images, labels)[0])
    for _ in range(150):
        loss, _ = step(images, labels)
    assert float(loss) < 0.1 * first


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_near_float32(amp):
    plain, mixed, (images, labels) = tiny_step(), tiny_step(amp=amp), batch()
    for _ in range(3):
        loss, _ = plain(images, labels)
        mixed_loss, logits = mixed(images, labels)
    assert logits.dtype is amp
    assert abs(float(loss) - float(mixed_loss)) < 0.03
    assert next(mixed.model.parameters()).dtype is torch.float32


def test_fp16_scales_its_loss_and_skips_an_overflow():
    step, (images, labels) = tiny_step(amp=torch.float16), batch()
    before = [p.detach().clone() for p in step.model.parameters()]
    scale = step.scaler.get_scale()
    step(images * float("inf"), labels)
    assert all(map(torch.equal, step.model.parameters(), before))
    assert step.scaler.get_scale() == scale / 2
    step.model.load_state_dict(tiny_model().state_dict())  # BatchNorm did see the infinities
    step(images, labels)
    assert not any(map(torch.equal, step.model.parameters(), before))


def test_a_compiled_step_computes_what_the_eager_one_does():
    eager, compiled, (images, labels) = tiny_step(), tiny_step(compile=True), batch()
    for _ in range(3):
        loss, logits = eager(images, labels)
        compiled_loss, compiled_logits = compiled(images, labels)
        torch.testing.assert_close(loss, compiled_loss, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits, compiled_logits, atol=1e-4, rtol=1e-3)
    assert not any("_orig_mod" in name for name in compiled.state_dict()["model"])


def test_forward_and_loss_are_compiled_and_the_evaluation_is_not(monkeypatch):
    calls = []

    def compiled(function, **options):
        def called(*args):
            calls.append(function.__name__)
            return function(*args)

        return called

    monkeypatch.setattr(torch, "compile", compiled)
    step, (images, labels) = tiny_step(compile=True), batch()
    loss, _ = step(images, labels)
    assert calls == ["_loss"]
    assert loss.shape == ()
    step.model.eval()
    with torch.no_grad():
        step.predict(images), step.predict(images[:5])
    assert calls == ["_loss"]


def test_each_step_adds_its_metrics():
    step = tiny_step(lr=0.25)
    losses, correct = [], 0
    for count in (32, 16):
        images, labels = batch(count)
        loss, logits = step(images, labels)
        losses.append(float(loss) * count)
        correct += int((logits.argmax(dim=1) == labels).sum())
    found = metrics.compute(step.sums, 2)
    assert (found.images, found.until, found.lr) == (48, 2, 0.25)
    assert found.loss == pytest.approx(sum(losses) / 48)
    assert found.accuracy == correct / 48


def test_a_new_rate_reaches_a_compiled_step():
    step, (images, labels) = tiny_step(compile=True), batch()
    step(images, labels)
    step.lr = 0.0
    before = [p.detach().clone() for p in step.model.parameters()]
    step(images, labels)
    assert all(map(torch.equal, step.model.parameters(), before))


def test_state_goes_round_bitwise_and_keeps_the_rates_tensor():
    step, (images, labels) = tiny_step(lr=0.1), batch()
    step(images, labels)
    step.lr = 0.01
    saved = copy.deepcopy(step.state_dict())
    ahead = [step(images, labels)[0] for _ in range(3)]
    other = tiny_step(seed=5, lr=0.7)
    rate = other.lr
    other.load_state_dict(saved)
    assert other.lr is rate
    assert all(torch.equal(other(images, labels)[0], loss) for loss in ahead)
    control = tiny_step(seed=5, lr=0.01)  # without the momentum the losses part
    control.model.load_state_dict(saved["model"])
    assert not all(torch.equal(control(images, labels)[0], loss) for loss in ahead)


def test_prediction_is_float32_and_serves_a_shorter_last_batch():
    step, (images, _) = tiny_step(amp=torch.bfloat16), batch()
    step.model.eval()
    with torch.no_grad():
        whole, part = step.predict(images), step.predict(images[:5])
    assert whole.dtype is torch.float32
    torch.testing.assert_close(whole[:5], part, atol=1e-2, rtol=1e-2)


def of_two_rates(first, second, *, tensors=True, **more):
    """A Step whose head learns at a rate of its own."""
    model = tiny_model()
    body, head = model[:-1].parameters(), model[-1].parameters()
    rates = [torch.tensor(rate) if tensors else rate for rate in (first, second)]
    groups = [{"params": list(part)} for part in (body, head)]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    return Step(model, torch.optim.SGD(groups, momentum=0.9, **more))


def rates(step):
    return [float(group["lr"]) for group in step.optimizer.param_groups]


@pytest.mark.parametrize("tensors", [True, False])
def test_groups_keep_the_ratio_of_whatever_rates_they_had(tensors):
    step = of_two_rates(0.1, 0.01, tensors=tensors)
    for rate in (0.5, 0.0, 2e-3):  # a rate of zero has no ratio, and takes none away
        step.lr = rate
        assert rates(step) == pytest.approx([rate, rate / 10])
    assert float(step.lr) == pytest.approx(2e-3)


def test_the_range_test_trains_every_group_at_its_own_rate_and_gives_it_back():
    step, seen = of_two_rates(0.1, 0.02), []
    find_lr(step, [batch()], steps=10, on_step=[lambda done: seen.append(rates(step))])
    assert [head / body for body, head in seen] == pytest.approx([0.2] * 10)
    assert rates(step) == pytest.approx([0.1, 0.02])
    step.optimizer.param_groups[1]["lr"].fill_(0.05)  # nobody has assigned a rate yet
    step.lr = 1.0
    assert rates(step) == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("kind", ["onecycle", "cosine", "linear"])
def test_a_schedule_and_its_new_aim_keep_the_ratios(kind):
    step = of_two_rates(0.1, 0.02)
    schedule = EveryStep(step.optimizer, kind=kind, lr=0.1, steps=8)
    for rate in (None, 0.5):
        if rate:
            schedule.set_peak(rate)
            schedule.seek(2)
        for _ in range(2):
            step.optimizer.step()
            schedule.after_step()
            body, head = rates(step)
            assert head / body == pytest.approx(0.2)


def test_a_group_that_comes_later_keeps_its_ratio_too():
    model = tiny_model()
    step = Step(model, torch.optim.SGD(model[:-1].parameters(), lr=0.1))
    step.lr = 0.2
    step.optimizer.add_param_group({"params": list(model[-1].parameters()), "lr": 0.05})
    step.lr = 0.4
    assert rates(step) == pytest.approx([0.4, 0.1])


def test_a_first_rate_of_zero_has_no_ratio_unless_a_schedule_began_with_one():
    with pytest.raises(UsageError, match=r"optimizer \(lr 0 in its first group, 0.1 in another\)"):
        of_two_rates(0.0, 0.1).lr = 0.5
    alike = of_two_rates(0.0, 0.0)
    alike.lr = 0.5
    assert rates(alike) == [0.5, 0.5]
    warmed = of_two_rates(0.1, 0.02, tensors=False)
    torch.optim.lr_scheduler.LambdaLR(warmed.optimizer, lambda step: step / 10)
    assert rates(warmed) == [0.0, 0.0]
    warmed.lr = 0.5
    assert rates(warmed) == pytest.approx([0.5, 0.1])


def test_class_weights_multiply_the_losses_of_their_images():
    weights = torch.linspace(0.5, 1.5, 10)
    step, plain, (images, labels) = tiny_step(class_weights=weights), tiny_step(), batch()
    losses = F.cross_entropy(plain.model(images), labels, reduction="none")
    loss, _ = step(images, labels)
    torch.testing.assert_close(loss, (losses * weights[labels]).mean().detach())
    same, ones = tiny_step(), tiny_step(class_weights=torch.ones(10))
    torch.testing.assert_close(same(images, labels), ones(images, labels))


def test_halves_of_a_batch_have_the_weighted_gradient_of_the_whole_as_their_mean():
    weights, (images, labels) = torch.tensor([4.0] + [0.5] * 9), batch()
    step = tiny_step(class_weights=weights)
    step.model.eval()  # BatchNorm over the whole batch is another matter

    def gradient(part: slice) -> torch.Tensor:
        loss, _ = step._loss(images[part], labels[part])
        return torch.autograd.grad(loss, step.model[-1].weight)[0]

    halves = gradient(slice(0, 16)), gradient(slice(16, 32))
    torch.testing.assert_close((halves[0] + halves[1]) / 2, gradient(slice(0, 32)))


def focal(logits, labels):
    losses = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-losses)) ** 2 * losses).mean()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_loss_of_ones_own_is_what_is_trained_on(compiled, monkeypatch):
    if compiled:  # what Dynamo captures, run eagerly: a compiler takes half a minute
        plain = torch.compile
        monkeypatch.setattr(torch, "compile", lambda *a, **b: plain(*a, **b, backend="eager"))
    step, (images, labels) = tiny_step(lr=0.1, loss=focal, compile=compiled), batch()
    twin = copy.deepcopy(step.model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        loss, _ = step(images, labels)
        expected = focal(twin(images), labels)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(loss, expected.detach())
    for a, b in zip(step.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_cross_entropy_as_ones_own_loss_is_the_default_bit_for_bit():
    steps = [tiny_step(lr=0.1), tiny_step(lr=0.1, loss=F.cross_entropy)]
    for step in steps:
        for seed in range(3):
            step(*batch(seed=seed))
    one, two = (step.model.state_dict() for step in steps)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(steps[0].sums, steps[1].sums)


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda logits, labels: F.cross_entropy(logits, labels, reduction="none"), "(32,)"),
        (lambda logits, labels: 0.5, "float"),
    ],
)
def test_a_loss_that_is_not_one_number_is_refused(loss, shape):
    step = tiny_step(loss=loss)
    with pytest.raises(UsageError) as caught:
        step(*batch())
    expected = f"loss ({shape}): must be a tensor of one number (). Return the mean."
    assert str(caught.value) == expected


@pytest.mark.parametrize("more", [{"label_smoothing": 0.1}, {"class_weights": torch.ones(10)}])
def test_ones_own_loss_takes_no_settings_of_the_default(more):
    with pytest.raises(UsageError, match="label_smoothing and class_weights"):
        tiny_step(loss=focal, **more)
