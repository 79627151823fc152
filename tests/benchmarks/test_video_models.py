"""The model zoo: what a factory gives does not depend on what ran before it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.video_models import MODELS

CHEAP = [
    "turbo-vaed-ltx-small",
    "turbo-vaed-hunyuan-small",
    "mc3_18",
    "ltx-video-vae",
    "cogvideox-vae",
    "wan-vae",
    "magvit-vae",
]


@pytest.mark.parametrize("name", CHEAP)
def test_factory_gives_the_same_model_and_output_twice_and_leaves_the_generator_alone(name: str) -> None:
    if name == "mc3_18":
        pytest.importorskip("torchvision")
    torch.manual_seed(1)
    first, inputs = MODELS[name]()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    second, inputs_again = MODELS[name]()
    assert not first.training
    assert all(torch.equal(a, b) for a, b in zip(inputs, inputs_again, strict=True))
    state = second.state_dict()
    assert first.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in first.state_dict().items())
    with torch.no_grad():
        output = first(*inputs)
        assert torch.isfinite(output).all()
        assert torch.equal(output, second(*inputs))
