"""ONNX Runtime Web: the user's own, or fetched, checked and kept; never a part of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from devices.browser import assets, profiler
from toolkit.errors import UserError

CONTENT = {name: name.encode() for name in assets.FILES}


def package(path: Path, version: str = "1.2.3", leave_out: str = "") -> Path:
    """A tarball such as `npm pack` makes, with more in it than is needed."""
    files = {f"package/dist/{name}": content for name, content in CONTENT.items() if name != leave_out}
    files |= {"package/package.json": json.dumps({"version": version}).encode(), "package/../../outside": b"x"}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    monkeypatch.setattr(
        assets, "FILES", {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    )
    return tmp_path / "cache"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the registry would give, as a file of this machine."""
    path = package(tmp_path / "published.tgz")
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(assets, "URL", path.as_uri())
    monkeypatch.setattr(assets, "INTEGRITY", f"sha512-{digest}")
    return path


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_it_is_fetched_once_and_kept(published: Path) -> None:
    found = assets.assets()
    assert found.version == assets.VERSION
    assert {name: (found.folder / name).read_bytes() for name in CONTENT} == CONTENT
    published.unlink()
    assert assets.assets() == found


def test_what_was_changed_in_the_cache_is_fetched_again(published: Path) -> None:
    found = assets.assets()
    changed = found.folder / next(iter(CONTENT))
    changed.write_bytes(b"changed")
    assert assets.cached() is None
    assets.assets()
    assert changed.read_bytes() == CONTENT[changed.name]


def test_other_content_than_was_published_is_not_kept(published: Path, own_cache: Path) -> None:
    package(published, version="6.6.6")
    with pytest.raises(UserError, match="its hash does not fit"):
        assets.assets()
    assert kept(own_cache) == []


def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "URL", (tmp_path / "unreachable.tgz").as_uri())
    with pytest.raises(UserError, match=r"could not be fetched .* HANDHELD_ORT_WEB=FILE"):
        assets.assets()
    assert kept(own_cache) == []
    assert "is fetched from the npm registry at first use" in str(profiler.problem())


def test_the_users_tarball_is_used_with_its_own_version(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(assets.VARIABLE, str(package(tmp_path / "own.tgz", version="9.8.7")))
    found = assets.assets()
    assert found.version == "9.8.7"
    assert {path.name for path in kept(own_cache)} == {*CONTENT, "package.json"}
    assert profiler.problem() is None


def test_the_users_folder_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text('{"version": "9.8.7"}')
    for name, content in CONTENT.items():
        (folder / "dist" / name).write_bytes(content)
    monkeypatch.setenv(assets.VARIABLE, str(folder))
    assert assets.assets() == (folder / "dist", "9.8.7")


def test_what_is_no_such_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = next(iter(CONTENT))
    (tmp_path / "text.tgz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    package(tmp_path / "part.tgz", leave_out=missing)
    for name, reason in (
        ("text.tgz", "is no npm package"),
        ("part.tgz", f"lacks package/dist/{missing}"),
        ("empty", f"lacks {missing}"),
        ("nowhere", "no such folder or tarball"),
    ):
        monkeypatch.setenv(assets.VARIABLE, str(tmp_path / name))
        with pytest.raises(UserError, match=reason):
            assets.assets()


def test_a_browser_is_always_listed() -> None:
    (listed,) = profiler.list_browser()
    assert (listed.name, listed.state) == ("browser", "ready")
