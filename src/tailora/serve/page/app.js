// The page of `tailora serve`: writes about a record with several models at once, shows which facts each text states,
// and how busy the server is. All addresses are relative, so that the page works behind a path prefix. Input of
// people and of the server is inserted as text only, never as HTML.

const EXAMPLE = [
  ['name', 'The Copper Kettle'],
  ['eatType', 'coffee shop'],
  ['food', 'Italian'],
  ['priceRange', 'moderate'],
  ['customer rating', '5 out of 5'],
  ['area', 'riverside'],
  ['familyFriendly', 'yes'],
  ['near', 'Harbour Museum'],
];
const AT_ONCE = 5; // browsers open six connections to a host over HTTP/1.1; one stays free for the load
const POLL_MS = 2000;
const REFUSED_POLL_MS = 15000; // a server that refuses its status is asked less often
const POLL_LIMIT_MS = 8000;
const HISTORY_MS = 120000;
const GAP_MS = 10000; // a longer pause between two answers breaks the history line
const MANY_MODELS = 10; // above it the list can be searched
const PARTS = ['subject', 'attribute', 'value'];
const KEY_NAME = 'tailora-key';

const SILENT = 'The server does not answer; check that it is running, and try again';
const UNREADABLE = 'The response cannot be read; check that this address belongs to a Tailora server';

const byId = (id) => document.getElementById(id);

// --- elements -------------------------------------------------------------------------------------------------------

/** Make an element; `text` becomes its content, everything else an attribute. */
function make(tag, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

/** Set a text only where it differs, so that screen readers and selections are left alone. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function say(text) {
  setText(byId('message'), text);
}

/** Announce to screen readers, in a log, because texts that end together must not overwrite one another. */
function announce(text) {
  const log = byId('announcer');
  log.append(make('p', { text }));
  while (log.children.length > 10) log.firstChild.remove();
}

/** The result of some work, or null if it fails and that does not matter. */
function quietly(work) {
  try {
    return work();
  } catch {
    return null;
  }
}

const count = (number, noun) => `${number} ${number === 1 ? noun : `${noun}s`}`;
const rounded = (number) => (number >= 10 ? String(Math.round(number)) : number.toFixed(1));

// --- the server -----------------------------------------------------------------------------------------------------

/** An error response of the server or of a proxy. Status 0: no response at all. */
class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// If storage is switched off, the key is kept as long as the page.
let key = quietly(() => sessionStorage.getItem(KEY_NAME)) ?? '';

function storeKey(newKey) {
  key = newKey;
  quietly(() => sessionStorage.setItem(KEY_NAME, newKey));
}

/** Fetch, with the key; anything but success becomes a Refusal, except an abort. */
async function ask(path, options = {}) {
  const headers = {};
  if (options.body) headers['Content-Type'] = 'application/json';
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refusal(SILENT);
  }
  if (!response.ok) throw new Refusal(await refusalWords(response), response.status);
  return response;
}

async function refusalWords(response) {
  const body = await response.json().catch(() => null); // a proxy's error page is not JSON
  const message = body?.error?.message ?? `The server responded with status ${response.status}`;
  if (response.status === 401) {
    return key ? 'The server does not accept this API key; enter another one' : 'The server requires an API key; enter it above';
  }
  const wait = Number(response.headers.get('Retry-After'));
  if (response.status === 429 || wait) return `${message}; try again ${wait ? `in ${wait} s` : 'later'}`;
  return message;
}

async function askJson(path, options) {
  const response = await ask(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw error.name === 'SyntaxError' ? new Refusal(UNREADABLE, response.status) : new Refusal(SILENT);
  }
}

