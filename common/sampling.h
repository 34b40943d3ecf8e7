// What router and worker must agree on about sampling.
#pragma once

namespace pagoda {

inline constexpr double kGreedyBelow = 1e-5;  // a temperature below this takes the likeliest token, as in vLLM

}  // namespace pagoda
