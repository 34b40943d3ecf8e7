#include "kernels/cpu/rope_table.h"

#include <algorithm>
#include <cmath>

namespace pagoda::kernels::cpu {
namespace {

constexpr size_t kMaxTables = 4;
constexpr size_t kMaxPages = 2048;  // of 64 positions: 32 MiB for 32 frequencies

// Taylor series on [-pi/4, pi/4]: the first term left out is below 2^-60.
double SinPolynomial(double r) {
  const double z = r * r;
  double p = -1.0 / 1307674368000.0;
  for (const double c : {1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0, -1.0 / 5040.0, 1.0 / 120.0,
                         -1.0 / 6.0}) {
    p = std::fma(p, z, c);
  }
  return std::fma(p * z, r, r);
}

double CosPolynomial(double r) {
  const double z = r * r;
  double p = 1.0 / 20922789888000.0;
  for (const double c : {-1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0,
                         -1.0 / 720.0, 1.0 / 24.0, -0.5}) {
    p = std::fma(p, z, c);
  }
  return std::fma(p, z, 1.0);
}

}  // namespace

SinCos DoubleSinCos(double angle) {
  // pi/2 in two parts: 107 bits, so the remainder is exact enough for any 30-bit quadrant.
  constexpr double kHigh = 1.5707963267948966, kLow = 6.123233995736766e-17;
  const double quadrant = std::nearbyint(angle * 0.6366197723675814);
  const double r = std::fma(-quadrant, kLow, std::fma(-quadrant, kHigh, angle));
  const double s = SinPolynomial(r), c = CosPolynomial(r);
  switch (static_cast<int64_t>(quadrant) & 3) {
    case 0:
      return {s, c};
    case 1:
      return {c, -s};
    case 2:
      return {-s, -c};
    default:
      return {-c, s};
  }
}

RopeTables::Table& RopeTables::TableFor(const RopeParams& rope) {
  for (auto& table : tables_) {
    if (table->magnitude == rope.magnitude &&
        std::equal(rope.frequencies.begin(), rope.frequencies.end(), table->frequencies.begin(),
                   table->frequencies.end())) {
      return *table;
    }
  }
  if (tables_.size() >= kMaxTables) tables_.erase(tables_.begin());
  tables_.push_back(std::make_unique<Table>());
  tables_.back()->frequencies.assign(rope.frequencies.begin(), rope.frequencies.end());
  tables_.back()->magnitude = rope.magnitude;
  return *tables_.back();
}

void RopeTables::Trim() {
  for (auto& table : tables_) {
    if (table->pages.size() < kMaxPages) continue;
    table->pages.clear();
    table->last_page = -1;
  }
}

const float* RopeTables::At(const RopeParams& rope, int64_t position) {
  Table& table = TableFor(rope);
  const int64_t page = position / kPagePositions;
  const size_t count = table.frequencies.size();
  if (page != table.last_page) {
    auto found = table.pages.find(page);
    if (found == table.pages.end()) {
      auto values = std::make_unique<float[]>(kPagePositions * 2 * count);
      for (int64_t p = 0; p < kPagePositions; ++p) {
        for (size_t i = 0; i < count; ++i) {
          const float angle = static_cast<float>(page * kPagePositions + p) * table.frequencies[i];
          const SinCos value = DoubleSinCos(angle);
          values[(2 * p) * count + i] = static_cast<float>(value.cosine) * table.magnitude;
          values[(2 * p + 1) * count + i] = static_cast<float>(value.sine) * table.magnitude;
        }
      }
      found = table.pages.emplace(page, std::move(values)).first;
    }
    table.last_page = page;
    table.last = found->second.get();
  }
  return table.last + 2 * (position % kPagePositions) * count;
}

}  // namespace pagoda::kernels::cpu
