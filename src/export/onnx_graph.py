"""Repairs of MindSpore's ONNX files, in place: names, an explicit interpolation, a single opset."""

import onnx


def name_ends(model: onnx.ModelProto, input_name: str, output_names: list[str]) -> None:
    """Give the model's input and outputs names that a client can understand, in place."""
    graph = model.graph
    renamed = {graph.input[0].name: input_name}
    renamed.update({output.name: name for output, name in zip(graph.output, output_names)})
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in [*graph.input, *graph.output]:
        value.name = renamed[value.name]


def write_interpolation(model: onnx.ModelProto) -> None:
    """Write the default `mode` of every Resize, in place: MindSpore Lite's converter reads none as another one."""
    for node in model.graph.node:
        if node.op_type == "Resize" and not any(attribute.name == "mode" for attribute in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("mode", "nearest"))


def one_opset(model: onnx.ModelProto) -> None:
    """Leave one entry for the standard operators, in place; a merged model has one for each of its parts."""
    versions = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if len(versions) != 1:
        raise ValueError(f"opsets {sorted(versions)} in one model")
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", versions.pop()))
