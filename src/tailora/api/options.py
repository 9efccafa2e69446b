"""Keyword arguments of the Python API: the settings of the commands, with their names, defaults and checks.

Made by `tools/api_options.py` from the settings classes; do not edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict


class ReadingOptions(TypedDict, total=False):
    """Keyword arguments made of `ReadingSettings`."""

    format: str | None
    """Format of the data: e2e, piped, webnlg-json, webnlg-xml, dart, jsonl, csv or tsv; by default recognised by the
    content."""
    columns: Mapping[str, Any]
    """Which column of a table is what, for example text=ref,facts=name+area or ignore=id+url; see docs/data.md."""
    language: str | None
    """Language of the texts to use, in files that hold several; all uses every language."""
    all_texts: bool
    """Use the texts of WebNLG that its annotators marked as faulty as well."""


class TrainOptions(TypedDict, total=False):
    """Keyword arguments made of `TrainSettings`."""

    format: str | None
    """Format of the data: e2e, piped, webnlg-json, webnlg-xml, dart, jsonl, csv or tsv; by default recognised by the
    content."""
    columns: Mapping[str, Any]
    """Which column of a table is what, for example text=ref,facts=name+area or ignore=id+url; see docs/data.md."""
    language: str | None
    """Language of the texts to use, in files that hold several; all uses every language."""
    all_texts: bool
    """Use the texts of WebNLG that its annotators marked as faulty as well."""
    limit: int | None
    """Train on so many records only, from the start."""
    valid_limit: int | None
    """Validate on so many records only, from the start."""
    base: str
    """Base model: a name (see `tailora models`), a folder or a hub id."""
    method: Literal["lora", "full", "bitfit", "top2"]
    """What learns: an adapter, every weight, the biases, or the top two blocks."""
    rank: int
    """Rank of the adapter."""
    alpha: float
    """Numerator of the adapter's scale alpha / rank."""
    targets: Sequence[str]
    """Layers to adapt: attention.qv, attention, mlp, all-linear, head, embedding, or patterns of module paths."""
    rank_pattern: Mapping[str, int]
    """Other ranks for some layers: pattern of module paths to rank; the first that matches holds."""
    alpha_pattern: Mapping[str, float]
    """Other alphas for some layers, likewise."""
    dropout: float
    """Dropout on the adapter's branch."""
    rslora: bool
    """Scale by alpha / √rank."""
    dora: bool
    """Learn a magnitude for each output beside the direction."""
    bias: Literal["none", "all", "lora_only"]
    """Biases that learn beside the adapter."""
    learning_rate: float | None
    """Peak learning rate; by default 1e-3 for lora and bitfit, 1e-4 for top2, 5e-5 for full."""
    batch_size: int
    """Examples in an update."""
    group_size: int | None
    """Texts of one record that may be side by side in an update; by default an eighth of the batch."""
    epochs: int
    """Passes over the data."""
    max_steps: int | None
    """Stop after so many updates."""
    warmup_steps: int
    """Updates over which the learning rate rises; at most a tenth of all."""
    schedule: Literal["linear", "cosine", "constant"]
    """How the learning rate falls after the warm-up."""
    weight_decay: float
    """AdamW's weight decay."""
    max_grad_norm: float
    """Gradients are clipped to this norm."""
    label_smoothing: float
    """Share of the target that is spread over the vocabulary."""
    max_length: int
    """Tokens that prompt and text may have together."""
    overlong: Literal["error", "drop", "cut"]
    """What to do with longer examples."""
    prompt_form: Literal["paper", "arrow", "chat"]
    """Form of the prompt: paper (facts, end-of-text token), arrow (facts, =>) or chat (the base's chat template)."""
    linearization: str
    """How facts become text."""
    tokens_per_pass: int
    """Tree nodes in one forward pass; a larger update accumulates its gradient over several."""
    eval_every: int | None
    """Validate after so many updates, beside the start and the end; by default once an epoch."""
    patience: int | None
    """Stop when so many validations in a row brought no better loss."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "int8"]
    """Precision of matrix products: fp32, tf32 (GPU only), bf16, int8 (lora on a CPU only), or auto, which times an
    update in each that the machine offers and takes the fastest."""
    device: str
    """Device to train on: cpu, cuda, cuda:N, or auto, which is a GPU if there is one (the CPU for int8)."""
    seed: int
    """Of the adapter's initial values, the order of examples and the dropout."""
    output: str | PathLike[str] | None
    """Run directory to make; by default runs/DATA-METHOD-N."""


