// Elements that stand for facts, and light up together: fields of the form, marks in texts, and chips.

import { make } from './dom.js';
import { factWords, keyOf, textPieces } from './fidelity.js';

const factsOf = new WeakMap(); // element: a function that returns the keys of the facts that it stands for

/** Say which facts an element stands for. */
export function standFor(element, keys) {
  element.classList.add('light');
  factsOf.set(element, keys);
  return element;
}

/** A text as nodes, with a mark at each mention. */
export function markedText(text, fidelity) {
  return textPieces(text, fidelity).map(({ text: words, kind, title, keys }) =>
    kind ? standFor(make('mark', { class: kind, title, text: words }), () => keys) : words,
  );
}

export function chipOf(fact, kind = '') {
  const chip = make('li', { class: kind, text: factWords(fact) });
  return standFor(chip, () => [keyOf(fact)]);
}

/** Light up what stands for the fact that is pointed at or worked on, within its part of the page. */
function lightUp(event) {
  const target = event.target.closest?.('.light');
  const part = event.target.closest?.('[data-lights]') ?? document;
  const over = ['pointerover', 'focusin'].includes(event.type);
  const keys = new Set(over && target ? factsOf.get(target)() : []);
  for (const element of part.querySelectorAll('.light')) {
    element.classList.toggle('lit', factsOf.get(element)().some((key) => keys.has(key)));
  }
}

export function startLights() {
  for (const type of ['pointerover', 'pointerout', 'focusin', 'focusout']) document.addEventListener(type, lightUp);
}
