"""Keyword arguments of the Python API: the settings of the commands, with their names, defaults and checks.

Made by `tools/api_options.py` from the settings classes; do not edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict


class ReadingOptions(TypedDict, total=False):
    """Keyword arguments made of `ReadingSettings`."""

    format: Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"] | None
    """Format of the data. See docs/data.md."""
    columns: Mapping[str, Any]
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: str | None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool
    """Also use the WebNLG texts that its annotators marked as faulty."""


class TrainOptions(TypedDict, total=False):
    """Keyword arguments made of `TrainSettings`."""

    batch_size: int
    """Number of examples in an update."""
    group_size: int | None
    """Maximum number of texts of one record that are placed together in an update."""
    epochs: int
    """Number of epochs: passes over the training data."""
    max_steps: int | None
    """Maximum number of updates."""
    warmup_steps: int
    """Number of updates over which the learning rate rises; lowered to a tenth of all updates if it is more."""
    schedule: Literal["linear", "cosine", "constant"]
    """Course of the learning rate after the warm-up: it falls linearly, falls along a cosine, or stays constant."""
    weight_decay: float
    """Weight decay of AdamW."""
    max_grad_norm: float
    """Norm to which gradients are clipped."""
    label_smoothing: float
    """Share of the target probability that is spread over the whole vocabulary."""
    average: float
    """Share of the updates, at the end of the run, over which the parameters are averaged. The average is validated
    after the last update, and is the result if its loss is the lowest; without validation data, it always is."""
    eval_every: int | None
    """Number of updates between two validations. There is also one before the first and after the last update."""
    patience: int | None
    """Number of validations in a row without a better loss after which training stops."""
    seed: int
    """Seed of the adapter's initial values, the order of the examples and the dropout."""
    prompt_form: Literal["paper", "arrow", "chat"] | None
    """Form of the prompt: paper (facts, end-of-text token), arrow (facts, =>) or chat (the base's chat template)."""
    linearization: Literal["paper", "plain"]
    """How facts become a line of text: paper (name : Blue Spice | …) or plain (name: Blue Spice; …)."""
    max_length: int
    """Maximum length of prompt and text together, in tokens."""
    overlong: Literal["error", "drop", "cut"]
    """What happens to longer examples: an error, or they are dropped, or their text is cut."""
    rank: int
    """Rank of the adapter."""
    alpha: float
    """Numerator of the adapter's scale, alpha / rank."""
    targets: Sequence[str]
    """Layers to adapt: attention.qv, attention, mlp, all-linear, head, embedding, or patterns of module paths."""
    rank_pattern: Mapping[str, int]
    """Ranks of single layers, as PATTERN=RANK with patterns of module paths. The first pattern that matches counts."""
    alpha_pattern: Mapping[str, float]
    """Alphas of single layers, as PATTERN=ALPHA. The first pattern that matches counts."""
    dropout: float
    """Dropout probability on the input of the adapter."""
    rslora: bool
    """Scale the adapter by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."""
    dora: bool
    """Learn a magnitude for each output as well (DoRA)."""
    bias: Literal["none", "all", "lora_only"]
    """Biases to train with the adapter: none, all of the model's, or those of the adapted layers."""
    lora_plus_ratio: float | None
    """Ratio of the learning rate of B to that of A (LoRA+). DoRA's magnitudes and biases learn at the rate of B, and
    adapted embeddings at 1e-6."""
    bottleneck: int
    """Width of the bottlenecks of methods adapter-h and adapter-l, in units."""
    prefix_tokens: int
    """Number of virtual tokens of method prefix, whose keys and values are trained."""
    format: Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"] | None
    """Format of the data. See docs/data.md."""
    columns: Mapping[str, Any]
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: str | None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool
    """Also use the WebNLG texts that its annotators marked as faulty."""
    limit: int | None
    """Number of records to use, from the first one on."""
    valid_limit: int | None
    """Number of validation records to use, from the first one on."""
    recipe: Literal["fast", "best", "lora-paper"] | None
    """Settings under one name, which flags and the configuration override: fast (at most 300 updates), best (a long
    run) or lora-paper (Hu et al. 2021, E2E). Its learning rate is for method lora."""
    base: str
    """Base model: a name from `tailora models`, a folder, a .gguf file, or a Hugging Face hub id. A name or hub id can
    be followed by @REVISION, a commit, tag or branch of the hub."""
    tokens_per_pass: int
    """Maximum number of tokens in one forward pass, common prefixes counted once. Larger updates accumulate the
    gradients of several passes."""
    gradient_checkpointing: bool
    """Keep only the input of each block during a forward pass, and compute the block again for its gradient. The
    gradients are the same; a pass needs less memory and more time."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "int8"]
    """Precision of matrix products. tf32 needs a GPU, and int8 method lora on a CPU. auto measures an update in each
    precision that the machine supports and uses the fastest."""
    device: str
    """Device to compute on: cpu, cuda, cuda:N, or auto (a GPU if there is one, else the CPU)."""
    memory_limit: float | None
    """Memory that the run may use on a machine, in GiB, shared equally by the processes on it; on a GPU, the memory of
    each GPU. A run that needs more is refused before it starts."""
    method: Literal["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"]
    """Parameters to train: an adapter (lora), all weights (full), the biases (bitfit), the top two blocks (top2),
    Houlsby's adapters (adapter-h), Lin's adapters (adapter-l) or a prefix of keys and values (prefix)."""
    learning_rate: float | None
    """Peak learning rate."""
    output: str | PathLike[str] | None
    """Run directory to create, or that of an unfinished run to continue."""
    save_every: float
    """Minutes between two saves of the state from which a run continues after it was killed; 0 saves it after every
    update. Except with 0, saving takes at most 1% of the running time."""
    resume: Literal["auto", "never"]
    """What happens if an unfinished run with the same settings exists: auto continues it, never starts a new run."""
    track: Sequence[str]
    """Trackers that also get the figures of metrics.jsonl, separated by commas. Each needs the extra of its name."""


class EngineOptions(TypedDict, total=False):
    """Keyword arguments made of `ModelSettings`."""

    backend: Literal["auto", "openvino", "torch"]
    """Inference backend. auto is openvino on a CPU if it supports the architecture, and torch otherwise."""
    precision: Literal["auto", "int8", "bf16", "fp32"]
    """Precision of matrix products. auto is int8 with OpenVINO and fp32 with torch, unless another one is more than 10%
    faster on this machine."""
    device: str
    """Device to compute on: cpu, cuda, cuda:N, or auto (a GPU if there is one, else the CPU)."""
    drafts: int
    """Maximum number of tokens that a step drafts for a text, from the prompt and from the adapter's training texts. 0
    turns drafts off. Drafts change the speed, not the texts."""
    force: bool
    """Accept an adapter that was trained on another base model's weights."""
    merged: bool
    """Merge the adapter into the weights before writing. The results are the same and writing is slightly faster."""
    linearization: Literal["paper", "plain"] | None
    """How facts become a line of text: paper (name : Blue Spice | …) or plain (name: Blue Spice; …)."""
    prompt_form: Literal["paper", "arrow", "chat"] | None
    """How that line becomes a prompt: paper appends the end-of-text token, arrow appends =>, and chat uses the base's
    chat template."""
    batch_size: int
    """Number of records that are written about at the same time."""


