"""A user's own model: `PKG.MOD:FACTORY` is imported and called, and every mistake in it ends in one line."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from toolkit.errors import UserError, unknown_name


def from_factory(spec: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """What `FACTORY()` of `PKG.MOD:FACTORY` returns: a module and example inputs, in fp32.

    The module is also looked for in the current directory. Every mistake in it is a `UserError`.
    """
    made = _call(spec, _factory(spec))
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise UserError(f"{spec}: gave {_kind(made)}; return a pair (module, example inputs)")
    module, inputs = made
    if not isinstance(module, nn.Module):
        raise UserError(f"{spec}: gave {_kind(module)} as its module; return a torch.nn.Module first")
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    if not isinstance(inputs, tuple | list) or not inputs:
        raise UserError(f"{spec}: gave {_kind(inputs)} as example inputs; return a tuple of at least one tensor")
    strange = next(((n, x) for n, x in enumerate(inputs, 1) if not isinstance(x, torch.Tensor)), None)
    if strange is not None:
        raise UserError(f"{spec}: example input {strange[0]} is {_kind(strange[1])}; every input is a torch.Tensor")
    return module.float(), tuple(x.detach().float() if x.is_floating_point() else x.detach() for x in inputs)


def input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """The names of the first inputs of a module; those that `*xs` takes are `xs_0`, `xs_1` and so on."""
    names: list[str] = []
    for name, parameter in inspect.signature(module.forward).parameters.items():
        several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}_{number}" for number in range(count - len(names))] if several else [name]
    return tuple(names[:count])


def _factory(spec: str) -> Callable[[], Any]:
    path, colon, name = spec.partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in path.split(".")):
        raise UserError(f"--module {spec}: expected PKG.MOD:FACTORY, for example mymodels.decoder:build")
    module = _imported(spec, path)
    found = getattr(module, name, None)
    if found is None:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == path]
        raise unknown_name(f"factory in {path}:", name, [key for key in own if callable(getattr(module, key))])
    if not callable(found):
        raise UserError(f"{spec}: is {_kind(found)}; name a function that returns (module, example inputs)")
    factory: Callable[[], Any] = found
    return factory


def _imported(spec: str, path: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(path)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (path == missing or path.startswith(f"{missing}.")):
            raise UserError(
                f"--module {spec}: there is no module '{missing}'; call handheld from the folder that holds it"
            ) from error
        raise UserError(f"--module {spec}: {path} cannot be imported: {_raised(error)}") from error


def _call(spec: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except (Exception, SystemExit) as error:
        hint = "; it is called without arguments" if isinstance(error, TypeError) else ""
        raise UserError(f"{spec}: the factory failed: {_raised(error)}{hint}") from error


def _raised(error: BaseException) -> str:
    """An exception in one line, with the file and line where it came up, outside of torch where there is one."""
    if isinstance(error, SyntaxError):
        lines = [f"{error.filename}:{error.lineno}"]
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if "<frozen" not in frame.filename]
        own = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame.filename]
        lines = [f"{frame.filename}:{frame.lineno}" for frame in own or frames]
    where = f", at {lines[-1]}" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{where}"


def _kind(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__name__}" if value is not None else "None"
