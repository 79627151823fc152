"""The lowered graph with what is planned and estimated of every operator, as Model Explorer's JSON.

Google Model Explorer (`pip install ai-edge-model-explorer`) opens the file: one graph, whose groups are the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from export import facts
from export.lowering.nested import tensors_in
from export.lowering.refusal import WHOLE, depends_on_data, layer, source_line

#: Backgrounds of operators that a target refuses, and that leave an accelerator.
REFUSED, LEAVES = "#f4c7c3", "#fce8b2"


def annotated_graph(
    name: str,
    program: ExportedProgram,
    origin_of: Callable[[Node], Node],
    placements: Mapping[str, Mapping[str, str]],
    refused: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """The content of a JSON file of Model Explorer.

    `origin_of` gives the model's own operator that a node of `program` was made for, whose layer and line are named.
    `placements` and `refused` say, for each target by the names of nodes of `program`, where an operator is planned to
    run that leaves the accelerator, and why one is refused.
    """
    static = not any(depends_on_data(node.meta.get("val")) for node in program.graph.nodes)
    work = {item.node.name: item for item in facts.work(program)} if static else {}
    used = {node for node in program.graph.nodes if node.users or node.op != "placeholder"}
    nodes = []
    for node in program.graph.nodes:
        if node not in used:
            continue
        attributes = _attributes(node, origin_of(node), work.get(node.name))
        if node.op == "call_function":  # inputs, weights and the output run nowhere
            for target, reasons in placements.items():
                attributes[f"planned: {target}"] = reasons.get(node.name, "accelerator")
        for target, reasons in refused.items():
            if node.name in reasons:
                attributes[f"refused: {target}"] = reasons[node.name]
        nodes.append(_entry(node, origin_of(node), attributes))
    return {"label": name, "graphs": [{"id": name, "nodes": nodes}]}


def _entry(node: Node, made_for: Node, attributes: Mapping[str, str]) -> dict[str, Any]:
    path = layer(made_for) if node.op == "call_function" else WHOLE
    entry: dict[str, Any] = {
        "id": node.name,
        "label": facts.name_of(node) if node.op == "call_function" else node.name,
        "namespace": "" if path == WHOLE else path.replace(".", "/"),
        "attrs": [{"key": key, "value": value} for key, value in attributes.items()],
        "incomingEdges": [
            {"sourceNodeId": used.name, "sourceNodeOutputId": "0", "targetNodeInputId": str(number)}
            for number, used in enumerate(node.all_input_nodes)
        ],
        "outputsMetadata": [
            {"id": str(number), "attrs": [{"key": "tensor_shape", "value": f"{_dtype(tensor)}{list(tensor.shape)}"}]}
            for number, tensor in enumerate(tensors_in(node.meta.get("val")))
        ],
    }
    if any(key.startswith("refused: ") for key in attributes):
        entry["style"] = {"backgroundColor": REFUSED}
    elif any(key.startswith("planned: ") and value != "accelerator" for key, value in attributes.items()):
        entry["style"] = {"backgroundColor": LEAVES}
    return entry


def _attributes(node: Node, made_for: Node, work: facts.Work | None) -> dict[str, str]:
    if node.op != "call_function":
        return {}
    found = {"layer": layer(made_for), "line": source_line(made_for)}
    if work is not None:
        found["MACs (estimated)"] = f"{work.macs:,}"
        found["bytes moved in fp32 (estimated)"] = f"{work.moved_bytes:,}"
        found["result bytes in fp32 (estimated)"] = f"{work.result_bytes:,}"
    return found


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
