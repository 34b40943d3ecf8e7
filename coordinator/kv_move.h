// A pipeline that is left on purpose gives the KV of what runs there to another one: full blocks by chain hash, which enter the
// other's prefix cache, so that the replays that follow find them. Here: the values that the two schedulers and the control
// thread exchange. A move never changes a token: whatever fails is computed again.
//
// offer (what the pipeline that is left has) -> reservation (what the other one lacks and has room for) -> each rank of it is told
// to fill these blocks from the same rank of the first -> all have: the blocks enter the prefix cache. The book of moves under
// way is kv_moves.h.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/ids.h"
#include "coordinator/step_plan.h"

namespace pagoda::coordinator {

inline constexpr int64_t kKvMoveNs = 3'000'000'000;         // a move that is not through by then is given up
inline constexpr int64_t kKvMoveTransferNs = 2'000'000'000;  // no more is begun than is expected to take so long
inline constexpr int64_t kKvMoveOverheadNs = 10'000'000;     // messages, a connection
inline constexpr int kLeastBlocksToMove = 4;                 // of a sequence; fewer are computed again sooner than fetched

// What runs on the pipeline that is left: of each sequence its full blocks, from the beginning on. They stay as they are until
// the move ends.
struct KvOffer {
  std::vector<std::vector<BlockName>> chains;
  int sequences = 0;          // that run, also those without a chain
  double prompt_row_ns = 0;   // what a row of a prompt costs there; 0: not known
};

struct KvMoveCost {
  double block_ns = 0;  // to fetch one block, on the rank that has most to fetch
  double fixed_ns = kKvMoveOverheadNs;
};

// How a move ended, or why there was none.
enum class KvMoveEnd : uint8_t {
  kMoved,      // the blocks are in the other's prefix cache
  kNothing,    // nothing runs that has full blocks, or the other has them all
  kCheaper,    // to compute again
  kNoRoom,     // the other has no free blocks
  kNoPeer,     // no other pipeline of the same shards is ready
  kLate,       // not through in time
  kFailed,     // a rank could not fetch, or a pipeline was lost
};
std::string_view NameOf(KvMoveEnd end);
inline constexpr KvMoveEnd kAllKvMoveEnds[] = {KvMoveEnd::kMoved,  KvMoveEnd::kNothing, KvMoveEnd::kCheaper, KvMoveEnd::kNoRoom,
                                               KvMoveEnd::kNoPeer, KvMoveEnd::kLate,    KvMoveEnd::kFailed};

struct KvReservation {
  std::vector<BlockId> from;             // blocks of the pipeline that is left
  std::vector<BlockId> to;               // where they go, as many
  KvMoveEnd empty_because = KvMoveEnd::kNothing;
  bool takes_all = false;  // there is room for all that runs there: places, and blocks of all chains
};

}  // namespace pagoda::coordinator
