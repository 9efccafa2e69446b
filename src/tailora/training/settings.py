"""The settings of a training run, and what they mean for each method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from tailora.adapters.config import Bias, LoraConfig
from tailora.core.errors import SettingsError
from tailora.core.settings import Settings, Unset
from tailora.data.examples import Overlong
from tailora.data.linearize import Linearization
from tailora.data.prompts import PromptForm
from tailora.data.reading import Limit, ReadingSettings
from tailora.models.settings import BASE, DeviceName
from tailora.training.named_recipes import Recipe, added, recipe_help

Method = Literal["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"]
Schedule = Literal["linear", "cosine", "constant"]
Resume = Literal["auto", "never"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]
TrainingPrecision = Literal["auto", "fp32", "tf32", "bf16", "int8"]

LEARNING_RATE: dict[Method, float] = {
    "lora": 2e-3,
    **dict.fromkeys(("bitfit", "adapter-h", "adapter-l"), 1e-3),
    "top2": 1e-4,
    "full": 5e-5,
    "prefix": 3e-2,
}
FROZEN_BASE: tuple[Method, ...] = ("lora", "adapter-h", "adapter-l", "prefix")
"""The methods that leave the base as it is; with `bias`, lora trains biases of the base as well."""


class TrainingDataSettings(ReadingSettings):
    """The records to train and to validate on."""

    data: str
    """Records with texts: a file, a folder of splits, or the name of a data set."""
    valid: Annotated[str | None, Unset("the split `valid` of the data, if it has splits")] = None
    """Records to validate on."""
    limit: Limit = None
    valid_limit: Annotated[int | None, Field(ge=1), Unset("all")] = None
    """Number of validation records to use, from the first one on."""


class AdapterSettings(Settings):
    """The adapter that methods lora, adapter-h and adapter-l train, or the prefix of method prefix."""

    heading = "adapter"
    rank: int = Field(8, ge=1)
    """Rank of the adapter."""
    alpha: float = Field(16.0, gt=0)
    """Numerator of the adapter's scale, alpha / rank."""
    targets: tuple[str, ...] = ("all-linear",)
    """Layers to adapt: attention.qv, attention, mlp, all-linear, head, embedding, or patterns of module paths."""
    rank_pattern: Annotated[dict[str, int], Unset("none")] = Field(default_factory=dict)
    """Ranks of single layers, as PATTERN=RANK with patterns of module paths. The first pattern that matches counts."""
    alpha_pattern: Annotated[dict[str, float], Unset("none")] = Field(default_factory=dict)
    """Alphas of single layers, as PATTERN=ALPHA. The first pattern that matches counts."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability on the input of the adapter."""
    rslora: bool = False
    """Scale the adapter by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."""
    dora: bool = False
    """Learn a magnitude for each output as well (DoRA)."""
    bias: Bias = "none"
    """Biases to train with the adapter: none, all of the model's, or those of the adapted layers."""
    lora_plus_ratio: Annotated[float | None, Field(ge=1), Unset("one learning rate for all")] = None
    """Ratio of the learning rate of B to that of A (LoRA+). DoRA's magnitudes and biases learn at the rate of B, and
    adapted embeddings at 1e-6."""

    bottleneck: int = Field(64, ge=1)
    """Width of the bottlenecks of methods adapter-h and adapter-l, in units."""
    prefix_tokens: int = Field(5, ge=1)
    """Number of virtual tokens of method prefix, whose keys and values are trained."""

    def lora_config(self) -> LoraConfig:
        """Return the configuration of the adapter of method lora."""
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


class ExampleSettings(Settings):
    """How records become prompts and texts of tokens."""

    heading = "prompt"
    prompt_form: Annotated[
        PromptForm | None, Unset("chat for conversations if the base has a chat template, else paper")
    ] = None
    """Form of the prompt: paper (facts, end-of-text token), arrow (facts, =>) or chat (the base's chat template)."""
    linearization: Linearization = "paper"
    """How facts become a line of text: paper (name : Blue Spice | …) or plain (name: Blue Spice; …)."""
    max_length: int = Field(512, ge=2)
    """Maximum length of prompt and text together, in tokens."""
    overlong: Overlong = "error"
    """What happens to longer examples: an error, or they are dropped, or their text is cut."""


