"""The layer that --cam-layer names has maps that Grad-CAM can show, or one line says why not."""

import pytest
import torch
from torch import nn

from fasttrain.errors import UsageError
from fasttrain.explain.gradcam import GradCAM
from fasttrain.models.resnet import ResNet18
from fasttrain.models.stages import check_layer, stages


class Odd(nn.Module):
    """A network with every kind of module that has no one map."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.pair = Pair()
        self.relu = nn.ReLU()
        self.last = nn.Conv2d(4, 5, 3)
        self.unused = nn.Conv2d(4, 5, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(5, 7)

    def forward(self, x):
        x, _ = self.pair(self.relu(self.first(x)))
        return self.head(self.pool(self.relu(self.last(x))).flatten(1))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


REFUSED = {
    "lost": ("no module of that name", "Did you mean last"),
    "head": ("it puts out (N, 7) and no map (N, C, H, W)", "Leave it out to see last"),
    "pair": ("it puts out a tuple and no map", "Leave it out"),
    "unused": ("the network does not call it", "Leave it out"),
    "relu": ("the network calls it 2 times", "Leave it out"),
    "pool": ("its map is a single pixel", "Leave it out"),
    "zzzzzzzzz": ("no module of that name", "Leave it out to see last"),
    "": ("no module of that name", "Leave it out"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_without_one_map_is_refused_with_what_it_is_and_what_to_do(name):
    with pytest.raises(UsageError) as caught:
        check_layer(Odd(), name, side=16)
    said = str(caught.value)
    assert said.startswith(f"--cam-layer ({name}): ")
    assert "\n" not in said
    for words in REFUSED[name]:
        assert words in said


def test_what_is_taken_grad_cam_can_show_and_what_is_refused_it_cannot():
    model = Odd().eval()
    for name in dict(model.named_modules()):
        if name in ("first", "last"):
            check_layer(model, name, side=16)
            with GradCAM(model, name) as cam:
                assert cam(torch.randn(2, 3, 16, 16), [1, 2]).shape == (2, 16, 16)
        else:
            with pytest.raises(UsageError):
                check_layer(model, name, side=16)


def test_the_layer_that_is_found_is_called_once_though_a_shared_relu_comes_last():
    model = Odd().eval()
    assert stages(model, side=16) == ("last",)
    with GradCAM(model, *stages(model, side=16)) as cam:
        assert cam(torch.randn(2, 3, 16, 16), [1, 2]).shape == (2, 16, 16)


def test_the_nearest_names_are_dotted_names_of_the_network():
    model = ResNet18(10, 32)
    check_layer(model, "layer3.1.conv2", side=32)
    with pytest.raises(UsageError, match=r"Did you mean layer3\.1\.conv2 or layer\d"):
        check_layer(model, "layer3.1.conv3", side=32)


def test_the_check_leaves_no_hook_flag_or_number_behind():
    model = Odd()
    model.first.eval()
    state = torch.get_rng_state()
    check_layer(model, "last", side=16)
    assert torch.equal(state, torch.get_rng_state())
    assert [model.first.training, model.last.training] == [False, True]
    assert not any(module._forward_hooks for module in model.modules())
