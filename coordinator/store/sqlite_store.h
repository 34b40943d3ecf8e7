// The embedded store: one sqlite3 file in WAL mode, synced at each transaction, so that it survives kill -9 and a power cut.
// Serves several coordinators on one host: leadership is a row with a lease on the host's monotonic clock, so that a change of
// the date means nothing. A holder whose process is gone has lost it at once.
#pragma once

#include <memory>
#include <string>

#include "coordinator/store/store.h"

namespace pagoda::coordinator {

// Creates the file when it is not there. "" is a store in memory, for tests and throw-away clusters.
absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path, absl::Duration lease = absl::Seconds(2));

}  // namespace pagoda::coordinator
