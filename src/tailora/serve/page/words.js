// The language of the page: English or Vietnamese. The browser's preference decides until a language is chosen, and
// that choice is remembered. Static elements name their words in data-word attributes.

import { en } from './words_en.js';
import { vi } from './words_vi.js';

const WORDS = { en, vi };
const STORED = 'tailora-language';
const listeners = [];

let language = firstLanguage(stored(), navigator.languages ?? [navigator.language]);

/** The stored language if it is known, else the first known one of the browser's list, else English. */
export function firstLanguage(chosen, preferred) {
  const codes = [chosen, ...preferred].filter(Boolean).map((code) => code.toLowerCase().split('-')[0]);
  return codes.find((code) => code in WORDS) ?? 'en';
}

function stored() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null; // storage is switched off
  }
}

export const currentLanguage = () => language;

/** The words of this name; some take values. */
export function t(name, ...values) {
  const words = WORDS[language][name];
  if (words === undefined) throw new Error(`there are no words called ${name}`);
  return typeof words === 'function' ? words(...values) : words;
}

/** A number as the language writes it. */
export const number = (value, digits = 0) => value.toLocaleString(language, { maximumFractionDigits: digits });

export function onLanguage(listener) {
  listeners.push(listener);
}

export function setLanguage(code) {
  language = code;
  try {
    localStorage.setItem(STORED, code);
  } catch {
    // storage is switched off: the choice is kept as long as the page
  }
  translate();
  for (const listener of listeners) listener();
}

/** Set the words of all static elements. */
export function translate() {
  document.documentElement.lang = language;
  const attributes = { label: 'aria-label', placeholder: 'placeholder' };
  for (const element of document.querySelectorAll('[data-word]')) element.textContent = t(element.dataset.word);
  for (const [part, attribute] of Object.entries(attributes)) {
    for (const element of document.querySelectorAll(`[data-word-${part}]`)) {
      element.setAttribute(attribute, t(element.getAttribute(`data-word-${part}`)));
    }
  }
}