class EngineOptions(TypedDict, total=False):
    """Keyword arguments made of `ModelSettings`."""

    merged: bool
    """Fold the adapter into the weights first; as exact and a little faster."""
    force: bool
    """Accept an adapter that was trained on other weights than the base's."""
    linearization: str | None
    """How facts become a line of text (paper or plain); by default as in the adapter's training, else paper."""
    prompt_form: Literal["paper", "arrow", "chat"] | None
    """How the line becomes a prompt (paper, arrow or chat); by default as in training, arrow for an untrained base."""
    batch_size: int
    """Records side by side."""
    precision: Literal["auto", "int8", "bf16", "fp32"]
    """Compute in int8, bf16 or fp32; auto takes int8 with OpenVINO and fp32 with torch, unless another is faster here
    by more than 10%."""
    backend: Literal["auto", "openvino", "torch"]
    """What computes: openvino on a CPU where it has the architecture, torch for everything else."""
    device: str
    """cpu, cuda, or auto: a GPU if there is one."""


class DecodingOptions(TypedDict, total=False):
    """Keyword arguments made of `DecodingSettings`."""

    preset: Literal["lora-paper", "lora-paper-e2e"] | None
    """How Hu et al. 2021 decode WebNLG and DART (lora-paper) or E2E (lora-paper-e2e); other flags override it."""
    max_new_tokens: int
    """Most tokens a text may have."""
    beams: int
    """Beams kept side by side; 1 is greedy search, or sampling if the temperature is above 0."""
    length_penalty: float
    """Beams are ranked by log-probability / tokens ** this."""
    no_repeat_ngram_size: int
    """No run of so many tokens comes twice in a text; 0 allows it."""
    repetition_penalty: float
    """Above 1, make tokens less likely that stand in the prompt or the text already."""
    presence_penalty: float
    """What is subtracted from the logit of every token that the text holds, from -2 to 2."""
    frequency_penalty: float
    """What is subtracted from a token's logit for each time that the text holds it, from -2 to 2."""
    logit_bias: Mapping[int, float]
    """What is added to the logit of a token id, as ID=BIAS with a bias from -100 to 100. Again for more."""
    temperature: float
    """Above 0, draw tokens from the distribution flattened (or, below 1, sharpened) by this."""
    top_k: int
    """Draw only from so many likeliest tokens; 0 from all."""
    top_p: float
    """Draw only from the fewest tokens whose probabilities reach this sum; 0 takes the likeliest."""
    min_p: float
    """Draw only tokens at least this part as likely as the likeliest."""
    num_candidates: int
    """Texts for each record: the best beams, or so many draws."""
    rerank: Literal["fidelity"] | None
    """fidelity: of a record's candidates (all beams, unless told otherwise) take that with the fewest slot errors."""
    slot_rules: str | PathLike[str] | None
    """File of rules how texts say values, beside the bundled ones for E2E (see docs/evaluate.md)."""
    logprobs: bool
    """Say each token's log-probability too, in nats."""
    stop: Sequence[str]
    """String that ends a text, which is cut before it; \\n is a line end and \\t a tab. Again for more."""
    seed: int
    """Of the draws; with it a record's text depends on nothing but the record."""


class MergeOptions(TypedDict, total=False):
    """Keyword arguments made of `MergeSettings`."""

    weights: float | Sequence[float]
    """What each adapter's update is multiplied by, in their order; by default 1."""
    svd: int | None
    """Cut the sum to this rank, the nearest there is (SVD); by default it is exact, with the sum of the ranks."""
    base: str | None
    """Base model; by default the one that the adapter names."""
    force: bool
    """Accept an adapter that was trained on other weights than the base's."""
    check: bool
    """Hold what was written against base and adapter, and keep the receipt in verify.json."""


