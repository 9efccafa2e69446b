// The list of a file's texts: filtered, sorted, in pages, so that thousands of rows stay responsive.

import { byId, fillSelect, make, saveFile, setText } from './dom.js';
import { errorLists, warningWords } from './cards.js';
import { entriesAsCsv, entriesAsJsonLines } from './downloads.js';
import { countKinds, KINDS, ORDERS, selected, summary } from './entries.js';
import { factState, keyOf, factWords } from './fidelity.js';
import { markedText, standFor } from './lights.js';
import { modelTitle } from './models.js';
import { currentLanguage, number, onLanguage, t } from './words.js';

const PAGE = 25;
const FIND_MS = 200; // a pause in typing

let entries = [];
let shown = [];
let first = 0;
let drawn = new Map(); // entry: its element and the version that it shows
let edit = () => {};
let saved = () => {};

const percent = (share) => share.toLocaleString(currentLanguage(), { style: 'percent', maximumFractionDigits: 1 });

/** Show these entries. */
export function setEntries(some) {
  entries = some;
  first = 0;
  drawn = new Map();
  drawRows();
}

/** Draw what has changed. */
export function drawRows() {
  byId('rows-empty').hidden = entries.length > 0;
  byId('rows-tools').hidden = !entries.length;
  drawFilters();
  shown = selected(entries, {
    kind: byId('show-kind').value,
    model: byId('show-model').value,
    words: byId('find-row').value,
    order: byId('sort-rows').value,
  });
  first = Math.min(first, Math.max(0, Math.floor((shown.length - 1) / PAGE) * PAGE));
  drawPage();
}

function drawFilters() {
  const counts = countKinds(entries);
  const kinds = KINDS.filter((kind) => counts[kind] || ['All', 'Clean', 'Errors'].includes(kind) || byId('show-kind').value === kind);
  fillSelect(byId('show-kind'), kinds.map((kind) => [kind, t('kindCount', t(`kind${kind}`), number(counts[kind]))]));
  fillSelect(byId('sort-rows'), ORDERS.map((order) => [order, t(`sort${order}`)]));
  const models = [...new Set(entries.map((entry) => entry.model))];
  fillSelect(byId('show-model'), [['', t('allModels')], ...models.map((model) => [model.id, modelTitle(model)])]);
  byId('show-model').parentElement.hidden = models.length < 2;
  const shares = summary(entries);
  const words = shares ? [t('summaryClean', percent(shares.clean)), t('summaryFacts', percent(shares.stated))] : [];
  setText(byId('rows-summary'), words.join(', '));
}

function drawPage() {
  const page = shown.slice(first, first + PAGE);
  const elements = page.map(elementOf);
  const list = byId('rows');
  const same = elements.length === list.children.length && elements.every((element, index) => list.children[index] === element);
  if (!same) list.replaceChildren(...elements);
  byId('rows-none').hidden = !entries.length || shown.length > 0;
  byId('pager').hidden = shown.length <= PAGE;
  setText(byId('page-words'), t('pageOf', number(first + 1), number(first + page.length), number(shown.length)));
  byId('previous-page').setAttribute('aria-disabled', String(first === 0));
  byId('next-page').setAttribute('aria-disabled', String(first + PAGE >= shown.length));
  byId('downloads').hidden = !shown.length;
  setText(byId('download-words'), t('download', number(shown.length)));
}

/** The element of an entry; it is filled again only if the entry has changed, so that the focus stays. */
function elementOf(entry) {
  const known = drawn.get(entry);
  if (known?.version === entry.version) return known.element;
  const element = known?.element ?? make('li', { class: 'row', 'data-lights': '' });
  const focused = element.contains(document.activeElement);
  element.dataset.state = entry.state;
  element.replaceChildren(...partsOf(entry));
  if (focused) element.querySelector('button').focus();
  drawn.set(entry, { element, version: entry.version });
  return element;
}

