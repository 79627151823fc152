"""Texts of strangers: plain ones are read, and those that would take a machine down are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.limits import MAX_JSON_BYTES, check_value, parse_json, parse_yaml, read_text

TOWER = ["a: &a [x, x, x, x, x, x, x, x]", "b: &b [*a, *a, *a, *a, *a, *a, *a, *a]"]
TOWER += [f"{low}: &{low} [{', '.join([f'*{high}'] * 8)}]" for high, low in ("bc", "cd", "de", "ef", "fg", "gh", "hi")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "levels deep"),
        ("[" * 100 + "]" * 100, "more than 64 levels deep"),
        ('{"a": 1, "a": 2}', "a key twice"),
        ("1e999", "not finite"),
        ("NaN", "not finite"),
        (str(2**70), "more than 64 bits"),
        ("9" * 5000, "."),
        (r'"\ud800"', "not Unicode"),
        ("{", "."),
    ],
)
def test_json_that_would_hurt_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(TOWER), "more than 50,000 values"),
        ("a: &a [*a]", "levels deep|values"),
        ("[" * 5000, "levels deep"),
        ("a: !!python/object/apply:os.system ['touch marker']", "could not determine a constructor"),
        ("a: .inf", "not finite"),
        ("a: 2001-99-99", "."),
        ("x: y\n" * 400_000, "larger than 1 MB"),
    ],
)
def test_yaml_that_would_hurt_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)


def test_aliases_of_a_few_values_are_read() -> None:
    assert parse_yaml("a: &a {lr: 1.0e-3}\nb: *a")["b"] == {"lr": 1e-3}


def test_control_characters_are_refused_where_text_is_printed() -> None:
    check_value(["\x1b[2J"], 10)
    with pytest.raises(ValueError, match="control characters"):
        check_value(["\x1b[2J"], 10, printable=True)


def test_text_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x" * (2 << 20))
    assert len(read_text(tmp_path / "text", MAX_JSON_BYTES)) == 2 << 20
    with pytest.raises(ValueError, match="larger than 1 MB"):
        read_text(tmp_path / "text", 1 << 20)