class ConvertOptions(TypedDict, total=False):
    """Keyword arguments made of `ConvertSettings`."""

    to: Literal["peft", "loralib", "gguf", "openvino-genai"]
    """peft, openvino-genai (folders; the latter with the scale folded in), loralib (a .bin) or gguf (for llama.cpp)."""
    base: str | None
    """Base model, which gguf asks for; by default the one that the adapter names. Given, logits are compared on it."""
    force: bool
    """Accept an adapter that was trained on other weights than the base's."""


class QuantizeOptions(TypedDict, total=False):
    """Keyword arguments made of `QuantizeSettings`."""

    format: str | None
    """Format of the data: e2e, piped, webnlg-json, webnlg-xml, dart, jsonl, csv or tsv; by default recognised by the
    content."""
    columns: Mapping[str, Any]
    """Which column of a table is what, for example text=ref,facts=name+area or ignore=id+url; see docs/data.md."""
    language: str | None
    """Language of the texts to use, in files that hold several; all uses every language."""
    all_texts: bool
    """Use the texts of WebNLG that its annotators marked as faulty as well."""
    input: str | None
    """Records with texts to compare on; by default bundled ones."""
    split: str | None
    """Which split of the input."""
    limit: int
    """Only so many records with texts, from the start."""
    new_tokens: int
    """Length of the greedy texts that are compared."""
    force: bool
    """Accept an adapter that was trained on other weights than the base's."""
    base: str | None
    """Base model; by default the one that the adapter names."""
    adapter: str | PathLike[str] | None
    """An adapter (folder, file or run directory) to keep beside the base, as `adapter/` in its folder, or to merge."""
    merged: bool
    """Merge the adapter in fp32 first, and round the sum."""
    to: Literal["int8", "bf16", "fp16"]
    """int8: a step for each output; bf16 or fp16: every number."""
    tolerance: float
    """Rise of perplexity that is let pass."""


class VerifyOptions(TypedDict, total=False):
    """Keyword arguments made of `VerifySettings`."""

    format: str | None
    """Format of the data: e2e, piped, webnlg-json, webnlg-xml, dart, jsonl, csv or tsv; by default recognised by the
    content."""
    columns: Mapping[str, Any]
    """Which column of a table is what, for example text=ref,facts=name+area or ignore=id+url; see docs/data.md."""
    language: str | None
    """Language of the texts to use, in files that hold several; all uses every language."""
    all_texts: bool
    """Use the texts of WebNLG that its annotators marked as faulty as well."""
    input: str | None
    """Records with texts to compare on; by default bundled ones."""
    split: str | None
    """Which split of the input."""
    limit: int
    """Only so many records with texts, from the start."""
    new_tokens: int
    """Length of the greedy texts that are compared."""
    force: bool
    """Accept an adapter that was trained on other weights than the base's."""
    adapter: str | PathLike[str] | None
    """The adapter: its folder or file, or a run directory; by default those that the model's folder names."""
    model: str | None
    """A merged, quantised or converted model to hold against base and adapter; without it the adapter is checked."""
    base: str | None
    """Base model; by default the one that the adapter, or the model's folder, names."""
    base_only: bool
    """Compare the model with its base alone, without the adapter that was merged into it."""
    tolerance: float
    """Drift that is let pass: how far the model is from its adapter, over how far that is from the base."""


