"""Exact lowering, the exporters, parity and what a bundle is filled with.

`export.export` writes a bundle, `export.verify` and `export.verify_deeply` check one again; `export.inspection` says
what stands in the way.
"""

from export.normalised import normalised
from export.pipeline import export, verify
from export.sources import Source, from_module, from_run
from export.verification import culprits, verify_deeply

__all__ = ["Source", "culprits", "export", "from_module", "from_run", "normalised", "verify", "verify_deeply"]
