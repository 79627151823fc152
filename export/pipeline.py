"""From a PyTorch decoder to a bundle of proved artifacts. Read `export`: its steps are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from export import facts, parity
from export.lowering import LoweredModule, lower
from export.lowering.lower import max_rank, to_frames, to_video
from export.model_card import model_card
from export.sources import Source, fit
from export.targets import Target, Written, find_target
from toolkit.bundle import (
    REFERENCE,
    SAMPLE,
    Artifact,
    GraphFacts,
    Manifest,
    Model,
    TensorInfo,
    new_bundle,
    open_bundle,
    provenance,
    seal,
)
from toolkit.errors import CheckFailed, HandheldError, UserError
from toolkit.files import sha256, size_bytes
from toolkit.parity import Parity
from toolkit.progress import track

NAMES = ["latent", "frames"]
LOWERING_TOLERANCE = 1e-5
MAX_RANK = 4


def export(
    source: Source,
    targets: Sequence[str],
    output: Path,
    *,
    shape: tuple[int, int, int] | None = None,
    command: str = "",
) -> Manifest:
    """Export `source` to every target and write the bundle `output`, whole or not at all.

    `shape` is the latent's (T, h, w), by default that of the held-out sample. Raises `UserError` on unknown
    targets and on operators that cannot be lowered, `CheckFailed` where an artifact differs from PyTorch.
    """
    chosen = [find_target(name) for name in dict.fromkeys(targets)]
    if not chosen:
        raise UserError("no target given; name at least one with --target")
    with new_bundle(output) as folder, track("export", len(chosen) + 2) as progress, torch.no_grad():
        # 1. A real input and PyTorch's own answer in fp32.
        progress.update(0, "reference")
        latent = fit(source.latent, shape) if shape else source.latent
        module = source.module.eval().float()
        video = module(latent)
        inputs, expected = to_frames(latent), to_frames(video)
        # 2. One lowered graph for all targets, proved equal to the module.
        progress.update(1, "lowering")
        lowered = lower(module, (latent,))
        check_lowering(lowered, latent, video)
        program = torch.export.export(lowered, (inputs,))
        # 3. Each artifact: written, read back, compared.
        estimates = {
            "params": facts.params(module),
            "macs": facts.macs(lowered, (inputs,)),
            "peak_activation_bytes": facts.peak_activation_bytes(program),
        }
        artifacts = []
        for number, target in enumerate(chosen):
            progress.update(number + 1, target.name)
            artifacts.append(write_artifact(target, folder, program, inputs.numpy(), expected.numpy(), estimates))
        # 4. What any device needs to check itself, the card, and the manifest over all of it.
        np.savez(folder / SAMPLE, latent=inputs.numpy(), frames=expected.numpy())
        torch.export.save(torch.export.export(module, (latent,)), folder / REFERENCE)
        manifest = Manifest(
            name=source.name,
            model=Model(role=source.role, class_name=source.class_name, config=source.config),
            provenance=provenance(command, source.recipe),
            quality=source.quality,
            artifacts=artifacts,
        )
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
        sealed = seal(folder, manifest)
        progress.update(len(chosen) + 2, "done")
    return sealed


def verify(bundle: Path) -> dict[str, Parity]:
    """Check every hash of a bundle, then run every artifact again on its sample; returns parity by target.

    Raises `CheckFailed` that names the changed files, and `UserError` where `bundle` is none. Whether a parity
    passed stands in the result.
    """
    manifest = open_bundle(bundle)
    with np.load(bundle / SAMPLE) as sample:
        inputs, expected = [sample["latent"]], [sample["frames"]]
    results = {}
    with track("verify", len(manifest.artifacts)) as progress:
        for number, artifact in enumerate(manifest.artifacts):
            progress.update(number, artifact.target)
            target = find_target(artifact.target)
            results[artifact.target] = parity.check(target, bundle / artifact.path, inputs, expected)
        progress.update(len(manifest.artifacts), "done")
    return results


def check_lowering(lowered: LoweredModule, latent: torch.Tensor, video: torch.Tensor) -> None:
    """Raise `CheckFailed` unless the lowered module gives the module's numbers, in fp32, to 1e-5 of their scale."""
    difference = float((to_video(lowered(to_frames(latent))) - video).abs().max() / video.abs().max())
    if not difference <= LOWERING_TOLERANCE:
        raise CheckFailed(f"lowering changed the model: max |Δ| {difference:.1e} of scale; please report this model")


def write_artifact(
    target: Target,
    folder: Path,
    program: torch.export.ExportedProgram,
    latent: np.ndarray,
    frames: np.ndarray,
    estimates: dict[str, int],
) -> Artifact:
    """Convert, check the rank, check parity; raises `CheckFailed` where either does not hold."""
    rank = max_rank(program)
    path = folder / target.file_name
    written = _convert(target, program, path)
    if max(rank, written.max_rank) > MAX_RANK:
        raise CheckFailed(f"{target.name}: a tensor of rank {max(rank, written.max_rank)} is left in the artifact")
    found = parity.check(target, path, [latent], [frames])
    if not found.passed:
        raise CheckFailed(f"{target.name}: {found}")
    dtype = "float32"
    return Artifact(
        target=target.name,
        mode="clip",
        path=target.file_name,
        sha256=sha256(path),
        bytes=size_bytes(path),
        inputs=[TensorInfo(name="latent", shape=latent.shape, dtype=dtype, meaning="latent frames (T, C, h, w)")],
        outputs=[TensorInfo(name="frames", shape=frames.shape, dtype=dtype, meaning="RGB in [-1, 1], (T, 3, H, W)")],
        parity=found,
        graph=GraphFacts.model_validate(asdict(written) | estimates),
    )


def _convert(target: Target, program: torch.export.ExportedProgram, path: Path) -> Written:
    """Write one artifact. Converters are other people's code and raise what they like; a full disk stays one."""
    try:
        return target.convert(program, path, NAMES)
    except (HandheldError, OSError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:240]
        raise CheckFailed(f"{target.name}: the converter refused this model or shape ({reason}); see -vv") from error
