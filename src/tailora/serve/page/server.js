// Requests to the server, with the API key; errors are one type. All addresses are relative, so that the page works
// behind a path prefix.

import { t } from './words.js';

const KEY_NAME = 'tailora-key';

/** An error response of the server or of a proxy. Status 0: no response at all. */
export class Refusal extends Error {
  constructor(message, status = 0, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait; // seconds after which the server asks to be tried again; 0 if it does not say
  }
}

let key = storedKey();

function storedKey() {
  try {
    return sessionStorage.getItem(KEY_NAME) ?? '';
  } catch {
    return ''; // storage is switched off
  }
}

export function storeKey(newKey) {
  key = newKey;
  try {
    sessionStorage.setItem(KEY_NAME, newKey);
  } catch {
    // storage is switched off: the key is kept as long as the page
  }
}

/** Fetch, with the key; anything but success becomes a Refusal, except an abort. */
export async function ask(path, options = {}) {
  const headers = {};
  if (options.body) headers['Content-Type'] = 'application/json';
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refusal(t('silent'));
  }
  if (!response.ok) throw await refusalOf(response);
  return response;
}

async function refusalOf(response) {
  const { status } = response;
  const body = await response.json().catch(() => null); // a proxy's error page is not JSON
  const wait = Number(response.headers.get('Retry-After')) || 0;
  if (status === 401) return new Refusal(t(key ? 'keyRefused' : 'keyNeeded'), status);
  const message = body?.error?.message ?? t('status', status);
  const advice = wait ? t('tryIn', message, wait) : status === 429 ? t('tryLater', message) : message;
  return new Refusal(advice, status, wait);
}

export async function askJson(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw error.name === 'SyntaxError' ? new Refusal(t('unreadable'), response.status) : new Refusal(t('silent'));
  }
}

export const postJson = (path, body, signal) => askJson(path, { method: 'POST', body: JSON.stringify(body), signal });

/** The data of server-sent events, each of them JSON in one line, up to `[DONE]`. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines.filter((each) => each.startsWith('data:'))) {
        if (line.slice(5).trim() === '[DONE]') return;
        yield parseEvent(line.slice(5));
      }
    }
  } catch (error) {
    if (error.name === 'AbortError' || error instanceof Refusal) throw error;
    throw new Refusal(t('lost'));
  } finally {
    reader.cancel().catch(() => {}); // it may have ended or broken already
  }
}

function parseEvent(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Refusal(t('unreadable'));
  }
}
