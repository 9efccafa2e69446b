"""lm-eval-harness against a server, and its log-likelihoods beside those that transformers computes directly.

python ask_lm_eval.py ADDRESS BASE-FOLDER FOLDER-FOR-ITS-FILES
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

ROWS: list[dict[str, Any]] = [
    {"question": "The Blue Door is a", "choices": [" pub", " restaurant in the city centre", " zzz"], "answer": 0},
    {"question": "Café Müller serves", "choices": [" fish", " 日本 food", "\nnothing"], "answer": 1},
    {
        "question": "near the river , there is",
        "choices": [" a pub .", " an expensive place .", "<|endoftext|>"],
        "answer": 0,
    },
]
TASK = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "test_split": "test"}
CHOICE = {
    "task": "choices",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "target_delimiter": "",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}],
}
ROLLING = {
    "task": "rolling",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}{{choices[0]}}",
    "metric_list": [{"metric": "word_perplexity"}],
}
WRITTEN = {
    "task": "written",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"until": ["\n", " zzz"], "max_gen_toks": 8, "do_sample": False, "temperature": 0},
    "metric_list": [{"metric": "exact_match"}],
}


def main(address: str, base: str, folder: str) -> dict[str, Any]:
    """Run the three kinds of tasks, and return the harness' numbers beside the direct ones."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    place.joinpath("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    for task in (CHOICE, ROLLING, WRITTEN):
        place.joinpath(f"{task['task']}.yaml").write_text(json.dumps({**TASK, **task}), encoding="utf-8")
    tasks = TaskManager(include_path=str(place), include_defaults=False)
    common = {"model": "base", "tokenizer": base, "num_concurrent": 2, "max_retries": 1, "max_length": 512}
    answer: dict[str, Any] = {"direct": direct(base)}
    for name, tokenized, backend in (
        ("ids", True, "huggingface"),
        ("texts", False, "huggingface"),
        ("auto", True, "auto"),
    ):
        found = simple_evaluate(
            model="local-completions",
            model_args={
                **common,
                "base_url": f"{address}/v1/completions",
                "tokenizer_backend": backend,
                "tokenized_requests": tokenized,
            },
            tasks=["choices", "rolling", "written"],
            task_manager=tasks,
            batch_size=2,
            bootstrap_iters=0,
        )
        samples = found["samples"]
        answer[name] = {
            "choices": [[each[0] for each in sample["resps"]] for sample in samples["choices"]],
            "rolling": [sample["resps"][0][0] for sample in samples["rolling"]],
            "written": [sample["resps"][0][0] for sample in samples["written"]],
        }
    chat = simple_evaluate(
        model="local-chat-completions",
        model_args={**common, "base_url": f"{address}/v1/chat/completions"},
        tasks=["written"],
        task_manager=tasks,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    answer["chat"] = [sample["resps"][0][0] for sample in chat["samples"]["written"]]
    return answer


@torch.no_grad()
def direct(base: str) -> dict[str, Any]:
    """The same by transformers in fp32: log-likelihood and whether it is the greedy text, for each choice and text."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()

    def likelihood(context: list[int], text: list[int]) -> tuple[float, bool]:
        logits = model(torch.tensor([context + text])).logits[0, len(context) - 1 : -1].log_softmax(-1)
        wanted = torch.tensor(text)
        return logits.gather(1, wanted[:, None]).sum().item(), bool((logits.argmax(-1) == wanted).all())

    choices = []
    for row in ROWS:
        context = tokenizer(row["question"])["input_ids"]
        whole = [tokenizer(row["question"] + choice)["input_ids"] for choice in row["choices"]]
        choices.append([likelihood(context, ids[len(context) :]) for ids in whole])
    texts = [tokenizer(row["question"] + row["choices"][0])["input_ids"] for row in ROWS]
    return {"choices": choices, "rolling": [likelihood([tokenizer.eos_token_id], ids)[0] for ids in texts]}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
