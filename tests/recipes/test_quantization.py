"""Quantization-aware training: what is rounded, what learns, and what stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from recipes.quantization import QuantizationAwareness


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2))


def aware(module: nn.Module) -> QuantizationAwareness:
    awareness = QuantizationAwareness(module)
    awareness.attach(module)
    awareness.enable(True)
    return awareness


def int8(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | int = 0, least: int = -127) -> torch.Tensor:
    return ((x / scale + zero).round().clamp(least, 127) - zero) * scale


def test_weights_are_rounded_for_each_output_channel_and_inputs_as_a_whole() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
    x = torch.rand(2, 3, 6, 6) * 4 - 1
    awareness = aware(conv.train())
    given = conv(x)
    scale = (x.max() - x.min()) / 255
    rounded = int8(x, scale, (-128 - x.min() / scale).round(), -128)
    weight = conv[0].weight.detach()
    expected = nn.functional.conv2d(rounded, int8(weight, weight.abs().amax((1, 2, 3), keepdim=True) / 127))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    awareness.enable(False)
    assert torch.equal(conv(x), nn.functional.conv2d(x, weight))


def test_the_channels_of_a_transposed_convolutions_output_are_its_weights_second_axis() -> None:
    layer = nn.ConvTranspose2d(2, 3, 1, bias=False)
    with torch.no_grad():
        layer.weight[:, 1] *= 1000
    module = nn.Sequential(layer)
    plain = module(torch.ones(1, 2, 4, 4))
    aware(module.train())
    difference = (module(torch.ones(1, 2, 4, 4)) - plain).abs().amax((0, 2, 3)) / plain.abs().amax((0, 2, 3))
    assert bool((difference < 0.02).all())  # one scale for all would round the small channels to nothing


def test_gradients_pass_through_the_rounding_and_weights_keep_their_names() -> None:
    module = network()
    names = list(module.state_dict())
    aware(module.train())
    module(torch.rand(1, 3, 4, 4)).sum().backward()
    assert list(module.state_dict()) == names
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())
    assert isinstance(module[0].weight, nn.Parameter)


def test_a_forward_that_fails_leaves_the_weight_in_place() -> None:
    module = network()
    aware(module.train())
    with pytest.raises(RuntimeError):
        module(torch.rand(1, 5, 4, 4))
    assert isinstance(module[0].weight, nn.Parameter)


def test_the_average_takes_the_students_ranges_and_does_not_move_them() -> None:
    module = network().train()
    average = copy.deepcopy(module).eval()
    awareness = aware(module)
    awareness.attach(average)
    x = torch.rand(1, 3, 4, 4)
    expected = module(x)
    before = copy.deepcopy(awareness.state_dict())
    torch.testing.assert_close(average(x), expected)
    average(x * 100)
    followed = {name: value for name, value in awareness.state_dict().items() if "enabled" not in name}
    assert all(torch.equal(value, before[name]) for name, value in followed.items())


def test_learning_with_rounded_numbers_brings_the_rounded_student_closer() -> None:
    teacher = network().eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[0].weight[:, 0, 0, 0] += 8  # so wide a range that int8 keeps little of the rest
    aware(student.train())
    optimizer = torch.optim.Adam(student.parameters(), 2e-2)
    losses = []
    for step in range(200):
        torch.manual_seed(step)
        x = torch.rand(4, 3, 6, 6)
        loss = nn.functional.mse_loss(student(x), teacher(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.01 * sum(losses[:10])
