// How busy the server is, and its recent requests.

import { byId, make, setText } from './dom.js';
import { haveModels, loadModels } from './models.js';
import { askJson } from './server.js';
import { currentLanguage, number, onLanguage, t } from './words.js';

const POLL_MS = 2000;
const REFUSED_POLL_MS = 15000; // a server that refuses its status is asked less often
const POLL_LIMIT_MS = 8000;
const HISTORY_MS = 120000;
const GAP_MS = 10000; // a longer pause between two answers breaks the history line
const METERS = { running: 'sequences', kv_blocks_used: 'kv_blocks', slots_used: 'slots' }; // what is used, of what

let timer = null;
let polling = false;
let speeds = []; // of the last two minutes
let adapterCount = null;
let shownRecent = '';

/** Ask for the load, and again after a while; not while nobody sees the page. */
export async function poll() {
  clearTimeout(timer);
  if (document.hidden || polling) return;
  polling = true;
  let pause = POLL_MS;
  try {
    await showStatus(await askJson('v1/status', { signal: AbortSignal.timeout(POLL_LIMIT_MS) }));
  } catch (error) {
    if (error.status) pause = REFUSED_POLL_MS;
    showNoStatus(error);
  } finally {
    polling = false;
    timer = setTimeout(poll, pause);
  }
}

function showNoStatus(error) {
  byId('load-numbers').hidden = true;
  const words = { 0: 'loadSilent', 401: 'loadNeedsKey', 404: 'loadMissing' }[error.status ?? 0];
  setText(byId('load-note'), words ? t(words) : t('loadFailed', error.message));
}

async function showStatus(status) {
  setText(byId('load-note'), status.draining ? t('draining') : '');
  byId('load-numbers').hidden = false;
  for (const [used, most] of Object.entries(METERS)) showMeter(used, status[used], status[most]);
  const { running, waiting, adapters } = status;
  setText(byId('load-words'), t('loadWords', running, waiting, adapters, duration(status.uptime_seconds)));
  showHistory(status.tokens_per_second);
  showRecent(status.recent ?? []);
  const changed = adapterCount !== null && adapterCount !== adapters;
  adapterCount = adapters;
  if (changed || !haveModels()) await loadModels();
}

function showMeter(name, used, most) {
  byId(name).max = Math.max(1, most);
  byId(name).value = used;
  setText(byId(`${name}-words`), t('usedOf', number(used), number(most)));
}

/** A time in the largest unit of which there are at least two. */
export function duration(seconds) {
  const units = [[86400, 'days'], [3600, 'hours'], [60, 'minutes']];
  const [size, unit] = units.find(([each]) => seconds >= 2 * each) ?? [1, 'seconds'];
  return t(unit, Math.round(seconds / size));
}

function showHistory(speed) {
  const now = performance.now();
  speeds = [...speeds, { time: now, speed }].filter(({ time }) => now - time < HISTORY_MS);
  const most = Math.max(...speeds.map((each) => each.speed));
  const steps = speeds.map((each, index) => stepTo(each, speeds[index - 1], now, most));
  byId('speed-path').setAttribute('d', steps.join(''));
  setText(byId('speed-words'), t('speedNow', number(speed), number(most)));
}

function stepTo({ time, speed }, before, now, most) {
  const x = 300 * (1 - (now - time) / HISTORY_MS);
  const y = 58 - (56 * speed) / Math.max(1, most);
  return `${before && time - before.time < GAP_MS ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
}

function showRecent(requests) {
  const json = JSON.stringify([currentLanguage(), requests]);
  if (json === shownRecent) return; // people may be reading or selecting in it
  shownRecent = json;
  byId('recent-empty').hidden = requests.length > 0;
  byId('recent-box').hidden = !requests.length;
  byId('recent-rows').replaceChildren(...requests.map(recentRow));
}

function recentRow(request) {
  const at = new Date(request.time * 1000);
  const seconds = (value) => (typeof value === 'number' ? number(value, 2) : '–');
  const cells = [request.model ?? '–', request.route, String(request.status)].map((text) => make('td', { text }));
  if (request.status >= 400) cells[2].className = 'bad';
  const { prompt_tokens: read, completion_tokens: written } = request;
  const numbers = [read, written, seconds(request.seconds), seconds(request.first_token_seconds)];
  const time = make('time', { datetime: at.toISOString(), text: at.toLocaleTimeString(currentLanguage()) });
  const numberCells = numbers.map((text) => make('td', { class: 'number', text: String(text) }));
  return make('tr', {}, make('td', {}, time), ...cells, ...numberCells);
}

export function startLoad() {
  document.addEventListener('visibilitychange', poll);
  onLanguage(poll);
  return poll();
}
