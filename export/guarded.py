"""Converters and runtimes as this package calls them: what other people's code raises becomes one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from export import reproducible
from export.targets import Conversion, Session, Target, Written
from toolkit.errors import CheckFailed, HandheldError

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def converted(target: Target, conversion: Conversion, path: Path) -> Written:
    """Write one artifact, the same bytes each time.

    Raises `CheckFailed` where the converter refuses, whatever it raises; a full disk stays an `OSError`.
    """
    try:
        written = target.convert(conversion, path)
        reproducible.settle(path)
        return written
    except (HandheldError, OSError):
        raise
    except Exception as error:
        reason = _reason(error)[:240]
        raise CheckFailed(f"{target.name}: the converter refused this model or shape ({reason}); see -vv") from error


def opened(target: Target, artifact: Path) -> Session:
    """A loaded artifact; what its runtime raises in loading it, or in a call, becomes a `CheckFailed`."""

    def call(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with _runtime(target, artifact):
            return session.call(inputs)

    with _runtime(target, artifact):
        session = target.open(artifact)
    return replace(session, call=call)


def _reason(error: BaseException) -> str:
    """What began it, in one line: converters wrap their errors in others that explain themselves, in colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {ESCAPES.sub('', str(error))}".split())


@contextmanager
def _runtime(target: Target, artifact: Path) -> Iterator[None]:
    try:
        yield
    except HandheldError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        reason = " ".join(str(error).split())[:200]
        raise CheckFailed(f"{artifact}: {target.name} cannot be run here ({reason})") from error