/** The data of server-sent events. Tailora sends each as one line. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith('data:')) yield line.slice(5).trim();
    }
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refusal('The connection was lost; try again');
  } finally {
    reader.cancel().catch(() => {}); // it may have ended or broken already
  }
}

// --- models ---------------------------------------------------------------------------------------------------------

let models = [];

async function loadModels() {
  let listed;
  try {
    listed = (await askJson('v1/models')).data ?? [];
  } catch (error) {
    if (!models.length) byId('model-list').replaceChildren(make('li', { class: 'note', text: 'The models cannot be listed.' }));
    say(error.message);
    if (error.status !== 401) return;
    byId('key-form').hidden = false;
    if (document.activeElement === document.body) byId('key').focus();
    return;
  }
  byId('key-form').hidden = true;
  if (!models.length) say(''); // an earlier message was about the missing list
  listed.sort((one, other) => isBase(other) - isBase(one));
  if (JSON.stringify(listed) !== JSON.stringify(models)) showModels(listed);
}

const isBase = (model) => model.parent === null;

function showModels(listed) {
  const first = listed.find((model) => !isBase(model));
  const ticked = new Set(models.length ? tickedModels().map((model) => model.id) : [listed.find(isBase)?.id, first?.id]);
  const focused = document.activeElement?.name === 'model' ? document.activeElement.value : null;
  models = listed;
  byId('model-list').replaceChildren(...models.map((model) => modelChoice(model, ticked.has(model.id))));
  if (!models.length) byId('model-list').append(make('li', { class: 'note', text: 'This key may not use any model; enter another one.' }));
  modelBoxes().find((box) => box.value === focused)?.focus();
  if (models.length > MANY_MODELS && !byId('find-model')) addModelSearch();
  findModels();
}

function modelChoice(model, checked) {
  const box = make('input', { type: 'checkbox', name: 'model', value: model.id });
  box.checked = checked;
  const about = make('span', { class: 'note', text: aboutModel(model) });
  return make('li', {}, make('label', {}, box, make('span', { text: modelTitle(model) }), about));
}

const modelTitle = (model) => (isBase(model) ? 'base' : model.id);

function aboutModel(model) {
  if (isBase(model)) return model.id;
  return [model.rank && `rank ${model.rank}`, model.prompt_form].filter(Boolean).join(', ');
}

const modelBoxes = () => [...byId('model-list').querySelectorAll('input')];

function tickedModels() {
  const ticked = new Set(modelBoxes().filter((box) => box.checked).map((box) => box.value));
  return models.filter((model) => ticked.has(model.id));
}

function addModelSearch() {
  const search = make('input', { id: 'find-model', type: 'search', placeholder: 'Find a model', autocomplete: 'off' });
  search.setAttribute('aria-label', 'Find a model');
  search.addEventListener('input', findModels);
  byId('model-list').before(search);
}

/** Hide models that do not match the search; selected ones stay visible, because they will be used. */
function findModels() {
  const wanted = (byId('find-model')?.value ?? '').trim().toLowerCase();
  for (const box of modelBoxes()) {
    box.closest('li').hidden = !box.checked && !box.closest('li').textContent.toLowerCase().includes(wanted);
  }
}

// --- the record: a form or a text -----------------------------------------------------------------------------------

/** What is wrong with a record, and the field to correct. */
class Mistake extends Error {
  constructor(message, place) {
    super(message);
    this.place = place;
  }
}

const rows = () => [...byId('facts').children];
const field = (row, name) => row.querySelector(`[name="${name}"]`);
const isPasting = () => !byId('paste').hidden;

function addRow([subject, attribute, value]) {
  const box = (name, content, more = {}) => {
    const plain = { type: 'text', autocomplete: 'off', spellcheck: 'false' };
    const input = make('input', { ...plain, name, placeholder: name, ...more });
    input.value = content;
    return input;
  };
  const remove = make('button', { type: 'button', class: 'remove', text: '×' });
  const named = box('attribute', attribute, { list: 'attributes' });
  const row = make('li', {}, box('subject', subject), named, box('value', value), remove);
  remove.addEventListener('click', () => removeRow(row));
  byId('facts').append(row);
  return row;
}

