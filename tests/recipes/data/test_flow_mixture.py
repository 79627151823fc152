"""Several kinds of flow data in one training: their shares, and that a sample is what its part gives."""

from __future__ import annotations

from pathlib import Path

import torch

from recipes.data.flow_mixture import FlowMixture, flow_samples
from recipes.data.flow_specs import FlowMixtureSpec, MixturePart, SyntheticFlowSpec, TexturesSpec, VideoPairsSpec
from recipes.data.library import read_skipped

SIZE = (48, 64)


def parts(clip: Path) -> tuple[VideoPairsSpec, SyntheticFlowSpec]:
    videos = VideoPairsSpec.model_validate({"kind": "video_pairs", "path": str(clip), "augmentation": {"size": SIZE}})
    return videos, SyntheticFlowSpec(textures=TexturesSpec(sources=[str(clip)], side=64), size=SIZE)


def test_samples_come_from_the_parts_by_their_weights(clip_file: Path) -> None:
    videos, scenes = parts(clip_file)
    spec = FlowMixtureSpec(
        kind="flow_mixture", parts=[MixturePart(weight=3, data=videos), MixturePart(weight=1, data=scenes)]
    )
    data, alone = FlowMixture(spec, seed=0), [flow_samples(part, seed=0) for part in (videos, scenes)]
    labelled = 0
    for number in range(60):
        sample = data[number]
        is_labelled = bool(sample.valid.all())
        labelled += is_labelled
        if number < 8:
            assert all(torch.equal(a, b) for a, b in zip(sample, alone[is_labelled][number], strict=True))
    assert 6 <= labelled <= 26  # 15 expected; three standard deviations are 10


def test_parts_list_what_they_leave_out(clip_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "good.mp4").write_bytes(clip_file.read_bytes())
    (folder / "bad.mp4").write_bytes(b"no video")
    videos, scenes = parts(folder)
    spec = FlowMixtureSpec(kind="flow_mixture", parts=[MixturePart(data=videos), MixturePart(data=scenes)])
    data = FlowMixture(spec, seed=0)
    data.log_to(tmp_path, is_first=True)
    assert list(read_skipped(tmp_path)) == [str(folder / "bad.mp4")]
