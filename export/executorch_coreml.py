"""ExecuTorch with Core ML: ML programs in fp16 inside a `.pte`; executed where ExecuTorch has the back end, else
each delegate's program is taken out of the file and evaluated (`export.mil_reference`).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import coremltools
import torch
from executorch.backends.apple.coreml.compiler import CoreMLBackend
from executorch.backends.apple.coreml.compiler.coreml_preprocess import MULTIMETHOD_WEIGHT_SHARING_STRATEGY
from executorch.backends.apple.coreml.partition import CoreMLPartitioner
from executorch.exir._serialize._program import deserialize_pte_binary

from export import executorch, mil_reference
from export.coreml_payload import unpack
from export.coreml_write import read
from export.executorch import FORWARD, Delegate, methods
from export.executorch_reference import Tensors, open_delegated
from export.executorch_sparing import Sparing
from export.targets import FP16, Conversion, Session, Target, Written, add_target
from toolkit.errors import UserError

TARGET = "executorch-coreml-fp16"
BACKEND = "CoreMLBackend"


def convert(conversion: Conversion, path: Path) -> Written:
    """Write `path` as a `.pte` of Core ML programs in fp16 for iOS 17 and later; inputs and outputs stay fp32.

    Raises `UserError` where nodes are to stay `wide`, `CheckFailed` where a convolution stays outside.
    """
    if conversion.wide:
        raise UserError(f"{TARGET}: a delegate has one precision; keep operators wide with --target coreml-fp16")
    with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        written = executorch.write(methods(conversion), path, COREML)
    return replace(written, max_rank=max(written.max_rank, *_ranks(path)))


def _ranks(path: Path) -> Iterator[int]:
    """The highest rank in each ML program of the file, and 0: coremltools may add a dimension."""
    yield 0
    program = deserialize_pte_binary(path.read_bytes()).program
    for plan in program.execution_plan:
        for delegate in plan.delegates:
            with tempfile.TemporaryDirectory() as folder:
                payload = bytes(program.backend_delegate_data[delegate.processed.index].data)
                yield read(unpack(payload, Path(folder))).max_rank


def load(path: Path) -> Session:
    """The method `forward`: executed where ExecuTorch has Core ML here, else evaluated operator by operator."""
    return open_method(path, FORWARD)


def open_method(path: Path, name: str) -> Session:
    """One method of the file, as `load`."""
    return open_delegated(
        path, name, BACKEND, _open_package, f"export.mil_reference, coremltools {version('coremltools')}"
    )


def _open_package(payload: bytes, _named: Mapping[str, bytes]) -> _Package:
    return _Package(payload)


class _Package:
    """The ML program of one delegate, taken out of its payload."""

    def __init__(self, payload: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._program = mil_reference.load(unpack(payload, Path(folder)))

    def __call__(self, tensors: Tensors) -> list[torch.Tensor]:
        count = len(mil_reference.main_function(self._program).inputs)
        given = [tensor.numpy() for tensor in tensors[:count]]
        return [torch.from_numpy(array) for array in mil_reference.evaluate(self._program, given)]


def _partitioner() -> Sparing:
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    logging.getLogger("executorch").setLevel(logging.ERROR)
    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=coremltools.target.iOS17, compute_precision=coremltools.precision.FLOAT16
    )
    # one package a method: what joins them wants methods of equally many delegates
    sharing = MULTIMETHOD_WEIGHT_SHARING_STRATEGY.DISABLED
    specs.append(CoreMLBackend.generate_multimethod_weight_sharing_strategy_compile_spec(sharing))
    return Sparing(CoreMLPartitioner(compile_specs=specs))


COREML = Delegate("coreml", "Core ML", _partitioner, lambda program: program)

add_target(Target(TARGET, "model-coreml.pte", FP16, convert, load, open_size=open_method, one_precision=True))
