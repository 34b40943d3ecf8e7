// The KV blocks of one pipeline as ids: who holds which. All ranks share the id space; no memory is here.
// A block is in one of three states: free; in use (its handles are counted); parked (no handle, but the prefix cache keeps
// what is in it until the room is needed). Owned by the pipeline's engine thread; no locks. The destructor checks that all
// blocks came home.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/ids.h"

namespace pagoda::coordinator {

class BlockPool;

// One reference to one block. Empty after a move. Must not outlive its pool.
class BlockHandle {
 public:
  BlockHandle() = default;
  BlockHandle(BlockHandle&& other) noexcept : pool_(other.pool_), id_(other.id_) { other.pool_ = nullptr; }
  BlockHandle& operator=(BlockHandle&& other) noexcept;
  BlockHandle(const BlockHandle&) = delete;
  BlockHandle& operator=(const BlockHandle&) = delete;
  ~BlockHandle() { Reset(); }

  bool empty() const { return pool_ == nullptr; }
  BlockId id() const { return id_; }
  // Another reference to the same block. Requires !empty().
  BlockHandle Share() const;
  // Whether somebody else holds this block too: then it must be copied before it is written.
  bool shared() const;
  void Reset();

 private:
  friend class BlockPool;
  BlockHandle(BlockPool* pool, BlockId id) : pool_(pool), id_(id) {}
  BlockPool* pool_ = nullptr;
  BlockId id_;
};

// Asked when the last handle of a block goes: keep what is in it (park it) or let it be free?
class BlockKeeper {
 public:
  virtual ~BlockKeeper() = default;
  virtual bool Keep(BlockId block) = 0;
};

class BlockPool {
 public:
  explicit BlockPool(int blocks);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // Nothing when no block is free (parked blocks do not count: the keeper gives them up first). Lowest id first.
  std::optional<BlockHandle> Allocate();
  // These very blocks. Requires that they are free and different.
  std::vector<BlockHandle> AllocateExactly(const std::vector<BlockId>& blocks);
  // A handle to a parked block. Requires that it is parked.
  BlockHandle Reclaim(BlockId block);
  // A further handle to a block in use. Requires that it is in use.
  BlockHandle Share(BlockId block);
  // A parked block becomes free. Requires that it is parked.
  void Unpark(BlockId block);
  // At most one keeper; null removes it. The keeper must outlive the pool's handles or remove itself.
  void SetKeeper(BlockKeeper* keeper) { keeper_ = keeper; }

  int total() const { return static_cast<int>(references_.size()); }
  int free() const { return static_cast<int>(free_.size()); }
  int parked() const { return parked_; }
  int in_use() const { return total() - free() - parked_; }
  int references(BlockId block) const;  // 0: free or parked
  bool is_parked(BlockId block) const;

 private:
  friend class BlockHandle;
  static constexpr int kFree = 0;
  static constexpr int kParked = -1;
  void Release(BlockId block);

  std::vector<int> references_;  // per block: kFree, kParked or the number of handles
  std::vector<int> free_;        // a stack
  int parked_ = 0;
  BlockKeeper* keeper_ = nullptr;
};

}  // namespace pagoda::coordinator
