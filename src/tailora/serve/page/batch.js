// Writing about many entries: in blocks, a few at a time, patiently where the server is busy. Without the document.

export const BLOCK = 8; // entries of a request
export const AT_ONCE = 4; // requests in flight
const TRIES = 5;
const LONGEST_WAIT = 30; // seconds
const BUSY = [0, 429, 502, 503]; // no answer, too many requests, a proxy without its server, shutting down
const OF_ALL = [401, 403, 404, 413]; // what every other entry would get too; 413 cannot come from a small block

/** Blocks of entries with one model each. */
export function blocksOf(entries, size = BLOCK) {
  const blocks = [];
  const open = new Map(); // model: the block that is being filled
  for (const entry of entries) {
    let block = open.get(entry.model);
    if (!block || block.length === size) {
      block = [];
      blocks.push(block);
      open.set(entry.model, block);
    }
    block.push(entry);
  }
  return blocks;
}

/**
 * Write about entries.
 *
 * @param entries what to write about
 * @param job.send asks the server about a block: (entries, signal, take); calls take(entry, answer) for each text that
 *   is finished; throws an error with `status` (0: no response) and `wait` (seconds)
 * @param job.report is called as report(entry, changes) with the state, the answer or the problem of an entry
 * @param job.sleep waits: (seconds, signal)
 * @param job.signal ends the work
 * Throws the error that stopped the work; entries without a text are waiting then.
 */
export async function writeEntries(entries, job) {
  const blocks = blocksOf(entries);
  const stop = new AbortController();
  const signal = AbortSignal.any([job.signal, stop.signal]);
  const worker = async () => {
    while (blocks.length && !signal.aborted) await writeBlock(blocks.shift(), { ...job, signal });
  };
  const workers = Array.from({ length: Math.min(AT_ONCE, blocks.length) }, () =>
    worker().catch((error) => {
      stop.abort(); // the others would meet the same error
      throw error;
    }),
  );
  const ends = await Promise.allSettled(workers);
  const errors = ends.filter((end) => end.status === 'rejected').map((end) => end.reason);
  if (errors.length) throw errors.find((error) => error.name !== 'AbortError') ?? errors[0];
  job.signal.throwIfAborted();
}

async function writeBlock(block, job) {
  const left = new Set(block);
  try {
    block.forEach((entry) => job.report(entry, { state: 'writing', problem: '' }));
    await sendPatiently(left, job);
  } catch (error) {
    await handle(error, [...left], job);
  }
}

async function sendPatiently(left, job) {
  const take = (entry, answer) => {
    left.delete(entry);
    job.report(entry, { state: 'done', answer });
  };
  for (let tried = 1; left.size; tried += 1) {
    try {
      await job.send([...left], job.signal, take);
    } catch (error) {
      if (!BUSY.includes(error.status) || tried === TRIES) throw error;
      await job.sleep(Math.min(error.wait || 2 ** (tried - 1), LONGEST_WAIT), job.signal);
    }
  }
}

/** Give up for all entries, or find out which one of a block is at fault. */
async function handle(error, left, job) {
  if (error.status === undefined || BUSY.includes(error.status) || OF_ALL.includes(error.status)) {
    left.forEach((entry) => job.report(entry, { state: 'waiting' }));
    throw error;
  }
  if (left.length === 1) job.report(left[0], { state: 'failed', problem: error.message });
  else for (const entry of left) await writeBlock([entry], job);
}
