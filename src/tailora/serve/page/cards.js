// Cards: the text of one model, and what it says of the record.

import { announce, byId, copyText, make, setText } from './dom.js';
import { errorFacts, fidelityWords } from './fidelity.js';
import { chipOf, markedText } from './lights.js';
import { aboutModel, isBase, modelTitle } from './models.js';
import { number, t } from './words.js';

const ERROR_KINDS = ['missing', 'wrong', 'added', 'leaked', 'repeated'];

export function makeCard(model) {
  const part = (tag, name, more = {}) => make(tag, { 'data-part': name, ...more });
  const parts = {
    state: part('p', 'state', { text: t('waiting') }),
    text: part('p', 'text', { dir: 'auto' }),
    speed: part('p', 'speed', { class: 'note' }),
    fidelity: part('p', 'fidelity'),
    against: part('p', 'against', { class: 'note' }),
    errors: part('div', 'errors'),
    warnings: part('p', 'warnings', { class: 'note' }),
  };
  const copy = make('button', { type: 'button', class: 'small', text: t('copy'), hidden: '' });
  copy.setAttribute('aria-description', t('copyOf', modelTitle(model)));
  copy.addEventListener('click', () => copyText(parts.text, copy));
  const title = make('h3', { text: modelTitle(model) }, ' ', make('span', { class: 'note', text: aboutModel(model) }));
  const element = make('article', { class: 'panel', 'data-model': model.id, 'aria-label': modelTitle(model) });
  const { state, text, speed, ...said } = parts;
  element.append(make('div', { class: 'line' }, title, copy), state, text, ...Object.values(said), speed);
  return { element, copy, ...parts };
}

export function showCards(runs) {
  byId('results-empty').hidden = true;
  byId('cards').replaceChildren(...runs.map((run) => run.card.element));
  if (byId('results').getBoundingClientRect().top < innerHeight / 2) return;
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  byId('results').scrollIntoView({ behavior: still ? 'auto' : 'smooth' }); // on a phone they are below the form
}

export function setState(run, state, words) {
  run.card.element.dataset.state = state;
  run.card.element.setAttribute('aria-busy', String(state === 'writing'));
  setText(run.card.state, words);
  run.card.copy.hidden = state === 'writing' || !run.card.text.textContent;
}

/** A piece of a text has come. */
export function showPiece(run) {
  run.card.text.append(run.piece);
  const speed = number(run.pieces / run.seconds, 1);
  setText(run.card.speed, `${t('firstToken', number(run.first, 2))}, ${t('aboutSpeed', speed)}`);
}

/** A text is whole. */
export function showEnd(run) {
  const { text, fidelity } = run.last;
  run.card.text.replaceChildren(...markedText(text, fidelity));
  setState(run, 'done', endWords(run));
  setText(run.card.speed, run.seconds === undefined ? '' : speedWords(run));
  setText(run.card.fidelity, fidelity ? fidelityWords(fidelity) : t('unchecked'));
  setText(run.card.warnings, warningWords(run.last));
  run.card.errors.replaceChildren(...errorLists(fidelity));
}

export function announceEnd(run) {
  announce(`${modelTitle(run.model)}, ${run.card.state.textContent}: ${run.last.text} ${run.card.fidelity.textContent}`);
}

function endWords(run) {
  const { text, finish_reason: reason, usage } = run.last;
  if (run.seconds === undefined) return t('fromFile');
  if (reason === 'length') return t('limitReached', usage?.completion_tokens ?? run.body.max_tokens);
  return t(text ? 'done' : 'doneEmpty');
}

/** With beams all tokens arrive together, so the time of the first says nothing. */
function speedWords(run) {
  const tokens = run.last.usage?.completion_tokens;
  const parts = [run.pieces && t('firstToken', number(run.first, 2))];
  if (tokens !== undefined) parts.push(t('tokensIn', tokens, number(run.seconds, 2)), t('speed', number(tokens / run.seconds, 1)));
  return parts.filter(Boolean).join(', ');
}

/** What the server warns of; empty for nothing. */
export const warningWords = ({ warnings = [] }) => warnings.join('; ');

/** A list of chips for each kind of error that a text has. */
export function errorLists(fidelity) {
  const errors = fidelity ? errorFacts(fidelity) : {};
  return ERROR_KINDS.filter((kind) => errors[kind]?.length).map((kind) => {
    const chips = errors[kind].map((fact) => chipOf(fact, kind));
    const list = make('ul', { class: 'chips', 'aria-label': t(kind) }, ...chips);
    return make('div', { 'data-errors': kind }, make('h4', { text: t(kind) }), list);
  });
}

/** On each adapter's card, compare its facts with the base's. */
export function compareWithBase(runs) {
  const base = runs.find((run) => isBase(run.model))?.last?.fidelity;
  if (!base) return;
  for (const run of runs) {
    const own = run.last?.fidelity;
    if (own && !isBase(run.model)) setText(run.card.against, t('against', differences(base, own)));
  }
}

function differences(base, own) {
  const stated = base.missing.length - own.missing.length;
  const added = own.added.length - base.added.length;
  const parts = [
    stated && t(stated > 0 ? 'moreStated' : 'fewerStated', Math.abs(stated)),
    added && t(added > 0 ? 'moreAdded' : 'fewerAdded', Math.abs(added)),
  ];
  return parts.filter(Boolean).join(', ') || t('sameAsBase');
}
