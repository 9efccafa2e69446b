// Writing about one record with several models at once.

import {
  announceEnd, compareWithBase, makeCard, setState, showCards, showEnd, showPiece,
} from './cards.js';
import { announce, byId, disable, say } from './dom.js';
import { modelTitle, showKeyForm, tickedModels } from './models.js';
import { requestOptions } from './options.js';
import { forgetMistakes, showMistake, takeRecord } from './record.js';
import { ask, eventsOf, Refusal } from './server.js';
import { onLanguage, t } from './words.js';

const AT_ONCE = 5; // browsers open six connections to a host over HTTP/1.1; one stays free for the load

let writing = null; // the AbortController of what is being written
let runs = [];

/** Write about the record with each selected model. */
export async function writeRecord() {
  forgetMistakes();
  const chosen = tickedModels();
  if (!chosen.length) return say(t('noModelChosen'));
  let facts;
  try {
    facts = takeRecord();
  } catch (error) {
    return showMistake(error);
  }
  writing?.abort();
  const own = (writing = new AbortController());
  byId('stop').disabled = false;
  const body = { facts, stream: true, ...requestOptions() };
  runs = chosen.map((model) => ({ model, body: { model: model.id, ...body }, pieces: 0, card: makeCard(model) }));
  showCards(runs);
  await inTurn(runs, AT_ONCE, (run) => writeOne(run, own.signal));
  if (writing !== own) return; // written again meanwhile
  compareWithBase(runs);
  writing = null;
  disable(byId('stop'), byId('write'));
}

export function stopRecord() {
  writing?.abort();
}

export const isWritingRecord = () => writing !== null;

/** Show a text that is already there. */
export function showWritten(model, answer) {
  stopRecord();
  runs = [{ model, last: answer, pieces: 0, card: makeCard(model) }];
  showCards(runs);
  showEnd(runs[0]);
}

/** Do some work for each item, for a few at a time. */
export async function inTurn(items, most, work) {
  const left = [...items];
  const worker = async () => {
    while (left.length) await work(left.shift());
  };
  await Promise.all(Array.from({ length: Math.min(most, left.length) }, worker));
}

async function writeOne(run, signal) {
  run.asked = performance.now();
  setState(run, 'writing', t(run.body.beams > 1 ? 'writingBeams' : 'writing'));
  try {
    const response = await ask('v1/records', { method: 'POST', body: JSON.stringify(run.body), signal });
    for await (const chunk of eventsOf(response)) takeChunk(run, chunk);
    if (!run.last) throw new Refusal(t('endedEarly'));
    showEnd(run);
    announceEnd(run);
  } catch (error) {
    const stopped = error.name === 'AbortError';
    if (error.status === 401) showKeyForm();
    setState(run, stopped ? 'stopped' : 'failed', stopped ? t('stopped') : error.message);
    announce(`${modelTitle(run.model)}: ${run.card.state.textContent}`);
  }
}

function takeChunk(run, chunk) {
  if (chunk.error) throw new Refusal(chunk.error.message ?? t('serverEnded'));
  const seconds = (performance.now() - run.asked) / 1000;
  run.first ??= seconds;
  run.seconds = seconds;
  if (chunk.text !== undefined) {
    run.last = chunk;
    return;
  }
  run.pieces += 1;
  run.piece = chunk.delta ?? '';
  showPiece(run);
}

onLanguage(() => {
  const done = runs.filter((run) => run.last);
  done.forEach(showEnd);
  compareWithBase(done);
});
