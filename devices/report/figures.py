"""The report's pictures and plots, as strings that need no network."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import plotly.offline
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from toolkit.errors import UserError
from toolkit.video import to_frames

COLUMNS = ("truth", "teacher", "student")
COLOURS = {"teacher": "#9aa5b1", "student": "#2f6fed"}
LOSS_COLOURS = ("#9aa5b1", "#c9822b", "#2a9d6e", "#8a63d2")
INK, GRID = "#1f2933", "#e4e7eb"
FRAMES_SHOWN = (0.0, 0.5)
DETAIL = 96


@dataclass(frozen=True)
class Strip:
    """One held-out frame: a (caption, data URI) for each column, whole and as an enlarged detail."""

    caption: str
    whole: list[tuple[str, str]]
    detail: list[tuple[str, str]]


def strips(samples: Path) -> list[Strip]:
    """Truth, teacher and student side by side, from a run's sample tensors; empty where the run kept none."""
    tensors = load_samples(samples)
    found = []
    for clip in range(sum(key.startswith("latent.") for key in tensors)):
        videos = [(name, tensors[f"{name}.{clip}"]) for name in COLUMNS if f"{name}.{clip}" in tensors]
        last = videos[0][1].shape[1] - 1
        for index in sorted({round(share * last) for share in FRAMES_SHOWN}):
            frames = [(name, to_frames(video[:, index : index + 1])[0]) for name, video in videos]
            top, left = _busiest(frames[0][1])
            found.append(
                Strip(
                    caption=f"held-out clip {clip + 1}, frame {index + 1}",
                    whole=[(name, jpeg_uri(_picture(frame))) for name, frame in frames],
                    detail=[
                        (name, png_uri(_picture(frame[:, top : top + DETAIL, left : left + DETAIL])))
                        for name, frame in frames
                    ],
                )
            )
    return found


def load_samples(samples: Path) -> dict[str, torch.Tensor]:
    """The tensors that a run kept of held-out data, none where it kept none; raises `UserError` on a damaged file."""
    if not samples.is_file():
        return {}
    try:
        return load_file(samples)
    except SafetensorError as error:
        raise UserError(f"{samples}: damaged ({error}); finish the run again or copy it anew") from error


def training(rows: Sequence[dict[str, float]]) -> str:
    """Loss and held-out PSNR over steps."""
    return curves(rows, {"reconstruction": "reconstruction loss"}, ("psnr_db", "held-out PSNR", "PSNR, dB"))


def curves(
    rows: Sequence[dict[str, float]], losses: Mapping[str, str], score: tuple[str, str, str], from_zero: bool = False
) -> str:
    """Losses (key to name) over steps, and on an axis of its own a held-out score (key, name, axis)."""
    figure = go.Figure()
    for (key, name), colour in zip(losses.items(), itertools.cycle(LOSS_COLOURS)):
        found = [r for r in rows if key in r]
        line = {"color": colour, "width": 1.5}
        figure.add_scatter(x=[r["step"] for r in found], y=[r[key] for r in found], name=name, line=line)
    key, name, axis = score
    found = [r for r in rows if key in r]
    figure.add_scatter(
        x=[r["step"] for r in found],
        y=[r[key] for r in found],
        name=name,
        yaxis="y2",
        mode="lines+markers",
        line={"color": COLOURS["student"], "width": 2},
    )
    second = {"title": axis, "overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto"}
    figure.update_layout(
        xaxis={"title": "step"},
        yaxis={"title": "loss", "rangemode": "tozero"},
        yaxis2={**second, "rangemode": "tozero" if from_zero else "normal"},
    )
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    return to_html(figure, 340, top=40)


def plotly_script() -> str:
    """plotly.js itself, once a page."""
    return f"<script>{plotly.offline.get_plotlyjs()}</script>"


def to_html(figure: go.Figure, height: int, top: int = 10, bottom: int = 40) -> str:
    """A figure as markup for the page, which brings plotly.js itself and sets the colours of its theme."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 8, "r": 10, "t": top, "b": bottom},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,  # a finger on a plot scrolls the page
    )
    figure.update_xaxes(gridcolor=GRID, automargin=True)
    figure.update_yaxes(gridcolor=GRID, automargin=True)
    config = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=config))


def _busiest(frame: torch.Tensor) -> tuple[int, int]:
    """The corner of the square with the most contrast: where a decoder's losses show first."""
    grey = frame.float().mean(0)[None, None]
    if min(grey.shape[-2:]) <= DETAIL:
        return 0, 0
    squares = torch.nn.functional.avg_pool2d(grey.square(), DETAIL, stride=8)
    means = torch.nn.functional.avg_pool2d(grey, DETAIL, stride=8)
    variance = (squares - means.square())[0, 0]
    row, column = divmod(int(variance.argmax()), variance.shape[1])
    return row * 8, column * 8


def jpeg_uri(picture: np.ndarray) -> str:
    """A photograph `(H, W, 3)` uint8 as a data URI."""
    return _data_uri(picture, "JPEG", quality=92)


def png_uri(picture: np.ndarray) -> str:
    """A picture `(H, W, 3)` uint8 as a data URI, exact."""
    return _data_uri(picture, "PNG")


def _picture(frame: torch.Tensor) -> np.ndarray:
    """A frame `(3, H, W)` uint8 with its channels last."""
    return np.asarray(frame.permute(1, 2, 0).contiguous().numpy())


def _data_uri(picture: np.ndarray, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
