// Attention over vectors of 16 floats, in the arithmetic of numerics.h. Included by each instruction set's file after
// row_kernels.h, inside its anonymous namespace, after it has defined the register tiles kQkVectors, kPvVectors, kPvDims and
// kTogetherVectors, and kDirectVectors: up to so many query vectors read the cache itself, more read an f32 copy of the tile.
// No includes here: nothing may leak out.

// The visible positions of a row within the tile at `base`.
struct Visible {
  int begin = 0;
  int end = 0;
};
Visible VisibleOf(const AttendTask& task, int row, int64_t base) {
  const int64_t position = task.first_position + row;
  const int64_t end = position - base + 1;
  const int64_t begin = task.sliding_window > 0 ? position - task.sliding_window + 1 - base : 0;
  return {begin < 0 ? 0 : static_cast<int>(begin), end > 16 ? 16 : static_cast<int>(end)};
}

// One task's view of its scratch memory. Query vector v is row v / heads, head v % heads.
struct AttendState {
  const AttendTask* task;
  float* query;    // [head_dim][kAttendVectors]
  float* output;   // [vectors][padded]
  float* keys;     // [head_dim][16], a tile in f32
  float* values;   // [16][padded], the same
  float* scores;   // [vectors][16]; later the weights p
  float* maximum;  // [vectors]; this and the next two may be read and written 15 vectors too far
  float* total;    // [vectors]
  float* change;   // [vectors]: c of this tile
  Visible visible[kAttendVectors];
};

// Where a tile of 16 positions is read from: the cache, or the f32 copy in scratch.
struct TileSource {
  const uint8_t* keys;
  const uint8_t* values;
  V16 key_scale;             // 8 bits only
  const float* value_scale;  // the same
  int64_t padded;
  const uint8_t* later_keys;  // of the tile to ask for, or this one's
  const uint8_t* later_values;
};

template <int kKind>
inline V16 KeysAt(const TileSource& source, int d) {
  const V16 k = LoadKv<kKind>(source.keys + d * 16 * KvBytes(kKind));
  if constexpr (kKind == kKvI8) return Mul(k, source.key_scale);
  return k;
}

template <int kKind>
inline V16 ValuesAt(const TileSource& source, int j, int d) {
  const V16 v = LoadKv<kKind>(source.values + (j * source.padded + d) * KvBytes(kKind));
  if constexpr (kKind == kKvI8) return Mul(v, Set1(source.value_scale[j]));
  return v;
}

template <int kKind>
TileSource FindTile(const AttendTask& task, int64_t base) {
  const KvLayout& layout = *task.layout;
  const uint8_t* head = task.layer + task.blocks[base / layout.block_tokens] * layout.block_bytes +
                        task.kv_head * layout.head_bytes;
  const int64_t token = base % layout.block_tokens;
  TileSource source;
  source.keys = head + token * layout.head_dim * KvBytes(kKind);
  source.values = head + layout.value_at + token * layout.padded_dim * KvBytes(kKind);
  source.padded = layout.padded_dim;
  source.later_keys = source.keys;
  source.later_values = source.values;
  source.key_scale = Zero();
  source.value_scale = nullptr;
  if constexpr (kKind == kKvI8) {
    source.key_scale = Load(reinterpret_cast<const float*>(head + layout.key_scale_at) + token);
    source.value_scale = reinterpret_cast<const float*>(head + layout.value_scale_at) + token;
  }
  return source;
}

// A tile that is read some tiles later is asked for line by line while this one is used: blocks lie anywhere in memory,
// where no hardware prefetcher can guess.
constexpr int64_t kTilesAhead = 4;

// The f32 copy of a tile that is read more than once.
template <int kKind>
TileSource CopyTile(const AttendState& state, const TileSource& source) {
  const int dim = state.task->layout->head_dim;
  for (int d = 0; d < dim; ++d) Store(state.keys + d * 16, KeysAt<kKind>(source, d));
  for (int j = 0; j < 16; ++j) {
    for (int d = 0; d < source.padded; d += 16) {
      Store(state.values + j * source.padded + d, ValuesAt<kKind>(source, j, d));
    }
  }
  return {reinterpret_cast<const uint8_t*>(state.keys), reinterpret_cast<const uint8_t*>(state.values), Zero(), nullptr,
          source.padded, nullptr, nullptr};
}

