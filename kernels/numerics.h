// The arithmetic of numerics profile "cpu-1", to the bit. Every instruction set of kernels/cpu computes exactly this; the
// scalar files are its plain statement and the tests compare with ==. Compile with -ffp-contract=off; fma where it says fma.
//
// Activations (per row and block of 32 columns, `bits` 8 or 12):
//   top = max |x|;  limit = 127 (8 bits) or 2047 (12 bits);  scale = top / limit;  inverse = top > 0 ? limit / top : 0
//   q = round half to even(x * inverse), an integer in [-limit, limit];  sum = scale * (float)(sum of q)
//   top < 2^-100: scale = inverse = 0. An infinity or NaN in the block: q = 0, scale = NaN, so that the row's results show it.
// Matrix product, one output (row t, weight row n), one virtual shard; blocks of 32 columns in order, f starts at 0:
//   formats with a scale d (and a minimum m) per block, integer weights w:
//     I = exact integer sum of w*q;  f = fma(d * scale, (float)I, f);  and with a minimum f = fma(m, sum, f)
//   Q4_0: w = nibble, m = -8 d.  Q5_0: w = 5 bits, m = -16 d.  Q8_0: w signed, no minimum.  Q4_1, Q5_1: d, m as stored.
//   K-quants: each sub-block of 16 or 32 is such a block with d = d_super * (float)sc (one f32 product) and
//     m = -(dmin_super * (float)sc_min); sub-blocks of 16 use the sum and integers of their half of the 32.
//   F32, F16, BF16: f = fma(w[k], x[k], f), k in order (x not quantised).
//     Q3_K (w - 4) and Q6_K (w - 32) have signed scales and no minimum.
// Embedding rows: fma((float)w, d, m), or (float)w * d without a minimum (w signed).
// Virtual shards are added as reduction_tree.h says, then the bias is added last.
// A sum over a row (norms, the tile sums of attention is stated below): 16 lanes, lane i takes elements i, i+16, ... in order
//   (fma for squares), then lanes are added 8 apart, 4 apart, 2 apart, 1 apart.
// RMSNorm: r = 1 / sqrt(sum / n + epsilon);  y = (x * r) * w.
// exp: e(x) of kernels/cpu/exp.h, the same polynomial and fma order everywhere; SiLU(g) * u = (g / (1 + e(-g))) * u.
// GELU (tanh form): z = g * fma(0.07135..., g * g, 1.59576...), then (g / (1 + e(-z))) * u.
// Rope: angle = (float)position * frequency (f32 product), cos/sin computed in double from that f32 angle by
//   kernels/cpu/rope_table.cc (no C library), rounded to f32, then times the magnitude;  (a, b) -> (a c - b s, b c + a s) with
//   a c - b s = fma(a, c, -(b * s)) and b c + a s = fma(a, s, b * c).
// Attention of one row and query head: key positions 0..p in tiles of 16 at absolute positions, in order. With m = -inf,
//   l = 0, o = 0: s[j] = (fma over d in order of q[d] * k[j][d]) * softmax_scale, masked positions are left out;
//   m' = max(m, max_j s[j]);  c = e(m - m') (0 for the first tile);  p[j] = e(s[j] - m'), 0 where masked;
//   l = fma(l, c, T(p)), T: lanes 8, 4, 2, 1 apart;  o[d] = o[d] * c, then o[d] = fma(p[j], v[j][d], o[d]) for the visible j in order
//   (what a cache block holds beyond them is never read into a result);
//   at the end o[d] / l. K and V are converted from their stored type: exactly,
//   or (float)q * scale for 8 bits, scale = top / 127 of the token's head and q as for activations. Tiles wholly outside a sliding window are skipped.
// Nothing depends on the other rows of a batch, on the thread count, or on how a prompt was cut into chunks.
#pragma once

namespace pagoda::kernels {
inline constexpr char kCpuNumericsProfile[] = "cpu-1";
inline constexpr int kQuantBlock = 32;
inline constexpr int kAttentionTile = 16;
inline constexpr float kSmallestTop = 0x1p-100f;
}  // namespace pagoda::kernels
