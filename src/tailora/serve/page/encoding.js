// From the bytes of a file to its text: which encoding it has, or what it is in place of text. Without the document.

export const ENCODINGS = [
  ['utf-8', 'UTF-8'],
  ['utf-16le', 'UTF-16 LE'],
  ['utf-16be', 'UTF-16 BE'],
  ['windows-1258', 'Windows-1258 (Tiếng Việt)'],
  ['windows-1252', 'Windows-1252'],
];

const FOREIGN = [
  [[0x50, 0x4b, 3, 4], 'excel'],
  [[0xd0, 0xcf, 0x11, 0xe0], 'oldExcel'],
  [[0x1f, 0x8b], 'packed'],
  [[0x42, 0x5a, 0x68], 'packed'],
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a], 'packed'],
  [[0x28, 0xb5, 0x2f, 0xfd], 'packed'],
  [[0x50, 0x41, 0x52, 0x31], 'parquet'],
  [[0x25, 0x50, 0x44, 0x46], 'pdf'],
];
const MARKS = [[[0xef, 0xbb, 0xbf], 'utf-8'], [[0xff, 0xfe], 'utf-16le'], [[0xfe, 0xff], 'utf-16be']];
const SAMPLE = 65536; // bytes that decide

const beginsWith = (bytes, start) => start.every((byte, index) => bytes[index] === byte);

/** The words for what a file is in place of text; null if it may be text. */
export function foreignKind(bytes) {
  const known = FOREIGN.find(([start]) => beginsWith(bytes, start));
  if (known) return known[1];
  return guessEncoding(bytes) === null ? 'binary' : null;
}

/** The encoding of a text file by its byte-order mark, or else by its content; null if it is not text. */
export function guessEncoding(bytes) {
  const mark = MARKS.find(([start]) => beginsWith(bytes, start));
  if (mark) return mark[1];
  const wide = wideEncoding(bytes.subarray(0, SAMPLE));
  if (wide !== undefined) return wide;
  if (decoded(bytes, 'utf-8') !== null) return 'utf-8';
  return looksVietnamese(new TextDecoder('windows-1258').decode(bytes.subarray(0, SAMPLE))) ? 'windows-1258' : 'windows-1252';
}

/** UTF-16 without a mark has many zero bytes, on one side; undefined if there is none, null if they are elsewhere. */
function wideEncoding(bytes) {
  const zeros = [0, 0];
  bytes.forEach((byte, index) => {
    if (byte === 0) zeros[index % 2] += 1;
  });
  if (!zeros[0] && !zeros[1]) return undefined;
  const [many, few] = zeros[1] > zeros[0] ? [zeros[1], zeros[0]] : zeros;
  if (few > many / 20 || many < bytes.length / 20) return null;
  return zeros[1] > zeros[0] ? 'utf-16le' : 'utf-16be';
}

/** Windows-1258 writes tones as separate letters after a vowel; other Western texts do not contain them. */
function looksVietnamese(text) {
  const tones = text.match(/[\u0300\u0301\u0303\u0309\u0323]/g)?.length ?? 0;
  const placed = text.match(/[aăâeêioôơuưy][\u0300\u0301\u0303\u0309\u0323]/gi)?.length ?? 0;
  return tones > 0 && placed > tones * 0.9;
}

/** The text of some bytes, without a byte-order mark and in composed letters; null if they are not valid. */
export function decoded(bytes, encoding) {
  try {
    const text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
    return encoding === 'windows-1258' ? text.normalize('NFC') : text;
  } catch {
    return null;
  }
}
