"""ONNX Runtime for browsers: one pinned version, fetched once from the npm registry into the user's cache."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import tarfile
import time
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path

from toolkit.errors import UserError
from toolkit.files import atomic_directory, atomic_file, sha256
from toolkit.progress import track

VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
#: What a page needs of it: the runtime for processors, and the one for WebGPU and WebNN, with their hashes.
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
VARIABLE = "HANDHELD_ORT_WEB"
PACKAGE = "package.json"
PART = 1 << 20
TIMEOUT_S = 30.0
TRIES, PAUSE_S = 2, 1.0
LARGEST_FILE = 100 << 20
LARGEST_DOWNLOAD = 200 << 20


class Assets(NamedTuple):
    """A folder that holds `FILES`, and the version that they are of."""

    folder: Path
    version: str


class _OtherContent(Exception):
    """What was fetched is not what was published."""


def cached() -> Assets | None:
    """The fetched runtime; None where it was not fetched, or is not whole."""
    folder = _cache()
    whole = all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in FILES.items())
    return Assets(folder, VERSION) if whole else None


def named() -> Path | None:
    """The folder or tarball that the user named instead."""
    name = os.environ.get(VARIABLE)
    return Path(name) if name else None


def assets() -> Assets:
    """The runtime: the user's own, the cached, or fetched now. Raises `UserError` where there is none to be had."""
    own = named()
    if own is not None:
        return _own(own)
    found = cached()
    if found is not None:
        return found
    return _fetched(TRIES)


def _fetched(tries: int) -> Assets:
    """The runtime, fetched now by this process or another; a network may fail `tries` times."""
    try:
        return _fetch()
    except (OSError, HTTPException, _OtherContent) as error:
        found = cached()  # another process may have been quicker
        if found is not None:
            return found
        if tries == 1:
            raise _not_fetched(error) from error
    time.sleep(PAUSE_S)
    return _fetched(tries - 1)


def _not_fetched(error: Exception) -> UserError:
    if isinstance(error, _OtherContent):
        return UserError(f"{URL}: {error}; try again")
    return UserError(
        f"onnxruntime-web {VERSION}: could not be fetched ({str(error) or type(error).__name__}); where there is a "
        f"network, `npm pack onnxruntime-web@{VERSION}`, and name the file here: {VARIABLE}=FILE"
    )


def _cache() -> Path:
    return user_cache_path("handheld") / f"onnxruntime-web-{VERSION}"


def _own(path: Path) -> Assets:
    """The user's folder as it is, or the user's tarball unpacked into the cache."""
    if path.is_dir():
        folder = path / "dist" if (path / "dist").is_dir() else path
        about = folder.parent / PACKAGE if folder != path else path / PACKAGE
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{VARIABLE}={path}: lacks {', '.join(missing)}; name the unpacked package onnxruntime-web")
        return Assets(folder, _version(about.read_bytes()) if about.is_file() else "of-unknown-version")
    if not path.is_file():
        raise UserError(f"{VARIABLE}={path}: no such folder or tarball")
    folder = user_cache_path("handheld") / f"onnxruntime-web-of-{sha256(path)[:16]}"
    if not folder.is_dir():
        try:
            _unpack(path, folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
    return Assets(folder, _version((folder / PACKAGE).read_bytes()))


def _version(about: bytes) -> str:
    try:
        return str(json.loads(about)["version"])[:40]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{VARIABLE}: its {PACKAGE} names no version; name the package onnxruntime-web") from error


def _fetch() -> Assets:
    """Download, check against the pinned hash, and unpack; nothing stays where any of it fails."""
    folder = _cache()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder.with_suffix(".tgz")) as tarball:
        found = _download(tarball)
        if found != INTEGRITY:
            raise _OtherContent("its content is not what was published (its hash does not fit)")
        if cached() is None:  # else another process was quicker, and may use it already
            _unpack(tarball, folder)
    folder.with_suffix(".tgz").unlink(missing_ok=True)
    return Assets(folder, VERSION)


def _download(path: Path) -> str:
    """Write the tarball to `path`; the hash of it, as npm writes it."""
    digest = hashlib.sha512()
    with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as answer, path.open("wb") as file:
        told = answer.headers.get("Content-Length") or ""
        megabytes = (int(told[:12]) if told.isdecimal() else 0) // PART + 1
        with track(f"onnxruntime-web {VERSION} (MB)", megabytes) as progress:
            size = 0
            while part := answer.read(PART):
                size += len(part)
                if size > LARGEST_DOWNLOAD:
                    raise _OtherContent("is larger than any release of it")
                digest.update(part)
                file.write(part)
                progress.update(size // PART + 1)
    return f"sha512-{base64.b64encode(digest.digest()).decode()}"


def _unpack(tarball: Path, folder: Path) -> None:
    """Only the files that are needed, by their names, whole or not at all."""
    wanted = {f"package/dist/{name}": name for name in FILES} | {f"package/{PACKAGE}": PACKAGE}
    try:
        with tarfile.open(tarball) as archive, atomic_directory(folder) as unpacked:
            for member in archive:
                name = wanted.pop(member.name, None)
                content = archive.extractfile(member) if name and member.isfile() else None
                if name is not None and content is not None and member.size <= LARGEST_FILE:
                    (unpacked / name).write_bytes(content.read())
            while archive.fileobj is not None and archive.fileobj.read(PART):
                pass  # to the end, where the sum of all stands and is checked
            if wanted:
                raise UserError(f"{tarball}: lacks {', '.join(wanted)}; name the package onnxruntime-web")
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"{tarball}: is no npm package, or a damaged one; name the tarball of onnxruntime-web"
        ) from error
