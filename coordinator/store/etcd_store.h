// The store of coordinators on several hosts: etcd v3. Leadership is a key with etcd's lease; its term is the revision at which
// the key was made, and every write is a transaction on it. Standbys watch the key. An etcd that cannot be reached is waited
// for: it costs no leadership as long as the lease has not run out when it is back.
#pragma once

#include <memory>
#include <string>

#include "coordinator/store/etcd_client.h"
#include "coordinator/store/store.h"

namespace pagoda::coordinator {

// "etcd://host:port[,host:port][/prefix]", with "etcds://" for TLS. kInvalidArgument says what is wrong with it.
bool IsEtcdAddress(const std::string& text);
absl::StatusOr<EtcdOptions> ParseEtcdAddress(const std::string& text);

// Does not connect yet.
absl::StatusOr<std::unique_ptr<Store>> OpenEtcdStore(const EtcdOptions& options);

}  // namespace pagoda::coordinator