function removeRow(row) {
  const next = row.nextElementSibling ?? row.previousElementSibling;
  row.remove();
  nameRows();
  (next?.querySelector('.remove') ?? byId('add-fact')).focus();
}

/** Number the rows for screen readers, and show or hide the subjects. */
function nameRows() {
  const triples = byId('triples').checked;
  byId('facts').classList.toggle('triples', triples);
  rows().forEach((row, index) => {
    for (const name of PARTS) field(row, name).setAttribute('aria-label', `Fact ${index + 1}, ${name}`);
    row.querySelector('.remove').setAttribute('aria-label', `Remove fact ${index + 1}`);
    field(row, 'subject').hidden = !triples;
  });
}

/** A row as [subject, attribute, value]; without triples a subject is kept in its field, but is no part of the fact. */
function factOf(row) {
  const [subject, attribute, value] = PARTS.map((name) => field(row, name).value.trim());
  return [byId('triples').checked ? subject : '', attribute, value];
}

const formFacts = () => rows().map(factOf).filter((fact) => fact.some(Boolean));

function fillForm(facts) {
  byId('triples').checked = facts.some(([subject]) => subject);
  byId('facts').replaceChildren();
  facts.forEach(addRow);
  nameRows();
}

/** The facts of a text, as [subject, attribute, value]. */
function parsePasted(text) {
  if (!text.trim()) return [];
  return /^\s*[[{]/.test(text) ? parseJson(text) : parsePiped(text);
}

function parseJson(text) {
  let record;
  try {
    record = JSON.parse(text);
  } catch (error) {
    throw new Mistake(`The text is not valid JSON (${error.message}); correct it, or write attribute : value`);
  }
  if (!Array.isArray(record)) {
    const pairs = Object.entries(record).flatMap(([name, values]) => [values].flat().map((value) => [name, value]));
    return pairs.map(([name, value]) => factFromJson([name, value], `“${name}”`));
  }
  return record.map((parts, index) => factFromJson(parts, `Fact ${index + 1}`));
}

function factFromJson(parts, where) {
  if (!Array.isArray(parts) || ![2, 3].includes(parts.length)) {
    const hint = 'write ["attribute", "value"] or ["subject", "attribute", "value"]';
    throw new Mistake(`${where} is neither a pair nor a triple; ${hint}`);
  }
  const [subject, attribute, value] = parts.length === 2 ? ['', ...parts] : parts;
  if (!['string', 'number', 'boolean'].includes(typeof value)) {
    throw new Mistake(`${where} has a value that is not text or a number; put it in quotation marks`);
  }
  if (typeof attribute !== 'string' || typeof (subject ?? '') !== 'string') {
    throw new Mistake(`${where} has an attribute or a subject that is not text; put it in quotation marks`);
  }
  const written = value === true ? 'yes' : value === false ? 'no' : String(value); // as the server reads them
  return [(subject ?? '').trim(), attribute.trim(), written.trim()];
}

/** `attribute : value | subject : attribute : value`, where \| \: and \\ stand for themselves, as in the data files. */
function parsePiped(text) {
  const guarded = text.trim().replace(/\\([\\|:])/g, (_, sign) => String.fromCharCode('\\|:'.indexOf(sign) + 1));
  const restore = (part) => part.trim().replace(/[\x01-\x03]/g, (code) => '\\|:'[code.charCodeAt(0) - 1]);
  const pieces = guarded.split(/[|\n]/).filter((piece) => piece.trim());
  return pieces.map((piece, index) => {
    const parts = partsOf(piece).map(restore);
    if (parts.length < 2) {
      const where = `Fact ${index + 1}, “${parts[0]}”,`;
      throw new Mistake(`${where} has no “ : ”; write attribute : value, and separate facts with |`);
    }
    return parts.length === 2 ? ['', ...parts] : parts;
  });
}

/** Up to three parts between “ : ”; where there is none, the two before and after the first “: ”. */
function partsOf(piece) {
  const [first, second, ...others] = piece.split(/(?:\s+|^):(?=\s|$)/);
  if (second === undefined) return piece.split(/:\s+(.*)/s).slice(0, 2);
  return others.length ? [first, second, others.join(' :')] : [first, second];
}

/** Facts as JSON, one a line: an object where no subject, and no attribute twice, asks for a list. */
function formatFacts(facts) {
  const attributes = new Set(facts.map(([, attribute]) => attribute));
  const inLines = (lines, [open, close]) => `${open}\n${lines.map((line) => `  ${line}`).join(',\n')}\n${close}`;
  if (!facts.length) return '';
  if (facts.some(([subject]) => subject)) return inLines(facts.map((fact) => JSON.stringify(fact)), '[]');
  if (attributes.size < facts.length) return inLines(facts.map(([, ...pair]) => JSON.stringify(pair)), '[]');
  return inLines(facts.map(([, attribute, value]) => `${JSON.stringify(attribute)}: ${JSON.stringify(value)}`), '{}');
}

function pastedFacts() {
  try {
    return parsePasted(byId('paste-text').value);
  } catch (error) {
    error.place = byId('paste-text');
    throw error;
  }
}

/** The record to write, without empty rows; a Mistake where a fact is half empty. */
function takeRecord() {
  const facts = isPasting() ? pastedFacts() : rows().map(factOf);
  const place = (index, name) => (isPasting() ? byId('paste-text') : field(rows()[index], name));
  facts.forEach((fact, index) => {
    const [, attribute, value] = fact;
    if (!fact.some(Boolean)) return;
    const lacks = (what) => `Fact ${index + 1} has no ${what}; fill it in, or remove the fact`;
    if (!attribute) throw new Mistake(lacks('attribute'), place(index, 'attribute'));
    if (!value) throw new Mistake(lacks(`value for “${attribute}”`), place(index, 'value'));
  });
  const filled = facts.filter((fact) => fact.some(Boolean));
  if (filled.length) return filled;
  throw new Mistake('The record is empty; add a fact', byId(isPasting() ? 'paste-text' : 'add-fact'));
}

function showMistake(error) {
  if (!(error instanceof Mistake)) throw error;
  say(error.message);
  if (error.place.matches('input, textarea')) error.place.setAttribute('aria-invalid', 'true');
  error.place.focus();
}

function forgetMistakes() {
  say('');
  for (const element of document.querySelectorAll('[aria-invalid]')) element.removeAttribute('aria-invalid');
}

/** Show the form or the text, and carry the record over; where both say the same, leave it as people wrote it. */
function switchTab(pasting) {
  if (pasting === isPasting()) return;
  forgetMistakes();
  try {
    const same = JSON.stringify(formFacts()) === JSON.stringify(quietly(pastedFacts));
    if (!pasting && !same) fillForm(pastedFacts());
    if (pasting && !same) byId('paste-text').value = formatFacts(formFacts());
  } catch (error) {
    showMistake(error);
    return;
  }
  byId('paste').hidden = !pasting;
  byId('record-form').hidden = pasting;
  byId('triples-choice').hidden = pasting;
  for (const [tab, chosen] of [[byId('form-tab'), !pasting], [byId('paste-tab'), pasting]]) {
    tab.setAttribute('aria-selected', String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen) tab.focus();
  }
}

function moveBetweenTabs(event) {
  if (['ArrowLeft', 'ArrowRight'].includes(event.key)) switchTab(!isPasting());
  else if (event.key === 'Home' || event.key === 'End') switchTab(event.key === 'End');
  else return;
  event.preventDefault();
}

// --- writing --------------------------------------------------------------------------------------------------------

let writing = null; // the AbortController of what is being written

function requestBody(facts) {
  const beams = byId('beams').valueAsNumber;
  const triples = facts.some(([subject]) => subject);
  return {
    facts: triples ? facts : facts.map(([, attribute, value]) => [attribute, value]),
    stream: true,
    max_tokens: byId('max-tokens').valueAsNumber,
    beams,
    ...(beams > 1 && byId('rerank').checked ? { rerank: 'fidelity' } : {}),
  };
}

async function write() {
  forgetMistakes();
  const chosen = tickedModels();
  if (!chosen.length) return say('No model is selected; select at least one');
  let body;
  try {
    body = requestBody(takeRecord());
  } catch (error) {
    return showMistake(error);
  }
  writing?.abort();
  const own = (writing = new AbortController());
  byId('stop').disabled = false;
  const runs = chosen.map((model) => ({ model, body: { model: model.id, ...body }, pieces: 0, card: makeCard(model) }));
  showCards(runs);
  await inTurn(runs, AT_ONCE, (run) => writeOne(run, own.signal));
  if (writing !== own) return; // written anew meanwhile
  compareWithBase(runs);
  endWriting();
}

function endWriting() {
  writing = null;
  if (document.activeElement === byId('stop')) byId('write').focus(); // a disabled button loses the focus
  byId('stop').disabled = true;
}

async function inTurn(items, most, work) {
  const left = [...items];
  const worker = async () => {
    while (left.length) await work(left.shift());
  };
  await Promise.all(Array.from({ length: Math.min(most, left.length) }, worker));
}

async function writeOne(run, signal) {
  run.asked = performance.now();
  setState(run, 'writing', run.body.beams > 1 ? 'writing; with beams the text appears at its end' : 'writing');
  try {
    const response = await ask('v1/records', { method: 'POST', body: JSON.stringify(run.body), signal });
    for await (const data of eventsOf(response)) {
      if (data === '[DONE]') break;
      takeChunk(run, parseChunk(data));
    }
    if (!run.last) throw new Refusal('The response ended too early; write again');
    showEnd(run);
  } catch (error) {
    const stopped = error.name === 'AbortError';
    if (error.status === 401) byId('key-form').hidden = false;
    setState(run, stopped ? 'stopped' : 'failed', stopped ? 'stopped' : error.message);
    announce(`${modelTitle(run.model)}: ${run.card.state.textContent}`);
  }
}

function parseChunk(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Refusal(UNREADABLE);
  }
}

const secondsSince = (then) => (performance.now() - then) / 1000;

function takeChunk(run, chunk) {
  if (chunk.error) throw new Refusal(chunk.error.message ?? 'The server ended the text');
  run.first ??= secondsSince(run.asked);
  if (chunk.text === undefined) {
    run.pieces += 1;
    run.card.text.append(chunk.delta ?? '');
    const speed = rounded(run.pieces / secondsSince(run.asked));
    setText(run.card.speed, `first token after ${run.first.toFixed(2)} s, about ${speed} tokens/s`);
  } else {
    run.last = chunk;
    run.seconds = secondsSince(run.asked);
  }
}

// --- cards: a text and what it says ---------------------------------------------------------------------------------

const KINDS = { added: 'invented', repeated: 'repeated', said: 'stated' };
const LIGHTS = '#facts > li, #cards mark, .chips > li'; // what can stand for a fact
const factsOf = new WeakMap(); // of marks and chips: the keys of the facts that they stand for

const keyOf = ({ subject, attribute, value }) => JSON.stringify([subject ?? '', attribute, value]);

function makeCard(model) {
  const part = (tag, name, more = {}) => make(tag, { 'data-part': name, ...more });
  const parts = {
    state: part('p', 'state', { text: 'waiting' }),
    text: part('p', 'text', { dir: 'auto' }),
    speed: part('p', 'speed', { class: 'note' }),
    fidelity: part('p', 'fidelity'),
    against: part('p', 'against', { class: 'note' }),
    missing: part('div', 'missing', { hidden: '' }),
    added: part('div', 'added', { hidden: '' }),
    repeated: part('div', 'repeated', { hidden: '' }),
  };
  const copy = make('button', { type: 'button', class: 'small', text: 'Copy', hidden: '' });
  copy.setAttribute('aria-description', `the text of ${modelTitle(model)}`);
  copy.addEventListener('click', () => copyText(parts.text, copy));
  const title = make('h3', { text: modelTitle(model) }, ' ', make('span', { class: 'note', text: aboutModel(model) }));
  const { state, text, speed, ...said } = parts;
  const element = make('article', { class: 'panel', 'data-model': model.id, 'aria-label': modelTitle(model) });
  element.append(make('div', { class: 'line' }, title, copy), state, text, ...Object.values(said), speed);
  return { element, copy, ...parts };
}

function showCards(runs) {
  byId('results-empty').hidden = true;
  byId('cards').replaceChildren(...runs.map((run) => run.card.element));
  if (byId('results').getBoundingClientRect().top < innerHeight / 2) return;
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  byId('results').scrollIntoView({ behavior: still ? 'auto' : 'smooth' }); // on a phone they stand below the form
}

function setState(run, state, words) {
  run.card.element.dataset.state = state;
  run.card.element.setAttribute('aria-busy', String(state === 'writing'));
  setText(run.card.state, words);
  run.card.copy.hidden = state === 'writing' || !run.card.text.textContent;
}

function showEnd(run) {
  const { text, finish_reason: reason, fidelity, usage } = run.last;
  run.card.text.replaceChildren(...markedText(text, fidelity));
  const whole = text ? 'done' : 'done: the text is empty';
  setState(run, 'done', reason === 'length' ? `stopped at the limit of ${count(usage?.completion_tokens ?? run.body.max_tokens, 'token')}` : whole);
  showSpeed(run, usage?.completion_tokens);
  setText(run.card.fidelity, fidelity ? fidelityWords(fidelity) : 'facts were not checked');
  showChips(run.card.missing, 'Missing', fidelity?.missing);
  showChips(run.card.added, 'Invented', fidelity && [...fidelity.added, ...fidelity.leaked]);
  showChips(run.card.repeated, 'Repeated', fidelity?.repeated);
  announce(`${modelTitle(run.model)}, ${run.card.state.textContent}: ${text} ${run.card.fidelity.textContent}`);
}

/** With beams all tokens arrive together, so the time of the first says nothing. */
function showSpeed(run, tokens) {
  const first = run.pieces ? `first token after ${run.first.toFixed(2)} s, ` : '';
  const speed = tokens === undefined ? '' : `, ${rounded(tokens / run.seconds)} tokens/s`;
  const written = tokens === undefined ? 'text' : count(tokens, 'token');
  setText(run.card.speed, `${first}${written} in ${run.seconds.toFixed(2)} s${speed}`);
}

function fidelityWords({ slots, missing, added, leaked, repeated }) {
  const said = `${slots - missing.length} of ${count(slots, 'fact')} stated`;
  const others = [[missing, 'missing'], [added, 'invented'], [leaked, 'leaked from training'], [repeated, 'repeated']];
  const counted = others.filter(([facts]) => facts.length).map(([facts, word]) => `${facts.length} ${word}`);
  return [said, ...counted].join(', ');
}

/** A text with a mark at each mention. The server counts code points, so the text is cut as a list of these. */
function markedText(text, fidelity) {
  const letters = Array.from(text);
  const repeated = new Set((fidelity?.repeated ?? []).map(keyOf));
  const met = new Set();
  const nodes = [];
  let place = 0;
  for (const { start, end, mentions } of joinedMentions(fidelity?.mentions ?? [])) {
    const keys = mentions.map(keyOf);
    const again = keys.some((key) => repeated.has(key) && met.has(key));
    const kind = mentions.some((each) => each.added) ? 'added' : again ? 'repeated' : 'said';
    const title = `${KINDS[kind]}: ${mentions.map(factWords).join('; ')}`;
    const mark = make('mark', { class: kind, title, text: letters.slice(start, end).join('') });
    keys.forEach((key) => met.add(key));
    factsOf.set(mark, keys);
    nodes.push(letters.slice(place, start).join(''), mark);
    place = end;
  }
  return [...nodes, letters.slice(place).join('')];
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

const factWords = ({ subject, attribute, value }) => `${subject ? `${subject}, ` : ''}${attribute}: ${value}`;

function showChips(part, title, facts = []) {
  part.hidden = !facts.length;
  const chips = facts.map((fact) => {
    const chip = make('li', { text: factWords(fact) });
    factsOf.set(chip, [keyOf(fact)]);
    return chip;
  });
  part.replaceChildren(make('h4', { text: title }), make('ul', { class: 'chips', 'aria-label': title }, ...chips));
}

/** On each adapter's card, compare its facts with the base's. */
function compareWithBase(runs) {
  const base = runs.find((run) => isBase(run.model))?.last?.fidelity;
  if (!base) return;
  for (const run of runs) {
    const own = run.last?.fidelity;
    if (!own || isBase(run.model)) continue;
    const stated = difference(base.missing.length - own.missing.length, 'facts stated');
    const invented = difference(own.added.length - base.added.length, 'facts invented');
    const differences = [stated, invented].filter(Boolean).join(', ') || 'as many facts stated and invented';
    setText(run.card.against, `Compared with the base: ${differences}`);
  }
}

function difference(number, words) {
  return number ? `${Math.abs(number)} ${number > 0 ? 'more' : 'fewer'} ${words}` : '';
}

async function copyText(part, button) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(part.textContent);
  } catch {
    getSelection().selectAllChildren(part); // no clipboard without HTTPS: select it, and try the old way
    copied = document.execCommand('copy');
  }
  setText(button, copied ? 'Copied' : 'Selected: press Ctrl+C');
  announce(button.textContent);
  setTimeout(() => setText(button, 'Copy'), 2000);
}

