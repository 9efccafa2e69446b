// The list of models to write with: the base, its adapters, and compositions of them.

import { byId, make, say } from './dom.js';
import { askJson } from './server.js';
import { number, onLanguage, t } from './words.js';

const MANY_MODELS = 10; // above it the list can be searched

let models = [];
const listeners = [];

export const isBase = (model) => model.parent === null;
export const modelTitle = (model) => (isBase(model) ? t('base') : model.id);
export const haveModels = () => models.length > 0;

export function aboutModel(model) {
  if (isBase(model)) return model.id;
  if (model.adapters) return model.adapters.map(({ name, weight }) => `${number(weight, 2)} × ${name}`).join(' + ');
  return [model.rank && t('rank', model.rank), model.prompt_form].filter(Boolean).join(', ');
}

export function onModels(listener) {
  listeners.push(listener);
}

export function showKeyForm() {
  byId('key-form').hidden = false;
  if (document.activeElement === document.body) byId('key').focus();
}

export async function loadModels() {
  let listed;
  try {
    listed = (await askJson('v1/models')).data ?? [];
  } catch (error) {
    if (!models.length) showNote('noModelList');
    say(error.message);
    if (error.status === 401) showKeyForm();
    return;
  }
  byId('key-form').hidden = true;
  if (!models.length) say(''); // an earlier message was about the missing list
  listed.sort((one, other) => isBase(other) - isBase(one));
  if (JSON.stringify(listed) !== JSON.stringify(models)) showModels(listed);
}

function showNote(words) {
  byId('model-list').replaceChildren(make('li', { class: 'note', 'data-word': words, text: t(words) }));
}

function showModels(listed) {
  const first = listed.find((model) => !isBase(model));
  const ticked = new Set(models.length ? tickedModels().map((model) => model.id) : [listed.find(isBase)?.id, first?.id]);
  models = listed;
  drawModels(ticked);
}

function drawModels(ticked) {
  const focused = document.activeElement?.name === 'model' ? document.activeElement.value : null;
  byId('model-list').replaceChildren(...models.map((model) => modelChoice(model, ticked.has(model.id))));
  if (!models.length) showNote('noModels');
  modelBoxes().find((box) => box.value === focused)?.focus();
  byId('find-model').hidden = models.length <= MANY_MODELS;
  findModels();
  for (const listener of listeners) listener();
}

function modelChoice(model, checked) {
  const box = make('input', { type: 'checkbox', name: 'model', value: model.id });
  box.checked = checked;
  const about = make('span', { class: 'note', text: aboutModel(model) });
  return make('li', {}, make('label', {}, box, make('span', { text: modelTitle(model) }), about));
}

const modelBoxes = () => [...byId('model-list').querySelectorAll('input')];

export function tickedModels() {
  const ticked = new Set(modelBoxes().filter((box) => box.checked).map((box) => box.value));
  return models.filter((model) => ticked.has(model.id));
}

export function tick(model) {
  for (const box of modelBoxes()) box.checked ||= box.value === model.id;
}

/** Hide models that do not match the search; selected ones stay visible, because they will be used. */
function findModels() {
  const wanted = byId('find-model').value.trim().toLowerCase();
  for (const box of modelBoxes()) {
    box.closest('li').hidden = !box.checked && !box.closest('li').textContent.toLowerCase().includes(wanted);
  }
}

export function startModels() {
  byId('find-model').addEventListener('input', findModels);
  byId('model-list').addEventListener('change', () => listeners.forEach((listener) => listener()));
  onLanguage(() => models.length && drawModels(new Set(tickedModels().map((model) => model.id))));
  return loadModels();
}
