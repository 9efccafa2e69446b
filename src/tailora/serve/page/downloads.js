// Entries as the text of a file: CSV that a spreadsheet opens without running anything, and JSON lines without loss.
// Without the document.

import { errorFacts, factWords } from './fidelity.js';

const FORMULA = /^[\s\u0000-\u001f]*[=+\-@\uff1d\uff0b\uff0d\uff20]/; // = + - @ and their wide forms start a formula
const NUMBER = /^[+-]?\d+([.,]\d+)*%?$/;
const ERRORS = ['missing', 'wrong', 'added', 'leaked', 'repeated'];

/** A cell of a CSV file; what a spreadsheet would run as a formula begins with an apostrophe, which it reads as text. */
export function csvCell(value) {
  const text = String(value ?? '');
  const safe = /^[\t\r\n]/.test(text) || (FORMULA.test(text) && !NUMBER.test(text)) ? `'${text}` : text;
  return /[",;\t\r\n]|^\s|\s$/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** A table as CSV in UTF-8 with a byte-order mark, by which Excel recognises it. */
export function csvText(header, rows) {
  return `\ufeff${[header, ...rows].map((row) => row.map(csvCell).join(',')).join('\r\n')}\r\n`;
}

/** Entries as a table: each attribute has a column, unless records have subjects. */
export function entriesAsCsv(entries) {
  const triples = entries.some(({ record }) => record.facts.some(([subject]) => subject));
  const attributes = triples ? [] : [...new Set(entries.flatMap(({ record }) => record.facts.map((fact) => fact[1])))];
  const factHeader = triples ? ['facts'] : attributes.map((name) => `fact: ${name}`);
  const header = ['row', 'id', 'model', 'text', 'errors', ...ERRORS, 'problem', 'references', ...factHeader];
  return csvText(header, entries.map((entry) => csvRow(entry, triples, attributes)));
}

function csvRow({ row, record, model, answer, problem }, triples, attributes) {
  const errors = answer?.fidelity ? errorFacts(answer.fidelity) : {};
  const errorCells = ERRORS.map((kind) => (errors[kind] ?? []).map(factWords).join('; '));
  const valuesOf = (name) => record.facts.filter((fact) => fact[1] === name).map((fact) => fact[2]).join('; ');
  const facts = triples ? [JSON.stringify(record.facts)] : attributes.map(valuesOf);
  const text = [answer?.text, answer?.fidelity?.errors];
  return [row, record.id, model.id, ...text, ...errorCells, problem, record.references.join('\n'), ...facts];
}

/** Entries as JSON lines. */
export function entriesAsJsonLines(entries) {
  return entries.map((entry) => `${JSON.stringify(jsonOf(entry))}\n`).join('');
}

function jsonOf({ row, record, model, state, answer, problem }) {
  const { text, finish_reason, logprob, fidelity, warnings } = answer ?? {};
  const { id, facts, references } = record;
  const written = { text, finish_reason, logprob, fidelity, warnings };
  return { row, id, model: model.id, facts, references, ...(state === 'done' ? written : { state, problem }) };
}
