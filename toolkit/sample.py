"""`sample.npz`, a bundle's inputs and outputs of one call: read only where it holds what the manifest says it does."""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from toolkit.bundle import SAMPLE, Manifest, TensorInfo
from toolkit.errors import CheckFailed
from toolkit.files import inside
from toolkit.zips import Unsafe, checked_members

CLIP = ("clip_latent", "clip_frames")  # of a stream: a whole clip, and what PyTorch makes of it
HELD_OUT = re.compile(r"held_out_(\d+)\..+")  # a further real input
KINDS = "fiub"  # numbers and truths: no objects, which are pickles, no text, no records
MAX_HEADER = 4096  # characters; an array of rank 8 has about 150


def read_sample(bundle: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Every array of a bundle's sample by name.

    Raises `CheckFailed` where one that an artifact or the reference takes or gives is missing or has another shape or
    type, and where the file holds anything but plain, uncompressed arrays. Nothing is read before all of that is known.
    """
    expected: dict[str, TensorInfo] = {}
    for artifact in (*manifest.artifacts, manifest.signature):
        expected |= {info.name: _held(info, manifest) for info in artifact.inputs}
        expected |= {info.name: info for info in artifact.outputs}
    path = inside(bundle, SAMPLE)
    arrays = read_arrays(path, expected)
    is_stream = any(artifact.stream for artifact in manifest.artifacts)
    absent = [name for name in CLIP if name not in arrays]
    if absent and is_stream:
        raise CheckFailed(f"{path}: refused: it lacks '{absent[0]}'; export the bundle again")
    _check_held_out(path, arrays, CLIP[:1] if is_stream else [info.name for info in manifest.signature.inputs])
    return arrays


def _check_held_out(path: Path, arrays: dict[str, np.ndarray], names: Sequence[str]) -> None:
    """Raise `CheckFailed` where a further real input lacks one of `names`, or has one unlike the sample's."""
    for number in {found[1] for name in arrays if (found := HELD_OUT.fullmatch(name))}:
        for name in names:
            key, first = f"held_out_{number}.{name}", arrays[name]
            if key not in arrays:
                raise CheckFailed(f"{path}: refused: it lacks '{key}'; export the bundle again")
            if (arrays[key].shape, arrays[key].dtype) != (first.shape, first.dtype):
                raise CheckFailed(f"{path}: refused: '{key}' is not like '{name}'; export the bundle again")


def _held(info: TensorInfo, manifest: Manifest) -> TensorInfo:
    """What the sample has for an input: for a picture, the image as PyTorch takes it."""
    is_picture = manifest.model.task is not None and info.dtype == "uint8"
    return info.model_copy(update={"dtype": "float32"}) if is_picture else info


def read_arrays(path: Path, expected: dict[str, TensorInfo] | None = None) -> dict[str, np.ndarray]:
    """Every array of an `.npz` file, as `numpy.savez` writes it; raises `CheckFailed` as `read_sample` does."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in checked_members(archive, path.stat().st_size)}
            for name, info in (expected or {}).items():
                if name not in members:
                    raise Unsafe(f"it lacks '{name}'")
                with archive.open(members[name]) as file:
                    _check(name, *_header(file), info)
            for name, member in members.items():
                with archive.open(member) as file:
                    shape, dtype = _header(file)
                    if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                        raise Unsafe(f"'{name}' says {shape} of {dtype} and is not as long as that")
            return {name: _read(archive, member) for name, member in members.items()}
    except Unsafe as error:
        raise CheckFailed(f"{path}: refused: {error}; export the bundle again") from error
    except (zipfile.BadZipFile, ValueError, SyntaxError, TypeError, KeyError, NotImplementedError) as error:
        raise CheckFailed(f"{path}: no whole file of arrays ({error}); export the bundle again") from error
    except (EOFError, OverflowError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise CheckFailed(f"{path}: no whole file of arrays; export the bundle again") from error


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise Unsafe(f"it has an array of NumPy's format {version}")
    shape, _, dtype = readers[version](file, max_header_size=MAX_HEADER)
    if dtype.kind not in KINDS or dtype.hasobject or any(size < 0 for size in shape):
        raise Unsafe(f"it has an array of {str(dtype)[:40]}, which is no plain number")
    return shape, dtype


def _check(name: str, shape: tuple[int, ...], dtype: np.dtype, info: TensorInfo) -> None:
    if shape != info.shape or dtype.name != info.dtype:
        given, said = f"{shape} of {dtype.name}", f"{info.shape} of {info.dtype}"
        raise Unsafe(f"'{name}' is {given}, and the manifest says {said}")


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False, max_header_size=MAX_HEADER)
