// An image file as edgeline gives it to a model: float32 [height, width, 3], to standard output.
//
//     npm ci && node preprocess.mjs contract.json photo.jpg > pixels.raw
//
// The steps are those of docs/device.md, "From other languages". To the last bit what the Python
// package computes, but for what a decoder makes of a file.
import { readFileSync, writeSync } from "node:fs";

import sharp from "sharp";

const LOBES = 3; // of Lanczos' filter
const BITS = 22; // behind the point, of its integer weights

// Decodes a file to 8-bit RGB, the way its EXIF orientation says, over white.
async function decode(file) {
  const image = sharp(file, { ignoreIcc: true, limitInputPixels: 100_000_000 })
    .autoOrient()
    .flatten({ background: "#fff" })
    .toColourspace("srgb");
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  return { height: info.height, width: info.width, data };
}

// Scales an image down until its longer side is at most maxSide pixels.
function limitSide({ height, width, data }, maxSide) {
  const longer = Math.max(height, width);
  if (longer <= maxSide) return { height, width, data };
  const [newHeight, newWidth] = [height, width].map((side) =>
    Math.max(1, roundHalfToEven((side * maxSide) / longer)),
  );
  // Across first, rounded to 8 bits, then down.
  const across = lanczos(data, { lines: height, line: width * 3, step: 3 }, width, newWidth);
  const down = lanczos(across, { lines: newWidth, line: 3, step: newWidth * 3 }, height, newHeight);
  return { height: newHeight, width: newWidth, data: down };
}

// Resamples 3 channels along one axis of `size` pixels; neighbours are `step` bytes apart.
function lanczos(data, { lines, line, step }, size, newSize) {
  if (size === newSize) return data;
  const [newLine, newStep] = step === 3 ? [newSize * 3, 3] : [line, step];
  const found = new Uint8Array(lines * newSize * 3);
  const scale = size / newSize;
  const filterScale = Math.max(1, scale);
  for (let to = 0; to < newSize; to++) {
    const centre = (to + 0.5) * scale;
    const reach = LOBES * filterScale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(size, Math.trunc(centre + reach + 0.5));
    const weights = [];
    for (let from = first; from < end; from++) {
      weights.push(windowedSinc((from - centre + 0.5) * (1 / filterScale)));
    }
    const sum = weights.reduce((a, b) => a + b);
    const whole = weights.map((weight) => Math.trunc((weight / sum) * 2 ** BITS + (weight < 0 ? -0.5 : 0.5)));
    for (let row = 0; row < lines; row++) {
      for (let channel = 0; channel < 3; channel++) {
        let total = 2 ** (BITS - 1);
        for (let i = 0; i < whole.length; i++) {
          total += data[row * line + (first + i) * step + channel] * whole[i];
        }
        const value = Math.floor(total / 2 ** BITS);
        found[row * newLine + to * newStep + channel] = Math.min(255, Math.max(0, value));
      }
    }
  }
  return found;
}

function windowedSinc(x) {
  return x < -LOBES || x >= LOBES ? 0 : sinc(x) * sinc(x / LOBES);
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function roundHalfToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

// Bilinear with half-pixel centres and without antialiasing, in float32, to [0, 1].
function resize({ height, width, data }, newHeight, newWidth) {
  const f = Math.fround;
  const pixels = new Float32Array(newHeight * newWidth * 3);
  const rows = neighbours(height, newHeight);
  const columns = neighbours(width, newWidth);
  const blend = (first, second, weight) => f(first + f(f(second - first) * weight));
  let at = 0;
  for (const row of rows) {
    for (const column of columns) {
      for (let channel = 0; channel < 3; channel++) {
        const value = (y, x) => data[(y * width + x) * 3 + channel];
        const upper = blend(value(row.before, column.before), value(row.before, column.after), column.weight);
        const lower = blend(value(row.after, column.before), value(row.after, column.after), column.weight);
        pixels[at++] = f(blend(upper, lower, row.weight) / 255);
      }
    }
  }
  return pixels;
}

// Which two inputs each output lies between along one axis, and how far along.
function neighbours(size, newSize) {
  const f = Math.fround;
  const scale = f(size / newSize);
  return Array.from({ length: newSize }, (_, i) => {
    const position = f(f(f(i + 0.5) * scale) - 0.5);
    const floor = Math.floor(position);
    return {
      before: Math.max(floor, 0),
      after: Math.min(Math.ceil(position), size - 1),
      weight: f(position - floor),
    };
  });
}

const [contractFile, file] = process.argv.slice(2);
if (file === undefined) {
  console.error("usage: node preprocess.mjs contract.json photo.jpg > pixels.raw");
  process.exit(2);
}
const contract = JSON.parse(readFileSync(contractFile, "utf8"));
if (contract.version !== 1) {
  console.error(`${contractFile}: expected version 1, got ${contract.version}`);
  process.exit(1);
}
const limited = limitSide(await decode(file), contract.max_side);
const pixels = resize(limited, contract.height, contract.width);
const bytes = new Uint8Array(pixels.buffer);
for (let sent = 0; sent < bytes.length; ) sent += writeSync(1, bytes, sent);
