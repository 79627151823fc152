"""The model card: what it says of the latents, for every case of what is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from coremltools.models.utils import save_spec
from coremltools.proto import Model_pb2

from export.model_card import model_card
from export.sources import IMAGES
from toolkit.bundle import Artifact, GraphFacts, Manifest, Model, TensorInfo, provenance
from toolkit.evaluation import FlowEvaluation
from toolkit.flow_metrics import FlowReport, flow_report
from toolkit.latents import LatentStatistics
from toolkit.parity import Parity, Tolerance

FORMULA = "latent = normalised * std + mean"
FILES = {"coreml-fp16": "model.mlpackage", "executorch-xnnpack-fp32": "model.pte", "onnx-fp32": "model.onnx"}
PICTURE = TensorInfo(name="frame_0", shape=(1, 3, 64, 64), dtype="uint8", meaning="picture")


def artifact(target: str, taken: str) -> Artifact:
    parity = Parity(
        how="executed",
        runtime="a runtime",
        max_abs=1e-6,
        scale=1.0,
        psnr_db=120.0,
        tolerance=Tolerance(max_share=1e-4),
        passed=True,
    )
    return Artifact(
        target=target,
        mode="clip",
        path=FILES.get(target, f"{target}.mlpackage"),
        sha256="0" * 64,
        bytes=1,
        inputs=[TensorInfo(name="latent", shape=(3, 3, 8, 8), dtype="float32", meaning=taken)],
        outputs=[TensorInfo(name="frames", shape=(5, 3, 64, 64), dtype="float32", meaning="frames")],
        parity=parity,
        graph=GraphFacts(max_rank=4, operators={}, params=10, macs=100, peak_activation_bytes=1000),
    )


def card(
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] = (),
    role: Literal["student", "teacher", "module"] = "student",
    config: dict[str, Any] | None = None,
    normalized: bool = False,
) -> str:
    return model_card(
        Manifest(
            name="tiny",
            model=Model(
                role=role,
                task=None if role == "module" else "video-decoder",
                class_name="AnyDecoder",
                config=config or {},
            ),
            provenance=provenance("handheld export run"),
            latent_statistics=None if mean is None else LatentStatistics(mean=mean, std=std, origin="AutoencoderKLWan"),
            normalized_latents=normalized,
            artifacts=[
                artifact(target, "latent frames" if role == "module" else "raw latent frames") for target in FILES
            ],
        )
    )


def latents(text: str) -> str:
    return text.partition("## Latents")[2].partition("## Artifacts")[0]


def test_a_few_channels_are_listed_with_the_formula_that_undoes_them() -> None:
    text = card((0.1, 0.25, -1.0), (1.0, 2.0, 1 / 3))
    assert FORMULA in latents(text)
    assert "std: 1, 2, 0.333333\n" in latents(text)
    assert "mean: 0.1, 0.25, -1\n" in latents(text)
    assert "AutoencoderKLWan" in latents(text)


def test_one_number_for_all_channels_is_said_once() -> None:
    text = latents(card((0.0,) * 128, (2.0964,) * 128))
    assert FORMULA in text
    assert "std is 2.0964 and mean is 0 in every one of the 128 channels" in text


def test_many_channels_are_left_to_the_manifest() -> None:
    text = latents(card(tuple(range(128)), (2.5,) * 128))
    assert FORMULA in text
    assert "128 numbers: `latent_statistics.std` and `latent_statistics.mean` in `manifest.json`" in text
    assert "127" not in text


def test_where_mean_is_0_and_std_is_1_there_is_nothing_to_undo() -> None:
    text = card((0.0,) * 3, (1.0,) * 3, role="teacher")
    assert "mean is 0 and std is 1 in every channel: nothing to undo" in latents(text)
    assert FORMULA not in text


def test_unknown_statistics_are_to_be_looked_up() -> None:
    text = latents(card(None))
    assert "not known here" in text
    for key in ("latents_mean", "latents_std", "scaling_factor", "shift_factor"):
        assert key in text


def test_statistics_of_released_weights_come_with_a_word_on_scaling() -> None:
    known = (0.1, 0.25, -1.0), (1.0, 2.0, 3.0)
    assert "`scaling_factor`" in latents(card(*known, config={"weights": "released.pth"}))
    assert "`scaling_factor`" not in latents(card(*known))


def test_artifacts_that_undo_it_inside_say_so_and_no_formula_is_left() -> None:
    text = card((0.5,) * 3, (2.0,) * 3, normalized=True)
    assert "take normalised latents" in latents(text)
    assert FORMULA not in text
    assert text.count("with the diffusion model's output as it is") == 3


def test_a_model_of_the_users_own_is_not_said_to_take_latents() -> None:
    text = card(None, role="module")
    assert "## Latents" not in text
    assert "raw latent" not in text.partition("## Artifacts")[2]


@pytest.mark.parametrize(
    ("mean", "std", "filling"),
    [
        (None, (), "with raw latents (see above: Latents)"),
        ((0.0,) * 3, (1.0,) * 3, "with the diffusion model's output as it is"),
        ((0.5,) * 3, (1.0,) * 3, "with raw latents: normalised * std + mean in every channel"),
    ],
)
def test_every_snippet_says_what_to_fill_the_latent_with(
    mean: tuple[float, ...] | None, std: tuple[float, ...], filling: str
) -> None:
    assert card(mean, std).count(filling) == 3


def card_of(*artifacts: Artifact, folder: Path | None = None) -> str:
    return model_card(
        Manifest(
            name="tiny",
            model=Model(role="student", task="video-decoder", class_name="AnyDecoder", config={}),
            provenance=provenance("handheld export run"),
            artifacts=list(artifacts),
        ),
        folder=folder,
    )


def test_the_reference_is_read_as_strangers_files_are() -> None:
    text = card(None)
    assert "toolkit.reference.load" in text
    assert "torch.export.load" not in text


def test_snippets_of_tensors_ask_for_no_pictures() -> None:
    pictured = artifact("coreml-image-fp16", "latent").model_copy(update={"outputs": [PICTURE]})
    text = card_of(pictured, artifact("coreml-fp16", "latent"))
    assert 'featureValue(for: "frames")!' in text
    assert "frame_0" not in text
    assert "Output `frame_0`" in card_of(pictured)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_core_ml_snippet_is_of_the_default_artifact(reverse: bool) -> None:
    made = [artifact(f"coreml-{word}", "latent") for word in ("int8", "fp16", "pal8", "ios18-fp16", "pal4")]
    text = card_of(*(reversed(made) if reverse else made))
    assert 'forResource: "model"' in text


@pytest.mark.parametrize(("specification", "system"), [(7, "iOS 16"), (8, "iOS 17"), (9, "iOS 18")])
def test_the_core_ml_snippet_names_the_system_that_the_artifact_needs(
    tmp_path: Path, specification: int, system: str
) -> None:
    content = Model_pb2.Model(specificationVersion=specification, neuralNetwork={})
    save_spec(content, str(tmp_path / "coreml-pal4.mlpackage"))
    text = card_of(artifact("coreml-pal4", "latent"), folder=tmp_path)
    assert f"## Swift (Core ML, {system} or later)" in text


def flow_card(quality: FlowEvaluation | None = None) -> str:
    images = [
        TensorInfo(name=name, shape=(1, 3, 30, 40), dtype="float32", meaning=IMAGES) for name in ("image1", "image2")
    ]
    flow = TensorInfo(name="flow", shape=(1, 2, 30, 40), dtype="float32", meaning="flow in pixels")
    artifacts = [artifact(target, "").model_copy(update={"inputs": images, "outputs": [flow]}) for target in FILES]
    return model_card(
        Manifest(
            name="tiny",
            model=Model(role="student", task="optical-flow", class_name="toolkit.students.any", config={}),
            provenance=provenance("handheld export run"),
            quality=quality,
            artifacts=artifacts,
        )
    )


def test_a_flow_network_takes_images_and_its_card_speaks_of_nothing_else() -> None:
    text = flow_card()
    assert "An optical-flow network" in text
    assert not [word for word in ("latent", "video", "frame", "clip") if word in text.lower()]
    assert "40 pixels wide and 30 high" in text
    assert "r * 40 + c and 1200 places further on" in text
    assert "their width / 40" in text


def test_a_flow_card_has_the_held_out_figures_that_there_are() -> None:
    truth = torch.zeros(2, 10, 10)
    student = flow_report(truth + torch.tensor([3.0, 4.0])[:, None, None], truth)
    unknown = flow_report(truth, truth / 0)

    def line(student: FlowReport, teacher: FlowReport | None) -> str:
        quality = FlowEvaluation(pairs=7, student=student, teacher=teacher, baselines={}, student_params=1)
        return next((row for row in flow_card(quality).splitlines() if row.startswith("- Held-out")), "")

    assert line(student, None).endswith(
        "over 7 pairs: a mean end-point error of 5.000 pixels, 100.0 % of the pixels wrong (Fl)"
    )
    assert line(student, flow_report(truth, truth)).endswith("; teacher 0.000 pixels, 0.0 %")
    assert line(unknown, None) == ""
