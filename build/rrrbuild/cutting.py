"""A finished graph of plan `sequential`, cut at the stem's output: one ONNX model for the stem, one for each member.

    stem:      images (N, S, S, 3) uint8 -> features (N, F, S/8, S/8)
    member_i:  features -> probabilities (N, C) float32

or, of a graph whose members stand in two groups, at the same place:

    first:     images -> probabilities (N, k, C) float32, features
    rest:      features -> probabilities (N, M - k, C) float32

The graph is cut as it is, whatever its precision and whichever QuantizeLinear and DequantizeLinear stand in it. No
weight is touched, so the parts compute what the whole computes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.utils import Extractor

from rrrbuild.manifest import FEATURES, FIRST, INPUT, OUTPUT, REST, STEM, member_part
from rrrnet.errors import CheckFailedError


def cut(model: bytes) -> dict[str, bytes]:
    """The parts of a model by name: `stem`, `member_0`, `member_1`, ...

    Args:
        model: an ONNX model of plan `sequential`.

    Raises:
        CheckFailedError: its members do not hang on one tensor.
    """
    whole = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    walk = _Walk(whole.graph)
    logits, tail = walk.join()
    border = walk.border(logits)
    heads = [walk.copy_tail(tail, name, f".{index}") for index, name in enumerate(logits)]
    extractor = Extractor(whole)
    parts = {STEM: _part(extractor, INPUT, [border], {border: FEATURES})}
    for index, head in enumerate(heads):
        parts[member_part(index)] = _part(extractor, border, [head], {border: FEATURES, head: OUTPUT})
    return parts


def cut_cascade(model: bytes, k: int) -> dict[str, bytes]:
    """The parts `first` and `rest` of a model whose first k members stand apart from the others.

    Args:
        model: an ONNX model of `graph.build_graph` with `groups`.
        k: members of the first group.

    Raises:
        CheckFailedError: both do not hang on one tensor.
    """
    whole = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    walk = _Walk(whole.graph)
    logits, tail = walk.join()
    border = walk.border(logits)
    members = whole.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    first, rest = (
        walk.copy_tail(tail, name, f".{part}", members=count)
        for name, part, count in zip(logits, (FIRST, REST), (k, members - k), strict=True)
    )
    extractor = Extractor(whole)
    return {
        FIRST: _part(extractor, INPUT, [first, border], {first: OUTPUT, border: FEATURES}),
        REST: _part(extractor, border, [rest], {border: FEATURES, rest: OUTPUT}),
    }


def features_of(stem: bytes) -> dict[str, Any]:
    """Name, dtype and shape of the features that a part gives, as a manifest holds them."""
    (info,) = (info for info in onnx.load_from_string(stem).graph.output if info.name == FEATURES)
    tensor = info.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return {"name": info.name, "dtype": dtype, "shape": [-1, *(dim.dim_value for dim in tensor.shape.dim[1:])]}


class _Walk:
    """A graph by tensor: which node makes it, and which nodes depend on the images."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._members = graph.output[0].type.tensor_type.shape.dim[1].dim_value
        self._makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
        # Only these are cut apart: what depends on constants alone goes to every part that reads it.
        self._varying: set[int] = set()
        names = {INPUT}
        for index, node in enumerate(graph.node):
            if names.intersection(node.input):
                names.update(node.output)
                self._varying.add(index)

    def join(self) -> tuple[list[str], list[tuple[onnx.NodeProto, str]]]:
        """The members' logits where they are put together, and what follows: nodes, each with the input to follow."""
        tail = []
        node = self._maker(OUTPUT)
        while node.op_type != "Concat":
            (source,) = (name for name in node.input if self._makers.get(name) in self._varying)
            tail.append((node, source))
            node = self._maker(source)
        return list(node.input), tail[::-1]

    def copy_tail(
        self, tail: list[tuple[onnx.NodeProto, str]], tensor: str, suffix: str, members: int | None = None
    ) -> str:
        """Apply to the logits of some members what follows the join; returns the tensor of their probabilities.

        Args:
            tail: see `join`.
            tensor: one member's logits (N, C), or those of several (N, members * C).
            suffix: of the new names.
            members: how many; None for one, whose probabilities are (N, C), those of several (N, members, C).
        """
        for node, source in tail:
            if node.op_type == "Reshape" and members is None:  # to (N, M, C); a member's logits are (N, C) already
                continue
            copy = self._graph.node.add()
            copy.CopyFrom(node)
            copy.input[list(node.input).index(source)] = tensor
            tensor = copy.name = copy.output[0] = node.output[0] + suffix
            kind = next(info for info in self._infos() if info.name == node.output[0]).type.tensor_type
            batch, *_, last = kind.shape.dim
            several = len(kind.shape.dim) == 3
            shape = [batch.dim_param or None, last.dim_value]
            if members is None:
                for attribute in copy.attribute:
                    if node.op_type == "Softmax" and attribute.name == "axis":
                        attribute.i = 1
            elif several:
                shape = [shape[0], members, last.dim_value]
            else:  # a cast of the logits side by side
                shape = [shape[0], last.dim_value * members // self._members]
            if node.op_type == "Reshape":
                copy.input[1] = f"{node.input[1]}{suffix}"
                wanted = np.array([-1, members, last.dim_value], np.int64)
                self._graph.initializer.append(numpy_helper.from_array(wanted, copy.input[1]))
            self._graph.value_info.append(helper.make_tensor_value_info(tensor, kind.elem_type, shape))
        return tensor

    def _infos(self) -> Iterator[onnx.ValueInfoProto]:
        yield from self._graph.value_info
        yield from self._graph.output

    def border(self, logits: list[str]) -> str:
        """The one tensor through which everything in the members depends on the images."""
        cones = [self._cone(name) for name in logits]
        stem, members = set.intersection(*cones), set.union(*cones)
        while True:
            names = {name for index in members - stem for name in self._graph.node[index].input}
            names = {name for name in names if self._makers.get(name) in stem}
            # A DequantizeLinear goes with those who read it: then 8 bits are handed on, and pairs stay with weights.
            late = {self._makers[name] for name in names if self._maker(name).op_type == "DequantizeLinear"}
            if not late:
                break
            stem -= late
        if len(names) != 1:
            raise CheckFailedError(
                f"the members read {len(names)} tensors of the stem ({', '.join(sorted(names)[:3])}), so plan split "
                "cannot cut the network there: build it with --plan sequential"
            )
        return str(names.pop())

    def _maker(self, name: str) -> onnx.NodeProto:
        return self._graph.node[self._makers[name]]

    def _cone(self, name: str) -> set[int]:
        """The nodes on the way from the images to a tensor."""
        found: set[int] = set()
        names = [name]
        while names:
            index = self._makers.get(names.pop())
            if index in self._varying and index not in found:
                found.add(index)
                names.extend(self._graph.node[index].input)
        return found


def _part(extractor: Extractor, source: str, results: list[str], names: dict[str, str]) -> bytes:
    """The nodes between some tensors as a model of their own, some of its tensors renamed."""
    part = extractor.extract_model([source], results)
    graph = part.graph
    del graph.value_info[:]
    for info in (*graph.input, *graph.output):
        info.name = names.get(info.name, info.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.checker.check_model(part, full_check=True)
    return bytes(part.SerializeToString(deterministic=True))