/** Light up what stands for the fact that is pointed at or worked on, in the form and in the cards. */
function lightUp(event) {
  const target = event.target.closest?.(LIGHTS);
  const over = ['pointerover', 'focusin'].includes(event.type);
  const keysAt = (element) => factsOf.get(element) ?? [JSON.stringify(factOf(element))];
  const keys = new Set(over && target ? keysAt(target) : []);
  for (const element of document.querySelectorAll(LIGHTS)) {
    element.classList.toggle('lit', keysAt(element).some((key) => keys.has(key)));
  }
}

// --- load and recent requests ---------------------------------------------------------------------------------------

const METERS = { running: 'sequences', kv_blocks_used: 'kv_blocks', slots_used: 'slots' }; // what is used, of what
let timer = null;
let polling = false;
let speeds = []; // of the last two minutes
let adapterCount = null;

/** Ask for the load, and again after a while; not while nobody sees the page. */
async function poll() {
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
  const words = {
    0: 'The server does not answer. This page keeps trying.',
    401: 'The server load is shown only with a key.',
    404: 'This server does not report its load.',
  };
  setText(byId('load-note'), words[error.status] ?? `The server load cannot be shown: ${error.message}`);
}

async function showStatus(status) {
  const stopping = 'The server is shutting down: it finishes open requests and accepts no new ones.';
  setText(byId('load-note'), status.draining ? stopping : '');
  byId('load-numbers').hidden = false;
  for (const [used, most] of Object.entries(METERS)) showMeter(used, status[used], status[most]);
  const { running, waiting, adapters } = status;
  const up = duration(status.uptime_seconds);
  setText(byId('load-words'), `${running} running, ${waiting} waiting, ${count(adapters, 'adapter')}, up ${up}`);
  showHistory(status.tokens_per_second);
  showRecent(status.recent ?? []);
  const changed = adapterCount !== null && adapterCount !== adapters;
  adapterCount = adapters;
  if (changed || !models.length) await loadModels();
}

