// Facts as people write them, without the document: [subject, attribute, value], where the subject may be empty.

import { t } from './words.js';

/** What is wrong with a record, and the field to correct. */
export class Mistake extends Error {
  constructor(message, place) {
    super(message);
    this.place = place;
  }
}

/** The facts of a text: JSON, or `attribute : value | attribute : value`. */
export function parsePasted(text) {
  if (!text.trim()) return [];
  return /^\s*[[{]/.test(text) ? parseJson(text) : parsePiped(text);
}

function parseJson(text) {
  let record;
  try {
    record = JSON.parse(text);
  } catch (error) {
    throw new Mistake(t('badJson', error.message));
  }
  if (!Array.isArray(record)) {
    const pairs = Object.entries(record).flatMap(([name, values]) => [values].flat().map((value) => [name, value]));
    return pairs.map(([name, value]) => factFromJson([name, value], `“${name}”`));
  }
  return record.map((parts, index) => factFromJson(parts, t('factNumber', index + 1)));
}

function factFromJson(parts, where) {
  if (!Array.isArray(parts) || ![2, 3].includes(parts.length)) throw new Mistake(t('notAPair', where));
  const [subject, attribute, value] = parts.length === 2 ? ['', ...parts] : parts;
  if (!['string', 'number', 'boolean'].includes(typeof value)) throw new Mistake(t('badValue', where));
  if (typeof attribute !== 'string' || typeof (subject ?? '') !== 'string') throw new Mistake(t('badName', where));
  const written = value === true ? 'yes' : value === false ? 'no' : String(value); // as the server reads them
  return [(subject ?? '').trim(), attribute.trim(), written.trim()];
}

/** `attribute : value | subject : attribute : value`, where \| \: and \\ stand for themselves, as in the data files. */
function parsePiped(text) {
  const guarded = text.trim().replace(/\\([\\|:])/g, (_, sign) => String.fromCharCode('\\|:'.indexOf(sign) + 1));
  const restore = (part) => part.trim().replace(/[\x01-\x03]/g, (code) => '\\|:'[code.charCodeAt(0) - 1]);
  const pieces = guarded.split(/[|\n]/).filter((piece) => piece.trim());
  return pieces.map((piece, index) => {
    const parts = partsOf(piece).map(restore);
    if (parts.length < 2) throw new Mistake(t('noColon', `${t('factNumber', index + 1)}, “${parts[0]}”,`));
    return parts.length === 2 ? ['', ...parts] : parts;
  });
}

/** Up to three parts between “ : ”; where there is none, the two before and after the first “: ”. */
function partsOf(piece) {
  const [first, second, ...others] = piece.split(/(?:\s+|^):(?=\s|$)/);
  if (second === undefined) return piece.split(/:\s+(.*)/s).slice(0, 2);
  return others.length ? [first, second, others.join(' :')] : [first, second];
}

/** Facts as JSON, one a line: an object where no subject, and no attribute twice, asks for a list. */
export function formatFacts(facts) {
  const attributes = new Set(facts.map(([, attribute]) => attribute));
  const inLines = (lines, [open, close]) => `${open}\n${lines.map((line) => `  ${line}`).join(',\n')}\n${close}`;
  if (!facts.length) return '';
  if (facts.some(([subject]) => subject)) return inLines(facts.map((fact) => JSON.stringify(fact)), '[]');
  if (attributes.size < facts.length) return inLines(facts.map(([, ...pair]) => JSON.stringify(pair)), '[]');
  return inLines(facts.map(([, attribute, value]) => `${JSON.stringify(attribute)}: ${JSON.stringify(value)}`), '{}');
}

/** Facts as the server takes them: pairs, or triples where a fact has a subject. */
export function factsToSend(facts) {
  if (facts.some(([subject]) => subject)) return facts;
  return facts.map(([, attribute, value]) => [attribute, value]);
}
