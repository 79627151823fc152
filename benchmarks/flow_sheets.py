"""One picture of a pair and of several methods' flows between its frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from recipes.data.flow_sample import FlowSample
from toolkit.flow_metrics import flow_report
from toolkit.flow_pictures import error_picture, flow_picture, flow_radius, image_picture, write_png

CAPTION = 20  # pixels high


def write_sheet(path: Path, pair: FlowSample, flows: Mapping[str, torch.Tensor]) -> None:
    """First frame and truth; below them, a row for each method, its flow and where it is wrong, under a caption.

    All flows `(2, H, W)` are drawn in one radius. A caption has the method's end-point error on this pair.
    """
    truth = pair.flow.masked_fill(~pair.valid, math.nan)
    radius = flow_radius(truth)
    rows = [
        [
            captioned(image_picture(pair.image1), "first frame"),
            captioned(flow_picture(truth, radius), f"truth; full colour from {radius:.1f} px on"),
        ]
    ]
    for name, flow in flows.items():
        scores = flow_report(flow, pair.flow, pair.valid).all
        said = name if scores is None else f"{name}: EPE {scores.epe:.2f} px, Fl-all {scores.fl_percent:.1f} %"
        errors = captioned(error_picture(flow, pair.flow, pair.valid), "errors, red beyond 3 px and 5 %")
        rows.append([captioned(flow_picture(flow, radius), said), errors])
    write_png(path, rows)


def captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture `(H, W, 3)` uint8 under a line of text, `(H + CAPTION, W, 3)`."""
    line = Image.new("RGB", (picture.shape[1], CAPTION), "white")
    ImageDraw.Draw(line).text((4, 2), text, fill="black", font=ImageFont.load_default(CAPTION - 7))
    return np.concatenate([np.asarray(line), picture])
