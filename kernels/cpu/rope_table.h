// Cosines and sines of rotary positions, computed once per position and kept: a step asks for the same ones in every layer.
// Computed in double by our own range reduction and polynomials, so that they do not depend on the C library or the machine;
// the error before rounding to f32 is below 1e-15 for angles up to 2^30. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace pagoda::kernels::cpu {

class RopeTables {
 public:
  // Forgets positions when there are too many; ends the validity of every pointer handed out.
  void Trim();
  // Cosines, then sines: [2][frequencies] of one position.
  const float* At(const RopeParams& rope, int64_t position);

 private:
  static constexpr int kPagePositions = 64;
  struct Table {
    std::vector<float> frequencies;
    float magnitude = 1.0f;
    std::map<int64_t, std::unique_ptr<float[]>> pages;
    int64_t last_page = -1;
    const float* last = nullptr;
  };
  Table& TableFor(const RopeParams& rope);
  std::vector<std::unique_ptr<Table>> tables_;
};

struct SinCos {
  double sine = 0;
  double cosine = 0;
};
SinCos DoubleSinCos(double angle);  // |angle| up to 2^30

}  // namespace pagoda::kernels::cpu
