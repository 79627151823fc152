"""Exact lowering, the exporters, parity and what a bundle is filled with.

`export.export` writes a bundle, `export.verify` checks one again; `export.inspection` says what stands in the way.
"""

from export.normalised import normalised
from export.pipeline import export, verify
from export.sources import Source, from_module, from_run

__all__ = ["Source", "export", "from_module", "from_run", "normalised", "verify"]
