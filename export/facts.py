"""Figures computed from a graph's shapes, before anything runs: parameters, MACs, peak activation memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils.flop_counter import FlopCounterMode


def params(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def macs(module: nn.Module, inputs: Sequence[torch.Tensor]) -> int:
    """Multiply-accumulates of convolutions and matrix products in one call."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return int(counter.get_total_flops()) // 2


def peak_activation_bytes(program: ExportedProgram) -> int:
    """The most bytes of intermediate tensors alive at once if every tensor dies after its last use.

    Views count as tensors of their own, and no operator works in place: an upper estimate of what a planner needs.
    """
    inputs = set(program.graph_signature.user_inputs)
    last_use = {used: node for node in program.graph.nodes for used in node.all_input_nodes}
    alive: dict[str, int] = {}
    peak = 0
    for node in program.graph.nodes:
        if node.op == "call_function" or node.name in inputs:
            values = node.meta.get("val")
            tensors = values if isinstance(values, list | tuple) else [values]
            alive[node.name] = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
        peak = max(peak, sum(alive.values()))
        for used in node.all_input_nodes:
            if last_use[used] is node:
                alive.pop(used.name, None)
    return peak
