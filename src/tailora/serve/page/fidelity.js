// What the server says about a text's facts, without the document.

import { t } from './words.js';

export const KINDS = { added: 'addedMark', leaked: 'leakedMark', repeated: 'repeatedMark', said: 'said' };

export const keyOf = ({ subject, attribute, value }) => JSON.stringify([subject ?? '', attribute, value]);
export const factWords = ({ subject, attribute, value }) => `${subject ? `${subject}, ` : ''}${attribute}: ${value}`;
const slotOf = ({ subject, attribute }) => JSON.stringify([subject ?? '', attribute]);

/** The facts of a text that are not as they should be, by kind: a value in place of a missing one is wrong. */
export function errorFacts({ missing, added, leaked = [], repeated }) {
  const missed = new Set(missing.map(slotOf));
  const replaced = new Set(added.map(slotOf));
  return {
    missing: missing.filter((fact) => !replaced.has(slotOf(fact))),
    wrong: added.filter((fact) => missed.has(slotOf(fact))),
    added: added.filter((fact) => !missed.has(slotOf(fact))),
    leaked,
    repeated,
  };
}

/** How a text renders a fact of its record: stated, repeated, wrong or missing. */
export function factState(fact, fidelity) {
  const key = keyOf(fact);
  const among = (facts) => facts.some((other) => keyOf(other) === key);
  if (!among(fidelity.missing)) return among(fidelity.repeated) ? 'repeated' : 'said';
  return fidelity.added.some((other) => slotOf(other) === slotOf(fact)) ? 'wrong' : 'missing';
}

export function fidelityWords({ slots, missing, added, leaked = [], repeated }) {
  const others = [['countMissing', missing], ['countAdded', added], ['countLeaked', leaked], ['countRepeated', repeated]];
  const counted = others.filter(([, facts]) => facts.length).map(([words, facts]) => t(words, facts.length));
  return [t('statedOf', slots - missing.length, slots), ...counted].join(', ');
}

/**
 * A text as pieces, in order: {text} or, for a mention, {text, kind, title, keys}.
 * The server counts code points, so the text is cut as a list of these.
 */
export function textPieces(text, fidelity) {
  const letters = Array.from(text);
  const keysOf = (facts) => new Set((facts ?? []).map(keyOf));
  const [repeated, leaked, met] = [keysOf(fidelity?.repeated), keysOf(fidelity?.leaked), new Set()];
  const pieces = [];
  let place = 0;
  for (const { start, end, mentions } of joinedMentions(fidelity?.mentions ?? [])) {
    const keys = mentions.map(keyOf);
    const kind = kindOf(mentions, keys, { repeated, leaked, met });
    keys.forEach((key) => met.add(key));
    const title = `${t(KINDS[kind])}: ${mentions.map(factWords).join('; ')}`;
    pieces.push({ text: letters.slice(place, start).join('') }, { text: letters.slice(start, end).join(''), kind, title, keys });
    place = end;
  }
  return [...pieces, { text: letters.slice(place).join('') }].filter((piece) => piece.text);
}

function kindOf(mentions, keys, { repeated, leaked, met }) {
  if (keys.some((key) => leaked.has(key))) return 'leaked';
  if (mentions.some((each) => each.added)) return 'added';
  return keys.some((key) => repeated.has(key) && met.has(key)) ? 'repeated' : 'said';
}

/** Mentions in their order, those that overlap as one: two facts may be said by the same words. */
function joinedMentions(mentions) {
  const joined = [];
  for (const each of [...mentions].sort((one, other) => one.start - other.start)) {
    const last = joined.at(-1);
    if (last && each.start < last.end) {
      last.end = Math.max(last.end, each.end);
      last.mentions.push(each);
    } else joined.push({ start: each.start, end: each.end, mentions: [each] });
  }
  return joined;
}
