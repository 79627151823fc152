"""Losses of optical flow, against cases worked out by hand."""

from __future__ import annotations

import pytest
import torch

from recipes.flow_losses import EPS, agreement, pyramid_loss, reduced, smoothness


def constant(x: float, y: float, height: int, width: int) -> torch.Tensor:
    return torch.tensor([float(x), float(y)]).view(1, 2, 1, 1).expand(1, 2, height, width).clone()


def test_levels_count_gamma_times_less_the_coarser_they_are() -> None:
    truth, weight = constant(3, 4, 16, 16), torch.ones(1, 16, 16)
    flows = [constant(0, 0, 2, 2), constant(3, 0, 4, 4), constant(3, 4, 16, 16)]
    loss = pyramid_loss(flows, [8, 4, 1], truth, weight, gamma=0.5, exponent=1.0)
    assert float(loss) == pytest.approx(0.25 * 5 + 0.5 * 4 + EPS, rel=1e-4)


def test_a_smaller_exponent_takes_outliers_less_seriously() -> None:
    truth, weight = constant(0, 0, 4, 4), torch.ones(1, 4, 4)
    loss = pyramid_loss([constant(8, 0, 4, 4)], [1], truth, weight, gamma=1.0, exponent=0.5)
    assert float(loss) == pytest.approx(8**0.5, rel=1e-4)


def test_pixels_without_weight_count_nowhere() -> None:
    truth, weight = constant(1, 0, 8, 8), torch.ones(1, 8, 8)
    truth[..., 4:] = 1e6
    weight[..., 4:] = 0
    flows = [constant(1, 0, 2, 2), constant(1, 0, 8, 8)]
    assert float(pyramid_loss(flows, [4, 1], truth, weight, 1.0, 1.0)) == pytest.approx(2 * EPS, rel=1e-4)
    assert float(pyramid_loss(flows, [4, 1], truth, torch.zeros_like(weight), 1.0, 1.0)) == 0


def test_cells_beyond_the_image_are_means_of_what_lies_inside() -> None:
    truth = torch.arange(10.0).view(1, 1, 1, 10).expand(1, 2, 3, 10)
    means, weights = reduced(truth, torch.ones(1, 3, 10), 4, (1, 3))
    assert means[0, 0, 0].tolist() == pytest.approx([1.5, 5.5, 8.5])
    assert weights[0, 0].tolist() == pytest.approx([0.75, 0.75, 0.375])


def test_a_flow_agrees_with_its_way_back_inside_the_frame_only() -> None:
    there, back = constant(4, 0, 12, 20), constant(-4, 0, 12, 20)
    found = agreement(there, back)
    assert found[..., :16].all()
    assert not found[..., 16:].any()
    assert not agreement(there, constant(4, 0, 12, 20)).any()


def test_straight_flow_is_smooth_and_edges_excuse_kinks() -> None:
    ramp = torch.arange(12.0).view(1, 1, 1, 12).expand(1, 2, 12, 12)
    kinked = ramp.clone()
    kinked[..., 6:] = 0
    plain, edged = torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 12)
    edged[..., 6:] = 1
    assert float(smoothness(ramp, plain, 10.0)) == pytest.approx(0, abs=1e-6)
    assert float(smoothness(kinked, edged, 10.0)) < 0.01 * float(smoothness(kinked, plain, 10.0))


@pytest.mark.parametrize("exponent", [0.4, 1.0, 2.0])
def test_gradients_are_finite_where_a_flow_is_exact(exponent: float) -> None:
    flow = constant(1, 2, 4, 4).requires_grad_(True)
    pyramid_loss([flow], [1], constant(1, 2, 4, 4), torch.ones(1, 4, 4), 1.0, exponent).backward()
    assert flow.grad is not None
    assert flow.grad.isfinite().all()
