import copy

import torch
from torch.nn import functional as F

from fasttrain.models.resnet import ResNet18


def test_it_has_the_missions_parameters_and_an_8x8_last_map():
    model = ResNet18()
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    shapes = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(model, name).register_forward_hook(
            lambda module, args, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == {
        "layer1": (64, 32, 32),
        "layer2": (128, 16, 16),
        "layer3": (256, 8, 8),
        "layer4": (512, 8, 8),
    }


def test_channels_last_stays_through_the_network():
    model = ResNet18().to(memory_format=torch.channels_last)
    seen = []
    model.layer4.register_forward_hook(lambda module, args, out: seen.append(out))
    model(torch.zeros(2, 3, 32, 32).to(memory_format=torch.channels_last))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_block_is_two_convolutions_and_a_shortcut():
    torch.manual_seed(0)
    model = ResNet18().eval()
    block, x = model.layer2[0], torch.randn(2, 64, 8, 8)
    inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    assert torch.equal(block(x), torch.relu(inner + block.shortcut[1](block.shortcut[0](x))))
    assert not torch.equal(block(x), torch.relu(inner))


def test_a_difference_of_rounding_grows_beyond_1e_5_within_two_steps():
    """README's control: why two processes cannot stay that near one on this network."""
    torch.manual_seed(0)
    model = ResNet18().train()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(1e-7 * torch.randn_like(weight))
    batches = [(torch.randn(4, 3, 32, 32), torch.arange(4)) for _ in range(2)]
    apart = []
    for each in (model, moved):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(each(images), labels).backward()
            optimizer.step()
    for weight, other in zip(model.parameters(), moved.parameters(), strict=True):
        apart.append((weight - other).abs().max().item())
    assert max(apart) > 1e-5