template <int kKind, int kCount>
inline void ScoresOf(const AttendState& state, const TileSource& source, int first) {
  const int dim = state.task->layout->head_dim;
  const float* q = state.query + first;
  V16 sum[kCount];
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) sum[i] = Zero();
  for (int d = 0; d < dim; ++d, q += kAttendVectors) {
    const V16 k = KeysAt<kKind>(source, d);
    if constexpr (kKind != kKvF32) __builtin_prefetch(source.later_keys + d * 16 * KvBytes(kKind), 0, 2);
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) sum[i] = Fma(Set1(q[i]), k, sum[i]);
  }
  const V16 scale = Set1(state.task->scale);
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) Store(state.scores + (first + i) * 16, Mul(sum[i], scale));
}

// Scores of vectors v .. v + kCount - 1 become weights p; several at once, so that their long chains of operations overlap.
template <int kCount>
inline void WeighVectors(AttendState& state, int v) {
  V16 p[kCount];
  alignas(64) float change[16] = {};
  bool moved = false;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    const Visible visible = state.visible[v + i];
    const V16 s = Select(LaneRange(visible.begin, visible.end), Load(state.scores + (v + i) * 16), Set1(-__builtin_inff()));
    const float top = MaxLanes(s), old = state.maximum[v + i];
    const float next = top > old ? top : old;
    state.maximum[v + i] = next;
    change[i] = old - next;
    moved |= old != next;
    p[i] = Sub(s, Set1(next));
  }
  // Masked lanes hold -inf: e makes them 0. e(0) is 1: no change of the maximum, no change of what was added up.
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) p[i] = Exp(p[i]);
  if (moved) {
    Store(change, Exp(Load(change)));
  } else {
    Store(change, Set1(1.0f));
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    Store(state.scores + (v + i) * 16, p[i]);
    state.change[v + i] = change[i];
    state.total[v + i] = __builtin_fmaf(state.total[v + i], change[i], AddLanes(p[i]));
  }
}

// The same for vectors v .. v + count - 1, up to 16, with the reductions of all of them side by side.
void WeighSixteen(AttendState& state, int v, int count) {
  float* scores = state.scores + v * 16;
  for (int i = 0; i < count; ++i) {
    const Visible visible = state.visible[v + i];
    if (visible.begin == 0 && visible.end == 16) continue;
    Store(scores + i * 16, Select(LaneRange(visible.begin, visible.end), Load(scores + i * 16), Set1(-__builtin_inff())));
  }
  const M16 mine = LaneRange(0, count);
  const V16 old = Load(state.maximum + v), top = MaxOfEach(scores);
  const V16 next = Select(mine, Select(Less(old, top), top, old), old);
  Store(state.maximum + v, next);
  Store(state.change + v, Select(mine, Exp(Sub(old, next)), Load(state.change + v)));
#pragma GCC unroll 4
  for (int i = 0; i < count; ++i) {
    Store(scores + i * 16, Exp(Sub(Load(scores + i * 16), Set1(state.maximum[v + i]))));
  }
  const V16 total = Load(state.total + v);
  Store(state.total + v, Select(mine, Fma(total, Load(state.change + v), AddOfEach(scores)), total));
}

template <int kKind, int kCount, int kDims>
inline void MixOf(const AttendState& state, const TileSource& source, int v, int d, Visible visible) {
  const int64_t padded = source.padded;
  V16 o[kCount][kDims];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    const V16 c = Set1(state.change[v + i]);
#pragma GCC unroll 8
    for (int k = 0; k < kDims; ++k) o[i][k] = Mul(Load(state.output + (v + i) * padded + d + 16 * k), c);
  }
  for (int j = visible.begin; j < visible.end; ++j) {
    V16 value[kDims];
#pragma GCC unroll 8
    for (int k = 0; k < kDims; ++k) value[k] = ValuesAt<kKind>(source, j, d + 16 * k);
    if constexpr (kKind != kKvF32) {
      const uint8_t* later = source.later_values + (j * padded + d) * KvBytes(kKind);
      for (int line = 0; line < kDims * 16 * KvBytes(kKind); line += 64) __builtin_prefetch(later + line, 0, 2);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      const V16 p = Set1(state.scores[(v + i) * 16 + j]);
#pragma GCC unroll 8
      for (int k = 0; k < kDims; ++k) o[i][k] = Fma(p, value[k], o[i][k]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < kDims; ++k) Store(state.output + (v + i) * padded + d + 16 * k, o[i][k]);
  }
}

