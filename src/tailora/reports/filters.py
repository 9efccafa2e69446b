"""Filters over the texts of an HTML report: by kind of error, by system, and by words.

Without scripts, the page shows all texts and no filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """
.filters { position: sticky; top: 0; z-index: 1; background: Canvas; border-bottom: 1px solid var(--line); }
.filters { display: flex; flex-wrap: wrap; gap: .4rem .9rem; align-items: center; padding: .6rem 0; }
.filters label { display: inline-flex; gap: .35rem; align-items: center; min-height: 1.75rem; }
.filters input[type=search], .filters select { font: inherit; padding: .2rem .4rem; max-width: 100%; }
.filters input[type=search] { width: 11rem; }
.filters output { margin-left: auto; opacity: .75; font-size: .9rem; }
article[hidden] { display: none; }
@media (max-width: 40rem) {
  .filters { position: static; gap: .2rem .7rem; font-size: .9rem; }
  .filters output { margin-left: 0; }
}
"""

_SCRIPT = """
(() => {
  const form = document.querySelector('.filters');
  const articles = [...document.querySelectorAll('article')];
  const words = new Map(articles.map((article) => [article, article.textContent.toLowerCase()]));
  function show() {
    const system = form.elements.system ? form.elements.system.value : '';
    const kinds = [...form.querySelectorAll('input[name=kind]:checked')].map((box) => box.value);
    const query = form.elements.query.value.trim().toLowerCase();
    const differ = form.elements.differ ? form.elements.differ.checked : false;
    let count = 0;
    for (const article of articles) {
      const own = article.matches('.version') ? [article] : [...article.querySelectorAll('.version')];
      const versions = own
        .filter((version) => system === '' || version.dataset.system === system);
      const has = (kind) => versions.some((version) => version.dataset.kinds.split(' ').includes(kind));
      const shown = (kinds.length === 0 || kinds.some(has)) && words.get(article).includes(query)
        && (!differ || article.dataset.differ === 'yes');
      article.hidden = !shown;
      count += shown;
    }
    form.elements.count.value = count + ' of ' + articles.length;
  }
  form.addEventListener('input', show);
  form.addEventListener('submit', (event) => event.preventDefault());
  form.hidden = false;
  show();
})();
"""

KINDS: Mapping[str, str] = {
    "missing": "facts left out",
    "added": "facts added",
    "leaked": "values leaked from training",
    "repeated": "facts repeated",
    "none": "no error",
}
"""The kinds of texts by their slot errors, with their labels."""


def toolbar(texts: Iterable[str], systems: Sequence[str] = ()) -> str:
    """Return the form of the filters as HTML; it belongs before the texts.

    Args:
        texts: the kinds of each text, as `kinds_of` returns them; kinds that no text has cannot be chosen.
        systems: names of the systems whose texts are side by side; fewer than two cannot be chosen from.
    """
    occurring = {kind for text in texts for kind in text.split()}
    boxes = "".join(
        f'<label><input type="checkbox" name="kind" value="{kind}">{escape(label)}</label>'
        for kind, label in KINDS.items()
        if kind in occurring and len(occurring) > 1
    )
    choice = differ = ""
    if len(systems) > 1:
        options = "".join(f'<option value="{place}">{escape(name)}</option>' for place, name in enumerate(systems))
        choice = (
            f'<label>errors of <select name="system"><option value="">any system</option>{options}</select></label>'
        )
        differ = '<label><input type="checkbox" name="differ">systems differ</label>'
    query = '<input type="search" name="query" placeholder="words" aria-label="Words of the texts or facts">'
    return f'<form class="filters" hidden>{choice}{boxes}{differ}{query}<output name="count"></output></form>'


def script() -> str:
    """Return the script of the filters; it belongs after the texts."""
    return f"<script>{_SCRIPT}</script>"


def kinds_of(states: Sequence[str]) -> str:
    """Return the kinds of a text for the filters, from the states of its facts."""
    kinds = [kind for kind in KINDS if kind in states]
    return " ".join(kinds or ["none"])
