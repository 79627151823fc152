"""From a PyTorch model to a bundle of proved artifacts. Read `export`: its steps are numbered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from export import cache, facts, isolation, parity, workers
from export.budget import within_budget
from export.calls import Call, clip_call, stream_call
from export.guarded import converted
from export.handover import Material
from export.lowering.lower import max_rank
from export.model_card import model_card
from export.sdk import require_side, write_sdk
from export.sources import Source
from export.targets import Conversion, Target, all_targets, find_target, of_size
from toolkit import reference
from toolkit.bundle import (
    REFERENCE,
    SAMPLE,
    SIZE_SAMPLES,
    Artifact,
    ArtifactSize,
    GraphFacts,
    Manifest,
    Model,
    TensorInfo,
    new_bundle,
    open_bundle,
    provenance,
    seal,
)
from toolkit.errors import CheckFailed, UserError
from toolkit.files import sha256, size_bytes
from toolkit.parity import InputCheck, Parity
from toolkit.progress import Tracker, console, track
from toolkit.sbom import write_sbom

MAX_RANK = 4
Mode = Literal["clip", "stream"]

log = logging.getLogger(__name__)


def export(
    source: Source,
    targets: Sequence[str],
    output: Path,
    *,
    mode: Mode = "clip",
    shape: tuple[int, ...] | None = None,
    further_shapes: Sequence[tuple[int, ...]] = (),
    tiling: bool = False,
    jobs: int | None = None,
    use_cache: bool = True,
    budget_db: float | None = None,
    sdk: bool = False,
    command: str = "",
) -> Manifest:
    """Export `source` to every target and write the bundle `output`, whole or not at all.

    In `mode` "clip" one call takes a whole clip; in "stream" one latent frame and the states, for causal models.
    `shape` is a latent's (T, h, w) or images' (H, W), by default that of the source's example; artifacts then hold the
    model for each of `further_shapes` too. With `tiling` the bundle also says how tiles of longer clips and larger
    pictures must overlap, which takes minutes for large models. `jobs` is how many targets are made at once, by default
    as many as cores and memory allow; `use_cache`, whether artifacts that were made before are taken from there. With a
    budget, the fewest layers of each artifact of lower precision keep the higher one that bring it to a PSNR of
    `budget_db` on all real inputs, which takes many conversions. With `sdk` the bundle also holds a Swift
    package and a Kotlin module for apps, as far as the targets fit them.
    Raises `UserError` on unknown targets, on several shapes for a target that holds one, and on models that cannot be
    lowered or streamed, `CheckFailed` where an artifact differs from PyTorch.
    """
    chosen = _chosen(targets, several=len(further_shapes) > 0, budget_db=budget_db, sdk=sdk)
    early = workers.early(chosen, source.module, jobs)
    with new_bundle(output) as folder, track("export", len(chosen) + 2) as progress, torch.no_grad(), early as begun:
        # 1. One lowered graph for all targets, proved equal to the module, with a real input and PyTorch's answer;
        #    and one more for every further size.
        progress.update(0, "lowering")
        material = replace(lowered(source, mode, [shape, *further_shapes], tiling), budget_db=budget_db)
        # 2. Each artifact: written, read back, compared, or taken from the cache; several at once.
        artifacts = make_all(chosen, folder, material, progress, jobs, use_cache, begun)
        # 3. What any device needs to check itself, the card, and the manifest over all of it.
        progress.update(len(chosen) + 1, "sealing")
        _save_samples(folder, material, chosen)
        reference.save(material.call.reference, folder / REFERENCE)
        manifest = _manifest(source, artifacts, command)
        if sdk:
            write_sdk(folder, manifest)
        (folder / "README.md").write_text(model_card(manifest, sdk, folder), encoding="utf-8")
        write_sbom(folder, manifest)
        sealed = seal(folder, manifest)
        progress.update(len(chosen) + 2, "done")
    return sealed


def verify(bundle: Path) -> dict[str, Parity]:
    """Check every hash of a bundle, then run every artifact again on its sample; returns parity by target.

    A further size of an artifact is called after its target and its own name, with a space between.
    Raises `CheckFailed` that names the changed files, and `UserError` where `bundle` is none. Whether a parity
    passed stands in the result.
    """
    manifest = open_bundle(bundle)
    reference.check(bundle / REFERENCE)
    results = {}
    with track("verify", len(manifest.artifacts)) as progress:
        for number, a in enumerate(manifest.artifacts):
            progress.update(number, a.target)
            for name in ("", *(size.name for size in a.sizes)):
                found = isolation.check if isolation.is_isolated(a.target) else isolation.check_here
                results[f"{a.target} {name}".strip()] = found(bundle, manifest, a, name)
        progress.update(len(manifest.artifacts), "done")
    return results


def make_all(
    targets: Sequence[Target],
    folder: Path,
    material: Material,
    progress: Tracker,
    jobs: int | None,
    use_cache: bool,
    begun: Sequence[workers.Process] = (),
) -> list[Artifact]:
    """The artifacts of all targets, in their order: from the cache, by processes of their own, or in this one.

    Processes that were `begun` before are used first.

    A target that was added at run time is made in this process, and anew each time. Inputs on which an artifact passes
    although it is beyond its tolerance are logged as warnings, wherever it comes from.
    """
    known = [target for target in targets if workers.portable(target)]
    keys = {t.name: cache.key(t, material) for t in known} if use_cache and cache.folder() is not None else {}
    made = {t.name: cache.take(keys[t.name], t, folder) for t in known if t.name in keys}
    found = {name: artifact for name, artifact in made.items() if artifact is not None}
    if found:
        console.print(f"from the cache: {', '.join(found)}", highlight=False)
    for name, artifact in found.items():
        _warn(name, artifact.checks)
    progress.update(1 + len(found), "")

    def done(target: Target, artifact: Artifact) -> None:
        found[target.name] = artifact
        _warn(target.name, artifact.checks)
        if target.name in keys:
            cache.keep(keys[target.name], target, artifact, folder)

    def said(text: str) -> None:
        progress.update(1 + len(found), text)

    missing = [target for target in targets if target.name not in found]
    apart = [target for target in missing if target in known]
    most = workers.jobs(material, apart, jobs) if len(apart) > 1 else 1
    for process in begun[most if most > 1 else 0 :]:
        process.end()  # it would hold memory
    if most > 1:
        workers.make(apart, folder, material, most, done, said, begun)
    for target in missing:
        if target.name not in found:
            said(target.name)
            done(target, write_artifact(target, folder, material))
    return [found[target.name] for target in targets]


def write_artifact(target: Target, folder: Path, material: Material) -> Artifact:
    """Convert, check the rank, check parity at every size; raises `CheckFailed` where one does not hold."""
    call, path = material.call, folder / target.file_name
    mixed = within_budget(target, material)
    wide = frozenset() if mixed is None else mixed.wide
    sizes = {name: each.program for name, each in material.sizes.items()}
    written = converted(target, Conversion(call.program, call.names, call.calibration, wide, sizes), path)
    rank = max(written.max_rank, *(max_rank(each.program) for each in material.calls.values()))
    if rank > MAX_RANK:
        raise CheckFailed(f"{target.name}: a tensor of rank {rank} is left in the artifact")
    inputs, outputs, _ = _spoken(target, call)
    proof = _proved(target, path, call, wide)
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
        parity=proof.parity,
        checks=proof.checks,
        task_metric=proof.task_metric,
        graph=GraphFacts.model_validate(asdict(written) | material.estimates),
        sizes=[_size(target, path, name, each, material.budget_db) for name, each in material.sizes.items()],
        mixed_precision=mixed,
    )


def _warn(name: str, checks: Sequence[InputCheck]) -> None:
    for check in checks:
        if check.passed and not check.parity.passed:
            log.warning("%s: %s", name, check)


def _chosen(names: Sequence[str], *, several: bool, budget_db: float | None, sdk: bool) -> list[Target]:
    """The targets called `names`, before any work; raises `UserError` where one is unknown or cannot hold `several`
    sizes, where a budget bounds none of them, and where no `sdk` can use any."""
    chosen = [find_target(name) for name in dict.fromkeys(names)]
    if not chosen:
        raise UserError("no target given; name at least one with --target")
    single = [target.name for target in chosen if target.open_size is None]
    if several and single:
        able = [name for name, target in all_targets().items() if target.open_size is not None]
        hint = f"; targets that hold several: {', '.join(sorted(able))}" if able else ""
        raise UserError(f"{', '.join(single)}: holds one size; give --shape once, or export each size by itself{hint}")
    named = [target.name for target in chosen]
    if budget_db is not None and not any(target.is_mixable for target in chosen):
        raise UserError(
            f"{', '.join(named)}: no lower precision that a budget could bound; leave out --budget, or add a target"
        )
    if sdk:
        require_side(named, all_targets())
    return chosen


def lowered(source: Source, mode: Mode, shapes: Sequence[tuple[int, ...] | None], tiling: bool) -> Material:
    """The model lowered for every shape, the first the main one. Raises `UserError` where two of them are one."""
    main, *others = shapes
    call = clip_call(source, main, tiling) if mode == "clip" else stream_call(source, main)
    sizes: dict[str, Call] = {}
    for shape in others:
        assert shape is not None
        further = clip_call(source, shape) if mode == "clip" else stream_call(source, shape)
        if further.inputs in [each.inputs for each in (call, *sizes.values())]:
            raise UserError(f"--shape {'x'.join(map(str, shape))}: given twice; name each size once")
        sizes[f"size_{'x'.join(map(str, shape))}"] = further
    estimates = {
        "params": facts.params(source.module),
        "macs": facts.macs(call.lowered, call.examples),
        "peak_activation_bytes": facts.peak_activation_bytes(call.program),
    }
    return Material(call, estimates, sizes)


def _size(target: Target, path: Path, name: str, call: Call, budget_db: float | None) -> ArtifactSize:
    """A further size of an artifact, proved by itself; `CheckFailed` also where it misses the budget, for which layers
    were kept by what the main size showed."""
    inputs, outputs, _ = _spoken(target, call)
    found = _proved(of_size(target, name), path, call, explain=False)
    reached = found.parity.psnr_db
    if budget_db is not None and target.is_mixable and reached is not None and reached < budget_db:
        raise CheckFailed(
            f"{target.name} {name}: {reached:.1f} dB, and the budget is {budget_db:g} dB; layers are chosen on the "
            "first --shape: give this one first, or a lower budget"
        )
    _warn(f"{target.name} {name}", found.checks)  # the manifest has none of a further size
    return ArtifactSize(name=name, inputs=inputs, outputs=outputs, parity=found.parity)


def _proved(
    target: Target, path: Path, call: Call, wide: frozenset[str] = frozenset(), *, explain: bool = True
) -> parity.Proof:
    """How the artifact did on the call's inputs; raises `CheckFailed` where one does not hold."""
    inputs, outputs, further = _spoken(target, call)
    given = replace(call, sample=call.sample | further)
    return parity.check_deeply(target, path, given, inputs, outputs, wide, explain=explain)


def _spoken(target: Target, call: Call) -> tuple[list[TensorInfo], list[TensorInfo], dict[str, np.ndarray]]:
    """The inputs and outputs that an artifact takes and gives, without states that it keeps; and the arrays of those
    that are not in the call's sample."""
    hidden = len(call.states) if target.keeps_states else 0
    inputs, outputs = call.inputs[: len(call.inputs) - hidden], call.outputs[: len(call.outputs) - hidden]
    return (inputs, outputs, {}) if target.adapt is None else target.adapt(inputs, outputs, call.sample)


def _save_samples(folder: Path, material: Material, targets: Sequence[Target]) -> None:
    """`sample.npz`, and one file for each further size: what PyTorch takes and gives, and what `targets` add."""
    for name, call in material.calls.items():
        arrays = dict(call.sample)
        for target in targets:
            arrays |= _spoken(target, call)[2]
        path = folder / SAMPLE if call is material.call else folder / SIZE_SAMPLES / f"{name}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)  # type: ignore[arg-type]


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
