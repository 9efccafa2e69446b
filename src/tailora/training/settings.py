"""The settings of a training run, and what they mean for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from tailora.adapters.config import Bias, LoraConfig
from tailora.core.errors import SettingsError
from tailora.data.examples import Overlong
from tailora.data.prompts import PromptForm
from tailora.data.reading import ReadingSettings

Method = Literal["lora", "full", "bitfit", "top2"]
Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "int8"]

LEARNING_RATE: dict[Method, float] = {"lora": 1e-3, "full": 5e-5, "bitfit": 1e-3, "top2": 1e-4}


class TrainSettings(ReadingSettings):
    """Settings of `tailora train`."""

    data: str
    """Records with texts: a file, a folder of splits, or the name of a data set."""
    valid: str | None = None
    """Records to validate on; by default the data's own `valid` split, if it has splits."""
    limit: int | None = Field(None, ge=1)
    """Train on so many records only, from the start."""
    valid_limit: int | None = Field(None, ge=1)
    """Validate on so many records only, from the start."""
    base: str = "tiny"
    """Base model: a name (see `tailora models`), a folder or a hub id."""
    method: Method = "lora"
    """What learns: an adapter, every weight, the biases, or the top two blocks."""
    rank: int = Field(8, ge=1)
    """Rank of the adapter."""
    alpha: float = Field(16.0, gt=0)
    """Numerator of the adapter's scale alpha / rank."""
    targets: tuple[str, ...] = ("attention.qv",)
    """Layers to adapt: attention.qv, attention, mlp, all-linear, head, embedding, or patterns of module paths."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Other ranks for some layers: pattern of module paths to rank; the first that matches holds."""
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    """Other alphas for some layers, likewise."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's branch."""
    rslora: bool = False
    """Scale by alpha / √rank."""
    dora: bool = False
    """Learn a magnitude for each output beside the direction."""
    bias: Bias = "none"
    """Biases that learn beside the adapter."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate; by default 1e-3 for lora and bitfit, 1e-4 for top2, 5e-5 for full."""
    batch_size: int = Field(32, ge=1)
    """Examples in an update."""
    group_size: int | None = Field(None, ge=1)
    """Texts of one record that may be side by side in an update; by default an eighth of the batch."""
    epochs: int = Field(3, ge=1)
    """Passes over the data."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many updates."""
    warmup_steps: int = Field(50, ge=0)
    """Updates over which the learning rate rises; at most a tenth of all."""
    schedule: Schedule = "linear"
    """How the learning rate falls after the warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over the vocabulary."""
    max_length: int = Field(512, ge=2)
    """Tokens that prompt and text may have together."""
    overlong: Overlong = "error"
    """What to do with longer examples."""
    prompt_form: PromptForm = "paper"
    """Form of the prompt: paper (facts, end-of-text token), arrow (facts, =>) or chat (the base's chat template)."""
    linearization: str = "paper"
    """How facts become text."""
    tokens_per_pass: int = Field(4096, ge=1)
    """Tree nodes in one forward pass; a larger update accumulates its gradient over several."""
    eval_every: int | None = Field(None, ge=1)
    """Validate after so many updates, beside the start and the end; by default once an epoch."""
    patience: int | None = Field(None, ge=1)
    """Stop when so many validations in a row brought no better loss."""
    precision: Precision = "auto"
    """Precision of matrix products: fp32, tf32 (GPU only), bf16, int8 (lora on a CPU only), or auto, which times an
    update in each that the machine offers and takes the fastest."""
    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:N, or auto, which is a GPU if there is one (the CPU for int8)."""
    seed: int = 0
    """Of the adapter's initial values, the order of examples and the dropout."""
    output: Path | None = None
    """Run directory to make; by default runs/DATA-METHOD-N."""

    @model_validator(mode="after")
    def _combination(self) -> Self:
        self.lora_config()
        if self.precision == "int8" and (self.method != "lora" or self.device not in ("auto", "cpu")):
            raise SettingsError(
                "int8 is for frozen weights on a CPU",
                where="precision",
                hint="use --method lora and --device cpu, or another precision",
            )
        return self

    def lora_config(self) -> LoraConfig:
        """The adapter's settings."""
        return LoraConfig(
            rank=self.rank,
            alpha=self.alpha,
            targets=self.targets,
            rank_pattern=self.rank_pattern,
            alpha_pattern=self.alpha_pattern,
            dropout=self.dropout,
            rslora=self.rslora,
            dora=self.dora,
            bias=self.bias,
        )

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate as told, or the method's own."""
        return LEARNING_RATE[self.method] if self.learning_rate is None else self.learning_rate