class DecodingOptions(TypedDict, total=False):
    """Keyword arguments made of `DecodingSettings`."""

    preset: Literal["lora-paper", "lora-paper-e2e"] | None
    """Decoding of Hu et al. 2021: lora-paper for WebNLG and DART, lora-paper-e2e for E2E. Other flags override it."""
    max_new_tokens: int
    """Maximum length of a text, in tokens."""
    beams: int
    """Number of beams. With 1, decoding is greedy, or samples if the temperature is above 0."""
    length_penalty: float
    """Exponent of the length in the score of a beam: log-probability / tokens ** penalty."""
    no_repeat_ngram_size: int
    """Length of the token sequences that may not occur twice in a text. 0 allows all repetitions."""
    repetition_penalty: float
    """Factor by which tokens of the prompt and of the text so far become less likely. 1 has no effect."""
    presence_penalty: float
    """Amount that is subtracted from the logit of every token that the text already contains."""
    frequency_penalty: float
    """Amount that is subtracted from a token's logit for each of its occurrences in the text so far."""
    logit_bias: Mapping[int, float]
    """Amount that is added to a token's logit, as TOKEN_ID=BIAS with a bias from -100 to 100. Repeat the flag for
    several tokens."""
    temperature: float
    """Sampling temperature. 0 takes the most likely token; values below 1 make likely tokens more likely."""
    top_k: int
    """Sample from the K most likely tokens only. 0 samples from all."""
    top_p: float
    """Sample from the smallest set of tokens whose probabilities add up to this. 0 takes the most likely token."""
    min_p: float
    """Sample only from tokens at least this fraction as likely as the most likely token."""
    num_candidates: int
    """Number of texts for each record: the best beams, or that many samples."""
    rerank: Literal["fidelity"] | None
    """Choose among a record's candidates: fidelity takes the one with the fewest slot errors. All beams are candidates
    unless the number of candidates is set."""
    faithful: bool
    """Take the most likely candidate without slot errors, as with --rerank fidelity, and sample further candidates for
    a record if there is none. A text that still has slot errors has them in the field `slot_errors` of its row."""
    faithful_candidates: int
    """Maximum number of further candidates for a record, with --faithful."""
    slot_rules: str | PathLike[str] | None
    """YAML file of rules for how texts express values, in addition to the bundled ones. See docs/evaluate.md."""
    logprobs: bool
    """Write the log-probability of each token as well, in nats."""
    stop: Sequence[str]
    """String at which a text ends; it is cut off. \\n is a line end and \\t a tab. Repeat the flag for several."""
    seed: int
    """Sampling seed. With a fixed seed, a text depends only on its record and the settings."""


