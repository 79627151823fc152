"""Core ML: weights of fewer bits, in which form they are stored; what is computed with them stays fp16.

The compressions are coremltools' (`coremltools.optimize.coreml`); which weights get which is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import coremltools
from coremltools.converters.mil.mil import Operation, Program
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass, PassOption
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass
from coremltools.optimize.coreml import OpLinearQuantizerConfig, OpPalettizerConfig, OptimizationConfig

#: Weights of no more numbers than this stay as they are: their tables and scales would eat the gain.
THRESHOLD = 2048
#: Input channels that share a scale in int4, and output channels that share a table; smaller ones where they must.
BLOCKS = (32, 16, 8)
GROUPS = (16, 8, 4)
#: The operators whose weights are compressed, and the place of their output and their input channels.
_CHANNELS = {"conv": (0, 1), "conv_transpose": (1, 0), "linear": (0, 1), "matmul": (-1, -2)}

Config: TypeAlias = OpLinearQuantizerConfig | OpPalettizerConfig
IsWide = Callable[[Operation], bool]


@dataclass(frozen=True)
class Compression:
    """`palette` entries of `bits` by k-means, or `bits` of a linear scale; `grouped` over groups of channels."""

    bits: int
    palette: bool = False
    grouped: bool = False

    @property
    def pass_name(self) -> str:
        """The name of coremltools' pass that does it."""
        return "compression::palettize_weights" if self.palette else "compression::linear_quantize_weights"

    def config(self, shape: tuple[int, ...], operator: str) -> Config:
        """What a weight of this shape gets in this operator."""
        output, given = _CHANNELS[operator]
        if self.palette:
            group = next((g for g in GROUPS if self.grouped and shape[output] % g == 0 and shape[output] > g), None)
            return OpPalettizerConfig(
                mode="kmeans",
                nbits=self.bits,
                granularity="per_tensor" if group is None else "per_grouped_channel",
                group_size=group or 0,
                channel_axis=output if group is not None else None,
                weight_threshold=THRESHOLD,
            )
        block = next((b for b in BLOCKS if self.grouped and shape[given] % b == 0), None)
        return OpLinearQuantizerConfig(
            mode="linear_symmetric",
            dtype=f"int{self.bits}",
            granularity="per_channel" if block is None else "per_block",
            block_size=block or 0,
            weight_threshold=THRESHOLD,
        )


@register_pass(namespace="handheld")
class compress_weights(AbstractGraphPass):  # type: ignore[misc]  # noqa: N801  the pass is called by this name
    """Compress the weights of convolutions and products but those of wide operators; coremltools does the work."""

    compression: Compression | None = None
    is_wide: IsWide | None = None

    def apply(self, prog: Program) -> None:
        assert self.compression is not None
        config = OptimizationConfig()
        for function in prog.functions.values():
            for operation in function.operations:
                if operation.op_type == "const":
                    config.set_op_name(operation.name, self._config(operation))
        work = PASS_REGISTRY[self.compression.pass_name]
        work.set_options([PassOption("config", config), PassOption("joint_compression", False)])
        work.apply(prog)

    def _config(self, const: Operation) -> Config | None:
        assert self.compression is not None
        assert self.is_wide is not None
        value = const.outputs[0]
        users = value.child_ops
        if not users or any(user.op_type not in _CHANNELS or self.is_wide(user) for user in users):
            return None
        if value.rank < 2 or any(value in (user.inputs.get("bias"),) for user in users):
            return None
        return self.compression.config(tuple(value.shape), users[0].op_type)


def add_compression(passes: coremltools.PassPipeline, compression: Compression, is_wide: IsWide) -> None:
    """Let a conversion end with the compression of weights, but those of operators that `is_wide` says."""
    name = "handheld::compress_weights"
    passes.append_pass(name)
    passes.set_options(name, {"compression": compression, "is_wide": is_wide})
