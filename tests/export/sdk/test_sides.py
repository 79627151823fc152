"""Which side takes which target, and which artifact is the default."""

from __future__ import annotations

import pytest

from export.sdk import require_side
from export.sdk.sides import ranked, sides_of
from export.targets import all_targets
from tests.export.sdk.bundles import invented
from toolkit.errors import UserError


@pytest.mark.parametrize(
    ("target", "sides"),
    [
        ("coreml-fp16", {"swift"}),
        ("coreml-ios16-fp16", {"swift"}),
        ("onnx-int8", {"kotlin"}),
        ("ort-fp32", {"kotlin"}),
        ("executorch-xnnpack-int8", {"swift", "kotlin"}),
        ("executorch-coreml-fp16", {"swift"}),
        ("executorch-vulkan-fp16", {"kotlin"}),
        ("torchexport-fp32", set()),
        ("coreml-image-fp16", set()),
    ],
)
def test_a_side_is_decided_by_the_backend(target: str, sides: set[str]) -> None:
    assert sides_of(target) == sides


def test_every_target_but_those_of_pictures_has_a_side() -> None:
    assert all(sides_of(target) for target in all_targets() if "image" not in target)


def test_targets_that_fit_no_side_are_refused_with_those_that_do() -> None:
    with pytest.raises(UserError, match=r"^--sdk: .* for torchexport-fp32; add a --target of: coreml-fp16, onnx-fp32$"):
        require_side(["torchexport-fp32"], ["onnx-fp32", "torchexport-fp32", "coreml-fp16"])
    require_side(["torchexport-fp32", "onnx-fp32"], [])


def test_the_default_is_the_same_in_whatever_order_targets_were_named() -> None:
    apple = ["executorch-coreml-fp16", "coreml-pal6", "coreml-state-fp16", "coreml-fp32", "coreml-fp16"]
    android = ["executorch-vulkan-fp16", "onnx-int8", "ort-fp32", "executorch-xnnpack-fp32", "onnx-fp32"]
    for names in (apple + android, [*android[::-1], *apple[::-1]]):
        artifacts = [invented(name, "stream") for name in names]
        swift = [a.target for a in ranked("swift", artifacts)]
        assert swift[:4] == ["coreml-fp16", "coreml-pal6", "coreml-fp32", "coreml-state-fp16"]
        kotlin = [a.target for a in ranked("kotlin", artifacts)]
        assert kotlin[:4] == ["onnx-fp32", "ort-fp32", "onnx-int8", "executorch-xnnpack-fp32"]
        assert kotlin[-1] == "executorch-vulkan-fp16"
