"""METEOR 1.5 (Denkowski and Lavie 2014), computed by its own program from pycocoevalcap. It needs Java."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from tailora.core.errors import MissingExtraError
from tailora.core.plural import plural
from tailora.metrics.statistics import Doubles, Statistics, check_texts, signature
from tailora.metrics.tokens import treebank, webnlg

# Its parameters for English: precision against recall, fragments, and the weight of each kind of match.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGES = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_NUMBERS = 23


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """Return METEOR, 0 to 1: texts aligned with their best references by words, stems, synonyms and paraphrases.

    It is computed as in the E2E script, on Penn Treebank tokens without punctuation. The program aligns; the score is
    computed from its counts by the formula of the paper, so that resamples do not need the program.

    Raises:
        MissingExtraError: pycocoevalcap or Java is not installed, or the program fails.
        DataError: see `check_texts`.
    """
    return _meteor("METEOR", "version:1.5|lang:en|norm|tok:ptb-3.4.1|case:lc", hypotheses, references, treebank)


def webnlg_meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, most: int = 6) -> Statistics:
    """Return METEOR as the LoRA paper scores WebNLG and DART: words and signs of lower-cased texts, `most` references.

    Raises:
        MissingExtraError: pycocoevalcap or Java is not installed, or the program fails.
        DataError: see `check_texts`.
    """
    settings = f"version:1.5|lang:en|norm|tok:words|case:lc|most:{most}"
    return _meteor("METEOR, WebNLG", settings, hypotheses, [own[:most] for own in references], webnlg)


def _meteor(
    name: str,
    settings: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokens_of: Callable[[str], Iterable[str]],
) -> Statistics:
    check_texts(hypotheses, references)
    lines = [
        " ||| ".join(["SCORE", *(_line(tokens_of(reference)) for reference in own), _line(tokens_of(text))])
        for text, own in zip(hypotheses, references, strict=True)
    ]
    rows = [[float(number) for number in line.split()] for line in _answers(lines)]
    if len(rows) != len(lines) or any(len(row) != _NUMBERS for row in rows):
        what = f"METEOR returned {plural(len(rows), 'result')} for {plural(len(lines), 'text')}"
        raise MissingExtraError(what, hint="run it again")
    counts = np.array(rows)
    # A text equal to its reference is one chunk without fragments; it adds none to a sum.
    perfect = (counts[:, 20] == 1) & (counts[:, 21:23] == counts[:, 0:2]).all(-1)
    counts[perfect, 20] = 0
    return Statistics(name, signature(settings, references), counts, _total)


def jar() -> Path:
    """Return the path of METEOR's program.

    Raises:
        MissingExtraError: it or Java is not installed.
    """
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError(
            "METEOR comes with pycocoevalcap, which is not installed", hint="pip install 'tailora[meteor]'"
        )
    if shutil.which("java") is None:
        raise MissingExtraError(
            "METEOR needs Java, which is not installed", hint="install a Java runtime, version 8 or later"
        )
    return Path(next(iter(package.submodule_search_locations))) / "meteor" / "meteor-1.5.jar"


def _answers(lines: Sequence[str]) -> list[str]:
    command = ["java", "-Xmx2G", "-jar", str(jar()), "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as file:
        file.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
        file.seek(0)
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MissingExtraError(
            f"METEOR ended with exit code {done.returncode}: {last}", hint="check that `java -version` works"
        )
    return done.stdout.splitlines()


def _line(tokens: Iterable[str]) -> str:
    return " ".join(tokens).replace("|||", " ")  # bars separate the fields


def _total(sums: Doubles) -> Doubles:
    """From sums of the numbers that the program prints for a text.

    Lengths of text and reference, function words of both, four numbers a stage (matched content words of text and
    reference, function words likewise), chunks, matched words of both.
    """
    sums = np.asarray(sums, np.float64)
    lengths, function_words = sums[..., 0:2], sums[..., 2:4]
    stages = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 2, 2)  # […, stage, content or function, text or reference]
    chunks, matched = sums[..., 20], sums[..., 21:23]
    kinds = np.array([_DELTA, 1 - _DELTA])
    weighed = np.einsum("...skt,s,k->...t", stages, _STAGES, kinds)
    whole = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    precision, recall = np.moveaxis(weighed / np.maximum(whole, 1e-300), -1, 0)
    with np.errstate(divide="ignore"):
        harmonic = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    fragments = chunks / np.maximum(matched.mean(-1), 1e-300)
    return np.asarray(harmonic * (1 - _GAMMA * fragments**_BETA))
