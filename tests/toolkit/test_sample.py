"""A sample is read where it holds what the manifest says, plainly; and is refused unread otherwise."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.toolkit.test_reference import Plants
from toolkit.bundle import TensorInfo, read_manifest
from toolkit.errors import CheckFailed
from toolkit.sample import read_arrays, read_sample

INFO = {"latent": TensorInfo(name="latent", shape=(2, 3), dtype="float32", meaning="latent")}
LATENT = np.arange(6, dtype=np.float32).reshape(2, 3)


def with_header(path: Path, header: str, content: bytes = b"") -> None:
    """An archive of one array whose header says anything."""
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("latent.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content)


def of_header(header: str, content: bytes = b"") -> Callable[[Path], None]:
    return lambda path: with_header(path, header, content)


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another shape": (lambda path: np.savez(path, latent=LATENT.T), "'latent' is"),
    "another type": (lambda path: np.savez(path, latent=LATENT.astype(np.float64)), "'latent' is"),
    "missing": (lambda path: np.savez(path, other=LATENT), "it lacks 'latent'"),
    "compressed": (lambda path: np.savez_compressed(path, latent=LATENT), "compressed"),
    "larger than the file": (
        of_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"),
        "not as long as that",
    ),
    "terabytes": (of_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"), "'latent' is"),
    "negative": (of_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }"), "."),
    "nested": (of_header("(" * 3000), "."),
    "no arrays": (lambda path: path.write_bytes(b"PK\x05\x06 nothing"), "no whole file of arrays"),
    "escaping": (lambda path: zipfile.ZipFile(path, "w").writestr("../latent.npy", b""), "."),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_sample_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sample.npz"
    spoil, reason = SPOILT[name]
    spoil(path)
    with pytest.raises(CheckFailed, match=rf"sample\.npz: .*{reason}"):
        read_arrays(path, INFO)


def test_array_of_objects_is_refused_and_its_pickle_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    with_header(tmp_path / "sample.npz", header, pickle.dumps([Plants(marker)]))
    with pytest.raises(CheckFailed, match="no plain number"):
        read_arrays(tmp_path / "sample.npz")
    assert not marker.exists()


def test_plain_sample_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "sample.npz", latent=LATENT, clip_latent=LATENT)
    found = read_arrays(tmp_path / "sample.npz", INFO)
    assert found.keys() == {"latent", "clip_latent"}
    assert np.array_equal(found["latent"], LATENT)


def test_a_further_input_is_whole_and_like_the_first(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    infos = {info.name: info for artifact in manifest.artifacts for info in (*artifact.inputs, *artifact.outputs)}
    known = {name: np.zeros(info.shape, info.dtype) for name, info in infos.items()}
    whole = {f"held_out_1.{name}": known[name] for name in known}
    np.savez(bundle / "sample.npz", **known, **whole)
    assert set(read_sample(bundle, manifest)) == {*known, *whole}
    taken = manifest.signature.inputs[0].name
    np.savez(bundle / "sample.npz", **known, **{"held_out_1.other": LATENT})
    with pytest.raises(CheckFailed, match=f"it lacks 'held_out_1.{taken}'"):
        read_sample(bundle, manifest)
    np.savez(bundle / "sample.npz", **known, **{f"held_out_2.{taken}": LATENT})
    with pytest.raises(CheckFailed, match=f"'held_out_2.{taken}' is not like '{taken}'"):
        read_sample(bundle, manifest)
