"""What optical-flow data cost. `python -m benchmarks.flow_data` (needs scikit-image)

Milliseconds are those of one core (processor time of this process, OpenCV on one thread), measured, so that what else
runs on the machine counts little.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import results_file
from recipes.data.flow_augmentation import augment
from recipes.data.flow_layouts import find_pairs, read_pair
from recipes.data.flow_specs import AugmentationSpec, SyntheticFlowSpec, TexturesSpec
from recipes.data.synthetic_flow import SyntheticFlow
from toolkit.cli.output import console, print_table
from toolkit.progress import track

PAIRS = 60
SIZES = ((256, 320), (384, 512))
MOST_MS = 40.0  # of a made-up pair of the first size: two cores then feed a training on the same two
TEXTURES = TexturesSpec(sources=["asset:big_buck_bunny.mp4", "skimage:"], range=(0, 105))


def milliseconds(call: Callable[[int], object]) -> float:
    """Mean processor time of a call, over `PAIRS` numbers after a first round that fills caches."""
    times = []
    for number in (*range(PAIRS), *range(PAIRS)):
        start = time.process_time()
        call(number)
        times.append(1e3 * (time.process_time() - start))
    return mean(times[PAIRS:])


def costs() -> list[dict[str, Any]]:
    motorcycle = read_pair(find_pairs("motorcycle", Path())[0])
    with track("flow data", len(SIZES) + 1) as progress:
        rows = []
        for number, size in enumerate(SIZES):
            progress.update(number, f"made-up pairs, {size[0]}x{size[1]}")
            data = SyntheticFlow(SyntheticFlowSpec(textures=TEXTURES, size=size), seed=0)
            rows.append({"what": f"made-up pair, {size[0]}x{size[1]}", "ms": milliseconds(data.__getitem__)})
        progress.update(len(SIZES), "augmentation")
        spec = AugmentationSpec(size=SIZES[0])
        augmented = milliseconds(lambda number: augment(motorcycle, spec, np.random.default_rng([0, number])))
        progress.update(len(SIZES) + 1, "done")
    return [*rows, {"what": "augmentation, 500x741 to 256x320", "ms": augmented}]


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    rows = costs()
    cells = [[row["what"], f"{row['ms']:.1f}"] for row in rows]
    print_table(f"one core of {results_file.processor()}", ["sample", "ms"], cells)
    results_file.write("flow_data", rows)
    console.print(f"a made-up pair of 256x320 takes {rows[0]['ms']:.1f} ms of one core (asked: at most {MOST_MS:g})")
    return 0 if rows[0]["ms"] <= MOST_MS else 1


if __name__ == "__main__":
    sys.exit(main())