template <int kKind, int kCount>
void MixVectors(const AttendState& state, const TileSource& source, int v, Visible visible) {
  const int padded = static_cast<int>(source.padded);
  int d = 0;
  for (; d + 16 * kPvDims <= padded; d += 16 * kPvDims) MixOf<kKind, kCount, kPvDims>(state, source, v, d, visible);
  for (; d < padded; d += 16) MixOf<kKind, kCount, 1>(state, source, v, d, visible);
}

// Rows [first, last) see something of the tile at `base`.
template <int kKind>
void UseTile(AttendState& state, const TileSource& source, int64_t base, int first, int last) {
  const AttendTask& task = *state.task;
  const int begin = first * task.heads, end = last * task.heads;
  int v = begin;
  for (; v + kQkVectors <= end; v += kQkVectors) ScoresOf<kKind, kQkVectors>(state, source, v);
  for (; v + 3 <= end; v += 3) ScoresOf<kKind, 3>(state, source, v);
  for (; v < end; ++v) ScoresOf<kKind, 1>(state, source, v);
  for (int row = first; row < last; ++row) {
    const Visible visible = VisibleOf(task, row, base);
    for (int h = 0; h < task.heads; ++h) state.visible[row * task.heads + h] = visible;
  }
  for (v = begin; v + 8 <= end; v += 16) WeighSixteen(state, v, end - v < 16 ? end - v : 16);
  if (v > end) v = end;
  for (; v + 4 <= end; v += 4) WeighVectors<4>(state, v);
  if (v + 3 == end) {
    WeighVectors<3>(state, v);
  } else {
    for (; v < end; ++v) WeighVectors<1>(state, v);
  }
  for (v = begin; v < end;) {
    const Visible visible = state.visible[v];
    int same = 1;  // vectors of the same visible positions
    while (same < kPvVectors && v + same < end && state.visible[v + same].begin == visible.begin &&
           state.visible[v + same].end == visible.end) {
      ++same;
    }
    if (same == kPvVectors) {
      MixVectors<kKind, kPvVectors>(state, source, v, visible);
    } else if (same >= 3) {
      MixVectors<kKind, 3>(state, source, v, visible);
      same = 3;
    } else {
      MixVectors<kKind, 1>(state, source, v, visible);
      same = 1;
    }
    v += same;
  }
}

template <int kKind>
void AttendTile(AttendState& state, int64_t base) {
  const AttendTask& task = *state.task;
  // The rows that see something of this tile follow each other.
  int first = 0, last = task.rows;
  if (base > task.first_position) first = static_cast<int>(base - task.first_position);
  if (task.sliding_window > 0) {
    const int64_t end = base + 15 + task.sliding_window - task.first_position;
    if (end < last) last = static_cast<int>(end);
  }
  if (first >= last) return;
  TileSource source = FindTile<kKind>(task, base);
  if (base + 16 * kTilesAhead < task.first_position + task.rows) {
    const TileSource later = FindTile<kKind>(task, base + 16 * kTilesAhead);
    source.later_keys = later.keys;
    source.later_values = later.values;
  }
  if (kKind == kKvF32 || (last - first) * task.heads <= kDirectVectors) {
    UseTile<kKind>(state, source, base, first, last);
  } else {
    UseTile<kKvF32>(state, CopyTile<kKind>(state, source), base, first, last);
  }
}

// Few query vectors leave the processor waiting for one operation after the other. Four tiles that all rows see whole are taken
// together: their scores side by side, their maxima and sums at once; the running values go through them in order, so that
// the bits are those of one tile after the other. Score row 4 v + t is vector v, tile t.
constexpr int kTilesTogether = 4;

