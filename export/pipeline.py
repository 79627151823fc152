"""From a PyTorch model to a bundle of proved artifacts. Read `export`: its steps are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from export import facts, isolation, parity, reproducible
from export.calls import Call, clip_call, stream_call
from export.lowering.lower import max_rank
from export.model_card import model_card
from export.sources import Source
from export.targets import Conversion, Target, Written, find_target
from toolkit import reference
from toolkit.bundle import (
    REFERENCE,
    SAMPLE,
    Artifact,
    GraphFacts,
    Manifest,
    Model,
    artifact_path,
    new_bundle,
    open_bundle,
    provenance,
    seal,
)
from toolkit.errors import CheckFailed, HandheldError, UserError
from toolkit.files import sha256, size_bytes
from toolkit.parity import Parity
from toolkit.progress import track
from toolkit.sample import read_sample
from toolkit.sbom import write_sbom

MAX_RANK = 4
Mode = Literal["clip", "stream"]


def export(
    source: Source,
    targets: Sequence[str],
    output: Path,
    *,
    mode: Mode = "clip",
    shape: tuple[int, ...] | None = None,
    tiling: bool = False,
    command: str = "",
) -> Manifest:
    """Export `source` to every target and write the bundle `output`, whole or not at all.

    In `mode` "clip" one call takes a whole clip; in "stream" one latent frame and the states, for causal models.
    `shape` is a latent's (T, h, w) or images' (H, W), by default that of the source's example. With `tiling` the bundle
    also says how tiles of longer clips and larger pictures must overlap, which takes minutes for large models.
    Raises `UserError` on unknown targets and on models that cannot be lowered or streamed, `CheckFailed` where an
    artifact differs from PyTorch.
    """
    chosen = [find_target(name) for name in dict.fromkeys(targets)]
    if not chosen:
        raise UserError("no target given; name at least one with --target")
    with new_bundle(output) as folder, track("export", len(chosen) + 2) as progress, torch.no_grad():
        # 1. One lowered graph for all targets, proved equal to the module, with a real input and PyTorch's answer.
        progress.update(0, "lowering")
        call = clip_call(source, shape, tiling) if mode == "clip" else stream_call(source, shape)
        estimates = {
            "params": facts.params(source.module),
            "macs": facts.macs(call.lowered, call.examples),
            "peak_activation_bytes": facts.peak_activation_bytes(call.program),
        }
        # 2. Each artifact: written, read back, compared.
        artifacts = []
        for number, target in enumerate(chosen):
            progress.update(number + 1, target.name)
            artifacts.append(write_artifact(target, folder, call, estimates))
        # 3. What any device needs to check itself, the card, and the manifest over all of it.
        progress.update(len(chosen) + 1, "sealing")
        np.savez(folder / SAMPLE, **call.sample)  # type: ignore[arg-type]
        reference.save(call.reference, folder / REFERENCE)
        manifest = _manifest(source, artifacts, command)
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
        write_sbom(folder, manifest)
        sealed = seal(folder, manifest)
        progress.update(len(chosen) + 2, "done")
    return sealed


def verify(bundle: Path) -> dict[str, Parity]:
    """Check every hash of a bundle, then run every artifact again on its sample; returns parity by target.

    Raises `CheckFailed` that names the changed files, and `UserError` where `bundle` is none. Whether a parity
    passed stands in the result.
    """
    manifest = open_bundle(bundle)
    sample = read_sample(bundle, manifest)
    reference.check(bundle / REFERENCE)
    results = {}
    with track("verify", len(manifest.artifacts)) as progress:
        for number, a in enumerate(manifest.artifacts):
            progress.update(number, a.target)
            target, path = find_target(a.target), artifact_path(bundle, a)
            if isolation.is_isolated(a.target):
                results[a.target] = isolation.check(bundle, a)
            else:
                results[a.target] = parity.check(target, path, sample, a.inputs, a.outputs, a.stream)
        progress.update(len(manifest.artifacts), "done")
    return results


def write_artifact(target: Target, folder: Path, call: Call, estimates: dict[str, int]) -> Artifact:
    """Convert, check the rank, check parity; raises `CheckFailed` where either does not hold."""
    rank = max_rank(call.program)
    path = folder / target.file_name
    written = _convert(target, call, path)
    if max(rank, written.max_rank) > MAX_RANK:
        raise CheckFailed(f"{target.name}: a tensor of rank {max(rank, written.max_rank)} is left in the artifact")
    inputs, outputs = call.inputs, call.outputs
    if target.keeps_states:
        inputs, outputs = inputs[: len(inputs) - len(call.states)], outputs[: len(outputs) - len(call.states)]
    found = parity.check(target, path, call.sample, inputs, outputs, call.stream)
    if not found.passed:
        raise CheckFailed(f"{target.name}: {found}")
    return Artifact(
        target=target.name,
        mode="clip" if call.stream is None else "stream",
        path=target.file_name,
        sha256=sha256(path),
        bytes=size_bytes(path),
        inputs=inputs,
        outputs=outputs,
        states=call.states,
        stream=call.stream,
        tiling=call.tiling,
        parity=found,
        graph=GraphFacts.model_validate(asdict(written) | estimates),
    )


def _manifest(source: Source, artifacts: list[Artifact], command: str) -> Manifest:
    return Manifest(
        name=source.name,
        model=Model(role=source.role, task=source.task, class_name=source.class_name, config=source.config),
        provenance=provenance(command, source.recipe),
        quality=source.quality,
        latent_statistics=source.latent_statistics,
        normalized_latents=source.normalized_latents,
        artifacts=artifacts,
    )


def _convert(target: Target, call: Call, path: Path) -> Written:
    """Write one artifact. Converters are other people's code and raise what they like; a full disk stays one."""
    try:
        written = target.convert(Conversion(call.program, call.names, call.calibration), path)
        reproducible.settle(path)
        return written
    except (HandheldError, OSError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:240]
        raise CheckFailed(f"{target.name}: the converter refused this model or shape ({reason}); see -vv") from error