class MergeOptions(TypedDict, total=False):
    """Keyword arguments made of `MergeSettings`."""

    base: str | None
    """Base model: a name from `tailora models`, a folder, a .gguf file, or a Hugging Face hub id. A name or hub id can
    be followed by @REVISION, a commit, tag or branch of the hub."""
    force: bool
    """Accept an adapter that was trained on another base model's weights."""
    weights: float | Sequence[float]
    """Factors by which the adapters are multiplied, in the order of --adapter, separated by commas."""
    svd: int | None
    """Rank at which the sum of the adapters is approximated (SVD)."""
    check: bool
    """Compare the written model with base + adapter, and write the measurements to verify.json."""


class ConvertOptions(TypedDict, total=False):
    """Keyword arguments made of `ConvertSettings`."""

    base: str | None
    """Base model: a name from `tailora models`, a folder, a .gguf file, or a Hugging Face hub id. A name or hub id can
    be followed by @REVISION, a commit, tag or branch of the hub."""
    force: bool
    """Accept an adapter that was trained on another base model's weights."""
    to: Literal["peft", "loralib", "gguf", "openvino-genai"]
    """Format to write: a folder (peft; openvino-genai, with the scale multiplied in), a .bin file (loralib) or a .gguf
    file for llama.cpp (gguf, which needs the base model). With --base, the logits are compared as well."""
    merged: bool
    """With --to gguf: write a folder with the whole model, the adapter merged into it, and an Ollama Modelfile. Runs of
    any method can be written."""
    storage: Literal["f32", "f16", "q8_0"] | None
    """Type of the matrices of a merged GGUF model: f32, f16 or q8_0."""


class QuantizeOptions(TypedDict, total=False):
    """Keyword arguments made of `QuantizeSettings`."""

    base: str | None
    """Base model: a name from `tailora models`, a folder, a .gguf file, or a Hugging Face hub id. A name or hub id can
    be followed by @REVISION, a commit, tag or branch of the hub."""
    force: bool
    """Accept an adapter that was trained on another base model's weights."""
    format: Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"] | None
    """Format of the data. See docs/data.md."""
    columns: Mapping[str, Any]
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: str | None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool
    """Also use the WebNLG texts that its annotators marked as faulty."""
    split: Literal["train", "valid", "test"] | None
    """Split to use, if the input is a folder of splits or the name of a data set."""
    limit: int | None
    """Number of records to use, from the first one on."""
    input: str | None
    """Records with texts on which the models are compared: a file, a folder of splits, or the name of a data set."""
    new_tokens: int
    """Length of the greedy texts that are compared, in tokens."""
    adapter: str | PathLike[str] | None
    """Adapter to store with the base, in its subfolder `adapter`, or to merge: a folder, a file or a run directory."""
    merged: bool
    """Merge the adapter in fp32 before rounding."""
    to: Literal["int8", "bf16", "fp16"]
    """Type of the stored weights. int8 has one scale per output channel."""
    tolerance: float
    """Largest accepted rise of the perplexity, as a fraction."""


