#include "coordinator/block_pool.h"

#include <algorithm>

#include "common/status.h"

namespace pagoda::coordinator {

BlockHandle& BlockHandle::operator=(BlockHandle&& other) noexcept {
  if (this != &other) {
    Reset();
    pool_ = other.pool_;
    id_ = other.id_;
    other.pool_ = nullptr;
  }
  return *this;
}

BlockHandle BlockHandle::Share() const {
  PAGODA_CHECK(pool_ != nullptr);
  return pool_->Share(id_);
}

bool BlockHandle::shared() const { return pool_ != nullptr && pool_->references(id_) > 1; }

void BlockHandle::Reset() {
  if (pool_ == nullptr) return;
  BlockPool* pool = pool_;
  pool_ = nullptr;
  pool->Release(id_);
}

BlockPool::BlockPool(int blocks) : references_(static_cast<size_t>(blocks), kFree) {
  PAGODA_CHECK(blocks >= 0);
  free_.reserve(references_.size());
  for (int id = blocks - 1; id >= 0; --id) free_.push_back(id);
}

BlockPool::~BlockPool() {
  PAGODA_CHECK(free() == total(), "", total() - free(), " of ", total(), " blocks did not come home");
}

std::optional<BlockHandle> BlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  const int id = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(id)] = 1;
  return BlockHandle(this, BlockId(id));
}

std::vector<BlockHandle> BlockPool::AllocateExactly(const std::vector<BlockId>& blocks) {
  std::vector<BlockHandle> handles;
  for (const BlockId block : blocks) {
    int& count = references_.at(static_cast<size_t>(block.value()));
    PAGODA_CHECK(count == kFree, "block ", block.value(), " is not free");
    count = 1;
    handles.push_back(BlockHandle(this, block));
  }
  std::erase_if(free_, [this](int id) { return references_[static_cast<size_t>(id)] != kFree; });
  return handles;
}

BlockHandle BlockPool::Reclaim(BlockId block) {
  int& count = references_.at(static_cast<size_t>(block.value()));
  PAGODA_CHECK(count == kParked, "block ", block.value(), " is not parked");
  count = 1;
  --parked_;
  return BlockHandle(this, block);
}

BlockHandle BlockPool::Share(BlockId block) {
  int& count = references_.at(static_cast<size_t>(block.value()));
  PAGODA_CHECK(count > 0, "block ", block.value(), " is not in use");
  ++count;
  return BlockHandle(this, block);
}

void BlockPool::Unpark(BlockId block) {
  int& count = references_.at(static_cast<size_t>(block.value()));
  PAGODA_CHECK(count == kParked, "block ", block.value(), " is not parked");
  count = kFree;
  --parked_;
  free_.push_back(block.value());
}

int BlockPool::references(BlockId block) const {
  const int count = references_.at(static_cast<size_t>(block.value()));
  return count > 0 ? count : 0;
}

bool BlockPool::is_parked(BlockId block) const {
  return references_.at(static_cast<size_t>(block.value())) == kParked;
}

void BlockPool::Release(BlockId block) {
  int& count = references_.at(static_cast<size_t>(block.value()));
  PAGODA_CHECK(count > 0, "block ", block.value(), " was released twice");
  if (--count > 0) return;
  if (keeper_ != nullptr && keeper_->Keep(block)) {
    count = kParked;
    ++parked_;
    return;
  }
  free_.push_back(block.value());
}

}  // namespace pagoda::coordinator
