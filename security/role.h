// Who a process is inside a cluster, as its certificate says: a URI among the subject's alternative names,
// spiffe://pagoda/worker. Not its address: a role holds wherever the process runs. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace pagoda::security {

enum class Role { kRouter, kCoordinator, kWorker, kAdmin };
inline constexpr Role kAllRoles[] = {Role::kRouter, Role::kCoordinator, Role::kWorker, Role::kAdmin};

inline std::string_view NameOf(Role role) {
  switch (role) {
    case Role::kRouter: return "router";
    case Role::kCoordinator: return "coordinator";
    case Role::kWorker: return "worker";
    case Role::kAdmin: return "admin";
  }
  return "";
}

inline std::string UriOf(Role role) { return "spiffe://pagoda/" + std::string(NameOf(role)); }

// The one name in a role's certificate, for clients that insist on one. It says no more than the role.
inline std::string HostOf(Role role) { return "pagoda-" + std::string(NameOf(role)); }

inline std::optional<Role> RoleOfUri(std::string_view uri) {
  for (const Role role : kAllRoles) {
    if (uri == UriOf(role)) return role;
  }
  return std::nullopt;
}

}  // namespace pagoda::security
