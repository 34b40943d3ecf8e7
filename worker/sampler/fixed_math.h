// exp, log and sums over a vocabulary with the same bits on every machine: own polynomials, plain multiplies and adds in one
// order (no libm, no fused operations; the file is compiled with contraction off), whatever vector width runs them.
// Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <span>

namespace pagoda::worker {

// Natural logarithm of a normal positive number; error below 2 ulp.
double FixedLog(double x);

// Largest value; -inf for an empty span. NaN is passed over.
float MaxOf(std::span<const float> x);

// The sum of exp((x[i] - top) * factor), terms below e^-87 being 0; requires x[i] <= top, factor > 0: each chunk of 1024 values
// in 16 lanes of f64, lanes added 8, 4, 2, 1 apart, chunks in order.
double ExpSum(std::span<const float> x, float top, float factor);

}  // namespace pagoda::worker
