// The record that one writes about: a form, or a text that is pasted.

import { byId, make, say } from './dom.js';
import { factsToSend, formatFacts, Mistake, parsePasted } from './facts.js';
import { standFor } from './lights.js';
import { onLanguage, t } from './words.js';

const EXAMPLE = [
  ['name', 'The Copper Kettle'],
  ['eatType', 'coffee shop'],
  ['food', 'Italian'],
  ['priceRange', 'moderate'],
  ['customer rating', '5 out of 5'],
  ['area', 'riverside'],
  ['familyFriendly', 'yes'],
  ['near', 'Harbour Museum'],
];
const PARTS = ['subject', 'attribute', 'value'];

const rows = () => [...byId('facts').children];
const field = (row, name) => row.querySelector(`[name="${name}"]`);
const isPasting = () => !byId('paste').hidden;

function addRow([subject, attribute, value]) {
  const box = (name, content, more = {}) => {
    const input = make('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', name, ...more });
    input.value = content;
    return input;
  };
  const remove = make('button', { type: 'button', class: 'remove', text: '×' });
  const named = box('attribute', attribute, { list: 'attributes' });
  const row = make('li', {}, box('subject', subject), named, box('value', value), remove);
  remove.addEventListener('click', () => removeRow(row));
  standFor(row, () => [JSON.stringify(factOf(row))]);
  byId('facts').append(row);
  return row;
}

function removeRow(row) {
  const next = row.nextElementSibling ?? row.previousElementSibling;
  row.remove();
  nameRows();
  (next?.querySelector('.remove') ?? byId('add-fact')).focus();
}

/** Number the rows for screen readers, and show or hide the subjects. */
function nameRows() {
  const triples = byId('triples').checked;
  byId('facts').classList.toggle('triples', triples);
  rows().forEach((row, index) => {
    for (const name of PARTS) {
      field(row, name).setAttribute('aria-label', t('factPart', index + 1, t(name)));
      field(row, name).setAttribute('placeholder', t(name));
    }
    row.querySelector('.remove').setAttribute('aria-label', t('removeFact', index + 1));
    field(row, 'subject').hidden = !triples;
  });
}

/** A row as [subject, attribute, value]; without triples a subject is kept in its field, but is not part of the fact. */
function factOf(row) {
  const [subject, attribute, value] = PARTS.map((name) => field(row, name).value.trim());
  return [byId('triples').checked ? subject : '', attribute, value];
}

const formFacts = () => rows().map(factOf).filter((fact) => fact.some(Boolean));

function fillForm(facts) {
  byId('triples').checked = facts.some(([subject]) => subject);
  byId('facts').replaceChildren();
  facts.forEach(addRow);
  nameRows();
}

/** Show a record in the form. */
export function showRecord(facts) {
  byId('paste-text').value = '';
  showTab(false);
  fillForm(facts.map(([subject, ...pair]) => [subject ?? '', ...pair]));
}

function pastedFacts() {
  try {
    return parsePasted(byId('paste-text').value);
  } catch (error) {
    error.place = byId('paste-text');
    throw error;
  }
}

/** The record to write about, as the server takes it; a Mistake where a fact is half empty. */
export function takeRecord() {
  const facts = isPasting() ? pastedFacts() : rows().map(factOf);
  const place = (index, name) => (isPasting() ? byId('paste-text') : field(rows()[index], name));
  facts.forEach((fact, index) => {
    const [, attribute, value] = fact;
    if (!fact.some(Boolean)) return;
    if (!attribute) throw new Mistake(t('noAttribute', index + 1), place(index, 'attribute'));
    if (!value) throw new Mistake(t('noValue', index + 1, attribute), place(index, 'value'));
  });
  const filled = facts.filter((fact) => fact.some(Boolean));
  if (filled.length) return factsToSend(filled);
  throw new Mistake(t('emptyRecord'), byId(isPasting() ? 'paste-text' : 'add-fact'));
}

export function showMistake(error) {
  if (!(error instanceof Mistake)) throw error;
  say(error.message);
  if (error.place.matches('input, textarea')) error.place.setAttribute('aria-invalid', 'true');
  error.place.focus();
}

export function forgetMistakes() {
  say('');
  for (const element of document.querySelectorAll('[aria-invalid]')) element.removeAttribute('aria-invalid');
}

/** Show the form or the text, and carry the record over; where both say the same, leave it as people wrote it. */
function switchTab(pasting) {
  if (pasting === isPasting()) return;
  forgetMistakes();
  try {
    if (!saySame()) carryOver(pasting);
  } catch (error) {
    showMistake(error);
    return;
  }
  showTab(pasting);
  byId(pasting ? 'paste-tab' : 'form-tab').focus();
}

function saySame() {
  try {
    return JSON.stringify(formFacts()) === JSON.stringify(pastedFacts());
  } catch {
    return false; // what is pasted cannot be read, which carrying it over reports
  }
}

function carryOver(pasting) {
  if (pasting) byId('paste-text').value = formatFacts(formFacts());
  else fillForm(pastedFacts());
}

function showTab(pasting) {
  byId('paste').hidden = !pasting;
  byId('record-form').hidden = pasting;
  byId('triples-choice').hidden = pasting;
  for (const [tab, chosen] of [[byId('form-tab'), !pasting], [byId('paste-tab'), pasting]]) {
    tab.setAttribute('aria-selected', String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
  }
}

function moveBetweenTabs(event) {
  if (['ArrowLeft', 'ArrowRight'].includes(event.key)) switchTab(!isPasting());
  else if (event.key === 'Home' || event.key === 'End') switchTab(event.key === 'End');
  else return;
  event.preventDefault();
}

export function startRecord() {
  fillForm(EXAMPLE.map((pair) => ['', ...pair]));
  byId('add-fact').addEventListener('click', () => {
    const row = addRow(['', '', '']);
    nameRows();
    field(row, byId('triples').checked ? 'subject' : 'attribute').focus();
  });
  byId('triples').addEventListener('change', nameRows);
  byId('record').addEventListener('input', forgetMistakes);
  byId('form-tab').addEventListener('click', () => switchTab(false));
  byId('paste-tab').addEventListener('click', () => switchTab(true));
  byId('record-tabs').addEventListener('keydown', moveBetweenTabs);
  onLanguage(nameRows);
}
