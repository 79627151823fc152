"""Names and literals of generated code: valid whatever the user called a model."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.sdk import names

#: Every word that Swift or Kotlin keeps for itself, in any place.
KEYWORDS = {
    "Any", "Protocol", "Self", "Type", "as", "associatedtype", "async", "await", "break", "case", "catch", "class",
    "continue", "default", "defer", "deinit", "do", "else", "enum", "extension", "fallthrough", "false",
    "fileprivate", "for", "fun", "func", "guard", "if", "import", "in", "init", "inout", "interface", "internal",
    "is", "let", "nil", "null", "object", "open", "operator", "package", "precedencegroup", "private", "protocol",
    "public", "repeat", "rethrows", "return", "self", "static", "struct", "subscript", "super", "switch", "this",
    "throw", "throws", "true", "try", "typealias", "typeof", "val", "var", "when", "where", "while",
}  # fmt: skip
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TASKS = [*names.SUFFIXES]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("turbo-vaed-ltx", "TurboVaedLtxDecoder"),
        ("tiny decoder", "TinyDecoder"),
        ("3d_vae", "Exported3dVaeDecoder"),
        ("Größe", "GroeDecoder"),
        ("视频", "ExportedDecoder"),
        ("decoder", "ExportedDecoder"),
        ("class", "ClassDecoder"),
        ("JSON", "ExportedJSONDecoder"),
    ],
)
def test_a_type_is_called_after_the_model(name: str, expected: str) -> None:
    assert names.type_name(name, "video-decoder") == expected


@pytest.mark.slow
@given(st.text(max_size=300), st.sampled_from(TASKS))
def test_every_name_gives_valid_identifiers(name: str, task: names.Task | None) -> None:
    found = names.type_name(name, task)
    assert IDENTIFIER.fullmatch(found)
    assert found not in KEYWORDS | names.TAKEN
    assert len(found) < 80
    assert all(IDENTIFIER.fullmatch(part) and part not in KEYWORDS for part in names.kotlin_package(found).split("."))


@given(st.text(max_size=50))
def test_every_target_gives_valid_cases(target: str) -> None:
    for made in (names.swift_case(target), names.kotlin_constant(target)):
        assert IDENTIFIER.fullmatch(made)


@given(st.text(max_size=100))
def test_a_literal_of_kotlin_means_the_text_and_interpolates_nothing(text: str) -> None:
    literal = names.kotlin_string(text)
    assert "$" not in literal
    assert literal.isascii()
    assert json.loads(literal) == text  # the escapes that are used are those of JSON


@given(st.text(max_size=100))
def test_a_literal_of_swift_means_the_text_and_interpolates_nothing(text: str) -> None:
    literal = names.swift_string(text)
    assert literal.isascii()
    assert re.fullmatch(r'"([ -!#-\[\]-~]|\\u\{[0-9A-F]{1,6}\})*"', literal)
    plain = re.sub(r"\\u\{([0-9A-F]+)\}", lambda match: chr(int(match[1], 16)), literal[1:-1])
    assert plain == text


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    assert names.swift_string("\ud800") == '"\\u{FFFD}"'
    assert names.kotlin_string("\ud800") == '"\\uFFFD"'


@given(st.text(alphabet="*/ab \n\r\u2028\x85", max_size=40))
def test_a_comment_stays_one_comment(text: str) -> None:
    made = names.comment(text)
    assert "*/" not in made
    assert "/*" not in made
    assert len(made.splitlines()) <= 1


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_keep_every_digit_that_counts(value: float) -> None:
    import numpy as np

    assert np.float32(names.numbers([value])) == np.float32(value)
    assert re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?f", names.kotlin_numbers([value]))
