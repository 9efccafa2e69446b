// Small helpers on the document. Input of people and of the server is inserted as text only, never as HTML.

import { t } from './words.js';

export const byId = (id) => document.getElementById(id);

/** Make an element; `text` becomes its content, everything else an attribute. */
export function make(tag, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

/** Make a select with options of [value, words], of which one is chosen. */
export function makeSelect(options, chosen, attributes = {}) {
  const select = make('select', attributes);
  fillSelect(select, options, chosen);
  return select;
}

/** Give a select its options; those that are there already stay, so that an open list is left alone. */
export function fillSelect(select, options, chosen = select.value) {
  const same = options.length === select.options.length && options.every(([value], index) => select.options[index].value === value);
  if (same) options.forEach(([, words], index) => setText(select.options[index], words));
  else select.replaceChildren(...options.map(([value, text]) => make('option', { value, text })));
  select.value = options.some(([value]) => value === chosen) ? chosen : options[0]?.[0] ?? '';
}

/** Set a text only where it differs, so that screen readers and selections are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Report what went wrong, above the button that started it. */
export function say(text) {
  setText(byId('message'), text);
}

/** Announce to screen readers, in a log, because texts that end together must not overwrite one another. */
export function announce(text) {
  const log = byId('announcer');
  log.append(make('p', { text }));
  while (log.children.length > 10) log.firstChild.remove();
}

/** Disable a button; the focus moves on, because a disabled button loses it. */
export function disable(button, next) {
  if (document.activeElement === button) next.focus();
  button.disabled = true;
}

export async function copyText(part, button) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(part.textContent);
  } catch {
    getSelection().selectAllChildren(part); // there is no clipboard without HTTPS
    copied = document.execCommand('copy');
  }
  setText(button, t(copied ? 'copied' : 'selectedCopy'));
  announce(button.textContent);
  setTimeout(() => setText(button, t('copy')), 2000);
}

/** Let the browser save a text as a file. */
export function saveFile(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = make('a', { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}
