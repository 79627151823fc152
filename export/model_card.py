"""The README of a bundle: what the model is, how it was proved, and how an app calls it."""

from __future__ import annotations

import math

from jinja2 import Environment, PackageLoader, StrictUndefined

from toolkit.bundle import Manifest

#: Channels of a latent up to which the card lists every mean and std.
MOST_LISTED = 16

_ENVIRONMENT = Environment(
    loader=PackageLoader("export", "templates"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters["figure"] = "{:.6g}".format


def model_card(manifest: Manifest, sdk: bool = False) -> str:
    """Markdown with the artifacts, their parity, and Swift and Kotlin snippets for those that are there."""
    files = {artifact.target.rsplit("-", 1)[0].split("-x")[0]: artifact for artifact in manifest.artifacts}
    state_bytes = 4 * sum(math.prod(state.shape) for state in manifest.artifacts[0].states)
    template = _ENVIRONMENT.get_template("model_card.md.j2")
    return template.render(m=manifest, files=files, state_bytes=state_bytes, most_listed=MOST_LISTED)
