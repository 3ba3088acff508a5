/* A zip file of files that are stored as they are (PNGs are compressed already). */
"use strict";
window.hamsynth = window.hamsynth || {};

/* files: names and Uint8Arrays, [[name, bytes], ...] -> a Blob. Dates are the format's first day, 1980-01-01. */
hamsynth.zip = (files) => {
  const parts = [], directory = [];
  let offset = 0;
  /* Numbers of 2 or 4 bytes, little-endian: [[value, bytes], ...]. */
  const header = (fields) => Uint8Array.from(
    fields.flatMap(([value, length]) => Array.from({ length }, (_, byte) => (value >>> (8 * byte)) & 255)));
  for (const [name, bytes] of files) {
    const called = new TextEncoder().encode(name);
    // version, UTF-8 names, stored, time, date, CRC-32, sizes, length of the name, no extra field
    const common = [[20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [hamsynth.crc32(bytes), 4],
      [bytes.length, 4], [bytes.length, 4], [called.length, 2], [0, 2]];
    directory.push(header([[0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]]), called);
    const before = header([[0x04034b50, 4], ...common]);
    parts.push(before, called, bytes);
    offset += before.length + called.length + bytes.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = header([[0x06054b50, 4], [0, 4], [files.length, 2], [files.length, 2], [size, 4], [offset, 4], [0, 2]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
};
