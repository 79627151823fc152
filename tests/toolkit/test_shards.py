"""Files, shards, folders and patterns: which videos they mean, in which order, and what is refused."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import pytest
import torch

from tests.conftest import write_clip
from toolkit.errors import UserError
from toolkit.shards import Video, find_videos, name_within
from toolkit.video import probe, read_video


def write_shard(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def names(videos: list[Video], root: Path) -> list[str]:
    return [Path(str(video)).relative_to(root).as_posix() for video in videos]


def test_finds_the_videos_of_a_folder_and_its_subfolders_in_order(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt", "deep/c.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in find_videos(tmp_path)] == ["a.MKV", "b.mp4", "deep/c.webm"]


def test_a_file_is_its_own_only_video_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "clip.bin").touch()
    assert find_videos(tmp_path / "clip.bin") == [tmp_path / "clip.bin"]


def test_folder_without_videos_is_refused_with_the_suffixes_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds no video file \(.*\.mkv.*\.mp4") as caught:
        find_videos(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: no such video file or folder"):
        find_videos(tmp_path / "absent")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["plain", "a, b:c {é} %d"])
def test_a_member_reads_like_the_file_it_was(tmp_path: Path, folder: str, form: int) -> None:
    clip, other = write_clip(tmp_path / "clip.mp4"), write_clip(tmp_path / "other.mp4", frames=7)
    long = "/".join(["x" * 40] * 3) + "/a.b.mp4" if form == tarfile.USTAR_FORMAT else "y" * 150 + "/a.b.mp4"
    content = {"0.txt": b"a", "0.mp4": clip.read_bytes(), long: other.read_bytes(), "1.json": b"{}"}
    shard = write_shard(tmp_path / folder / "s.tar", content, form)
    first, second = find_videos(shard)
    assert (str(first), first.name) == (f"{shard}/0.mp4", "0.mp4")
    assert str(second) == f"{shard}/{long}"
    assert probe(pickle.loads(pickle.dumps(first))) == probe(clip)
    assert torch.equal(read_video(first, 3, 9), read_video(clip, 3, 9))
    assert torch.equal(read_video(second), read_video(other))


def test_files_and_shards_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("a.mp4", "deep/z.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write_shard(tmp_path / "deep" / "b.tar", {"k/2.mp4": b"", "k/1.MP4": b"", "./k.cls": b"", "./k/0.mp4": b""})
    write_shard(tmp_path / "c.tar", {"labels.json": b""})
    expected = ["a.mp4", "deep/b.tar/k/0.mp4", "deep/b.tar/k/1.MP4", "deep/b.tar/k/2.mp4", "deep/z.mov"]
    found = find_videos(tmp_path)
    assert names(found, tmp_path) == [name_within(video, tmp_path) for video in found] == expected


def test_links_and_folders_in_a_shard_are_no_videos_and_the_last_of_a_name_counts(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {"a.mp4": b"old", "b.mp4": b"b", "./a.mp4": b"newer"})
    with tarfile.open(shard, "a") as archive:
        for name, kind in (("link.mp4", tarfile.SYMTYPE), ("hard.mp4", tarfile.LNKTYPE), ("dir.mp4", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.mp4"
            archive.addfile(info)
    found = find_videos(shard)
    assert names(found, shard) == ["a.mp4", "b.mp4"]
    assert [video.size for video in found] == [5, 1]  # type: ignore[union-attr]


def test_a_pattern_stands_for_its_files(tmp_path: Path) -> None:
    for number in range(8, 12):
        write_shard(tmp_path / "x" / f"clips-{number:03}.tar", {f"{number}.mp4": b""})
    write_shard(tmp_path / "y" / "clips-009.tar", {"9.mp4": b""})
    found = find_videos(tmp_path / "x" / "clips-{008..011}.tar")
    assert names(found, tmp_path) == [f"x/clips-{number:03}.tar/{number}.mp4" for number in range(8, 12)]
    assert name_within(found[0], tmp_path / "x" / "clips-{008..011}.tar") == "clips-008.tar/8.mp4"
    both = find_videos(tmp_path / "{y,x}" / "clips-00{9..9}.tar")
    assert names(both, tmp_path) == ["x/clips-009.tar/9.mp4", "y/clips-009.tar/9.mp4"]
    with pytest.raises(UserError, match=r"2 of its 4 files are missing, first .*x/clips-012\.tar"):
        find_videos(tmp_path / "x" / "clips-{010..013}.tar")
    with pytest.raises(UserError, match="no such video file or folder"):
        find_videos(tmp_path / "clips-{3..1}.tar")


@pytest.mark.parametrize(
    "address", ["s3://bucket/x-{0..3}.tar", "https://host/x.tar", "pipe:cat x.tar", "gs://b/x.tar"]
)
def test_what_lies_elsewhere_is_refused_with_the_remedy(address: str) -> None:
    with pytest.raises(UserError, match=rf"^{address.split('{')[0]}.*copy them to one first"):
        find_videos(Path(address))


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "s.tar.zst", "S.TAR.GZ", "renamed.tar"])
def test_a_compressed_shard_is_refused(tmp_path: Path, name: str) -> None:
    plain = write_shard(tmp_path / "plain.tar", {"a.mp4": b"a"})
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(UserError, match=rf"{name}: is (compressed .* decompress it|no uncompressed tar)"):
        find_videos(tmp_path / name)
    plain.unlink()
    with pytest.raises(UserError, match=rf"{name}: is (compressed .* decompress it|no uncompressed tar)"):
        find_videos(tmp_path)


def test_what_lies_beside_videos_without_being_one_is_ignored(tmp_path: Path) -> None:
    plain = write_shard(tmp_path / "plain.tar", {"a.mp4": b"a", "._a.mp4": b"attributes"})
    (tmp_path / "annotations.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "._plain.mp4").write_bytes(b"attributes")
    assert names(find_videos(tmp_path), tmp_path) == ["plain.tar/a.mp4"]


MEMBERS = {f"{number}.mp4": bytes([number + 1]) * 1000 for number in range(6)}  # three blocks each, header included
BLOCK = tarfile.BLOCKSIZE


@pytest.mark.parametrize(
    ("length", "whole"),
    [
        (0, 0),
        (300, 0),
        (BLOCK, 0),
        (3 * BLOCK, 1),
        (3 * BLOCK + 100, 1),
        (4 * BLOCK + 7, 1),
        (11 * BLOCK, 3),
        (18 * BLOCK, 6),
    ],
)
def test_of_a_shard_cut_short_the_whole_videos_are_used(tmp_path: Path, length: int, whole: int) -> None:
    shard = write_shard(tmp_path / "a.tar", MEMBERS, tarfile.USTAR_FORMAT)
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"a\.tar: .*after {whole} whole videos"):
        find_videos(shard)
    write_shard(tmp_path / "b.tar", {"b.mp4": b""})
    with pytest.raises(UserError, match=r"a\.tar: "):
        find_videos(tmp_path)
    damaged: dict[Video, str] = {}
    found = find_videos(tmp_path, damaged)
    assert names(found, tmp_path) == [*(f"a.tar/{number}.mp4" for number in range(whole)), "b.tar/b.mp4"]
    assert list(damaged) == [shard]


def test_a_damaged_header_ends_a_shard(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", MEMBERS, tarfile.USTAR_FORMAT)
    content = bytearray(shard.read_bytes())
    content[9 * BLOCK + 20] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tar: .*after 3 whole videos"):
        find_videos(shard)


def test_a_shard_written_anew_is_indexed_anew(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", {"a.mp4": b"a"})
    assert names(find_videos(shard), shard) == ["a.mp4"]
    write_shard(shard, {"b.mp4": bytes(100_000)})
    assert names(find_videos(shard), shard) == ["b.mp4"]


def test_a_shard_that_vanished_or_shrank_is_an_error_that_names_the_member(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    shard = write_shard(tmp_path / "s.tar", {"0.mp4": clip.read_bytes()})
    (member,) = find_videos(shard)
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"s\.tar/0\.mp4: cannot be decoded"):
        read_video(member)
    shard.unlink()
    with pytest.raises(UserError, match=r"s\.tar/0\.mp4: no such video file"):
        read_video(member)
