// Names that come from outside and become part of a path here.
#pragma once

#include <string_view>

namespace pagoda::checkpoint {

// One component: letters, digits, '.', '_', '-', at most 255 bytes, and not "." or "..".
inline bool IsPathComponent(std::string_view name) {
  if (name.empty() || name.size() > 255 || name == "." || name == "..") return false;
  return name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
         std::string_view::npos;
}

}  // namespace pagoda::checkpoint
