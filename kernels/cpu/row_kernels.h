// Row kernels over vectors of 16 floats, in the arithmetic of numerics.h. Included by each instruction set's file inside its own anonymous namespace, after it has defined:
//   V16 (16 floats), M16 (16 lanes of yes or no), I16 (16 int32)
//   Load Store Set1 Zero Add Sub Mul Div Fma(a, b, c) Fnma(a, b, c) = c - a * b in one rounding, Max
//   LoadHalf StoreHalf LoadBFloat StoreBFloat LoadInt8 (16 stored values <-> V16)
//   LaneRange(begin, end), Select(mask, yes, no), Less(a, b), AddLanes, MaxLanes; AddOfEach(rows), MaxOfEach(rows): lane i is
//   that of the 16 floats at rows + 16 * i
//   ExpPower(t): 2^(n-1) from t of exp.h; TopBits/MaxBits: see below; RoundToInt, StoreInt8, SumInt
//   ToFloat(I16), AllFinite(magnitudes)
// No includes here: the including file has them, and nothing may leak out of its namespace.

V16 Exp(V16 x) {
  const V16 magic = Set1(kExpMagic);
  const V16 t = Fma(x, Set1(kExpLog2E), magic);
  const V16 n = Sub(t, magic);
  V16 r = Fnma(n, Set1(kExpLn2High), x);
  r = Fnma(n, Set1(kExpLn2Low), r);
  V16 p = Set1(kExpPoly[6]);
  for (int i = 5; i >= 0; --i) p = Fma(p, r, Set1(kExpPoly[i]));
  p = Mul(Mul(p, ExpPower(t)), Set1(2.0f));
  p = Select(Less(x, Set1(kExpLow)), Zero(), p);
  return Select(Less(Set1(kExpHigh), x), Set1(__builtin_inff()), p);
}

struct Scaling {
  float scale = 0;
  float inverse = 0;
};
Scaling ScalingOf(float top, float limit) {
  if (!(top < __builtin_inff())) return {__builtin_nanf(""), 0};
  if (top < kSmallestTop) return {0, 0};
  return {top / limit, limit / top};
}

void StoreQuants(const QuantRows& out, int64_t at, I16 q0, I16 q1) {
  if (out.bits == 8) {
    StoreInt8(out.q + at * 32, q0);
    StoreInt8(out.q + at * 32 + 16, q1);
  } else {
    StoreInt12(out.q + at * 64, q0);
    StoreInt12(out.q + at * 64 + 16, q1);
  }
}

void StoreSums(const QuantRows& out, int64_t at, float scale, int32_t first, int32_t second) {
  out.scale[at] = scale;
  out.total[at] = first + second;
  out.sum[at] = scale * static_cast<float>(first + second);
  out.half_total[2 * at] = first;
  out.half_total[2 * at + 1] = second;
  out.half_sum[2 * at] = scale * static_cast<float>(first);
  out.half_sum[2 * at + 1] = scale * static_cast<float>(second);
}

// Sixteen blocks, so that their largest values and sums are found side by side. Sums of integers below 2^24 are exact in f32.
void QuantizeSixteen(const QuantizeTask& task, int64_t first, const QuantRows& out) {
  const float limit = out.bits == 8 ? 127.0f : 2047.0f;
  alignas(64) float rows[16 * 16], other[16 * 16], tops[16], first_sums[16], second_sums[16];
  const float* in = task.in + first * task.in_stride;
  for (int i = 0; i < 16; ++i) {
    Store(rows + 16 * i, MaxMagnitude(Load(in + i * task.in_stride), Load(in + i * task.in_stride + 16)));
  }
  Store(tops, MaxOfEach(rows));
  Scaling scaling[16];
  for (int i = 0; i < 16; ++i) {
    // MaxOfEach may lose a NaN: any of this block is found again here.
    const float top = AllFinite(Load(rows + 16 * i)) ? tops[i] : __builtin_nanf("");
    scaling[i] = ScalingOf(top, limit);
  }
  for (int i = 0; i < 16; ++i) {
    const int64_t at = task.first + (first + i) * task.stride;
    I16 q0 = ZeroInt(), q1 = ZeroInt();
    if (scaling[i].inverse != 0) {
      const V16 inverse = Set1(scaling[i].inverse);
      q0 = RoundToInt(Mul(Load(in + i * task.in_stride), inverse));
      q1 = RoundToInt(Mul(Load(in + i * task.in_stride + 16), inverse));
    }
    StoreQuants(out, at, q0, q1);
    Store(rows + 16 * i, ToFloat(q0));
    Store(other + 16 * i, ToFloat(q1));
  }
  Store(first_sums, AddOfEach(rows));
  Store(second_sums, AddOfEach(other));
  for (int i = 0; i < 16; ++i) {
    StoreSums(out, task.first + (first + i) * task.stride, scaling[i].scale, static_cast<int32_t>(first_sums[i]),
              static_cast<int32_t>(second_sums[i]));
  }
}