function showMeter(name, used, most) {
  byId(name).max = Math.max(1, most);
  byId(name).value = used;
  setText(byId(`${name}-words`), `${used} of ${most}`);
}

function duration(seconds) {
  const units = [[86400, 'days'], [3600, 'h'], [60, 'min']];
  const [size, unit] = units.find(([each]) => seconds >= 2 * each) ?? [1, 's'];
  return `${Math.round(seconds / size)} ${unit}`;
}

function showHistory(speed) {
  const now = performance.now();
  speeds = [...speeds, { time: now, speed }].filter(({ time }) => now - time < HISTORY_MS);
  const most = Math.max(...speeds.map((each) => each.speed));
  const steps = speeds.map((each, index) => stepTo(each, speeds[index - 1], now, most));
  byId('speed-path').setAttribute('d', steps.join(''));
  setText(byId('speed-words'), `${rounded(speed)} tokens/s now, peak ${rounded(most)} in the last two minutes`);
}

function stepTo({ time, speed }, before, now, most) {
  const x = 300 * (1 - (now - time) / HISTORY_MS);
  const y = 58 - (56 * speed) / Math.max(1, most);
  return `${before && time - before.time < GAP_MS ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
}

let shownRecent = '';

function showRecent(requests) {
  const json = JSON.stringify(requests);
  if (json === shownRecent) return; // people may be reading or selecting in it
  shownRecent = json;
  byId('recent-empty').hidden = requests.length > 0;
  byId('recent-box').hidden = !requests.length;
  byId('recent-rows').replaceChildren(...requests.map(recentRow));
}

function recentRow(request) {
  const at = new Date(request.time * 1000);
  const seconds = (value) => (typeof value === 'number' ? value.toFixed(2) : '–');
  const cells = [request.model ?? '–', request.route, String(request.status)].map((text) => make('td', { text }));
  if (request.status >= 400) cells[2].className = 'bad';
  const { prompt_tokens: read, completion_tokens: written } = request;
  const numbers = [read, written, seconds(request.seconds), seconds(request.first_token_seconds)];
  const time = make('time', { datetime: at.toISOString(), text: at.toLocaleTimeString() });
  const numberCells = numbers.map((text) => make('td', { class: 'number', text: String(text) }));
  return make('tr', {}, make('td', {}, time), ...cells, ...numberCells);
}

// --- the start ------------------------------------------------------------------------------------------------------

function allowRerank() {
  byId('rerank').disabled = !(byId('beams').valueAsNumber > 1);
}

function useKey(event) {
  event.preventDefault();
  storeKey(byId('key').value.trim());
  say('');
  loadModels();
  poll();
}

function listen() {
  byId('key-form').addEventListener('submit', useKey);
  byId('ask').addEventListener('submit', (event) => {
    event.preventDefault();
    write();
  });
  byId('stop').addEventListener('click', () => writing?.abort());
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    byId('ask').requestSubmit();
  });
  byId('add-fact').addEventListener('click', () => {
    const row = addRow(['', '', '']);
    nameRows();
    field(row, byId('triples').checked ? 'subject' : 'attribute').focus();
  });
  byId('triples').addEventListener('change', nameRows);
  byId('record').addEventListener('input', forgetMistakes);
  byId('form-tab').addEventListener('click', () => switchTab(false));
  byId('paste-tab').addEventListener('click', () => switchTab(true));
  document.querySelector('[role="tablist"]').addEventListener('keydown', moveBetweenTabs);
  byId('beams').addEventListener('input', allowRerank);
  for (const type of ['pointerover', 'pointerout', 'focusin', 'focusout']) document.addEventListener(type, lightUp);
  document.addEventListener('visibilitychange', poll);
}

fillForm(EXAMPLE.map((pair) => ['', ...pair]));
allowRerank();
listen();
loadModels();
poll();
