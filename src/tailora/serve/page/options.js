// How texts are written: the options below the record and the file.

import { byId } from './dom.js';

/** The options as fields of a request. */
export function requestOptions() {
  const beams = byId('beams').valueAsNumber;
  return {
    max_tokens: byId('max-tokens').valueAsNumber,
    beams,
    ...(beams > 1 && byId('rerank').checked ? { rerank: 'fidelity' } : {}),
  };
}

function allowRerank() {
  byId('rerank').disabled = !(byId('beams').valueAsNumber > 1);
}

export function startOptions() {
  allowRerank();
  byId('beams').addEventListener('input', allowRerank);
}