void Quantize(const QuantizeTask& task, const QuantRows& out) {
  const float limit = out.bits == 8 ? 127.0f : 2047.0f;
  int64_t i = 0;
  for (; i + 16 <= task.count; i += 16) QuantizeSixteen(task, i, out);
  for (; i < task.count; ++i) {
    const float* in = task.in + i * task.in_stride;
    const V16 x0 = Load(in), x1 = Load(in + 16);
    const Scaling scaling = ScalingOf(TopMagnitude(x0, x1), limit);
    I16 q0 = ZeroInt(), q1 = ZeroInt();
    if (scaling.inverse != 0) {
      q0 = RoundToInt(Mul(x0, Set1(scaling.inverse)));
      q1 = RoundToInt(Mul(x1, Set1(scaling.inverse)));
    }
    const int64_t at = task.first + i * task.stride;
    StoreQuants(out, at, q0, q1);
    StoreSums(out, at, scaling.scale, SumInt(q0), SumInt(q1));
  }
}

// The tree over planes at element i, added to the residual; plain loops that the compiler turns into vectors.
void AddPlanes(const AddNormRow& row) {
  constexpr int kStrip = 64;
  alignas(64) float stack[kMaxTreeDepth][kStrip];
  for (int64_t begin = 0; begin < row.columns; begin += kStrip) {
    const int count = row.columns - begin < kStrip ? static_cast<int>(row.columns - begin) : kStrip;
    int depth = 0;
    for (int p = 0; p < row.plane_count; ++p) {
      for (int i = 0; i < count; ++i) stack[depth][i] = row.planes[p][begin + i];
      for (int a = 0; a < row.adds[p]; ++a, --depth) {
        for (int i = 0; i < count; ++i) stack[depth - 1][i] = stack[depth - 1][i] + stack[depth][i];
      }
      ++depth;
    }
    for (int i = 0; i < count; ++i) row.residual[begin + i] = row.residual[begin + i] + stack[0][i];
  }
}

void AddNorm(const AddNormRow& row) {
  if (row.plane_count > 0) AddPlanes(row);
  if (row.norm_weight == nullptr) return;
  const int64_t whole = row.columns / 16 * 16;
  V16 sum = Zero();
  for (int64_t i = 0; i < whole; i += 16) {
    const V16 x = Load(row.residual + i);
    sum = Fma(x, x, sum);
  }
  alignas(64) float lanes[16];
  Store(lanes, sum);
  for (int64_t i = whole; i < row.columns; ++i) {
    lanes[i - whole] = __builtin_fmaf(row.residual[i], row.residual[i], lanes[i - whole]);
  }
  const float mean = AddLanes(Load(lanes)) / static_cast<float>(row.columns);
  const float r = 1.0f / __builtin_sqrtf(mean + row.epsilon);
  for (int64_t i = 0; i < whole; i += 16) {
    Store(row.normed + i, Mul(Mul(Load(row.residual + i), Set1(r)), Load(row.norm_weight + i)));
  }
  for (int64_t i = whole; i < row.columns; ++i) row.normed[i] = (row.residual[i] * r) * row.norm_weight[i];
}

float Largest(const float* values, int64_t count) {
  V16 best[4];
  for (V16& v : best) v = Set1(-__builtin_inff());
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    for (int k = 0; k < 4; ++k) {
      const V16 x = Load(values + i + 16 * k);
      best[k] = Select(Less(best[k], x), x, best[k]);
    }
  }
  float top = -__builtin_inff();
  for (const V16& v : best) top = MaxLanes(v) > top ? MaxLanes(v) : top;
  for (; i < count; ++i) top = values[i] > top ? values[i] : top;
  return top;
}

V16 GateOf(bool gelu, V16 g, V16 u) {
  const V16 z = gelu ? Mul(g, Fma(Set1(kGeluCubic), Mul(g, g), Set1(kGeluLinear))) : g;
  const V16 minus_z = Xor(z, Set1(-0.0f));
  return Mul(Div(g, Add(Set1(1.0f), Exp(minus_z))), u);
}

void Gate(const GateRow& row) {
  const int64_t whole = row.columns / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) {
    Store(row.out + i, GateOf(row.gelu, Load(row.gate + i), Load(row.up + i)));
  }
  if (whole == row.columns) return;
  alignas(64) float g[16] = {}, u[16] = {}, y[16];
  for (int64_t i = whole; i < row.columns; ++i) {
    g[i - whole] = row.gate[i];
    u[i - whole] = row.up[i];
  }
  Store(y, GateOf(row.gelu, Load(g), Load(u)));
  for (int64_t i = whole; i < row.columns; ++i) row.out[i] = y[i - whole];
}

