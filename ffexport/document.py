"""What a graph says of itself in a viewer: what it is for, what goes in and out, and which layer a node is."""

from __future__ import annotations

import onnx

GRAPHS = {
    "unit": "One Forward-Forward unit: its activation, its goodness (the mean square of the activation), and the "
    "activation normalised as the next unit's graph takes it.",
    "recurrent unit": "One synchronous step of one unit of a recurrent Forward-Forward network: its activity and "
    "goodness after the step, and what it makes of its input from below alone.",
    "goodness": "Goodness of every image with every label asked for; the answer is the label with the most.",
    "classifier": "The linear classifier: one pass with the neutral label, which favours no class.",
    "gradient": "The layer-local gradient of one Forward-Forward unit: of its own loss, on pairs of positive and "
    "negative data, with respect to its own parameters. Nothing is passed down.",
    "gradient_head": "The gradient of the linear classifier's cross-entropy with respect to its own parameters.",
}
VALUES = {
    "input": "The unit's input, already normalised: for unit 1 the image with its label, else the 'output' of the "
    "graph below.",
    "activation": "The unit's activation, not normalised.",
    "below": "Activity of the unit below a step ago, not normalised: for unit 1 the standardised image.",
    "above": "Activity of the unit above a step ago, not normalised: for the topmost unit the label's pattern.",
    "self": "The unit's own activity a step ago, not normalised.",
    "start": "The unit's activity before the first step: what it makes of its input from below alone.",
    "output": "The activation, normalised as the next unit asks for it (of the topmost unit, divisively).",
    "images": "Images (N, C, H, W): pixels / 255, in [0, 1]. The graph standardises them.",
    "labels": "Labels to try (L): indices of patterns, in any order; repeats are allowed.",
    "goodness": "Goodness: the mean square of a unit's activation, accumulated in float32; (N), or (N, L, units).",
    "total": "Total goodness of every image with every label (N, L), over the units that are scored.",
    "logits": "The classifier's logits (N, patterns); the classes come first, then the spare rows.",
    "features": "What the classifier reads (N, D): normalised activations of the scored units, neutral label.",
    "positive": "The unit's input with the images and their right labels (N, …), already normalised.",
    "negative": "The unit's input with M negatives of each image, wrong labels or hybrids (M·N, …), normalised.",
    "next.positive": "The next unit's input from the positive data, before this update.",
    "next.negative": "The next unit's input from the negative data, before this update.",
    "goodness.positive": "Goodness of the positive data.",
    "goodness.negative": "Goodness of the negative data.",
    "loss": "The mean loss over the images.",
    "gradient_head.labels": "The right label of each image (N).",
}


def value_text(kind: str, name: str) -> str:
    """What an input or output of a graph of that kind is."""
    if name.startswith("gradient."):
        return f"Derivative of the loss with respect to {name.removeprefix('gradient.')}."
    return VALUES.get(f"{kind}.{name}") or VALUES.get(name) or f"The tensor {name} of weights.safetensors."


def document(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with doc strings, and its convolutions and products named after the layer they are."""
    kind = model.graph.name.removeprefix("ffedge ").rstrip("0123456789")
    model.doc_string = model.graph.doc_string = GRAPHS.get(kind, "")
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = value_text(kind, value.name)
    stored = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    named: set[str] = set()
    for node in model.graph.node:
        weight = stored.get(node.input[1], node.input[1]) if node.op_type in ("Conv", "Gemm") else ""
        if weight.endswith(".weight") and weight not in named:
            node.name = weight.removesuffix(".weight")
            named.add(weight)
    return model
