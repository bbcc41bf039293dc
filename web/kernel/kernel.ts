// Matrix products of small integers, exactly: the one thing that JavaScript is slow at.
//
// An exact convolution (docs/format.md) is a sum, over the taps of its kernel, of matrix
// products. Inputs and weights are 16-bit integers, and sums stay below 2^24, so 32-bit
// integers hold them whatever the order. `i32x4.dot_i16x8_s` multiplies eight pairs and
// adds neighbours up; weights are therefore packed in pairs of input channels.

// Adds to 4 places x 8 outputs what one tap gives them.
//
// Weights of a panel of 8 outputs: tap after tap, pair after pair of input channels, 8
// outputs times 2 channels: 32 bytes.

/**
 * Sums of 16-bit integers times weights, at a list of places.
 *
 * @param x address of the inputs, 16-bit, channels last
 * @param places address of `count` 32-bit offsets in bytes, one of each place; `count`
 *     is a multiple of 4
 * @param taps address of `tapCount` 32-bit offsets in bytes, added to that of a place
 * @param pairs pairs of input channels that each tap sees
 * @param weights address of the packed weights, panel after panel
 * @param outputs number of outputs, a multiple of 8
 * @param sums address of [count, outputs] 32-bit sums
 * @param add whether to add to what `sums` holds, or to set it
 */
export function products(
  x: usize, places: usize, count: i32, taps: usize, tapCount: i32, pairs: i32,
  weights: usize, outputs: i32, sums: usize, add: bool,
): void {
  const row: usize = <usize>outputs << 2;
  const panelSize: usize = (<usize>tapCount * <usize>pairs) << 5;
  for (let panel = 0; panel < outputs; panel += 8) {
    const begin: usize = weights + <usize>(panel >> 3) * panelSize;
    let out: usize = sums + (<usize>panel << 2);
    for (let m = 0; m < count; m += 4) {
      const list: usize = places + (<usize>m << 2);
      const x0: usize = x + load<i32>(list);
      const x1: usize = x + load<i32>(list, 4);
      const x2: usize = x + load<i32>(list, 8);
      const x3: usize = x + load<i32>(list, 12);
      const out1: usize = out + row;
      const out2: usize = out1 + row;
      const out3: usize = out2 + row;
      let a0: v128, b0: v128, a1: v128, b1: v128;
      let a2: v128, b2: v128, a3: v128, b3: v128;
      if (add) {
        a0 = v128.load(out); b0 = v128.load(out, 16);
        a1 = v128.load(out1); b1 = v128.load(out1, 16);
        a2 = v128.load(out2); b2 = v128.load(out2, 16);
        a3 = v128.load(out3); b3 = v128.load(out3, 16);
      } else {
        a0 = b0 = a1 = b1 = a2 = b2 = a3 = b3 = i32x4.splat(0);
      }
      let w: usize = begin;
      for (let tap = 0; tap < tapCount; tap++) {
        const offset: usize = load<i32>(taps + (<usize>tap << 2));
        let p0: usize = x0 + offset;
        let p1: usize = x1 + offset;
        let p2: usize = x2 + offset;
        let p3: usize = x3 + offset;
        const end: usize = w + (<usize>pairs << 5);
        while (w < end) {
          const wa = v128.load(w);
          const wb = v128.load(w, 16);
          const v0 = v128.load_splat<i32>(p0);
          a0 = i32x4.add(a0, i32x4.dot_i16x8_s(v0, wa));
          b0 = i32x4.add(b0, i32x4.dot_i16x8_s(v0, wb));
          const v1 = v128.load_splat<i32>(p1);
          a1 = i32x4.add(a1, i32x4.dot_i16x8_s(v1, wa));
          b1 = i32x4.add(b1, i32x4.dot_i16x8_s(v1, wb));
          const v2 = v128.load_splat<i32>(p2);
          a2 = i32x4.add(a2, i32x4.dot_i16x8_s(v2, wa));
          b2 = i32x4.add(b2, i32x4.dot_i16x8_s(v2, wb));
          const v3 = v128.load_splat<i32>(p3);
          a3 = i32x4.add(a3, i32x4.dot_i16x8_s(v3, wa));
          b3 = i32x4.add(b3, i32x4.dot_i16x8_s(v3, wb));
          w += 32;
          p0 += 4; p1 += 4; p2 += 4; p3 += 4;
        }
      }
      v128.store(out, a0); v128.store(out, b0, 16);
      v128.store(out1, a1); v128.store(out1, b1, 16);
      v128.store(out2, a2); v128.store(out2, b2, 16);
      v128.store(out3, a3); v128.store(out3, b3, 16);
      out += row << 2;
    }
  }
}

/**
 * What an exact convolution makes of its sums: clip((sum + bias) >> shift, low, high).
 *
 * @param sums address of [count, stride] 32-bit sums
 * @param numbers address of four rows of `outputs` 32-bit integers: bias, shift, low, high
 * @param result address of 16-bit integers, `resultStride` bytes from place to place
 */
export function activate(
  sums: usize, count: i32, stride: i32, outputs: i32, numbers: usize, result: usize,
  resultStride: i32,
): void {
  const row: usize = <usize>outputs << 2;
  for (let m = 0; m < count; m++) {
    let s = sums, r = result, n = numbers;
    for (const end = n + row; n < end; n += 4) {
      let value = (load<i32>(s) + load<i32>(n)) >> load<i32>(n + row);
      value = max(value, load<i32>(n + (row << 1)));
      value = min(value, load<i32>(n + row * 3));
      store<i16>(r, value);
      s += 4;
      r += 2;
    }
    sums += <usize>stride << 2;
    result += resultStride;
  }
}
