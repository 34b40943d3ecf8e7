// A logarithm with the same bits on every machine: a polynomial of our own, plain multiplies and adds in one order (no libm, no
// fused operations; the file is compiled with contraction off). Pure; thread-safe.
#pragma once

namespace pagoda::worker {

// Natural logarithm of a normal positive number; error below 2 ulp.
double FixedLog(double x);

}  // namespace pagoda::worker