function partsOf(entry) {
  const { row, record, model, state, answer, problem } = entry;
  const name = record.id === String(row) ? t('rowTitle', number(row)) : `${t('rowTitle', number(row))}, ${record.id}`;
  const about = make('span', { class: 'note', text: modelTitle(model) });
  const head = make('div', { class: 'line' }, make('h3', { text: name }), about, badge(entry), editButton(entry));
  const text = make('p', { class: 'text', dir: 'auto' });
  if (answer) text.append(...markedText(answer.text, answer.fidelity));
  else text.append(make('span', { class: 'note', text: state === 'failed' ? t('failed', problem) : t(state) }));
  const parts = [head, text, factChips(record, answer?.fidelity), ...extraErrors(answer?.fidelity)];
  if (answer?.warnings) parts.push(make('p', { class: 'note', text: warningWords(answer) }));
  if (record.references.length) parts.push(references(record.references));
  return parts;
}

function badge({ state, answer }) {
  const errors = answer?.fidelity?.errors;
  const kind = state === 'failed' || errors ? 'bad' : errors === 0 ? 'good' : '';
  const words = errors === undefined ? '' : errors ? t('errors', errors) : t('noErrors');
  return make('span', { class: `badge ${kind}`, text: words });
}

function editButton(entry) {
  const button = make('button', { type: 'button', class: 'small', text: t('edit') });
  button.setAttribute('aria-label', `${t('edit')}: ${t('editOf', entry.row)}`);
  button.addEventListener('click', () => edit(entry));
  return button;
}

/** The record's facts as chips, which say whether the text states them, and light up its mentions. */
function factChips(record, fidelity) {
  const chips = record.facts.map(([subject, attribute, value]) => {
    const fact = { subject, attribute, value };
    const state = fidelity ? factState(fact, fidelity) : '';
    const chip = make('li', { class: state, text: factWords(fact) });
    if (state) chip.append(make('span', { class: 'unseen', text: ` (${t(state)})` }));
    return standFor(chip, () => [keyOf(fact)]);
  });
  return make('ul', { class: 'chips', 'aria-label': t('facts') }, ...chips);
}

/** What is not among the record's facts: wrong, added and leaked values. */
function extraErrors(fidelity) {
  return errorLists(fidelity).filter((list) => ['wrong', 'added', 'leaked'].includes(list.dataset.errors));
}

function references(texts) {
  const list = texts.map((text) => make('p', { dir: 'auto', text }));
  return make('details', {}, make('summary', { text: t('reference') }), ...list);
}

function turnPage(step) {
  const next = first + step * PAGE;
  if (next < 0 || next >= shown.length) return;
  first = next;
  drawPage();
  byId('rows-title').scrollIntoView({ block: 'start' });
}

function download(kind) {
  const [type, text] = kind === 'csv' ? ['text/csv', entriesAsCsv(shown)] : ['application/jsonl', entriesAsJsonLines(shown)];
  saveFile(`tailora-texts.${kind}`, `${type};charset=utf-8`, text);
  if (shown.length === entries.length) saved();
}

/**
 * @param onEdit is called with the entry whose record is to be edited
 * @param onSaved is called when all entries have been downloaded
 */
export function startRows(onEdit, onSaved) {
  edit = onEdit;
  saved = onSaved;
  let typing = null;
  const again = () => {
    first = 0;
    drawRows();
  };
  for (const id of ['show-kind', 'show-model', 'sort-rows']) byId(id).addEventListener('change', again);
  byId('find-row').addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(again, FIND_MS);
  });
  byId('previous-page').addEventListener('click', () => turnPage(-1));
  byId('next-page').addEventListener('click', () => turnPage(1));
  byId('download-csv').addEventListener('click', () => download('csv'));
  byId('download-jsonl').addEventListener('click', () => download('jsonl'));
  onLanguage(() => {
    drawn = new Map();
    drawRows();
  });
  drawRows();
}