class VerifyOptions(TypedDict, total=False):
    """Keyword arguments made of `VerifySettings`."""

    base: str | None
    """Base model: a name from `tailora models`, a folder, a .gguf file, or a Hugging Face hub id. A name or hub id can
    be followed by @REVISION, a commit, tag or branch of the hub."""
    force: bool
    """Accept an adapter that was trained on another base model's weights."""
    format: Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"] | None
    """Format of the data. See docs/data.md."""
    columns: Mapping[str, Any]
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: str | None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool
    """Also use the WebNLG texts that its annotators marked as faulty."""
    split: Literal["train", "valid", "test"] | None
    """Split to use, if the input is a folder of splits or the name of a data set."""
    limit: int | None
    """Number of records to use, from the first one on."""
    input: str | None
    """Records with texts on which the models are compared: a file, a folder of splits, or the name of a data set."""
    new_tokens: int
    """Length of the greedy texts that are compared, in tokens."""
    adapter: str | PathLike[str] | None
    """Adapter: a folder, a file or a run directory."""
    model: str | None
    """Merged, quantised or converted model to compare with base and adapter."""
    base_only: bool
    """Compare the model with its base only, without the adapter that was merged into it."""
    tolerance: float
    """Largest accepted drift: the distance between the model and base + adapter, relative to the adapter's effect."""


