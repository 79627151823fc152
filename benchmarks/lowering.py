"""Exact lowering, measured: `python -m benchmarks.lowering [--models | --speed | --forms] [NAME ...]`.

--models: every model of `benchmarks.video_models`, lowered, exported to all three back ends, and run.
--speed: the published students, lowered against native Conv3d, in ONNX Runtime, in one session.
--forms: each form of a 3-D convolution on a grid of shapes, in ONNX Runtime and ExecuTorch, and the form chosen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks import lowering_forms, lowering_models, lowering_speed

PARTS: dict[str, Callable[[list[str]], bool]] = {
    "models": lowering_models.main,
    "speed": lowering_speed.main,
    "forms": lowering_forms.main,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("names", nargs="*", help="only these models or shapes")
    arguments = parser.parse_args()
    chosen = [part for part in PARTS if getattr(arguments, part)] or list(PARTS)
    held = [PARTS[part](arguments.names) for part in chosen]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