template <int kKind, int kCount>
inline void ScoresTogether(const AttendState& state, const TileSource (&tiles)[kTilesTogether], int v) {
  const int dim = state.task->layout->head_dim;
  const float* q = state.query + v;
  V16 sum[kCount][kTilesTogether];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 8
    for (int t = 0; t < kTilesTogether; ++t) sum[i][t] = Zero();
  }
  for (int d = 0; d < dim; ++d, q += kAttendVectors) {
#pragma GCC unroll 8
    for (int t = 0; t < kTilesTogether; ++t) {
      const V16 k = KeysAt<kKind>(tiles[t], d);
      __builtin_prefetch(tiles[t].later_keys + d * 16 * KvBytes(kKind), 0, 2);
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) sum[i][t] = Fma(Set1(q[i]), k, sum[i][t]);
    }
  }
  const V16 scale = Set1(state.task->scale);
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 8
    for (int t = 0; t < kTilesTogether; ++t) {
      Store(state.scores + ((v + i) * kTilesTogether + t) * 16, Mul(sum[i][t], scale));
    }
  }
}

// Scores of up to four vectors from `v` on become weights; changes[4 i + t] is what vector v + i was multiplied with at tile t.
inline void WeighTogether(AttendState& state, int v, int count, float* changes) {
  float* rows = state.scores + v * kTilesTogether * 16;
  alignas(64) float tops[16], nexts[16], sums[16];
  Store(tops, MaxOfEach(rows));
  for (int i = 0; i < 16; ++i) nexts[i] = changes[i] = 0;
  for (int i = 0; i < count; ++i) {
    float maximum = state.maximum[v + i];
    for (int t = 0; t < kTilesTogether; ++t) {
      const float next = tops[4 * i + t] > maximum ? tops[4 * i + t] : maximum;
      changes[4 * i + t] = maximum - next;
      nexts[4 * i + t] = maximum = next;
    }
    state.maximum[v + i] = maximum;
  }
  Store(changes, Exp(Load(changes)));
#pragma GCC unroll 4
  for (int i = 0; i < count * kTilesTogether; ++i) Store(rows + 16 * i, Exp(Sub(Load(rows + 16 * i), Set1(nexts[i]))));
  Store(sums, AddOfEach(rows));
  for (int i = 0; i < count; ++i) {
    for (int t = 0; t < kTilesTogether; ++t) {
      state.total[v + i] = __builtin_fmaf(state.total[v + i], changes[4 * i + t], sums[4 * i + t]);
    }
  }
}

template <int kKind, int kCount, int kDims>
inline void MixTogether(const AttendState& state, const TileSource (&tiles)[kTilesTogether], int v, int d,
                        const float* changes) {
  const int64_t padded = tiles[0].padded;
  V16 o[kCount][kDims];
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < kDims; ++k) o[i][k] = Load(state.output + (v + i) * padded + d + 16 * k);
  }
  for (int t = 0; t < kTilesTogether; ++t) {
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 8
      for (int k = 0; k < kDims; ++k) o[i][k] = Mul(o[i][k], Set1(changes[4 * (v + i) + t]));
    }
    for (int j = 0; j < 16; ++j) {
      V16 value[kDims];
#pragma GCC unroll 8
      for (int k = 0; k < kDims; ++k) value[k] = ValuesAt<kKind>(tiles[t], j, d + 16 * k);
      const uint8_t* later = tiles[t].later_values + (j * padded + d) * KvBytes(kKind);
      for (int line = 0; line < kDims * 16 * KvBytes(kKind); line += 64) __builtin_prefetch(later + line, 0, 2);
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        const V16 p = Set1(state.scores[((v + i) * kTilesTogether + t) * 16 + j]);
#pragma GCC unroll 8
        for (int k = 0; k < kDims; ++k) o[i][k] = Fma(p, value[k], o[i][k]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < kDims; ++k) Store(state.output + (v + i) * padded + d + 16 * k, o[i][k]);
  }
}

template <int kKind, int kCount>
void MixTogetherOf(const AttendState& state, const TileSource (&tiles)[kTilesTogether], int v, const float* changes) {
  const int padded = static_cast<int>(tiles[0].padded);
  int d = 0;
  for (; d + 16 * kPvDims <= padded; d += 16 * kPvDims) MixTogether<kKind, kCount, kPvDims>(state, tiles, v, d, changes);
  for (; d < padded; d += 16) MixTogether<kKind, kCount, 1>(state, tiles, v, d, changes);
}

