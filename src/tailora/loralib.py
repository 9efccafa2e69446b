"""loralib 0.1.2's layers under their own names: `import tailora.loralib as lora` in place of `import loralib as lora`.

Constructor arguments, attributes, state-dict keys and shapes, initialisation and train/eval behaviour are the same: a
layer merges its branch into `weight` on `eval()` and unmerges it on `train()`. Only loralib's errors are corrected;
`docs/loralib.md` lists them. Tailora's own layers (`tailora.lora`) never merge on a mode switch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailora.core.errors import SettingsError

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvLoRA",
    "Embedding",
    "Linear",
    "LoRALayer",
    "MergedLinear",
    "lora_state_dict",
    "mark_only_lora_as_trainable",
]

_Base = nn.Linear | nn.Embedding | nn.modules.conv._ConvNd

_MERGED_MARK = "tailora_lora_merged"


class LoRALayer:
    """The settings of every LoRA layer, and the class by which LoRA layers are recognised in a model.

    Args:
        r: rank of the update; 0 or less means a layer without one.
        lora_alpha: numerator of the scale `lora_alpha / r`.
        lora_dropout: probability of dropping an input of the branch while training.
        merge_weights: whether `eval()` merges the branch into the weight.
    """

    r: int
    lora_alpha: float
    lora_dropout: nn.Module
    merge_weights: bool
    merged: bool

    def __init__(self, r: int, lora_alpha: float, lora_dropout: float, merge_weights: bool) -> None:
        self.r = r
        self.lora_alpha = lora_alpha
        # A module in both cases: a bare function would make the layer impossible to pickle.
        self.lora_dropout = nn.Dropout(p=lora_dropout) if lora_dropout > 0 else nn.Identity()
        self.merged = False
        self.merge_weights = merge_weights


class _MergingLayer(nn.Module, LoRALayer):
    """Base of the layers: merges on `eval()`, restores on `train()`, and has correct state dicts in either mode.

    While merged, `weight` is a new parameter with the values `W + scale · B A`, and the pristine parameter is set
    aside. Since the parameter is swapped and not overwritten, another layer with the same (tied) weight is unaffected,
    and unmerging restores the very same parameter.
    """

    lora_A: nn.Parameter  # noqa: N815 - loralib's name, and part of every state-dict key
    lora_B: nn.Parameter  # noqa: N815
    scaling: float
    merged: bool = False  # torch's constructors call `reset_parameters` before `LoRALayer.__init__` has run
    # The pristine parameter while merged; in a tuple, since a bare one would be registered with the module.
    _pristine: tuple[Tensor] | tuple[()] = ()
    # Between the two steps of loading a state dict: whether this layer was merged, and whether the loaded weight is.
    _reload: tuple[bool, bool] = (False, False)

    @property
    def _base(self) -> _Base:
        """The module that owns `weight` and `bias`: this one, or a child."""
        raise NotImplementedError

    def _has_branch(self) -> bool:
        return hasattr(self, "lora_A")

    def _update(self, dtype: torch.dtype) -> Tensor:
        """Return `scale · B A` in the layout of the weight."""
        raise NotImplementedError

    def _merge_base(self) -> Tensor:
        """Return the weight to which the branch is added."""
        return self._base.weight.detach()

    def _add_branch(self, rank: int, a_shape: tuple[int, int], b_shape: tuple[int, int]) -> None:
        """Register the two factors, on the weight's device and in its dtype, and freeze the weight."""
        weight = self._base.weight
        self.lora_A = nn.Parameter(weight.new_zeros(a_shape))
        self.lora_B = nn.Parameter(weight.new_zeros(b_shape))
        self.scaling = self.lora_alpha / rank
        weight.requires_grad = False
        self.register_load_state_dict_post_hook(_finish_loading)  # type: ignore[no-untyped-call]

    def _reset_branch(self) -> None:
        """Initialise A as torch initialises a linear layer, and B with zeros."""
        if self._has_branch():
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
            nn.init.zeros_(self.lora_B)

    @torch.no_grad()
    def _merge(self) -> None:
        if self.merged:
            return
        if self._has_branch():
            pristine = self._base.weight
            # The sum with bf16 and fp16 weights is computed in fp32 and rounded once.
            wide = torch.promote_types(pristine.dtype, torch.float32)
            merged = (self._merge_base().to(wide) + self._update(wide)).to(pristine.dtype)
            self._base.weight = nn.Parameter(merged, requires_grad=pristine.requires_grad)
            self._pristine = (pristine,)
        self.merged = True

    def _unmerge(self) -> None:
        if self._pristine:
            (pristine,) = self._pristine
            pristine.requires_grad = self._base.weight.requires_grad
            self._base.weight = pristine
            self._pristine = ()
        self.merged = False

    def train(self, mode: bool = True) -> Self:
        """Set the mode: evaluation merges if `merge_weights` is set, and training restores the pristine weight."""
        super().train(mode)
        if mode:
            self._unmerge()
        elif self.merge_weights:
            self._merge()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for pristine in self._pristine:  # moves and casts reach registered parameters only
            pristine.data = fn(pristine.data)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Save the merged weight of a merged layer, as loralib does, and mark it in the dict's metadata for loading."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if self._pristine and metadata is not None:
            metadata[prefix[:-1]][_MERGED_MARK] = True

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """Load into the pristine weight; `_finish_loading` runs after the children are loaded."""
        self._reload = (self.merged, bool(local_metadata.get(_MERGED_MARK)) and self._fits(state_dict, prefix))
        self._unmerge()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _fits(self, state_dict: dict[str, Any], prefix: str) -> bool:
        """Return whether weight, A and B will all be loaded from this state dict."""
        own = self.state_dict(prefix=prefix, keep_vars=True)
        names = [name for name in own if name.endswith(("weight", "lora_A", "lora_B"))]
        return all(name in state_dict and state_dict[name].shape == own[name].shape for name in names)

    @torch.no_grad()
    def _finish_loading(self) -> None:
        """Subtract the update from a weight that was saved merged, and merge again if this layer was merged."""
        was_merged, arrived_merged = self._reload
        weight = self._base.weight
        arrived = weight.data
        if arrived_merged:
            wide = torch.promote_types(weight.dtype, torch.float32)
            weight.data = (arrived.to(wide) - self._update(wide)).to(weight.dtype)
        if was_merged:
            self._merge()
            if arrived_merged:
                self._base.weight.data = arrived  # bit for bit what was saved


