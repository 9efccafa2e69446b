// Writing about all records of a file, with progress; stopped, continued, and failed rows tried again.

import { writeEntries } from './batch.js';
import { announce, byId, disable, say, setText } from './dom.js';
import { change, countKinds, makeEntries } from './entries.js';
import { factsToSend } from './facts.js';
import { duration } from './load.js';
import { onModels, showKeyForm, tickedModels } from './models.js';
import { requestOptions } from './options.js';
import { drawRows, setEntries } from './rows.js';
import { ask, eventsOf, Refusal } from './server.js';
import { currentLanguage, number, onLanguage, t } from './words.js';

const DRAW_MS = 300;

let records = [];
let entries = [];
let job = null; // what is being written: its AbortController, its start, and the entries that were done then
let usedOptions = null; // with which the finished texts were written
let unsaved = false;
let drawing = null;
let announced = 0;

const isDone = (entry) => entry.state === 'done';
const isOpen = (entry) => entry.state === 'waiting' || entry.state === 'writing';

/** Whether the texts so far may be lost; people are asked if they have not saved them. */
export function mayDiscard() {
  if (job) return false;
  return !unsaved || confirm(t('discard'));
}

export function takeRecords(some) {
  records = some;
  entries = [];
  unsaved = false;
  showJobWords('');
  gatherEntries();
}

/** Entries of the selected models: those that are there stay, and finished ones of other models too. */
function gatherEntries() {
  const known = new Map(entries.map((entry) => [`${entry.row} ${entry.model.id}`, entry]));
  const models = tickedModels();
  const ids = new Set(models.map((model) => model.id));
  const wanted = makeEntries(records, models).map((entry) => known.get(`${entry.row} ${entry.model.id}`) ?? entry);
  const others = entries.filter((entry) => !ids.has(entry.model.id) && isDone(entry));
  entries = [...wanted, ...others].sort((one, other) => one.row - other.row);
  setEntries(entries);
  drawJob();
}

export async function writeFile() {
  say('');
  if (job) return;
  if (!records.length) return say(t('noFile'));
  if (!tickedModels().length) return say(t('noModelChosen'));
  const options = requestOptions();
  const changed = usedOptions !== null && JSON.stringify(options) !== JSON.stringify(usedOptions);
  if (entries.some(isDone) && (changed || !entries.some(isOpen))) {
    if (!confirm(t('overwrite'))) return;
    entries.forEach((entry) => change(entry, { state: 'waiting', answer: null, problem: '' }));
  }
  usedOptions = options;
  await work(entries.filter(isOpen));
}

export function retryFailed() {
  if (job) return;
  const failed = entries.filter((entry) => entry.state === 'failed');
  failed.forEach((entry) => change(entry, { state: 'waiting', problem: '' }));
  work(failed);
}

export function stopFile() {
  job?.stop.abort();
}

async function work(open) {
  job = { stop: new AbortController(), began: performance.now(), before: entries.filter(isDone).length };
  announced = 0;
  showJobWords('');
  drawJob();
  try {
    await writeEntries(open, { send, report, sleep, signal: job.stop.signal });
    showJobWords(t('allWritten'));
  } catch (error) {
    if (error.status === undefined && error.name !== 'AbortError') throw error;
    if (error.status === 401) showKeyForm();
    showJobWords(error.name === 'AbortError' ? t('jobStopped') : t('jobBroke', error.message.replace(/\.$/, '')));
  } finally {
    job = null;
    drawNow();
  }
}

async function send(block, signal, take) {
  const facts = (entry) => factsToSend(entry.record.facts.map(([subject, ...pair]) => [subject ?? '', ...pair]));
  const asked = block.map((entry) => ({ facts: facts(entry) }));
  const body = { model: block[0].model.id, records: asked, stream: true, ...usedOptions };
  const response = await ask('v1/records', { method: 'POST', body: JSON.stringify(body), signal });
  let left = block.length;
  for await (const chunk of eventsOf(response)) {
    if (chunk.error) throw new Refusal(chunk.error.message ?? t('serverEnded'), 500);
    if (chunk.text === undefined) continue;
    take(block[chunk.index], chunk);
    left -= 1;
  }
  if (left) throw new Refusal(t('endedEarly'));
}

function report(entry, changes) {
  change(entry, changes);
  if (changes.state === 'done') unsaved = true;
  drawing ??= setTimeout(drawNow, DRAW_MS);
}

/** Wait until a busy server is to be tried again. */
function sleep(seconds, signal) {
  showJobWords(t('waitingForServer', number(seconds)));
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      showJobWords('');
      resolve();
    }, seconds * 1000);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function showJobWords(words) {
  setText(byId('job-state'), words);
}

function drawNow() {
  clearTimeout(drawing);
  drawing = null;
  drawRows();
  drawJob();
}

function drawJob() {
  const counts = countKinds(entries);
  const done = entries.length - counts.Waiting;
  byId('job').hidden = !entries.length;
  byId('job-progress').max = Math.max(1, entries.length);
  byId('job-progress').value = done;
  setText(byId('job-words'), progressWords(done, counts));
  byId('file-fields').disabled = job !== null;
  setText(byId('write-all'), writeWords(counts));
  if (job) disable(byId('write-all'), byId('stop-all'));
  byId('stop-all').disabled = job === null;
  byId('write-all').disabled = job !== null;
  byId('retry-failed').hidden = !counts.Failed || job !== null;
  setText(byId('retry-failed'), t('retryFailed', number(counts.Failed)));
  announceProgress(done, counts.Failed);
}

function writeWords({ All, Waiting }) {
  if (!All) return t('write');
  if (Waiting === All) return t('writeAll', number(All));
  return Waiting ? t('continueWriting', number(Waiting)) : t('writeAgain', number(All));
}

function progressWords(done, counts) {
  const words = [t('progressWords', number(done), number(entries.length))];
  if (counts.Failed) words.push(t('progressFailed', number(counts.Failed)));
  const finished = job ? entries.filter(isDone).length - job.before : 0;
  if (finished > 0) {
    const pace = (finished / (performance.now() - job.began)) * 1000;
    words.push(t('pace', number(pace, 1)), t('timeLeft', duration(counts.Waiting / pace)));
  }
  return words.join(', ');
}

/** Tell screen readers each tenth, not each text. */
function announceProgress(done, failed) {
  const tenth = Math.floor((10 * done) / Math.max(1, entries.length));
  if (!job || tenth <= announced) return;
  announced = tenth;
  const share = (tenth / 10).toLocaleString(currentLanguage(), { style: 'percent' });
  announce(t('announceProgress', share, failed));
}

export function startFileWriting() {
  byId('stop-all').addEventListener('click', stopFile);
  byId('retry-failed').addEventListener('click', retryFailed);
  onModels(() => !job && gatherEntries());
  onLanguage(drawJob);
  addEventListener('beforeunload', (event) => {
    if (job || unsaved) event.preventDefault();
  });
  drawJob();
}

export function markSaved() {
  unsaved = false;
}
