// Entries: the text of one row with one model. What of them is shown, and in which order. Without the document.

import { errorFacts } from './fidelity.js';

export const KINDS = ['All', 'Clean', 'Errors', 'Missing', 'Wrong', 'Added', 'Leaked', 'Repeated', 'Failed', 'Waiting'];
export const ORDERS = ['File', 'Errors', 'Long', 'Short', 'Likely'];

/** One entry for each record and model, in the order of the file. */
export function makeEntries(records, models) {
  return records.flatMap((record, index) =>
    models.map((model) => ({ row: index + 1, record, model, state: 'waiting', answer: null, problem: '', kinds: null, version: 0 })),
  );
}

/** Change an entry; its version says that it has to be drawn again. */
export function change(entry, changes) {
  Object.assign(entry, changes, { kinds: null, version: entry.version + 1 });
}

/** The kinds that an entry belongs to, as a set. */
export function kindsOf(entry) {
  entry.kinds ??= new Set(['All', ...computedKinds(entry)]);
  return entry.kinds;
}

function computedKinds({ state, answer }) {
  if (state === 'failed') return ['Failed'];
  if (state !== 'done') return ['Waiting'];
  if (!answer.fidelity) return [];
  const errors = errorFacts(answer.fidelity);
  const kinds = Object.keys(errors).filter((kind) => errors[kind].length);
  const names = kinds.map((kind) => kind[0].toUpperCase() + kind.slice(1));
  return [answer.fidelity.errors ? 'Errors' : 'Clean', ...names];
}

/** How many entries there are of each kind. */
export function countKinds(entries) {
  const counts = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
  for (const entry of entries) for (const kind of kindsOf(entry)) counts[kind] += 1;
  return counts;
}

const textOf = (entry) => entry.answer?.text ?? '';
const errorsOf = (entry) => entry.answer?.fidelity?.errors ?? -1;
const COMPARE = {
  File: () => 0,
  Errors: (one, other) => errorsOf(other) - errorsOf(one),
  Long: (one, other) => textOf(other).length - textOf(one).length,
  Short: (one, other) => (one.answer ? textOf(one).length : Infinity) - (other.answer ? textOf(other).length : Infinity) || 0,
  Likely: (one, other) => (one.answer?.logprob ?? 1) - (other.answer?.logprob ?? 1),
};

/** The entries of a kind and model (empty: all) in which some words occur, in an order. */
export function selected(entries, { kind, model, words, order }) {
  const wanted = words.trim().toLowerCase();
  const shown = entries.filter(
    (entry) => kindsOf(entry).has(kind) && (!model || entry.model.id === model) && (!wanted || haystack(entry).includes(wanted)),
  );
  return order === 'File' ? shown : shown.sort(COMPARE[order]);
}

function haystack(entry) {
  return [entry.record.id, textOf(entry), ...entry.record.facts.flat()].join('\n').toLowerCase();
}

/** Shares of finished texts without errors, and of facts that they state; null where nothing is finished. */
export function summary(entries) {
  const checked = entries.filter((entry) => entry.answer?.fidelity).map((entry) => entry.answer.fidelity);
  if (!checked.length) return null;
  const slots = checked.reduce((sum, { slots: own }) => sum + own, 0);
  const missing = checked.reduce((sum, { missing: own }) => sum + own.length, 0);
  const clean = checked.filter(({ errors }) => !errors).length / checked.length;
  return { clean, stated: slots ? (slots - missing) / slots : 1 };
}