def _finish_loading(module: nn.Module, _incompatible_keys: object) -> None:
    if isinstance(module, _MergingLayer):
        module._finish_loading()


class Embedding(nn.Embedding, _MergingLayer):
    """`nn.Embedding` with a branch: `W[i] + scale · (B A)[:, i]`.

    `lora_A` is [r, num_embeddings], `lora_B` [embedding_dim, r]. Further arguments are those of `nn.Embedding`.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        r: int = 0,
        lora_alpha: float = 1,
        merge_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        nn.Embedding.__init__(self, num_embeddings, embedding_dim, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, lora_dropout=0.0, merge_weights=merge_weights)
        if r > 0:
            self._add_branch(r, (r, num_embeddings), (embedding_dim, r))
        if kwargs.get("_weight") is None:
            self.reset_parameters()
        else:  # the caller's values stay, for example those of `from_pretrained`
            self._reset_branch()

    @property
    def _base(self) -> nn.Embedding:
        return self

    def reset_parameters(self) -> None:
        """Initialise the table and the branch again."""
        self._unmerge()
        super().reset_parameters()
        self._reset_branch()

    def _reset_branch(self) -> None:
        # Here A is zero, not B: the rows of tokens that do not occur stay unchanged.
        if self._has_branch():
            nn.init.zeros_(self.lora_A)
            nn.init.normal_(self.lora_B)

    def _update(self, dtype: torch.dtype) -> Tensor:
        return (self.lora_B.to(dtype) @ self.lora_A.to(dtype)).T * self.scaling

    def _merge_base(self) -> Tensor:
        table = self.weight.detach()
        if self.max_norm is not None:  # torch clips rows as it looks them up; the branch is added to clipped rows
            every_row = torch.arange(self.num_embeddings, device=table.device)
            table = torch.embedding_renorm_(table.clone(), every_row, self.max_norm, self.norm_type)
        return table

    def forward(self, x: Tensor) -> Tensor:
        """Map token ids [...] to vectors [..., embedding_dim]."""
        if not self._has_branch():
            return super().forward(x)
        if self.merged:
            return F.embedding(x, self.weight, self.padding_idx)
        columns = F.embedding(x, self.lora_A.T, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)
        return super().forward(x) + columns @ self.lora_B.T * self.scaling


class _DenseLayer(nn.Linear, _MergingLayer):
    """A linear layer whose weight may be stored as [in, out] (`fan_in_fan_out`, as in GPT-2's Conv1D)."""

    fan_in_fan_out: bool = False

    @property
    def _base(self) -> nn.Linear:
        return self

    def _transpose_storage(self) -> None:
        self.weight.data = self.weight.data.T.contiguous()

    def _dense_weight(self) -> Tensor:
        """Return the weight as [out, in]."""
        return self.weight.T if self.fan_in_fan_out else self.weight

    def reset_parameters(self) -> None:
        """Initialise the weight, the bias and the branch again."""
        self._unmerge()
        if self.fan_in_fan_out:  # torch reads the fan-in from the shape, so initialise in the usual layout
            self._transpose_storage()
        super().reset_parameters()
        if self.fan_in_fan_out:
            self._transpose_storage()
        self._reset_branch()


class Linear(_DenseLayer):
    """`nn.Linear` with a branch: `x Wᵀ + b + scale · dropout(x) Aᵀ Bᵀ`.

    `lora_A` is [r, in_features], `lora_B` [out_features, r]. With `fan_in_fan_out` the weight is stored as
    [in_features, out_features]. Further arguments are those of `nn.Linear`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int = 0,
        lora_alpha: float = 1,
        lora_dropout: float = 0.0,
        fan_in_fan_out: bool = False,
        merge_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, lora_dropout, merge_weights)
        if r > 0:
            self._add_branch(r, (r, in_features), (out_features, r))
        self.fan_in_fan_out = bool(fan_in_fan_out)
        if self.fan_in_fan_out:
            self._transpose_storage()
        self.reset_parameters()

    def _update(self, dtype: torch.dtype) -> Tensor:
        update = self.lora_B.to(dtype) @ self.lora_A.to(dtype) * self.scaling
        return update.T if self.fan_in_fan_out else update

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [..., in_features] to outputs [..., out_features]."""
        result = F.linear(x, self._dense_weight(), self.bias)
        if self._has_branch() and not self.merged:
            result = result + self.lora_dropout(x) @ self.lora_A.T @ self.lora_B.T * self.scaling
        return result


class MergedLinear(_DenseLayer):
    """A fused projection, such as GPT-2's query-key-value, with branches for some of its slices.

    The outputs are divided into `len(enable_lora)` slices of equal width; slice i is adapted if `enable_lora[i]`. Each
    of the g enabled slices has its own branch of rank r: `lora_A` is [g·r, in_features], `lora_B` [g·width, r], the
    blocks in the order of the slices. `lora_ind` marks the outputs that are adapted.

    Raises:
        SettingsError: `out_features` is not divisible by the number of slices.
    """

    lora_ind: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r: int = 0,
        lora_alpha: float = 1,
        lora_dropout: float = 0.0,
        enable_lora: Sequence[bool] = (False,),
        fan_in_fan_out: bool = False,
        merge_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        if not enable_lora or out_features % len(enable_lora):
            raise SettingsError(
                f"{out_features} outputs cannot be divided into {len(enable_lora)} slices",
                where="enable_lora",
                hint="give one flag for each equal slice of the outputs",
            )
        nn.Linear.__init__(self, in_features, out_features, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, lora_dropout, merge_weights)
        self.enable_lora = [bool(flag) for flag in enable_lora]
        enabled = sum(self.enable_lora)
        if r > 0 and enabled:
            width = out_features // len(self.enable_lora)
            self._add_branch(r, (r * enabled, in_features), (width * enabled, r))
            flags = torch.tensor(self.enable_lora, device=self.weight.device)
            self.register_buffer("lora_ind", flags.repeat_interleave(width), persistent=False)
        self.fan_in_fan_out = bool(fan_in_fan_out)
        if self.fan_in_fan_out:
            self._transpose_storage()
        self.reset_parameters()

    def zero_pad(self, x: Tensor) -> Tensor:
        """Pad the rows of the enabled slices, [g·width, ...], with zero rows to [out_features, ...]."""
        padded = x.new_zeros((self.out_features, *x.shape[1:]))
        return padded.index_copy(0, self.lora_ind.nonzero().squeeze(1), x)

    def merge_AB(self) -> Tensor:  # noqa: N802 - loralib's name
        """Return the unscaled update `B A` of all slices in the layout of the weight."""
        return self._product(self.lora_A, self.lora_B)

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        enabled = sum(self.enable_lora)
        blocks = torch.bmm(b.view(enabled, -1, self.r), a.view(enabled, self.r, -1))  # [g, width, in]
        update = self.zero_pad(blocks.flatten(0, 1))
        return update.T if self.fan_in_fan_out else update

    def _update(self, dtype: torch.dtype) -> Tensor:
        return self._product(self.lora_A.to(dtype), self.lora_B.to(dtype)) * self.scaling

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [..., in_features] to outputs [..., out_features]."""
        result = F.linear(x, self._dense_weight(), self.bias)
        if not self._has_branch() or self.merged:
            return result
        enabled = sum(self.enable_lora)
        hidden = (self.lora_dropout(x) @ self.lora_A.T).unflatten(-1, (enabled, self.r))
        b = self.lora_B.view(enabled, -1, self.r)  # [g, width, r]
        branch = torch.einsum("...gr,gor->...go", hidden, b).flatten(-2) * self.scaling
        return result.index_add(-1, self.lora_ind.nonzero().squeeze(1), branch.to(result.dtype))


class ConvLoRA(_MergingLayer):
    """A convolution with a branch; the convolution itself is the child `conv`.

    With the kernel's last side k and the product of its other sides m (1 for `Conv1d`), `lora_A` is
    [r·k, in_channels·k], `lora_B` [out_channels/groups·m, r·k]; their product, reshaped, has the shape of the kernel
    weight. For `Conv2d` with a square kernel these are loralib's shapes.

    Args:
        conv_module: `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d` or a class with their constructor.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one side for all dimensions, or each side.
        r: rank of the update.
        lora_alpha: numerator of the scale `lora_alpha / r`.
        lora_dropout: probability of dropping an input of the branch while training.
        merge_weights: whether `eval()` merges the branch into the weight.
        **kwargs: further arguments of `conv_module`.
    """

    def __init__(
        self,
        conv_module: Callable[..., nn.modules.conv._ConvNd],
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        r: int = 0,
        lora_alpha: float = 1,
        lora_dropout: float = 0.0,
        merge_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        self.conv = conv_module(in_channels, out_channels, kernel_size, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, lora_dropout, merge_weights)
        if r > 0:
            *others, last = self.conv.kernel_size
            rows = out_channels // self.conv.groups * math.prod(others)
            self._add_branch(r, (r * last, in_channels * last), (rows, r * last))
        self.reset_parameters()

    @property
    def _base(self) -> nn.modules.conv._ConvNd:
        return self.conv

    def reset_parameters(self) -> None:
        """Initialise the convolution and the branch again."""
        self._unmerge()
        self.conv.reset_parameters()
        self._reset_branch()

    def _update(self, dtype: torch.dtype) -> Tensor:
        update = self.lora_B.to(dtype) @ self.lora_A.to(dtype)
        return update.view(self.conv.weight.shape) * self.scaling

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [batch, in_channels, ...] to outputs [batch, out_channels, ...]."""
        conv = self.conv
        if not self._has_branch() or self.merged:
            result: Tensor = conv(x)
            return result
        update = self._update(conv.weight.dtype)
        if self.training and isinstance(self.lora_dropout, nn.Dropout):  # base and branch have different inputs
            base: Tensor = conv(x)
            return base + conv._conv_forward(self.lora_dropout(x), update, None)
        return conv._conv_forward(x, conv.weight + update, conv.bias)


class Conv1d(ConvLoRA):
    """`nn.Conv1d` with a branch; arguments as of `ConvLoRA` from `in_channels` on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(nn.Conv1d, *args, **kwargs)


class Conv2d(ConvLoRA):
    """`nn.Conv2d` with a branch; arguments as of `ConvLoRA` from `in_channels` on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(nn.Conv2d, *args, **kwargs)


class Conv3d(ConvLoRA):
    """`nn.Conv3d` with a branch; arguments as of `ConvLoRA` from `in_channels` on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(nn.Conv3d, *args, **kwargs)


def mark_only_lora_as_trainable(model: nn.Module, bias: str = "none") -> None:
    """Freeze every parameter whose name does not contain "lora_", then unfreeze biases.

    Args:
        model: any model with LoRA layers.
        bias: "none"; "all", every parameter with "bias" in its name; "lora_only", the biases of the LoRA layers.

    Raises:
        NotImplementedError: on another value of `bias`, before anything is changed.
    """
    _check_bias(bias)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.requires_grad = bias == "all" and "bias" in name
    if bias == "lora_only":
        for module in model.modules():
            if isinstance(module, LoRALayer):
                owner = module._base if isinstance(module, _MergingLayer) else module
                own_bias = getattr(owner, "bias", None)
                if isinstance(own_bias, nn.Parameter):
                    own_bias.requires_grad = True


def lora_state_dict(model: nn.Module, bias: str = "none") -> dict[str, Tensor]:
    """Return the adapter's part of `model.state_dict()`: keys that contain "lora_", and biases.

    Args:
        model: any model with LoRA layers, merged or not.
        bias: as for `mark_only_lora_as_trainable`.

    Raises:
        NotImplementedError: on another value of `bias`.
    """
    _check_bias(bias)
    state: dict[str, Tensor] = model.state_dict()
    kept = {name for name in state if "lora_" in name or (bias == "all" and "bias" in name)}
    if bias == "lora_only":
        owners = {name[: name.rindex("lora_")] for name in kept}
        kept |= {owner + own for owner in owners for own in ("bias", "conv.bias")}
    return {name: value for name, value in state.items() if name in kept}


def _check_bias(bias: str) -> None:
    if bias not in ("none", "all", "lora_only"):
        raise NotImplementedError(f'bias must be "none", "all" or "lora_only", not {bias!r}')
