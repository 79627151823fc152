"""Identifiers and literals of Swift and Kotlin for whatever a user called a model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from toolkit.task import Task

#: A type is called after the bundle and ends in what it is, so that it is no keyword and no type of a platform.
SUFFIXES: dict[Task | None, str] = {"video-decoder": "Decoder", "optical-flow": "Flow", None: "Model"}
#: Types of Apple's frameworks that a name with one of these suffixes could hide.
TAKEN = {"JSONDecoder", "PropertyListDecoder", "MLModel"}
#: Characters of a name that are used: it becomes file names, which file systems bound.
LONGEST = 60


def type_name(name: str, task: Task | None) -> str:
    """A type's name, valid in Swift and Kotlin: `turbo-vaed-ltx` of a decoder gives `TurboVaedLtxDecoder`."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.findall(r"[A-Za-z0-9]+", ascii_name)
    stem = "".join(word[0].upper() + word[1:] for word in words)[:LONGEST].removesuffix(SUFFIXES[task])
    if not stem or stem[0].isdigit() or stem + SUFFIXES[task] in TAKEN:
        stem = "Exported" + stem
    return stem + SUFFIXES[task]


def kotlin_package(type_name: str) -> str:
    """The package of the generated Kotlin."""
    return f"handheld.{type_name.lower()}"


def swift_case(target: str) -> str:
    """A case of an enumeration: `coreml-state-fp16` gives `coremlStateFp16`."""
    first, *others = _words(target)
    return first.lower() + "".join(word.capitalize() for word in others)


def kotlin_constant(target: str) -> str:
    """A constant of an enumeration: `executorch-xnnpack-fp32` gives `EXECUTORCH_XNNPACK_FP32`."""
    return "_".join(_words(target)).upper()


def _words(target: str) -> list[str]:
    words = re.findall(r"[A-Za-z0-9]+", target)
    return words if words and words[0][0].isalpha() else ["target", *words]


def swift_string(text: str) -> str:
    """A Swift literal of `text`, in which nothing is interpolated."""
    return '"' + "".join(_plain(character) or f"\\u{{{_scalar(character):X}}}" for character in text) + '"'


def kotlin_string(text: str) -> str:
    """A Kotlin literal of `text`, in which nothing is interpolated."""
    return '"' + "".join(_plain(character) or _utf16(character) for character in text) + '"'


def comment(text: str) -> str:
    """`text` as a part of one line of a comment: it can neither end the comment nor open another."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"(?<=/)(?=\*)|(?<=\*)(?=/)", " ", " ".join(printable.split()))


def numbers(values: Iterable[float]) -> str:
    """Literals of 32-bit floats for Swift, with every digit that counts."""
    return ", ".join(_number(value) for value in values)


def kotlin_numbers(values: Iterable[float]) -> str:
    """As `numbers`, for Kotlin."""
    return ", ".join(f"{_number(value)}f" for value in values)


def _number(value: float) -> str:
    text = f"{value:.9g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _plain(character: str) -> str:
    """The character itself where it means itself in both languages, else nothing."""
    return character if " " <= character <= "~" and character not in '"\\$' else ""


def _scalar(character: str) -> int:
    """The code point; a lone surrogate, which no text may hold, becomes the replacement character."""
    return 0xFFFD if 0xD800 <= ord(character) <= 0xDFFF else ord(character)


def _utf16(character: str) -> str:
    units = chr(_scalar(character)).encode("utf-16-be")
    return "".join(f"\\u{units[at]:02X}{units[at + 1]:02X}" for at in range(0, len(units), 2))