class CompareOptions(TypedDict, total=False):
    """Keyword arguments made of `CompareSettings`."""

    batch_size: int
    """Number of examples in an update."""
    group_size: int | None
    """Maximum number of texts of one record that are placed together in an update."""
    epochs: int
    """Number of epochs: passes over the training data."""
    max_steps: int | None
    """Maximum number of updates."""
    warmup_steps: int
    """Number of updates over which the learning rate rises; lowered to a tenth of all updates if it is more."""
    schedule: Literal["linear", "cosine", "constant"]
    """Course of the learning rate after the warm-up: it falls linearly, falls along a cosine, or stays constant."""
    weight_decay: float
    """Weight decay of AdamW."""
    max_grad_norm: float
    """Norm to which gradients are clipped."""
    label_smoothing: float
    """Share of the target probability that is spread over the whole vocabulary."""
    average: float
    """Share of the updates, at the end of the run, over which the parameters are averaged. The average is validated
    after the last update, and is the result if its loss is the lowest; without validation data, it always is."""
    eval_every: int | None
    """Number of updates between two validations. There is also one before the first and after the last update."""
    patience: int | None
    """Number of validations in a row without a better loss after which training stops."""
    seed: int
    """Seed of the adapter's initial values, the order of the examples and the dropout."""
    prompt_form: Literal["paper", "arrow", "chat"] | None
    """Form of the prompt: paper (facts, end-of-text token), arrow (facts, =>) or chat (the base's chat template)."""
    linearization: Literal["paper", "plain"]
    """How facts become a line of text: paper (name : Blue Spice | …) or plain (name: Blue Spice; …)."""
    max_length: int
    """Maximum length of prompt and text together, in tokens."""
    overlong: Literal["error", "drop", "cut"]
    """What happens to longer examples: an error, or they are dropped, or their text is cut."""
    rank: int
    """Rank of the adapter."""
    alpha: float
    """Numerator of the adapter's scale, alpha / rank."""
    targets: Sequence[str]
    """Layers to adapt: attention.qv, attention, mlp, all-linear, head, embedding, or patterns of module paths."""
    rank_pattern: Mapping[str, int]
    """Ranks of single layers, as PATTERN=RANK with patterns of module paths. The first pattern that matches counts."""
    alpha_pattern: Mapping[str, float]
    """Alphas of single layers, as PATTERN=ALPHA. The first pattern that matches counts."""
    dropout: float
    """Dropout probability on the input of the adapter."""
    rslora: bool
    """Scale the adapter by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."""
    dora: bool
    """Learn a magnitude for each output as well (DoRA)."""
    bias: Literal["none", "all", "lora_only"]
    """Biases to train with the adapter: none, all of the model's, or those of the adapted layers."""
    lora_plus_ratio: float | None
    """Ratio of the learning rate of B to that of A (LoRA+). DoRA's magnitudes and biases learn at the rate of B, and
    adapted embeddings at 1e-6."""
    bottleneck: int
    """Width of the bottlenecks of methods adapter-h and adapter-l, in units."""
    prefix_tokens: int
    """Number of virtual tokens of method prefix, whose keys and values are trained."""
    format: Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"] | None
    """Format of the data. See docs/data.md."""
    columns: Mapping[str, Any]
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: str | None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool
    """Also use the WebNLG texts that its annotators marked as faulty."""
    limit: int | None
    """Number of records to use, from the first one on."""
    valid_limit: int | None
    """Number of validation records to use, from the first one on."""
    recipe: Literal["fast", "best", "lora-paper"] | None
    """Settings under one name, which flags and the configuration override: fast (at most 300 updates), best (a long
    run) or lora-paper (Hu et al. 2021, E2E). Its learning rate is for method lora."""
    base: str
    """Base model: a name from `tailora models`, a folder, a .gguf file, or a Hugging Face hub id. A name or hub id can
    be followed by @REVISION, a commit, tag or branch of the hub."""
    tokens_per_pass: int
    """Maximum number of tokens in one forward pass, common prefixes counted once. Larger updates accumulate the
    gradients of several passes."""
    gradient_checkpointing: bool
    """Keep only the input of each block during a forward pass, and compute the block again for its gradient. The
    gradients are the same; a pass needs less memory and more time."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "int8"]
    """Precision of matrix products. tf32 needs a GPU, and int8 method lora on a CPU. auto measures an update in each
    precision that the machine supports and uses the fastest."""
    device: str
    """Device to compute on: cpu, cuda, cuda:N, or auto (a GPU if there is one, else the CPU)."""
    memory_limit: float | None
    """Memory that the run may use on a machine, in GiB, shared equally by the processes on it; on a GPU, the memory of
    each GPU. A run that needs more is refused before it starts."""
    methods: Sequence[str]
    """Methods to compare, separated by commas."""
    learning_rates: Mapping[str, Any]
    """Learning rates to try, as METHOD=RATE|RATE|…, or as lists in the configuration."""
    grid_limit: int | None
    """Number of training records for trying the learning rates. The best rate is then trained with all records."""
    seeds: int | Sequence[int]
    """Seeds, separated by commas. The learning rates are tried with the first one, and the best is trained with each.
    Losses and scores are then reported as mean and standard deviation."""
    test: str | None
    """Records to write about and to score."""
    test_limit: int | None
    """Number of test records to use, from the first one on."""
    max_new_tokens: int
    """Maximum length of a text, in tokens. Texts are written greedily."""
    metrics: Sequence[str]
    """Metrics to compute, separated by commas."""
    draws: int
    """Number of bootstrap samples of the records for the confidence intervals."""
    tasks: int
    """Number of tasks for which the report estimates the disk space."""
    output: str | PathLike[str] | None
    """Folder for the runs and the comparison."""


class TuneOptions(TypedDict, total=False):
    """Keyword arguments made of `TuneSettings`."""

    batch_size: int
    """Number of examples in an update."""
    group_size: int | None
    """Maximum number of texts of one record that are placed together in an update."""
    epochs: int
    """Number of epochs: passes over the training data."""
    max_steps: int | None
    """Maximum number of updates."""
    warmup_steps: int
    """Number of updates over which the learning rate rises; lowered to a tenth of all updates if it is more."""
    schedule: Literal["linear", "cosine", "constant"]
    """Course of the learning rate after the warm-up: it falls linearly, falls along a cosine, or stays constant."""
    weight_decay: float
    """Weight decay of AdamW."""
    max_grad_norm: float
    """Norm to which gradients are clipped."""
    label_smoothing: float
    """Share of the target probability that is spread over the whole vocabulary."""
    average: float
    """Share of the updates, at the end of the run, over which the parameters are averaged. The average is validated
    after the last update, and is the result if its loss is the lowest; without validation data, it always is."""
    eval_every: int | None
    """Number of updates between two validations. There is also one before the first and after the last update."""
    patience: int | None
    """Number of validations in a row without a better loss after which training stops."""
    seed: int
    """Seed of the adapter's initial values, the order of the examples and the dropout."""
    prompt_form: Literal["paper", "arrow", "chat"] | None
    """Form of the prompt: paper (facts, end-of-text token), arrow (facts, =>) or chat (the base's chat template)."""
    linearization: Literal["paper", "plain"]
    """How facts become a line of text: paper (name : Blue Spice | …) or plain (name: Blue Spice; …)."""
    max_length: int
    """Maximum length of prompt and text together, in tokens."""
    overlong: Literal["error", "drop", "cut"]
    """What happens to longer examples: an error, or they are dropped, or their text is cut."""
    rank: int
    """Rank of the adapter."""
    alpha: float
    """Numerator of the adapter's scale, alpha / rank."""
    targets: Sequence[str]
    """Layers to adapt: attention.qv, attention, mlp, all-linear, head, embedding, or patterns of module paths."""
    rank_pattern: Mapping[str, int]
    """Ranks of single layers, as PATTERN=RANK with patterns of module paths. The first pattern that matches counts."""
    alpha_pattern: Mapping[str, float]
    """Alphas of single layers, as PATTERN=ALPHA. The first pattern that matches counts."""
    dropout: float
    """Dropout probability on the input of the adapter."""
    rslora: bool
    """Scale the adapter by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."""
    dora: bool
    """Learn a magnitude for each output as well (DoRA)."""
    bias: Literal["none", "all", "lora_only"]
    """Biases to train with the adapter: none, all of the model's, or those of the adapted layers."""
    lora_plus_ratio: float | None
    """Ratio of the learning rate of B to that of A (LoRA+). DoRA's magnitudes and biases learn at the rate of B, and
    adapted embeddings at 1e-6."""
    bottleneck: int
    """Width of the bottlenecks of methods adapter-h and adapter-l, in units."""
    prefix_tokens: int
    """Number of virtual tokens of method prefix, whose keys and values are trained."""
    format: Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"] | None
    """Format of the data. See docs/data.md."""
    columns: Mapping[str, Any]
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: str | None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool
    """Also use the WebNLG texts that its annotators marked as faulty."""
    limit: int | None
    """Number of records to use, from the first one on."""
    valid_limit: int | None
    """Number of validation records to use, from the first one on."""
    recipe: Literal["fast", "best", "lora-paper"] | None
    """Settings under one name, which flags and the configuration override: fast (at most 300 updates), best (a long
    run) or lora-paper (Hu et al. 2021, E2E). Its learning rate is for method lora."""
    base: str
    """Base model: a name from `tailora models`, a folder, a .gguf file, or a Hugging Face hub id. A name or hub id can
    be followed by @REVISION, a commit, tag or branch of the hub."""
    tokens_per_pass: int
    """Maximum number of tokens in one forward pass, common prefixes counted once. Larger updates accumulate the
    gradients of several passes."""
    gradient_checkpointing: bool
    """Keep only the input of each block during a forward pass, and compute the block again for its gradient. The
    gradients are the same; a pass needs less memory and more time."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "int8"]
    """Precision of matrix products. tf32 needs a GPU, and int8 method lora on a CPU. auto measures an update in each
    precision that the machine supports and uses the fastest."""
    device: str
    """Device to compute on: cpu, cuda, cuda:N, or auto (a GPU if there is one, else the CPU)."""
    memory_limit: float | None
    """Memory that the run may use on a machine, in GiB, shared equally by the processes on it; on a GPU, the memory of
    each GPU. A run that needs more is refused before it starts."""
    method: Literal["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"]
    """Parameters to train: an adapter (lora), all weights (full), the biases (bitfit), the top two blocks (top2),
    Houlsby's adapters (adapter-h), Lin's adapters (adapter-l) or a prefix of keys and values (prefix)."""
    learning_rate: float | None
    """Peak learning rate."""
    output: str | PathLike[str] | None
    """Folder for the trials and the results of the study."""
    save_every: float
    """Minutes between two saves of the state from which a run continues after it was killed; 0 saves it after every
    update. Except with 0, saving takes at most 1% of the running time."""
    resume: Literal["auto", "never"]
    """What happens if an unfinished run with the same settings exists: auto continues it, never starts a new run."""
    track: Sequence[str]
    """Trackers that also get the figures of metrics.jsonl, separated by commas. Each needs the extra of its name."""
    ranges: Mapping[str, Any]
    """Settings to vary, as SETTING=RANGE: values (a|b|c, or a list in the configuration) or a range (1e-4..3e-3, which
    is logarithmic if its end is at least ten times its start)."""
    trials: int
    """Total number of trials, including those of other processes and of earlier starts."""
    storage: str | None
    """File or database URL, shared by all processes of the study."""
    study: str | None
    """Name of the study in its storage."""


class LearningCurveOptions(TypedDict, total=False):
    """Keyword arguments made of `LearningCurveSettings`."""

    batch_size: int
    """Number of examples in an update."""
    group_size: int | None
    """Maximum number of texts of one record that are placed together in an update."""
    epochs: int
    """Number of epochs: passes over the training data."""
    max_steps: int | None
    """Maximum number of updates."""
    warmup_steps: int
    """Number of updates over which the learning rate rises; lowered to a tenth of all updates if it is more."""
    schedule: Literal["linear", "cosine", "constant"]
    """Course of the learning rate after the warm-up: it falls linearly, falls along a cosine, or stays constant."""
    weight_decay: float
    """Weight decay of AdamW."""
    max_grad_norm: float
    """Norm to which gradients are clipped."""
    label_smoothing: float
    """Share of the target probability that is spread over the whole vocabulary."""
    average: float
    """Share of the updates, at the end of the run, over which the parameters are averaged. The average is validated
    after the last update, and is the result if its loss is the lowest; without validation data, it always is."""
    eval_every: int | None
    """Number of updates between two validations. There is also one before the first and after the last update."""
    patience: int | None
    """Number of validations in a row without a better loss after which training stops."""
    seed: int
    """Seed of the adapter's initial values, the order of the examples and the dropout."""
    prompt_form: Literal["paper", "arrow", "chat"] | None
    """Form of the prompt: paper (facts, end-of-text token), arrow (facts, =>) or chat (the base's chat template)."""
    linearization: Literal["paper", "plain"]
    """How facts become a line of text: paper (name : Blue Spice | …) or plain (name: Blue Spice; …)."""
    max_length: int
    """Maximum length of prompt and text together, in tokens."""
    overlong: Literal["error", "drop", "cut"]
    """What happens to longer examples: an error, or they are dropped, or their text is cut."""
    rank: int
    """Rank of the adapter."""
    alpha: float
    """Numerator of the adapter's scale, alpha / rank."""
    targets: Sequence[str]
    """Layers to adapt: attention.qv, attention, mlp, all-linear, head, embedding, or patterns of module paths."""
    rank_pattern: Mapping[str, int]
    """Ranks of single layers, as PATTERN=RANK with patterns of module paths. The first pattern that matches counts."""
    alpha_pattern: Mapping[str, float]
    """Alphas of single layers, as PATTERN=ALPHA. The first pattern that matches counts."""
    dropout: float
    """Dropout probability on the input of the adapter."""
    rslora: bool
    """Scale the adapter by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)."""
    dora: bool
    """Learn a magnitude for each output as well (DoRA)."""
    bias: Literal["none", "all", "lora_only"]
    """Biases to train with the adapter: none, all of the model's, or those of the adapted layers."""
    lora_plus_ratio: float | None
    """Ratio of the learning rate of B to that of A (LoRA+). DoRA's magnitudes and biases learn at the rate of B, and
    adapted embeddings at 1e-6."""
    bottleneck: int
    """Width of the bottlenecks of methods adapter-h and adapter-l, in units."""
    prefix_tokens: int
    """Number of virtual tokens of method prefix, whose keys and values are trained."""
    format: Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"] | None
    """Format of the data. See docs/data.md."""
    columns: Mapping[str, Any]
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: str | None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool
    """Also use the WebNLG texts that its annotators marked as faulty."""
    limit: int | None
    """Number of records to use, from the first one on."""
    valid_limit: int | None
    """Number of validation records to use, from the first one on."""
    recipe: Literal["fast", "best", "lora-paper"] | None
    """Settings under one name, which flags and the configuration override: fast (at most 300 updates), best (a long
    run) or lora-paper (Hu et al. 2021, E2E). Its learning rate is for method lora."""
    base: str
    """Base model: a name from `tailora models`, a folder, a .gguf file, or a Hugging Face hub id. A name or hub id can
    be followed by @REVISION, a commit, tag or branch of the hub."""
    tokens_per_pass: int
    """Maximum number of tokens in one forward pass, common prefixes counted once. Larger updates accumulate the
    gradients of several passes."""
    gradient_checkpointing: bool
    """Keep only the input of each block during a forward pass, and compute the block again for its gradient. The
    gradients are the same; a pass needs less memory and more time."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "int8"]
    """Precision of matrix products. tf32 needs a GPU, and int8 method lora on a CPU. auto measures an update in each
    precision that the machine supports and uses the fastest."""
    device: str
    """Device to compute on: cpu, cuda, cuda:N, or auto (a GPU if there is one, else the CPU)."""
    memory_limit: float | None
    """Memory that the run may use on a machine, in GiB, shared equally by the processes on it; on a GPU, the memory of
    each GPU. A run that needs more is refused before it starts."""
    method: Literal["lora", "full", "bitfit", "top2", "adapter-h", "adapter-l", "prefix"]
    """Parameters to train: an adapter (lora), all weights (full), the biases (bitfit), the top two blocks (top2),
    Houlsby's adapters (adapter-h), Lin's adapters (adapter-l) or a prefix of keys and values (prefix)."""
    learning_rate: float | None
    """Peak learning rate."""
    output: str | PathLike[str] | None
    """Folder for the runs and the curve."""
    save_every: float
    """Minutes between two saves of the state from which a run continues after it was killed; 0 saves it after every
    update. Except with 0, saving takes at most 1% of the running time."""
    resume: Literal["auto", "never"]
    """What happens if an unfinished run with the same settings exists: auto continues it, never starts a new run."""
    track: Sequence[str]
    """Trackers that also get the figures of metrics.jsonl, separated by commas. Each needs the extra of its name."""
    percentages: float | Sequence[float]
    """Parts of the training records to train on, in per cent, at least three, separated by commas."""
    repeats: int
    """Number of runs of each part, each on another random part and with another seed. Several make the interval more
    reliable."""


class LintOptions(TypedDict, total=False):
    """Keyword arguments made of `LintSettings`."""

    format: Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"] | None
    """Format of the data. See docs/data.md."""
    columns: Mapping[str, Any]
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: str | None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool
    """Also use the WebNLG texts that its annotators marked as faulty."""
    allow: Sequence[str]
    """Kinds of findings to accept, by their names in the table and separated by commas, or all."""
    show: int
    """Number of findings to print for each kind, and of examples in the HTML report."""
    sample: int
    """Number of rows to check of each larger table, Parquet, Arrow or JSON-lines file or data set of the hub, drawn at
    random. Files of up to 100,000 rows are always checked as a whole."""
    html: str | PathLike[str] | None
    """File for an HTML report with the counts and examples of each kind of finding."""


class CleanOptions(TypedDict, total=False):
    """Keyword arguments made of `CleanSettings`."""

    format: Literal["e2e", "piped", "webnlg-json", "webnlg-xml", "dart", "jsonl", "json", "csv", "tsv", "text"] | None
    """Format of the data. See docs/data.md."""
    columns: Mapping[str, Any]
    """Columns of a table, for example text=ref,facts=name+area or ignore=id+url. See docs/data.md."""
    language: str | None
    """Language of the texts to use, in files with several languages. `all` uses every language."""
    all_texts: bool
    """Also use the WebNLG texts that its annotators marked as faulty."""
    split: Literal["train", "valid", "test"] | None
    """Split to use, if the input is a folder of splits or the name of a data set."""
    only: Literal["missing", "added"] | None
    """Kind of error to correct: facts that the text leaves out (`missing`) or that the record lacks (`added`)."""
    keep_unsure: bool
    """Keep facts that the text may say in words which the rules mark as unsure."""
    keep_duplicates: bool
    """Keep rows with the same facts and the same text."""
    against: Sequence[str]
    """Files, such as the test set, whose records the output must not contain. Rows with the same facts, apart from
    names, are left out. The records of these files are compared as they are and as they would be cleaned."""
    keep_overlap: bool
    """Keep the rows that --against finds, and only count them."""
    slot_rules: str | PathLike[str] | None
    """File of rules for how texts express values, besides the bundled ones. See docs/evaluate.md."""
    report: str | PathLike[str] | None
    """JSON lines file to write: for each text what was changed, left out or undecided. It must not exist."""
    show: int
    """Number of examples to print for each attribute and kind of error."""
