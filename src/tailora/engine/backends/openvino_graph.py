"""A base model as an OpenVINO graph, built from its safetensors. No PyTorch.

The graph computes the tokens of many sequences in one flat row, and the logits of the requested rows.
Dimensions in names: T tokens, S sequences, K requested rows, H hidden, V vocabulary, G groups of slots, P most rows
of a group, W the ranks of a group's slots together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op import _PagedAttentionExtension as PagedAttention

from tailora.adapters.adapter import Adapter
from tailora.core.errors import ModelError
from tailora.engine.adapter_slots import LayerStack
from tailora.engine.architecture import Architecture
from tailora.engine.arrays import Floats
from tailora.engine.backend import Precision
from tailora.engine.backends.openvino_nodes import Node, real, whole, whole_list
from tailora.engine.backends.openvino_rows import GroupedRows, SlotShape
from tailora.engine.backends.openvino_weights import Matrix, Weights, in_dtype
from tailora.families import ends_in


@dataclass
class Graph:
    """A network to compile.

    Attributes:
        model: the network. Its outputs are those of `backend.StepScores`; its inputs are `tokens`, `positions`,
            `past_lens`, `subsequence_begins`, `block_indices`, `block_indices_begins`, `max_context_len`, `sampled`,
            `best` and the caches; with slots also each adapted layer's factors and those of `GroupedRows`, the
            latter a second time under names that begin with `head_` if the vocabulary projection is adapted.
        caches: the names of the key and value caches, key before value, block by block.
        stacks: the adapted layers, with factors `NAME.A` and `NAME.B` as in `adapter_slots.SlotFactors`, of the groups
            and slots of a step.
    """

    model: ov.Model
    caches: list[str]
    stacks: list[LayerStack]


def build_graph(
    folder: Path,
    architecture: Architecture,
    precision: Precision,
    slots: SlotShape | None,
    merged: Adapter | None = None,
) -> Graph:
    """Build a base model's graph, with or without slots for adapters.

    Args:
        folder: the base in Hugging Face layout.
        architecture: the dimensions of the base.
        precision: precision of the weights in the graph.
        slots: the slots for adapters.
        merged: an adapter of linear layers to merge into the weights, in fp32 and before they are rounded.

    Raises:
        ModelError: a weight is missing, or does not have the shape that config.json requires.
        AdapterError: the adapter to merge does not fit the weights.
    """
    weights = Weights(folder, merged)
    builder = _Builder(architecture, weights, precision, slots)
    graph = builder.gpt2() if architecture.model_type == "gpt2" else builder.rotary()
    weights.require_all_merged()
    return graph


@dataclass
class _Builder:
    shape: Architecture
    weights: Weights
    precision: Precision
    slots: SlotShape | None
    inputs: dict[str, Node] = field(default_factory=dict)
    caches: list[str] = field(default_factory=list)
    stacks: list[LayerStack] = field(default_factory=list)
    rows: GroupedRows | None = None  # of all tokens

    def __post_init__(self) -> None:
        for name in ("tokens", "positions", "past_lens", "subsequence_begins", "block_indices", "block_indices_begins"):
            self._input(name, [-1], "i32")
        self._input("max_context_len", [], "i32")
        self._input("sampled", [-1], "i32")
        self._input("best", [], "i32")
        if self.slots is not None:
            self.rows = GroupedRows(self._input, self.slots)

    def gpt2(self) -> Graph:
        s, w = self.shape, self.weights
        embedding = Matrix.of(w("transformer.wte.weight", s.vocabulary, s.hidden), self.precision)
        positions = ops.constant(w("transformer.wpe.weight", s.context, s.hidden))
        x = self._embed(embedding, "transformer.wte")
        x = ops.add(x, ops.gather(positions, self.inputs["positions"], whole(0)))
        for number in range(s.layers):
            block = f"transformer.h.{number}"
            y = self._layer_norm(x, f"{block}.ln_1")
            qkv = self._conv1d(y, f"{block}.attn.c_attn", s.hidden, 3 * s.hidden)
            q, k, v = ops.split(qkv, whole(1), 3).outputs()
            mixed = self._attention(q, k, v, s.windows[number])
            x = ops.add(x, self._conv1d(mixed, f"{block}.attn.c_proj", s.hidden, s.hidden))
            y = self._conv1d(self._layer_norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc", s.hidden, s.inner)
            x = ops.add(x, self._conv1d(ops.gelu(y, "tanh"), f"{block}.mlp.c_proj", s.inner, s.hidden))
        return self._finish(self._layer_norm(self._sampled(x), "transformer.ln_f"), embedding)

    def rotary(self) -> Graph:
        """Build the network of a family with rotary positions: Llama and those that differ from it in few places."""
        s, w = self.shape, self.weights
        embedding = Matrix.of(w("model.embed_tokens.weight", s.vocabulary, s.hidden), self.precision)
        x = self._embed(embedding, "model.embed_tokens")
        if s.embedding_scale != 1:
            x = ops.multiply(x, real(in_dtype(s.embedding_scale, self.precision)))
        turns = {theta: self._turn(theta) for theta in s.rope_thetas}
        for number in range(s.layers):
            block = f"model.layers.{number}"
            y = self._rms_norm(x, f"{block}.input_layernorm")
            y = self._rotary_attention(y, f"{block}.self_attn", turns[s.rope_thetas[number]], s.windows[number])
            if s.output_norms:
                x = ops.add(x, self._rms_norm(y, f"{block}.post_attention_layernorm"))
                y = self._gated(self._rms_norm(x, f"{block}.pre_feedforward_layernorm"), f"{block}.mlp")
                x = ops.add(x, self._rms_norm(y, f"{block}.post_feedforward_layernorm"))
            else:
                x = ops.add(x, y)
                y = self._rms_norm(x, f"{block}.post_attention_layernorm")
                x = ops.add(x, self._gated(y, f"{block}.mlp"))
        return self._finish(self._rms_norm(self._sampled(x), "model.norm"), embedding)

    def _rotary_attention(self, x: Node, at: str, turn: tuple[Node, Node], window: int) -> Node:
        s = self.shape
        queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
        parts = {f"{at}.q_proj": queries, f"{at}.k_proj": keys, f"{at}.v_proj": keys}
        q, k, v = self._linear(x, s.hidden, parts)
        q, k = (self._rotate(heads, f"{at}.{name}_norm", *turn) for name, heads in (("q", q), ("k", k)))
        (output,) = self._linear(self._attention(q, k, v, window), queries, {f"{at}.o_proj": s.hidden})
        return output

    def _gated(self, x: Node, at: str) -> Node:
        """Gated feed-forward layers."""
        s = self.shape
        gate, up = self._linear(x, s.hidden, {f"{at}.gate_proj": s.inner, f"{at}.up_proj": s.inner})
        opened = ops.swish(gate) if s.activation == "silu" else ops.gelu(gate, "tanh")
        (output,) = self._linear(ops.multiply(opened, up), s.inner, {f"{at}.down_proj": s.hidden})
        return output

    def _turn(self, theta: float) -> tuple[Node, Node]:
        """Return the cosines and sines of the tokens' rotary angles, [T, 1, 1, head_dim]."""
        s = self.shape
        frequencies = theta ** -(np.arange(0, s.head_dim, 2) / s.head_dim)
        angles = np.arange(s.context)[:, None, None, None] * np.concatenate([frequencies, frequencies])
        cosine, sine = (
            ops.gather(ops.constant(f(angles).astype(np.float32)), self.inputs["positions"], whole(0))
            for f in (np.cos, np.sin)
        )
        return cosine, sine

    def _finish(self, hidden_KH: Node, embedding: Matrix) -> Graph:
        head = self._head(embedding)
        logits = ops.matmul(hidden_KH, head.whole(), False, True)
        if self._is_adapted("lm_head"):
            assert self.slots is not None
            rows = GroupedRows(self._input, self.slots, "head_")
            stack = LayerStack.single("lm_head", self.shape.hidden, self.shape.vocabulary)
            logits = self._adapted(hidden_KH, logits, stack, rows)
        best, peak = self._best(logits)
        sums = ops.reduce_sum(ops.exp(ops.subtract(logits, peak)), whole_list(-1), True)
        log_z = ops.squeeze(ops.add(ops.log(sums), peak), whole_list(-1))
        results = [ops.result(output) for output in (logits, best, log_z)]
        model = ov.Model(results, list(self.inputs.values()), "tailora")
        return Graph(model, self.caches, self.stacks)

    def _head(self, embedding: Matrix) -> Matrix:
        """Return the vocabulary projection.

        If a file has a projection that differs from the embedding although config.json says that they are the same,
        versions of transformers disagree about it. Such a file is left to the torch backend.
        """
        name, shape = "lm_head.weight", (self.shape.vocabulary, self.shape.hidden)
        if self.shape.tied:
            token = "transformer.wte.weight" if self.shape.model_type == "gpt2" else "model.embed_tokens.weight"
            if name in self.weights and not self.weights.are_equal(name, token):
                what = "config.json says that the vocabulary projection is the token embedding, but the weights differ"
                raise ModelError(what, hint="use --backend torch")
            return embedding
        return Matrix.of(self.weights(name, *shape), self.precision)

    def _best(self, logits_KV: Node) -> tuple[Node, Node]:
        """Return the likeliest tokens of each row, [K, best], and the largest logit, [K, 1].

        The n largest logits are in the n blocks with the largest maxima. Searching only these blocks is much faster
        than searching the vocabulary, which is done if its size has no suitable divisor.
        """
        best, size = self.inputs["best"], self.shape.vocabulary
        width = next((width for width in range(256, 15, -1) if size % width == 0), None)
        if width is None:
            tokens = ops.topk(logits_KV, best, -1, "max", "value", "i32").output(1)
            return tokens, ops.reduce_max(logits_KV, whole_list(-1), True)
        blocks = ops.reshape(logits_KV, whole_list(0, size // width, width), True)
        peaks = ops.reduce_max(blocks, whole_list(-1), False)
        chosen = ops.topk(peaks, ops.minimum(best, whole(size // width)), -1, "max", "value", "i32").output(1)
        there = ops.reshape(ops.gather(blocks, chosen, whole(1), 1), whole_list(0, -1), True)
        place = ops.topk(there, best, -1, "max", "value", "i32").output(1)
        block = ops.gather(chosen, ops.divide(place, whole(width)), whole(1), 1)
        tokens = ops.add(ops.multiply(block, whole(width)), ops.floor_mod(place, whole(width)))
        return tokens, ops.reduce_max(peaks, whole_list(-1), True)

    def _input(self, name: str, shape: list[int], dtype: str) -> Node:
        parameter = ops.parameter(ov.PartialShape(shape), getattr(ov.Type, dtype), name=name)
        parameter.output(0).get_tensor().set_names({name})
        self.inputs[name] = parameter
        return parameter

    def _embed(self, matrix: Matrix, name: str) -> Node:
        """Return the embeddings of the tokens, [T, H]."""
        x = matrix.rows(self.inputs["tokens"])
        if not self._is_adapted(name) or self.rows is None:
            return x
        a, b = self._factors(LayerStack.single(name, self.shape.vocabulary, self.shape.hidden), self.rows)
        return ops.add(x, self.rows.update(self.rows.columns(a, self.inputs["tokens"]), b, 1))

    def _sampled(self, x: Node) -> Node:
        return ops.gather(x, self.inputs["sampled"], whole(0))

    def _layer_norm(self, x: Node, name: str) -> Node:
        normal = ops.mvn(x, whole_list(-1), True, self.shape.epsilon, "inside_sqrt")
        scale, shift = (ops.constant(self.weights(f"{name}.{p}", self.shape.hidden)) for p in ("weight", "bias"))
        return ops.add(ops.multiply(normal, scale), shift)

    def _rms_norm(self, x: Node, name: str, width: int | None = None) -> Node:
        """Normalise the last axis, which is `width` wide, by its root mean square."""
        square = ops.reduce_mean(ops.power(x, real(2.0)), whole_list(-1), True)
        inverse = ops.divide(real(1.0), ops.sqrt(ops.add(square, real(self.shape.epsilon))))
        weight = self.weights(f"{name}.weight", width or self.shape.hidden) + np.float32(self.shape.norm_offset)
        return ops.multiply(ops.multiply(x, inverse), ops.constant(weight))

    def _rotate(self, x: Node, norm: str, cosine: Node, sine: Node) -> Node:
        """Rotary positions (Su et al. 2021, arXiv:2104.09864), the halves of a head paired as in Llama.

        Some families normalise the heads first. OpenVINO recognises this form and computes it in one pass.
        """
        half, axis, one = self.shape.head_dim // 2, whole_list(3), whole_list(1)
        heads = ops.reshape(x, whole_list(0, -1, 1, self.shape.head_dim), True)
        if self.shape.head_norms:
            heads = self._rms_norm(heads, norm, self.shape.head_dim)
        first = ops.slice(heads, whole_list(0), whole_list(half), one, axis)
        second = ops.slice(heads, whole_list(half), whole_list(2 * half), one, axis)
        turned = ops.concat([ops.multiply(second, real(-1.0)), first], -1)
        rotated = ops.add(ops.multiply(heads, cosine), ops.multiply(turned, sine))
        return ops.reshape(rotated, whole_list(0, -1), True)

    def _linear(self, x: Node, inputs: int, parts: Mapping[str, int]) -> list[Node]:
        """Compute layers that have the same input as one product."""
        weights = [self.weights(f"{name}.weight", outputs, inputs) for name, outputs in parts.items()]
        y = self._product(x, np.concatenate(weights))
        biases = [self._bias(name, outputs) for name, outputs in parts.items()]
        if any(bias.any() for bias in biases):
            y = ops.add(y, ops.constant(np.concatenate(biases)))
        ends = np.cumsum([0, *parts.values()]).tolist()
        places = dict(zip(parts, itertools.pairwise(ends), strict=True))
        adapted = {name: place for name, place in places.items() if self._is_adapted(name)}
        # One stack has fewer products, and a B that is partly 0, which costs more than it saves with several slots.
        together = self.slots is not None and self.slots.slots == 1
        if together and adapted:
            y = self._adapted(x, y, LayerStack(inputs, ends[-1], adapted))
        sizes = ops.constant(np.array(list(parts.values()), np.int32))
        split = [y] if len(parts) == 1 else ops.variadic_split(y, whole(1), sizes).outputs()
        if together:
            return list(split)
        return [
            self._adapted(x, part, LayerStack.single(name, inputs, parts[name])) if name in adapted else part
            for part, name in zip(split, parts, strict=True)
        ]

    def _bias(self, name: str, outputs: int) -> Floats:
        """Return the bias of a projection of attention, 0 for other layers and families without one."""
        if any(name.endswith(f"self_attn.{part}_proj") for part in self.shape.biased):
            return self.weights(f"{name}.bias", outputs)
        return np.zeros(outputs, np.float32)

    def _conv1d(self, x: Node, name: str, inputs: int, outputs: int) -> Node:
        y = self._product(x, self.weights(f"{name}.weight", inputs, outputs).T)
        y = ops.add(y, ops.constant(self.weights(f"{name}.bias", outputs)))
        return self._adapted(x, y, LayerStack.single(name, inputs, outputs)) if self._is_adapted(name) else y

    def _product(self, x: Node, weight: Floats) -> Node:
        return ops.matmul(x, Matrix.of(weight, self.precision).whole(), False, True)

    def _adapted(self, x: Node, y: Node, stack: LayerStack, rows: GroupedRows | None = None) -> Node:
        """Return the output of a stack's layers plus the updates of the rows' adapters."""
        rows = rows or self.rows
        assert rows is not None
        a, b = self._factors(stack, rows)
        return ops.add(y, rows.update(ops.matmul(rows.take(x), a, False, True), b, len(stack.layers)))

    def _is_adapted(self, name: str) -> bool:
        return self.slots is not None and ends_in(name, self.slots.layers)

    def _factors(self, stack: LayerStack, rows: GroupedRows) -> tuple[Node, Node]:
        """Add a stack's factors as inputs of the graph."""
        self.stacks.append(stack)
        a, b = (
            rows.factor(self._input, f"{stack.name}.{factor}", len(stack.layers), width)
            for factor, width in (("A", stack.inputs), ("B", stack.outputs))
        )
        return a, b

    def _attention(self, q: Node, k: Node, v: Node, window: int) -> Node:
        """Causal attention over paged caches, as defined in openvino 2026.4.1, where the node is experimental.

        Args:
            q: queries [T, heads · head_dim].
            k: keys [T, kv_heads · head_dim].
            v: values, like the keys.
            window: number of tokens that a token attends to, itself included; 0 for all.
        """
        caches = []
        for part in ("key", "value"):
            name = f"{part}.{len(self.caches) // 2}"
            caches.append(self._input(name, [-1, -1, -1, -1], "dynamic"))
            self.caches.append(name)
        nothing = {kind: ops.constant(np.zeros(0, kind)) for kind in ("int32", "float32", "uint8")}
        zero = ops.constant(np.array(0, np.int32))
        positions = [
            self.inputs[n] for n in ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
        ]
        i32, f32, u8 = nothing["int32"], nothing["float32"], nothing["uint8"]
        arguments = [
            *(q, k, v, *caches, *positions),
            *(real(self.shape.attention_scale), whole(window), f32, self.inputs["max_context_len"]),
            *(i32, i32, i32, f32, f32, zero, zero),
            *(ops.constant(np.zeros((0, 0, 0, 0), np.float32)), zero, i32, i32, i32, i32, u8, i32),
        ]
        node = PagedAttention(
            [argument if isinstance(argument, ov.Output) else argument.output(0) for argument in arguments]
        )
        facts = node.get_rt_info()
        for part in ("k", "v"):
            facts[f"num_{part}_heads"] = self.shape.kv_heads
            facts[f"{part}_head_size"] = self.shape.head_dim
        return node.output(0)