class OptimizationSettings(Settings):
    """How the parameters are trained."""

    heading = "optimisation"
    batch_size: int = Field(32, ge=1)
    """Number of examples in an update."""
    group_size: Annotated[int | None, Field(ge=1), Unset("an eighth of the batch")] = None
    """Maximum number of texts of one record that are placed together in an update."""
    epochs: int = Field(3, ge=1)
    """Number of epochs: passes over the training data."""
    max_steps: Annotated[int | None, Field(ge=1), Unset("no limit")] = None
    """Maximum number of updates."""
    warmup_steps: int = Field(50, ge=0)
    """Number of updates over which the learning rate rises; lowered to a tenth of all updates if it is more."""
    schedule: Schedule = "linear"
    """Course of the learning rate after the warm-up: it falls linearly, falls along a cosine, or stays constant."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Norm to which gradients are clipped."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target probability that is spread over the whole vocabulary."""
    average: float = Field(0.0, ge=0, lt=1)
    """Share of the updates, at the end of the run, over which the parameters are averaged. The average is validated
    after the last update, and is the result if its loss is the lowest; without validation data, it always is."""
    eval_every: Annotated[int | None, Field(ge=1), Unset("once an epoch")] = None
    """Number of updates between two validations. There is also one before the first and after the last update."""
    patience: Annotated[int | None, Field(ge=1), Unset("never stop early")] = None
    """Number of validations in a row without a better loss after which training stops."""
    seed: int = 0
    """Seed of the adapter's initial values, the order of the examples and the dropout."""

    @property
    def generator_seed(self) -> int:
        """The seed for PyTorch's generators, which take 64 bits."""
        return self.seed % 2**64


class RunSettings(TrainingDataSettings, AdapterSettings, ExampleSettings, OptimizationSettings):
    """What `train`, `tune` and `compare` share: all but the method, its learning rate and the output."""

    heading = "computation"
    main = "data"
    headings: ClassVar = {"base": "model", "recipe": "method"}
    recipe: Annotated[Recipe | None, Unset("none")] = None
    """Settings under one name, which flags and the configuration override: fast (at most 300 updates), best (a long
    run) or lora-paper (Hu et al. 2021, E2E). Its learning rate is for method lora."""
    base: Annotated[str, Field(description=BASE)] = "tiny"
    tokens_per_pass: int = Field(4096, ge=1)
    """Maximum number of tokens in one forward pass, common prefixes counted once. Larger updates accumulate the
    gradients of several passes."""
    gradient_checkpointing: bool = False
    """Keep only the input of each block during a forward pass, and compute the block again for its gradient. The
    gradients are the same; a pass needs less memory and more time."""
    precision: TrainingPrecision = "auto"
    """Precision of matrix products. tf32 needs a GPU, and int8 method lora on a CPU. auto measures an update in each
    precision that the machine supports and uses the fastest."""
    device: DeviceName = "auto"
    memory_limit: Annotated[float | None, Field(gt=0), Unset("what the machine or its container has free")] = None
    """Memory that the run may use on a machine, in GiB, shared equally by the processes on it; on a GPU, the memory of
    each GPU. A run that needs more is refused before it starts."""

    @model_validator(mode="wrap")
    @classmethod
    def _with_recipe(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Add what the recipe sets; it does not count as set, so that copies with other settings start from these."""
        extra = added(values, cls.model_fields) if isinstance(values, Mapping) else {}
        settings = validate({**extra, **values} if extra else values)
        settings.model_fields_set.difference_update(extra)
        return settings

    @model_validator(mode="after")
    def _usable(self) -> Self:
        self.lora_config()
        if self.precision == "int8" and self.device not in ("auto", "cpu"):
            raise SettingsError("int8 needs a CPU", where="precision", hint="use --device cpu, or another precision")
        return self

    @classmethod
    def help_appendix(cls) -> str:
        """The table of recipes."""
        return recipe_help()


class TrainSettings(RunSettings):
    """Settings of `tailora train`."""

    heading = "method"
    headings: ClassVar = {"save_every": "output", "resume": "output", "track": "output"}
    method: Method = "lora"
    """Parameters to train: an adapter (lora), all weights (full), the biases (bitfit), the top two blocks (top2),
    Houlsby's adapters (adapter-h), Lin's adapters (adapter-l) or a prefix of keys and values (prefix)."""
    learning_rate: Annotated[
        float | None,
        Field(gt=0),
        Unset("2e-3 for lora, 5e-5 for full, 1e-4 for top2, 3e-2 for prefix, 1e-3 for other methods"),
    ] = None
    """Peak learning rate."""
    output: Annotated[Path | None, Unset("runs/DATA-METHOD-N")] = None
    """Run directory to create, or that of an unfinished run to continue."""
    save_every: float = Field(5.0, ge=0)
    """Minutes between two saves of the state from which a run continues after it was killed; 0 saves it after every
    update. Except with 0, saving takes at most 1% of the running time."""
    resume: Resume = "auto"
    """What happens if an unfinished run with the same settings exists: auto continues it, never starts a new run."""

    track: Annotated[tuple[TrackerName, ...], Unset("none")] = ()
    """Trackers that also get the figures of metrics.jsonl, separated by commas. Each needs the extra of its name."""

    @model_validator(mode="after")
    def _combination(self) -> Self:
        if self.precision == "int8" and self.method != "lora":
            hint = "use --method lora, or another precision"
            raise SettingsError("int8 is available for method lora only", where="precision", hint=hint)
        return self

    @property
    def size(self) -> int:
        """The size of what a method inserts: virtual tokens, or the width of the bottleneck."""
        return self.prefix_tokens if self.method == "prefix" else self.bottleneck

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate as set, or the method's default."""
        return LEARNING_RATE[self.method] if self.learning_rate is None else self.learning_rate
