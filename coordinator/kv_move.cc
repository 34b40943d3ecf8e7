#include "coordinator/kv_move.h"

namespace pagoda::coordinator {

std::string_view NameOf(KvMoveEnd end) {
  switch (end) {
    case KvMoveEnd::kMoved: return "moved";
    case KvMoveEnd::kNothing: return "nothing";
    case KvMoveEnd::kCheaper: return "cheaper_again";
    case KvMoveEnd::kNoRoom: return "no_room";
    case KvMoveEnd::kNoPeer: return "no_peer";
    case KvMoveEnd::kLate: return "late";
    case KvMoveEnd::kFailed: return "failed";
  }
  return "failed";
}

}  // namespace pagoda::coordinator
