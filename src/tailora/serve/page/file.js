// A data file: chosen, decoded here, read by the server, with the use of each column.

import { byId, fillSelect, make, makeSelect, setText } from './dom.js';
import { decoded, ENCODINGS, foreignKind, guessEncoding } from './encoding.js';
import { isBase, onModels, showKeyForm, tickedModels } from './models.js';
import { postJson } from './server.js';
import { number, onLanguage, t } from './words.js';

const MOST_BYTES = 64 << 20; // what a browser reads at once without delay; the server's own limit is lower
const ROLES = ['facts', 'text', 'id', 'group', 'language', 'subject', 'mr', 'ignore'];
const MANY = ['facts', 'ignore'];

let file = null; // its name and bytes
let found = null; // what the server has read: records, columns, notes, warnings, format
let byHand = false; // the columns were chosen on this page
let reading = null; // the AbortController of the request in progress
let trainedBy = null; // the adapter whose training decides on the columns
let onRecords = () => {};
let mayDiscard = () => true;

export const fileName = () => file?.name;

async function choose(chosen) {
  if (!chosen || !mayDiscard()) return;
  file = null;
  forget();
  setText(byId('file-name'), chosen.name);
  if (chosen.size > MOST_BYTES) return showProblem(t('fileTooLarge', number(chosen.size / 2 ** 20)));
  const bytes = new Uint8Array(await chosen.arrayBuffer());
  const kind = foreignKind(bytes);
  if (kind) return showProblem(t('notText', t(kind)));
  file = { name: chosen.name, bytes };
  fillSelect(byId('encoding'), ENCODINGS, guessEncoding(bytes));
  byId('encoding-choice').hidden = false;
  await read(null);
}

function forget() {
  found = null;
  byHand = false;
  byId('columns').hidden = true;
  byId('encoding-choice').hidden = true;
  byId('file-notes').replaceChildren();
  onRecords([]);
}

function showProblem(message) {
  setText(byId('file-status'), '');
  setText(byId('file-problem'), message);
}

/** Let the server read the file; null for columns leaves their use to it. */
async function read(columns) {
  const text = decoded(file.bytes, byId('encoding').value);
  if (text === null) return showProblem(t('badBytes', byId('encoding').selectedOptions[0].textContent));
  trainedBy = tickedModels().find((model) => !isBase(model))?.id;
  const body = { name: file.name.slice(-200), text, ...(columns && { columns }), ...(trainedBy && { model: trainedBy }) };
  reading?.abort();
  const own = (reading = new AbortController());
  showProblem('');
  setText(byId('file-status'), t('readingFile'));
  try {
    const { format, columns: used, notes, warnings, data } = await postJson('v1/files/read', body, own.signal);
    found = { format, columns: used, notes, warnings, records: data };
  } catch (error) {
    if (error.name === 'AbortError') return;
    if (error.status === 401) showKeyForm();
    onRecords([]);
    return showProblem(error.message);
  }
  byHand = columns !== null;
  showFound();
  onRecords(found.records);
}

function showFound() {
  setText(byId('file-status'), t('fileRead', number(found.records.length), found.format));
  const notes = [...(byHand ? [] : found.notes), ...found.warnings];
  byId('file-notes').replaceChildren(...notes.map((text) => make('li', { text })));
  byId('columns').hidden = !found.columns.length;
  if (byHand) found.columns.forEach(({ role }, index) => (selects()[index].value = role));
  else drawColumns();
}

const selects = () => [...byId('column-list').querySelectorAll('select')];
const roleWords = () => ROLES.map((role) => [role, t(`role${role[0].toUpperCase()}${role.slice(1)}`)]);

function drawColumns() {
  const items = found.columns.map(({ name, role }) => {
    const select = makeSelect(roleWords(), role, { 'aria-label': t('columnRole', name) });
    return make('li', {}, make('span', { text: name }), select);
  });
  byId('column-list').replaceChildren(...items);
}

/** A role of one column is taken from the column that had it. */
function chooseRole({ target }) {
  for (const select of selects()) {
    if (select !== target && select.value === target.value && !MANY.includes(target.value)) select.value = 'ignore';
  }
  const columns = columnsByRole(found.columns.map(({ name }) => name), selects().map((select) => select.value));
  if (!columns.facts.length && !columns.mr) return showProblem(t('noFactColumn'));
  if (mayDiscard()) read(columns);
  else found.columns.forEach(({ role }, index) => (selects()[index].value = role));
}

/** Names of columns by role, as the server takes them. */
export function columnsByRole(names, roles) {
  const columns = { facts: [], ignore: [] };
  names.forEach((name, index) => {
    if (MANY.includes(roles[index])) columns[roles[index]].push(name);
    else columns[roles[index]] = name;
  });
  return columns;
}

/** The training of another adapter may use other columns. */
function readAgainForModels() {
  const adapter = tickedModels().find((model) => !isBase(model))?.id;
  if (file && !byHand && !byId('file-fields').disabled && adapter !== trainedBy && mayDiscard()) read(null);
}

function acceptDrops() {
  const area = byId('file-fields');
  const mark = (over) => (event) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    area.classList.toggle('over', over);
  };
  area.addEventListener('dragover', mark(true));
  area.addEventListener('dragleave', mark(false));
  area.addEventListener('drop', (event) => {
    mark(false)(event);
    if (!area.disabled) choose(event.dataTransfer.files[0]);
  });
}

/**
 * @param show is called with the records of the file; none while there is no file that can be read
 * @param ask returns whether the texts of the file so far may be lost
 */
export function startFile(show, ask) {
  [onRecords, mayDiscard] = [show, ask];
  byId('file-input').addEventListener('change', ({ target }) => {
    choose(target.files[0]);
    target.value = ''; // the same file may be chosen again after it was changed
  });
  byId('encoding').addEventListener('change', () => file && mayDiscard() && read(null));
  byId('column-list').addEventListener('change', chooseRole);
  acceptDrops();
  onModels(readAgainForModels);
  onLanguage(() => {
    if (!found) return;
    setText(byId('file-status'), t('fileRead', number(found.records.length), found.format));
    for (const [index, select] of selects().entries()) {
      fillSelect(select, roleWords());
      select.setAttribute('aria-label', t('columnRole', found.columns[index].name));
    }
  });
}
