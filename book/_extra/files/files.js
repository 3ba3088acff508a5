/* Files made in the page: labelled PNGs, and saving. Everything hangs on the one global `hamsynth`. */
"use strict";
window.hamsynth = window.hamsynth || {};

(() => {
  const table = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n >>> 0;
  });

  /* The CRC-32 that PNG and zip files use, of a Uint8Array. */
  hamsynth.crc32 = (bytes) => {
    let crc = 0xffffffff;
    for (const byte of bytes) crc = table[(crc ^ byte) & 255] ^ (crc >>> 8);
    return (crc ^ 0xffffffff) >>> 0;
  };

  /* The bytes of a PNG with text chunks (keys and Latin-1 values of `text`) behind its header. */
  hamsynth.withText = (png, text) => {
    const afterHeader = 33; // signature 8, IHDR 4 + 4 + 13 + 4
    const chunks = Object.entries(text).map(([key, value]) => {
      const content = Uint8Array.from(`tEXt${key}\0${value}`, (letter) => letter.charCodeAt(0));
      const chunk = new Uint8Array(content.length + 8);
      const view = new DataView(chunk.buffer);
      view.setUint32(0, content.length - 4);
      chunk.set(content, 4);
      view.setUint32(content.length + 4, hamsynth.crc32(content));
      return chunk;
    });
    return new Blob([png.subarray(0, afterHeader), ...chunks, png.subarray(afterHeader)], { type: "image/png" });
  };

  hamsynth.save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
})();
