// The files of router/ui/page, compiled in (see embed.cmake there).
#pragma once

#include <span>
#include <string_view>

namespace pagoda::router::ui {

struct PageFile {
  std::string_view path;  // of the request
  std::string_view content_type;
  std::string_view text;
};
std::span<const PageFile> PageFiles();

}  // namespace pagoda::router::ui
