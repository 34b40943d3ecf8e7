// What a sampler does to a whole row of logits: one table of functions for each instruction set, all with the same results to
// the bit (the scalar table is the plain definition). Plain pointers in, plain functions: files built with different machine
// flags share no inline code. Pure functions; thread-safe.
#pragma once

#include <cstdint>

#include "kernels/cpu/cpu_backend.h"

namespace pagoda::kernels {

// A weight is how likely a token is, in 2^-30 of the likeliest: an integer, so that sums have one value whatever their order.
inline constexpr uint32_t kWeightOne = uint32_t{1} << 30;
inline constexpr int64_t kLogitGroup = 64;

struct LogitKernels {
  // out[g] = the largest of group g of 64 (the last may be shorter), NaN passed over, -inf when there is none. Returns the
  // largest of all.
  float (*group_max)(const float* x, int64_t count, float* out);
  // The first i with x[i] == value; count when there is none.
  int64_t (*find)(const float* x, int64_t count, float value);
  // out[i] = round(2^30 * exp((x[i] - top) * factor)), with the exponential of this table's definition; 0 for NaN and where the
  // exponent is below 2^-31. Requires x[i] <= top, factor > 0. Returns the sum.
  uint64_t (*weigh)(const float* x, int64_t count, float top, float factor, uint32_t* out);
  // The i with x[i] >= bound, ascending, shifted by `base`; `out` has room for count + 16. Returns how many.
  int64_t (*at_least)(const float* x, int64_t count, float bound, int32_t base, int32_t* out);
  // The i with weights[i] > bound, ascending; `out` has room for count + 16. Returns how many.
  int64_t (*heavier)(const uint32_t* weights, int64_t count, uint32_t bound, int32_t* out);
};

// The instruction sets that a table is made for: scalar, AVX2, AVX-512; others get the next below. Requires support by the
// machine; kAuto is the best it has.
const LogitKernels& LogitKernelsOf(Isa isa);

namespace cpu {
extern const LogitKernels kScalarLogits;
extern const LogitKernels kAvx2Logits;
extern const LogitKernels kAvx512Logits;

// exp(y ln 2) for y in [-31, 0]: 2^n times this polynomial of f = y - n, n = y rounded to even.
inline constexpr float kExp2[] = {1.0f,          0.6931470036506653f,   0.24022242426872253f,
                                  0.05550733581185341f, 0.009671512991189957f, 0.0013264738954603672f};  // within 1e-7
inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLowestExponent = -31.0f;
}  // namespace cpu

}  // namespace pagoda::kernels
