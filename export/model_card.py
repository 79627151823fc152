"""The README of a bundle: what the model is, how it was proved, and how an app calls it."""

from __future__ import annotations

import math
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from export.sdk.names import kotlin_string, swift_string
from export.sdk.sides import is_of_floats, runtime_of, usable
from export.sdk.writing import sdk_names, systems, to_undo
from toolkit.bundle import Artifact, Manifest

#: Channels of a latent up to which the card lists every mean and std.
MOST_LISTED = 16

_ENVIRONMENT = Environment(
    loader=PackageLoader("export", "templates"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters.update(figure="{:.6g}".format, swift=swift_string, kotlin=kotlin_string)


def model_card(manifest: Manifest, sdk: bool = False, folder: Path | None = None) -> str:
    """Markdown with the artifacts, their parity, and how an app calls those that are there.

    Where the bundle holds an `sdk`, the snippets are of its code; else they call the runtimes themselves. The system
    that the Core ML artifact needs is read from it in the bundle's `folder`; without a folder the card names none.
    """
    swift, kotlin = usable("swift", manifest.artifacts), usable("kotlin", manifest.artifacts)
    files: dict[str, Artifact] = {}
    for artifact in (*swift, *kotlin):
        runtime = runtime_of(artifact.target)
        if runtime == "coreml" and artifact.target.startswith("coreml-state"):
            files.setdefault("coreml-state", artifact)
        elif runtime == "coreml" or (runtime is not None and artifact in kotlin):
            files.setdefault(runtime, artifact)
    # whose shapes and names stand for all: one of tensors, as the snippets call them, rather than of pictures
    first = next((a for a in manifest.artifacts if is_of_floats(a)), manifest.artifacts[0])
    state_bytes = 4 * sum(math.prod(state.shape) for state in first.states)
    return _ENVIRONMENT.get_template("model_card.md.j2").render(
        m=manifest,
        first=first,
        ios=systems(folder, files["coreml"])[0].partition(".")[0] if folder and "coreml" in files else None,
        files=files,
        state_bytes=state_bytes,
        most_listed=MOST_LISTED,
        sdk=sdk,
        names=sdk_names(manifest),
        undo=to_undo(manifest) is not None,
        apple_executorch=next((a for a in swift if runtime_of(a.target) == "executorch"), None),
    )
