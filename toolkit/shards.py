"""Videos on disk: files, and members of uncompressed tar archives, as WebDataset keeps them ("shards").

A shard is never streamed: its headers are read once, and every member is then a range of bytes that opens like a file.
"""

from __future__ import annotations

import os
import re
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from toolkit.errors import UserError
from toolkit.progress import track

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"}
SHARD_SUFFIX = ".tar"
COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
REMOTE = re.compile(r"pipe:|[a-z][a-z0-9+]+:/", re.IGNORECASE)  # a Path has one slash left of two


@dataclass(frozen=True)
class Member:
    """A file within a shard: `size` bytes from byte `offset` of the archive on."""

    shard: Path
    path: PurePosixPath
    offset: int
    size: int

    def __str__(self) -> str:
        return str(self.shard / self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def url(self) -> str:
        """What FFmpeg opens: https://ffmpeg.org/ffmpeg-protocols.html#subfile."""
        return f"subfile,,start,{self.offset},end,{self.offset + self.size},,:file:{self.shard}"


Video = Path | Member


@dataclass(frozen=True)
class Shard:
    """The whole videos of a shard, and why there may have been more."""

    videos: tuple[Member, ...]
    damage: str | None


def find_videos(path: Path, damaged: dict[Video, str] | None = None) -> list[Video]:
    """The videos that `path` means, sorted by their names: of a file, a shard, a folder of both at any depth,
    or a pattern such as `clips-{000..127}.tar`.

    Where `damaged` is given and `path` means several files, a shard that cannot be read to its end goes there with the
    reason, and its whole videos are used. Raises `UserError` otherwise, and where there is no video.
    """
    sources = _sources(path)
    found: set[Video] = {source for source in sources if not _is_shard(source)}
    for source, shard in _indexed([source for source in sources if _is_shard(source)]).items():
        found.update(shard.videos)
        if shard.damage is not None:
            if damaged is None or len(sources) == 1:
                raise UserError(f"{source}: {shard.damage}")
            damaged[source] = f"{source}: {shard.damage}"
    if not found:
        first = f"; the first that cannot be read: {next(iter(damaged.values()))}" if damaged else ""
        raise UserError(f"{path}: holds no video file ({', '.join(sorted(VIDEO_SUFFIXES))}){first}")
    return sorted(found, key=lambda video: Path(str(video)))


def name_within(video: Video, path: Path) -> str:
    """A short name for a video that `find_videos(path)` gave: what of its name the path does not say."""
    root = path if path.is_dir() else Path(os.path.dirname(str(path).split("{")[0]))
    return Path(str(video)).relative_to(root).as_posix()


def _sources(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if (_is_video(p) or _is_shard(p)) and not p.is_dir())
        # compressed archives beside videos may hold anything; on their own they are what was meant
        return [p for p in files if not COMPRESSED.search(p.name)] or files
    if path.exists():
        return [path]
    if REMOTE.match(str(path)):
        address = str(path).replace(":/", "://", 1)
        raise UserError(f"{address}: videos are read at random, which needs a disk; copy them to one first")
    files = [Path(name) for name in dict.fromkeys(_expanded(str(path)))]
    missing = [file for file in files if not file.is_file()]
    if files == [path] or not files:
        raise UserError(f"{path}: no such video file or folder")
    if missing:
        raise UserError(f"{path}: {len(missing)} of its {len(files)} files are missing, first {missing[0]}; copy them")
    return files


def _expanded(pattern: str) -> list[str]:
    """The names that `{first..last}`, padded as `first` is, and `{one,other}` stand for."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    parts = braces[1].split(",")
    if ends is not None:
        parts = [str(number).zfill(len(ends[1])) for number in range(int(ends[1]), int(ends[2]) + 1)]
    return [name for part in parts for name in _expanded(pattern[: braces.start()] + part + pattern[braces.end() :])]


def _is_video(path: PurePath) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("._")  # macOS keeps attributes so


def _is_shard(path: Path) -> bool:
    return path.suffix.lower() == SHARD_SUFFIX or COMPRESSED.search(path.name) is not None


Stamp = tuple[Path, int, int]
_known: dict[Stamp, Shard] = {}


def _indexed(paths: list[Path]) -> dict[Path, Shard]:
    """The shards, each read once in this process as long as its size and time of change stay."""
    stamps = [_stamp(path) for path in paths]
    unknown = [stamp for stamp in stamps if stamp not in _known]
    if unknown:
        with track("index", len(unknown)) as progress:
            for number, stamp in enumerate(unknown):
                progress.update(number, stamp[0].name)
                _known[stamp] = read_shard(stamp[0])
            progress.update(len(unknown), "done")
    return {stamp[0]: _known[stamp] for stamp in stamps}


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


def read_shard(path: Path) -> Shard:
    """The videos of a shard, found by its headers alone; of several with one name, the last, as in unpacking."""
    if COMPRESSED.search(path.name):
        return Shard((), "is compressed and cannot be read at random; decompress it to a .tar")
    videos: dict[PurePosixPath, Member] = {}
    is_whole, damage = False, ""
    try:
        with suppress(tarfile.TarError, ValueError), path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for info in archive:
                    name = PurePosixPath(info.name.lstrip("/"))
                    is_video = _is_video(name) and info.isfile() and not info.issparse()
                    if is_video and info.offset_data + info.size <= end:
                        videos[name] = Member(path, name, info.offset_data, info.size)
                file.seek(archive.offset)
            is_whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)  # tarfile stops at damage, too
    except OSError as error:
        damage = f"cannot be read ({error.strerror})"
    damage = damage or f"is no uncompressed tar archive, or breaks off after {len(videos)} whole videos; copy it again"
    return Shard(tuple(videos.values()), None if is_whole else damage)
