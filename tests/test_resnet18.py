import torch

from fasttrain.models.resnet18 import ResNet18


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
