// The models that clients may name: what the cluster view serves, joined with the text side of each
// (tokenizer, template), which is fetched once per digest. The registry is the event loop's; the
// ServedModels it publishes are immutable and go anywhere.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "router/cluster_view.h"
#include "router/worker_pool.h"
#include "text/text_bundle.h"

namespace pagoda::router {

struct ServedModel {
  std::string name;
  std::string digest;
  std::string architecture;
  std::string numerics_profile;
  int64_t max_model_len = 0;
  int vocabulary = 0;
  int block_tokens = 16;
  int pipelines_ready = 0;
  int pipelines = 0;
  int64_t created_unix_s = 0;
  std::shared_ptr<const text::TextModel> text;  // null: on its way
  std::vector<std::string> numerics;            // of its pipelines
};

struct ServedModels {
  std::vector<ServedModel> models;  // by name
  // To nobody: of a router that has just started, or that lost its coordinators for long. Then no
  // name is known to be wrong.
  bool nothing_served = false;
  // Other models of the same names, which are on their way in or out: a rollout.
  std::vector<ServedModel> others = {};

  // For a stream whose client comes back: names mean the models that it is of, by the digest that its log names, or else by the mark of
  // its position.
  ServedModels ForStreamOf(std::string_view digest, uint32_t mark) const;

  // An empty name finds the only model. kNotFound, or kUnavailable while the model cannot be used
  // yet.
  absl::StatusOr<const ServedModel*> Find(std::string_view name) const;
};

class ModelRegistry {
 public:
  using Bundle = std::vector<checkpoint::Checkpoint::BundleEntry>;
  using BundleCallback =
      std::function<void(absl::StatusOr<Bundle>)>;  // may be called from any thread, once
  struct Edges {
    // Fetches the bundle of `digest` from the coordinator behind `link`.
    std::function<void(int link, const std::string& digest, BundleCallback done)> fetch;
    std::function<void(std::function<void()>)> post;  // onto the event loop
    WorkerPool* pool = nullptr;                       // opens bundles
  };
  explicit ModelRegistry(Edges edges);

  // Takes the new picture, starts fetching what is missing. Called at every snapshot, so each
  // second at least: what failed is tried again then.
  void Update(const ClusterView& view, int64_t now_ms);
  std::shared_ptr<const ServedModels> models() const { return models_; }

 private:
  struct Text {
    std::shared_ptr<const text::TextModel> model;
    bool loading = false;
    int64_t retry_at_ms = 0;
    bool in_view = false;
  };
  void Load(const std::string& digest, int link);
  void OnLoaded(const std::string& digest, absl::StatusOr<std::unique_ptr<text::TextModel>> model);
  void Publish();

  const Edges edges_;
  ClusterView view_;
  int64_t now_ms_ = 0;
  absl::flat_hash_map<std::string, Text> texts_;  // by digest; those in the view and a few more
  std::shared_ptr<const ServedModels> models_;
};

}  // namespace pagoda::router
