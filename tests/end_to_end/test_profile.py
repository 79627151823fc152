"""`handheld profile`: its table, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import handheld, refusal


@pytest.mark.usefixtures("no_memory_pass")
def test_rows_of_two_bundles_of_one_model_can_be_told_apart(
    bundle: Path, exported_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{tmp_path / 'profiles.db'}"
    command = ["profile", "--iterations", "1", "--repeats", "1", "--no-operators", "--store", store]
    assert handheld(*command, bundle) == 0
    assert "1: " not in capsys.readouterr().out
    assert handheld(*command, bundle, exported_bundle) == 0
    shown = capsys.readouterr().out
    assert all(f"{number}: " in shown for number in (1, 2))


def test_an_unknown_device_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Known: android, browser, host, iphone, mac." in refusal(capsys, 2, "profile", bundle, "--device", "toaster")


def test_more_threads_than_cores_are_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cores" in refusal(capsys, 2, "profile", bundle, "--threads", "4000")


def test_a_profile_that_fails_leaves_earlier_records_alone(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "records.json"
    records.write_text("earlier records")
    store = f"sqlite:///{tmp_path / 'profiles.db'}"
    refusal(capsys, 2, "profile", bundle, "--device", "toaster", "--json", records, "--store", store)
    assert records.read_text() == "earlier records"


def test_an_unwritable_file_of_records_is_refused_before_measuring(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("devices.profile", lambda *_args, **_kwargs: pytest.fail("it was measured"))
    store = f"sqlite:///{tmp_path / 'profiles.db'}"
    target = tmp_path / "file" / "records.json"
    assert str(target) in refusal(capsys, 2, "profile", bundle, "--json", target, "--store", store)


def test_an_unwritable_store_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = f"sqlite:///{tmp_path / 'file' / 'profiles.db'}"
    profile = ["profile", bundle, "--iterations", "1", "--no-operators", "--store", store]
    assert "--store" in refusal(capsys, 2, *profile)