void Rope(const RopeRow& row) {
  int i = 0;
  if (!row.interleaved) {
    for (; i + 16 <= row.pairs; i += 16) {
      const V16 a = Load(row.head + i), b = Load(row.head + row.pairs + i);
      const V16 c = Load(row.cosine + i), s = Load(row.sine + i);
      Store(row.head + i, Fma(a, c, Xor(Mul(b, s), Set1(-0.0f))));
      Store(row.head + row.pairs + i, Fma(a, s, Mul(b, c)));
    }
  }
  for (; i < row.pairs; ++i) {
    float& a = row.head[row.interleaved ? 2 * i : i];
    float& b = row.head[row.interleaved ? 2 * i + 1 : i + row.pairs];
    const float c = row.cosine[i], s = row.sine[i], old_a = a, old_b = b;
    a = __builtin_fmaf(old_a, c, -(old_b * s));
    b = __builtin_fmaf(old_a, s, old_b * c);
  }
}

enum KvKind { kKvF32 = 0, kKvF16 = 1, kKvBF16 = 2, kKvI8 = 3 };

// Bytes of one stored value.
constexpr int KvBytes(int kind) { return kind == kKvF32 ? 4 : kind == kKvI8 ? 1 : 2; }

// Sixteen values to storage; `inverse` is for 8 bits.
template <int kKind>
void StoreKv(uint8_t* at, V16 value, float inverse) {
  if constexpr (kKind == kKvF32) Store(reinterpret_cast<float*>(at), value);
  if constexpr (kKind == kKvF16) StoreHalf(at, value);
  if constexpr (kKind == kKvBF16) StoreBFloat(at, value);
  if constexpr (kKind == kKvI8) {
    StoreInt8(reinterpret_cast<int8_t*>(at), inverse == 0 ? ZeroInt() : RoundToInt(Mul(value, Set1(inverse))));
  }
}

template <int kKind>
V16 LoadKv(const uint8_t* at) {
  if constexpr (kKind == kKvF32) return Load(reinterpret_cast<const float*>(at));
  if constexpr (kKind == kKvF16) return LoadHalf(at);
  if constexpr (kKind == kKvBF16) return LoadBFloat(at);
  if constexpr (kKind == kKvI8) return LoadInt8(reinterpret_cast<const int8_t*>(at));
}

float TopOfHead(const float* x, int count) {
  V16 top = Zero();
  int i = 0;
  for (; i + 16 <= count; i += 16) top = MaxMagnitude(top, Load(x + i));
  alignas(64) float rest[16] = {};
  for (int j = 0; i < count; ++i, ++j) rest[j] = x[i];
  return TopMagnitude(top, Load(rest));
}

template <int kKind>
void StoreOf(const StoreRow& row) {
  constexpr int kBytes = KvBytes(kKind);
  const KvLayout& layout = *row.layout;
  const int dim = layout.head_dim;
  Scaling key, value;
  if constexpr (kKind == kKvI8) {
    key = ScalingOf(TopOfHead(row.key, dim), 127.0f);
    value = ScalingOf(TopOfHead(row.value, dim), 127.0f);
    reinterpret_cast<float*>(row.head + layout.key_scale_at)[row.token] = key.scale;
    reinterpret_cast<float*>(row.head + layout.value_scale_at)[row.token] = value.scale;
  }
  uint8_t* keys = row.head + (static_cast<int64_t>(row.token / 16) * dim * 16 + row.token % 16) * kBytes;
  uint8_t* values = row.head + layout.value_at + static_cast<int64_t>(row.token) * layout.padded_dim * kBytes;
  alignas(64) uint8_t packed[16 * kBytes];
  for (int d = 0; d < dim; d += 16) {
    const int count = dim - d < 16 ? dim - d : 16;
    alignas(64) float k[16] = {}, v[16] = {};
    __builtin_memcpy(k, row.key + d, count * sizeof(float));
    __builtin_memcpy(v, row.value + d, count * sizeof(float));
    StoreKv<kKind>(packed, Load(k), key.inverse);
    for (int j = 0; j < count; ++j) __builtin_memcpy(keys + (d + j) * 16 * kBytes, packed + j * kBytes, kBytes);
    StoreKv<kKind>(packed, Load(v), value.inverse);
    __builtin_memcpy(values + d * kBytes, packed, count * kBytes);
  }
}

void StoreKvRow(const StoreRow& row) {
  switch (row.layout->type) {
    case kKvF32:
      return StoreOf<kKvF32>(row);
    case kKvF16:
      return StoreOf<kKvF16>(row);
    case kKvBF16:
      return StoreOf<kKvBF16>(row);
    default:
      return StoreOf<kKvI8>(row);
  }
}
