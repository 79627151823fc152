"""Core ML: one package with a function for each size of a model, all over the same weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import coremltools
from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction
from torch.export import ExportedProgram

from export.coreml_run import MAIN
from export.coreml_write import Form, progress_hidden, read
from export.targets import Written
from toolkit.errors import UserError


def write_sizes(
    programs: Mapping[str, ExportedProgram],
    path: Path,
    form: Form,
    write_one: Callable[[ExportedProgram, Path, Form], Written],
) -> Written:
    """Write `path` with a function for each program by its name, `main` among them; for iOS 18 and later.

    Weights that are the same stand in the file once. Raises `UserError` where `form` is for iOS 16, which an app
    asked for by name.
    """
    if form.deployment is coremltools.target.iOS16:
        raise UserError("a Core ML package of several sizes needs iOS 18; export one size, or another Core ML target")
    form = Form(coremltools.target.iOS18, form.precision, form.compression)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="sizes-") as folder:
        described = MultiFunctionDescriptor()
        for number, (name, program) in enumerate(programs.items()):
            part = Path(folder) / f"{number}.mlpackage"
            write_one(program, part, form)
            described.add_function(str(part), src_function_name=MAIN, target_function_name=name)
        described.default_function_name = MAIN
        shutil.rmtree(path, ignore_errors=True)
        with progress_hidden():
            save_multifunction(described, str(path))
    return read(path)