class CompareOptions(TypedDict, total=False):
    """Keyword arguments made of `CompareSettings`."""

    format: str | None
    """Format of the data: e2e, piped, webnlg-json, webnlg-xml, dart, jsonl, csv or tsv; by default recognised by the
    content."""
    columns: Mapping[str, Any]
    """Which column of a table is what, for example text=ref,facts=name+area or ignore=id+url; see docs/data.md."""
    language: str | None
    """Language of the texts to use, in files that hold several; all uses every language."""
    all_texts: bool
    """Use the texts of WebNLG that its annotators marked as faulty as well."""
    limit: int | None
    """Train on so many records only, from the start."""
    valid_limit: int | None
    """Validate on so many records only, from the start."""
    base: str
    """Base model: a name (see `tailora models`), a folder or a hub id."""
    method: Literal["lora", "full", "bitfit", "top2"]
    """What learns: an adapter, every weight, the biases, or the top two blocks."""
    rank: int
    """Rank of the adapter."""
    alpha: float
    """Numerator of the adapter's scale alpha / rank."""
    targets: Sequence[str]
    """Layers to adapt: attention.qv, attention, mlp, all-linear, head, embedding, or patterns of module paths."""
    rank_pattern: Mapping[str, int]
    """Other ranks for some layers: pattern of module paths to rank; the first that matches holds."""
    alpha_pattern: Mapping[str, float]
    """Other alphas for some layers, likewise."""
    dropout: float
    """Dropout on the adapter's branch."""
    rslora: bool
    """Scale by alpha / √rank."""
    dora: bool
    """Learn a magnitude for each output beside the direction."""
    bias: Literal["none", "all", "lora_only"]
    """Biases that learn beside the adapter."""
    learning_rate: float | None
    """Peak learning rate; by default 1e-3 for lora and bitfit, 1e-4 for top2, 5e-5 for full."""
    batch_size: int
    """Examples in an update."""
    group_size: int | None
    """Texts of one record that may be side by side in an update; by default an eighth of the batch."""
    epochs: int
    """Passes over the data."""
    max_steps: int | None
    """Stop after so many updates."""
    warmup_steps: int
    """Updates over which the learning rate rises; at most a tenth of all."""
    schedule: Literal["linear", "cosine", "constant"]
    """How the learning rate falls after the warm-up."""
    weight_decay: float
    """AdamW's weight decay."""
    max_grad_norm: float
    """Gradients are clipped to this norm."""
    label_smoothing: float
    """Share of the target that is spread over the vocabulary."""
    max_length: int
    """Tokens that prompt and text may have together."""
    overlong: Literal["error", "drop", "cut"]
    """What to do with longer examples."""
    prompt_form: Literal["paper", "arrow", "chat"]
    """Form of the prompt: paper (facts, end-of-text token), arrow (facts, =>) or chat (the base's chat template)."""
    linearization: str
    """How facts become text."""
    tokens_per_pass: int
    """Tree nodes in one forward pass; a larger update accumulates its gradient over several."""
    eval_every: int | None
    """Validate after so many updates, beside the start and the end; by default once an epoch."""
    patience: int | None
    """Stop when so many validations in a row brought no better loss."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "int8"]
    """Precision of matrix products: fp32, tf32 (GPU only), bf16, int8 (lora on a CPU only), or auto, which times an
    update in each that the machine offers and takes the fastest."""
    device: str
    """Device to train on: cpu, cuda, cuda:N, or auto, which is a GPU if there is one (the CPU for int8)."""
    seed: int
    """Of the adapter's initial values, the order of examples and the dropout."""
    output: str | PathLike[str] | None
    """Folder of the runs and the comparison; by default runs/DATA-compare."""
    methods: Sequence[str]
    """What to compare."""
    learning_rates: Mapping[str, Any]
    """Rates to try: method to values (a list, or a|b|c); by default a third of its own, that, and three times it."""
    grid_limit: int | None
    """Try the rates on so many records, and train again with the best; by default the best run itself is kept."""
    test: str | None
    """Records to write about and score; by default the data's `test` split, else those to validate on."""
    test_limit: int | None
    """Only so many of them, from the start."""
    max_new_tokens: int
    """Most tokens a text may have; texts are written greedily."""
    metrics: Sequence[str]
    """Which scores; by default those that the field reports of such data."""
    draws: int
    """Resamples of the records that intervals come from."""
    tasks: int
    """Tasks to reckon the disk for."""


