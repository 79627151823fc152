"""Peak memory of decoding a clip in ONNX Runtime: whole, in tiles of time, streamed. `python -m benchmarks.streaming`

The student is the demo's, made causal (random weights: memory does not depend on them). Every figure is the peak
that a process of its own adds while it decodes, measured; a clip that would not fit into this machine's memory is
estimated from the shorter ones, and says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import results_file
from devices.memory import peak_of
from export import onnx
from export.lowering.lower import lower, program_of, to_frames
from export.lowering.reach import reach
from export.lowering.streaming import stream
from export.targets import Conversion
from toolkit import students
from toolkit.cli.output import console, print_table
from toolkit.progress import track
from toolkit.quiet import hush_libraries
from toolkit.streaming import StreamDecoder, StreamFacts
from toolkit.tiling import Tiling, decode_tiled

FRAMES = (17, 65, 257)
SIZES = ((512, 512), (720, 1280))
GROWTH = 1.05  # streamed memory, of the longest clip against the shortest
MORE = 4  # latent frames that a tile has beyond the fewest it needs
MOST_BYTES = 4e9  # a clip beyond this is estimated


@dataclass(frozen=True)
class Row:
    """One decode: the peak that it added to its process, in bytes, and how that figure came about."""

    size: str
    mode: str
    frames: int
    peak_bytes: int
    obtained: str


def student() -> students.Student:
    """The demo's student, looking back only."""
    torch.manual_seed(0)
    return students.build("turbo_vaed", "demo", {"temporal_padding": "causal"}).eval()


def latents(frames: int, size: tuple[int, int]) -> tuple[int, int, int]:
    """The latent's (T, h, w) of a clip."""
    config = student().config
    return (
        (frames - 1) // config.temporal_factor + 1,
        size[0] // config.spatial_factor,
        size[1] // config.spatial_factor,
    )


def write_clip(path: Path, shape: tuple[int, int, int]) -> None:
    """A clip-mode ONNX file for latents of `shape`."""
    model = student()
    latent = torch.zeros(1, model.config.latent_channels, *shape)
    program = program_of(lower(model, (latent,)), [to_frames(latent)])
    onnx.convert(Conversion(program, ["latent", "frames"]), path)


def write_stream(path: Path, size: tuple[int, int]) -> None:
    """A stream-mode ONNX file for frames of `size`, and how it is driven."""
    model = student()
    form = stream(model, torch.zeros(1, model.config.latent_channels, *latents(1, size)))
    names = [f"state_{number}" for number in range(len(form.states))]
    outputs = ["frames", *(f"next_{name}" for name in names)]
    onnx.convert(Conversion(program_of(form.module, form.inputs()), ["latent", "first", *names, *outputs]), path)
    facts = StreamFacts(frames=form.frames, first_frames=form.first_frames)
    path.with_suffix(".json").write_text(json.dumps({"facts": facts.model_dump(), "states": form.states}))


def decode(mode: str, path: Path, shape: tuple[int, int, int]) -> int:
    """Decode zeros of `shape` and give the number of frames; frames are dropped as they come, as a player would."""
    session = onnx.load(path).call
    latent = np.zeros((shape[0], student().config.latent_channels, *shape[1:]), np.float32)
    if mode == "clip":
        return len(session([latent])[0])
    if mode == "stream":
        described = json.loads(path.with_suffix(".json").read_text())
        decoder = StreamDecoder(session, described["states"], StreamFacts(**described["facts"]))
        return sum(len(frames) for frames in decoder.decode_all(latent[:, None]))
    tiling = Tiling.model_validate_json(path.with_suffix(".tiling.json").read_text())
    tile = json.loads(path.with_suffix(".json").read_text())
    frames = decode_tiled(lambda piece: session([piece])[0], latent, tuple(tile), tiling)
    return sum(len(part) for part in frames)


def added_bytes(mode: str, path: Path, shape: tuple[int, int, int]) -> int:
    """What decoding adds to the peak of a process that has imported everything, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", mode, str(path), *map(str, shape)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout.strip().splitlines()[-1])


def measure_size(size: tuple[int, int], tiling: Tiling, folder: Path) -> list[Row]:
    """All lengths and modes at one size of frame."""
    name, rows = f"{size[0]}x{size[1]}", []
    fewest = tiling.time.smallest_tile
    assert fewest is not None
    tile = (fewest + MORE, *latents(1, size)[1:])
    write_clip(folder / "tile.onnx", tile)
    (folder / "tile.json").write_text(json.dumps(tile))
    (folder / "tile.tiling.json").write_text(tiling.model_dump_json())
    write_stream(folder / "stream.onnx", size)
    clips: list[Row] = []
    for frames in FRAMES:
        shape = latents(frames, size)
        clips.append(_clip_row(name, frames, shape, clips, folder))
        if shape[0] > tile[0]:
            peak = added_bytes("tiles", folder / "tile.onnx", shape)
            rows.append(Row(name, f"tiles of {tile[0]} latent frames", frames, peak, "measured"))
        rows.append(Row(name, "stream", frames, added_bytes("stream", folder / "stream.onnx", shape), "measured"))
    return [*clips, *rows]


def _clip_row(name: str, frames: int, shape: tuple[int, int, int], shorter: list[Row], folder: Path) -> Row:
    measured = [row for row in shorter if row.obtained == "measured"]
    expected = measured[-1].peak_bytes * frames / measured[-1].frames if measured else 0
    if expected > MOST_BYTES:
        return Row(name, "clip", frames, round(expected), f"estimated from {measured[-1].frames} frames")
    write_clip(folder / "clip.onnx", shape)
    return Row(name, "clip", frames, added_bytes("clip", folder / "clip.onnx", shape), "measured")


def main() -> int:
    hush_libraries()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, track("streaming", len(SIZES)) as progress:
        tiling = reach(student(), torch.randn(1, student().config.latent_channels, 4, 6, 6))
        for number, size in enumerate(SIZES):
            progress.update(number, f"{size[0]}x{size[1]}")
            rows += measure_size(size, tiling, Path(folder))
        progress.update(len(SIZES), "done")
    cells = [[r.size, r.mode, str(r.frames), f"{r.peak_bytes / 1e6:.0f}", r.obtained] for r in rows]
    print_table(
        f"peak memory added by decoding, ONNX Runtime, {results_file.processor()}",
        ["frames", "mode", "length", "MB", "how"],
        cells,
    )
    results_file.write("streaming", [asdict(row) for row in rows])
    streamed = {
        size: [r.peak_bytes for r in rows if r.mode == "stream" and r.size == size] for size in {r.size for r in rows}
    }
    worst = max(max(peaks) / peaks[0] for peaks in streamed.values())
    console.print(f"streamed memory, {FRAMES[-1]} against {FRAMES[0]} frames: {worst:.3f} (asked: at most {GROWTH})")
    return 0 if worst <= GROWTH else 1


def child(mode: str, path: str, *shape: str) -> None:
    """One decode; prints the bytes that it added to the peak."""
    sizes = tuple(int(size) for size in shape)
    assert len(sizes) == 3
    print(peak_of(lambda: decode(mode, Path(path), sizes)).added_bytes)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*sys.argv[1:])
    else:
        sys.exit(main())
