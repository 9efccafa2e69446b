// The page of `tailora serve`: writes about a record with several models at once or about all records of a file, shows
// which facts each text states, and how busy the server is. This module joins the views.

import { byId, say } from './dom.js';
import { startFile } from './file.js';
import { mayDiscard, markSaved, startFileWriting, takeRecords, writeFile } from './file_writing.js';
import { startLights } from './lights.js';
import { poll, startLoad } from './load.js';
import { loadModels, startModels, tick } from './models.js';
import { startOptions } from './options.js';
import { showRecord, startRecord } from './record.js';
import { showWritten, stopRecord, writeRecord } from './record_writing.js';
import { startRows } from './rows.js';
import { storeKey } from './server.js';
import { currentLanguage, setLanguage, translate } from './words.js';

const VIEWS = ['record', 'file', 'server'];

const currentView = () => VIEWS.find((view) => location.hash === `#${view}`) ?? 'record';

/** Show the view that the address names. */
function showView() {
  const view = currentView();
  document.body.dataset.view = view;
  for (const part of document.querySelectorAll('[data-in]')) part.hidden = !part.dataset.in.split(' ').includes(view);
  for (const link of document.querySelectorAll('#views a')) {
    if (link.hash === `#${view}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  say('');
}

function writeView() {
  if (currentView() === 'file') writeFile();
  else writeRecord();
}

/** Show the record of a file's row, and the text that it has, in the view of one record. */
function editRecord({ record, model, answer }) {
  location.hash = '#record';
  showView();
  showRecord(record.facts);
  tick(model);
  if (answer) showWritten(model, answer);
  byId('ask').focus();
  if (!matchMedia('(min-width: 60rem)').matches) byId('record').scrollIntoView();
}

function useKey(event) {
  event.preventDefault();
  storeKey(byId('key').value.trim());
  say('');
  loadModels();
  poll();
}

function listen() {
  addEventListener('hashchange', showView);
  byId('key-form').addEventListener('submit', useKey);
  byId('ask').addEventListener('submit', (event) => {
    event.preventDefault();
    writeView();
  });
  byId('stop').addEventListener('click', stopRecord);
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || currentView() === 'server') return;
    event.preventDefault();
    byId('ask').requestSubmit();
  });
  byId('language').value = currentLanguage();
  byId('language').addEventListener('change', ({ target }) => setLanguage(target.value));
  byId('skip').addEventListener('click', (event) => {
    event.preventDefault(); // the address says which view is shown
    byId('content').focus();
  });
}

translate();
startOptions();
startRecord();
startRows(editRecord, markSaved);
startFile(takeRecords, mayDiscard);
startFileWriting();
startLights();
listen();
showView();
startModels();
startLoad();
