"""The optical-flow student: shapes and units, its interchangeable parts, its refusals, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from toolkit import students
from toolkit.errors import UserError
from toolkit.students.compact_flow import CompactFlow

SMALL: dict[str, Any] = {
    "stem": 8,
    "widths": [8, 8, 12, 12],
    "layers": [0, 0, 0, 0],
    "matched": [8, 8, 8, 8],
    "estimators": [[16, 8], [16, 8], [16, 8], [16, 8]],
    "refinement": 8,
    "carried": 4,
    "dilations": [1, 2],
}


def build(**changes: Any) -> CompactFlow:
    """A small student whose flow is not near zero, as an untrained one's would be."""
    torch.manual_seed(0)
    student = students.build("compact_flow", "s", {**SMALL, **changes})
    assert isinstance(student, CompactFlow)
    for head in (*(estimator.flow for estimator in student.estimators), student.refinement.flow):
        torch.nn.init.normal_(head.weight, std=0.1)
    return student.eval()


def images(batch: int = 1, height: int = 64, width: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """A random texture, and the same 3 pixels to the right and 2 below."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, height // 4 + 2, width // 4 + 2, generator=random)
    texture = F.interpolate(coarse, size=(height + 2, width + 3), mode="bilinear")
    return texture[:, :, 2:, 3:].contiguous(), texture[:, :, :height, :width].contiguous()


def test_the_registry_tells_a_flow_network_from_a_decoder() -> None:
    kinds = students.kinds()
    assert {name: kind.task for name, kind in kinds.items()} == {
        "compact_flow": "optical-flow",
        "turbo_vaed": "video-decoder",
    }
    with pytest.raises(UserError, match="compact_flow: is for optical-flow"):
        students.decoder_config(build())


@settings(max_examples=8)
@given(st.integers(32, 100), st.integers(32, 100))
def test_flow_has_the_size_of_any_image(height: int, width: int) -> None:
    with torch.no_grad():
        flow = build()(*images(2, height, width))
    assert flow.shape == (2, 2, height, width)
    assert bool(flow.isfinite().all())


@pytest.mark.parametrize("change", [{"warp": "gather"}, {"correlation": "slices"}])
def test_the_forms_of_warp_and_correlation_are_interchangeable(change: dict[str, str]) -> None:
    pair = images(2, 72, 100)
    with torch.no_grad():
        flow, other = build()(*pair), build(**change)(*pair)
    assert flow.abs().mean() > 1  # several pixels, so that there is something to warp by
    assert (flow - other).abs().max() <= 1e-4 * flow.abs().max()


def test_bytes_are_taken_as_well_as_floats() -> None:
    pair = [(image * 255).round() for image in images()]
    student = build()
    with torch.no_grad():
        assert torch.equal(student(*(image.byte() for image in pair)), student(*(image / 255 for image in pair)))


def test_levels_come_coarse_to_fine_and_the_last_is_the_flow() -> None:
    student, pair = build(), images(1, 64, 96)
    with torch.no_grad():
        flows, flow = student.flows(*pair), student(*pair)
    assert [tuple(f.shape[2:]) for f in flows] == [(2, 3), (4, 6), (8, 12), (16, 24), (64, 96)]
    assert torch.equal(flows[-1], flow)


def test_every_level_speaks_in_pixels_of_the_image() -> None:
    """Without anything that changes the flow after the coarsest level, all levels say the same."""
    student = build()
    for estimator in student.estimators:
        torch.nn.init.zeros_(estimator.flow.weight)
    torch.nn.init.zeros_(student.refinement.flow.weight)
    coarsest = student.estimators[-1].flow
    with torch.no_grad():
        for match in student.matches:
            match.moments[1:] = 0  # no soft argmax
        coarsest.bias.copy_(torch.tensor([0.25, -0.5]))  # pixels of the coarsest level, 32 of the image each
        flows = student.flows(*images())
    for flow in flows:
        expected = torch.tensor([8.0, -16.0]).reshape(1, 2, 1, 1).expand_as(flow)
        torch.testing.assert_close(flow, expected, rtol=1e-4, atol=1e-4)


def test_training_mode_and_evaluation_mode_compute_the_same_but_for_batch_norms() -> None:
    student, pair = build(), images(2)
    with torch.no_grad():
        flow = student(*pair)
        student.train()
        for module in student.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        torch.testing.assert_close(student(*pair), flow, rtol=1e-4, atol=1e-4)


def test_blocks_can_be_tapped_by_name() -> None:
    student, seen = build().train(), {}
    names = ["encoder.stages.0", "encoder.stages.3", "estimators.2.layers", "refinement.layers"]
    for name in names:
        student.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.update({name: tuple(output.shape)})
        )
    student(*images(2, 64, 96))
    assert seen == {
        "encoder.stages.0": (4, 8, 16, 24),  # both images in one batch
        "encoder.stages.3": (4, 12, 2, 3),
        "estimators.2.layers": (2, 8, 4, 6),
        "refinement.layers": (2, 8, 16, 24),
    }


@pytest.mark.slow
def test_no_tensor_has_a_rank_above_4() -> None:
    for change in ({"warp": "gather"}, {"correlation": "slices"}):
        program = torch.export.export(build(**change, radius=1), images(1, 50, 70))
        ranks = [
            node.meta["val"].ndim for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)
        ]
        assert max(ranks) == 4


@pytest.mark.parametrize("sizes", [((64, 64), (64, 96)), ((31, 64), (31, 64))])
def test_images_that_do_not_fit_are_refused(sizes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="at least 32 pixels"):
        build()(*(torch.rand(1, 3, *size) for size in sizes))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"widths": [8, 8]}, "one entry a level"),
        ({"estimators": [[16], [16], [16], []]}, "at least one layer"),
        ({"radius": 0}, "radius"),
        ({"warp": "gahter"}, "warp"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(**change)


@pytest.mark.parametrize(("preset", "most"), [("s", 350_000), ("m", 1_200_000)])
def test_presets_stay_within_their_size(preset: str, most: int) -> None:
    with torch.device("meta"):
        student = students.build("compact_flow", preset)
    assert sum(p.numel() for p in student.parameters()) <= most


def test_a_saved_student_gives_the_same_flow(tmp_path: Path) -> None:
    student, pair = build(), images()
    students.save(student, tmp_path)
    with torch.no_grad():
        assert torch.equal(students.load(tmp_path)(*pair), student(*pair))


@pytest.mark.slow
def test_it_learns_a_motion() -> None:
    pair = images(2, 128, 128)
    truth = torch.tensor([3.0, 2.0]).reshape(1, 2, 1, 1)
    torch.manual_seed(0)
    changes = {key: SMALL[key][:3] for key in ("widths", "layers", "matched", "estimators")}
    student = students.build("compact_flow", "s", {**SMALL, **changes}).train()
    assert isinstance(student, CompactFlow)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for _ in range(300):
        loss = sum((flow - truth).abs().mean() for flow in student.flows(*pair))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    with torch.no_grad():
        error = (student.eval()(*pair) - truth).square().sum(1).sqrt().mean()
    assert error < 0.5