class TuneOptions(TypedDict, total=False):
    """Keyword arguments made of `TuneSettings`."""

    format: str | None
    """Format of the data: e2e, piped, webnlg-json, webnlg-xml, dart, jsonl, csv or tsv; by default recognised by the
    content."""
    columns: Mapping[str, Any]
    """Which column of a table is what, for example text=ref,facts=name+area or ignore=id+url; see docs/data.md."""
    language: str | None
    """Language of the texts to use, in files that hold several; all uses every language."""
    all_texts: bool
    """Use the texts of WebNLG that its annotators marked as faulty as well."""
    limit: int | None
    """Train on so many records only, from the start."""
    valid_limit: int | None
    """Validate on so many records only, from the start."""
    base: str
    """Base model: a name (see `tailora models`), a folder or a hub id."""
    method: Literal["lora", "full", "bitfit", "top2"]
    """What learns: an adapter, every weight, the biases, or the top two blocks."""
    rank: int
    """Rank of the adapter."""
    alpha: float
    """Numerator of the adapter's scale alpha / rank."""
    targets: Sequence[str]
    """Layers to adapt: attention.qv, attention, mlp, all-linear, head, embedding, or patterns of module paths."""
    rank_pattern: Mapping[str, int]
    """Other ranks for some layers: pattern of module paths to rank; the first that matches holds."""
    alpha_pattern: Mapping[str, float]
    """Other alphas for some layers, likewise."""
    dropout: float
    """Dropout on the adapter's branch."""
    rslora: bool
    """Scale by alpha / √rank."""
    dora: bool
    """Learn a magnitude for each output beside the direction."""
    bias: Literal["none", "all", "lora_only"]
    """Biases that learn beside the adapter."""
    learning_rate: float | None
    """Peak learning rate; by default 1e-3 for lora and bitfit, 1e-4 for top2, 5e-5 for full."""
    batch_size: int
    """Examples in an update."""
    group_size: int | None
    """Texts of one record that may be side by side in an update; by default an eighth of the batch."""
    epochs: int
    """Passes over the data."""
    max_steps: int | None
    """Stop after so many updates."""
    warmup_steps: int
    """Updates over which the learning rate rises; at most a tenth of all."""
    schedule: Literal["linear", "cosine", "constant"]
    """How the learning rate falls after the warm-up."""
    weight_decay: float
    """AdamW's weight decay."""
    max_grad_norm: float
    """Gradients are clipped to this norm."""
    label_smoothing: float
    """Share of the target that is spread over the vocabulary."""
    max_length: int
    """Tokens that prompt and text may have together."""
    overlong: Literal["error", "drop", "cut"]
    """What to do with longer examples."""
    prompt_form: Literal["paper", "arrow", "chat"]
    """Form of the prompt: paper (facts, end-of-text token), arrow (facts, =>) or chat (the base's chat template)."""
    linearization: str
    """How facts become text."""
    tokens_per_pass: int
    """Tree nodes in one forward pass; a larger update accumulates its gradient over several."""
    eval_every: int | None
    """Validate after so many updates, beside the start and the end; by default once an epoch."""
    patience: int | None
    """Stop when so many validations in a row brought no better loss."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "int8"]
    """Precision of matrix products: fp32, tf32 (GPU only), bf16, int8 (lora on a CPU only), or auto, which times an
    update in each that the machine offers and takes the fastest."""
    device: str
    """Device to train on: cpu, cuda, cuda:N, or auto, which is a GPU if there is one (the CPU for int8)."""
    seed: int
    """Of the adapter's initial values, the order of examples and the dropout."""
    output: str | PathLike[str] | None
    """Folder of the trials and of what came of them; by default runs/DATA-tune."""
    ranges: Mapping[str, Any]
    """What to vary: setting to values (a list, or a|b|c) or a range (1e-4..3e-3; by logarithm if tenfold or wider)."""
    trials: int
    """Trials in all, those of other processes and earlier starts included."""
    storage: str | None
    """File, or database URL, that processes share; by default study.journal in the output folder."""
    study: str | None
    """Name of the study in its storage; by default that of the output folder."""


class LintOptions(TypedDict, total=False):
    """Keyword arguments made of `LintSettings`."""

    format: str | None
    """Format of the data: e2e, piped, webnlg-json, webnlg-xml, dart, jsonl, csv or tsv; by default recognised by the
    content."""
    columns: Mapping[str, Any]
    """Which column of a table is what, for example text=ref,facts=name+area or ignore=id+url; see docs/data.md."""
    language: str | None
    """Language of the texts to use, in files that hold several; all uses every language."""
    all_texts: bool
    """Use the texts of WebNLG that its annotators marked as faulty as well."""
    allow: Sequence[str]
    """Kinds of findings to accept, by their names in the table; `all` accepts every kind."""
    show: int
    """How many findings of each kind to show."""