// The tiles from `base` on that come before everything a row cannot see.
template <int kKind>
void AttendTogether(AttendState& state, int64_t base) {
  const AttendTask& task = *state.task;
  const int vectors = task.rows * task.heads;
  TileSource tiles[kTilesTogether];
  for (int t = 0; t < kTilesTogether; ++t) {
    const int64_t at = base + 16 * t, later = at + 16 * kTilesTogether;
    tiles[t] = FindTile<kKind>(task, at);
    if (later >= task.first_position + task.rows) continue;
    const TileSource next = FindTile<kKind>(task, later);
    tiles[t].later_keys = next.keys;
    tiles[t].later_values = next.values;
  }
  int v = 0;
  for (; v + kTogetherVectors <= vectors; v += kTogetherVectors) ScoresTogether<kKind, kTogetherVectors>(state, tiles, v);
  for (; v < vectors; ++v) ScoresTogether<kKind, 1>(state, tiles, v);
  alignas(64) float changes[(kDirectVectors + 3) / 4 * 16];
  for (v = 0; v < vectors; v += 4) WeighTogether(state, v, vectors - v < 4 ? vectors - v : 4, changes + 4 * v);
  v = 0;
  for (; v + kTogetherVectors <= vectors; v += kTogetherVectors) {
    MixTogetherOf<kKind, kTogetherVectors>(state, tiles, v, changes);
  }
  for (; v < vectors; ++v) MixTogetherOf<kKind, 1>(state, tiles, v, changes);
}

template <int kKind>
void AttendTiles(AttendState& state) {
  const AttendTask& task = *state.task;
  const int64_t window_start = task.first_position - task.sliding_window + 1;
  int64_t base = task.sliding_window > 0 && window_start > 0 ? window_start / 16 * 16 : 0;
  if (task.rows * task.heads <= kDirectVectors && task.sliding_window == 0) {
    for (; base + 16 * kTilesTogether <= task.first_position + 1; base += 16 * kTilesTogether) {
      AttendTogether<kKind>(state, base);
    }
  }
  for (; base < task.first_position + task.rows; base += 16) AttendTile<kKind>(state, base);
}

void Attend(const AttendTask& task) {
  const KvLayout& layout = *task.layout;
  const int vectors = task.rows * task.heads;
  const int64_t padded = layout.padded_dim;
  AttendState state;
  state.task = &task;
  state.query = task.scratch;
  state.output = state.query + kAttendVectors * padded;
  state.keys = state.output + kAttendVectors * padded;
  state.values = state.keys + 16 * padded;
  state.scores = state.values + 16 * padded;
  state.maximum = state.scores + (kAttendVectors + 16) * 16;
  state.total = state.maximum + kAttendVectors + 16;
  state.change = state.total + kAttendVectors + 16;
  for (int v = 0; v < vectors; ++v) {
    const float* query = task.query + v / task.heads * task.query_stride +
                         static_cast<int64_t>(task.head_ids[v % task.heads]) * layout.head_dim;
    for (int d = 0; d < layout.head_dim; ++d) state.query[d * kAttendVectors + v] = query[d];
    state.maximum[v] = -__builtin_inff();
    state.total[v] = 0;
  }
  for (int64_t i = 0; i < vectors * padded; i += 16) Store(state.output + i, Zero());
  switch (layout.type) {
    case kKvF32:
      AttendTiles<kKvF32>(state);
      break;
    case kKvF16:
      AttendTiles<kKvF16>(state);
      break;
    case kKvBF16:
      AttendTiles<kKvBF16>(state);
      break;
    default:
      AttendTiles<kKvI8>(state);
  }
  for (int v = 0; v < vectors; ++v) {
    float* out = task.out + v / task.heads * task.out_stride +
                 static_cast<int64_t>(task.head_ids[v % task.heads]) * layout.head_dim;
    const V16 total = Set1(state.total[v]);
    for (int d = 0; d < layout.head_dim; d += 16) {
      const V16 value = Div(Load(state.output + v * padded + d), total);
      if (d + 16 <= layout.head_dim) {
        Store(out + d, value);
        continue;
      }
      alignas(64) float rest[16];
      Store(rest, value);
      __builtin_memcpy(out + d, rest, (layout.head_dim - d) * sizeof(float));
    }
  }
}

void SetRowKernels(KernelTable& table) {
  table.quantize = Quantize;
  table.add_norm_row = AddNorm;
  table.largest = Largest;
  table.gate_row = Gate;
  table.rope_row = Rope;
  table.store_row = StoreKvRow;
  table.attend = Attend;
}
