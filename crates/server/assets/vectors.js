/** Arithmetic on vectors. */

export function cosine(a, b) {
  let product = 0, ofA = 0, ofB = 0;
  for (let i = 0; i < a.length; i++) {
    product += a[i] * b[i];
    ofA += a[i] * a[i];
    ofB += b[i] * b[i];
  }
  return ofA && ofB ? product / Math.sqrt(ofA * ofB) : 0;
}

export const matrix = (vectors) => vectors.map((a) => vectors.map((b) => cosine(a, b)));

/** A binary vector's bytes (less 128, the highest bit first) as 1 and -1. */
export const signs = (bytes) =>
  bytes.flatMap((byte) => [7, 6, 5, 4, 3, 2, 1, 0].map((bit) => (((byte + 128) >> bit) & 1 ? 1 : -1)));

/** Places on a map: the two directions in which the vectors differ most (principal components). */
export function places(vectors) {
  const size = vectors[0].length;
  const mean = new Float64Array(size);
  for (const vector of vectors) for (let i = 0; i < size; i++) mean[i] += vector[i] / vectors.length;
  const centred = vectors.map((vector) => Float64Array.from(vector, (value, i) => value - mean[i]));
  const axes = [];
  for (let axis = 0; axis < 2; axis++) {
    // The same start every time, so that the same texts give the same map.
    let direction = Float64Array.from({ length: size }, (_, i) => Math.sin((axis + 1) * (i + 1)));
    for (let step = 0; step < 60; step++) {
      const next = new Float64Array(size);
      for (const vector of centred) {
        const along = dot(vector, direction);
        for (let i = 0; i < size; i++) next[i] += along * vector[i];
      }
      for (const other of axes) {
        const along = dot(next, other);
        for (let i = 0; i < size; i++) next[i] -= along * other[i];
      }
      const length = Math.sqrt(dot(next, next));
      if (length < 1e-12) break;
      direction = next.map((value) => value / length);
    }
    axes.push(direction);
  }
  return centred.map((vector) => axes.map((axis) => dot(vector, axis)));
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** A document cut after every so many sentences; nothing is lost. */
export function chunks(document, sentences) {
  const found = [...new Intl.Segmenter(undefined, { granularity: "sentence" }).segment(document)].map((it) => it.segment);
  const joined = [];
  for (let at = 0; at < found.length; at += sentences) joined.push(found.slice(at, at + sentences).join(""));
  return joined.filter((chunk) => chunk.trim());
}
