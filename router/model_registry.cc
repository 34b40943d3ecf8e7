#include "router/model_registry.h"

#include <algorithm>
#include <map>

#include "common/log.h"
#include "router/request_status.h"
#include "router/stream_position.h"

namespace pagoda::router {
namespace {

constexpr size_t kTextsKept =
    4;  // of models that no pipeline serves now; a rollout may come back to them
constexpr int64_t kRetryMs = 1000;

}  // namespace

absl::StatusOr<const ServedModel*> ServedModels::Find(std::string_view name) const {
  const ServedModel* found = nullptr;
  if (name.empty() && models.size() == 1) found = &models.front();
  for (const ServedModel& model : models) {
    if (model.name == name) found = &model;
  }
  if (found == nullptr && (name.empty() || nothing_served)) {
    if (models.empty())
      return WithCode(WithRetryAfter(absl::UnavailableError("no model is served yet"), 1000),
                      "no_model");
    return InvalidField("model", "is required: several models are served");
  }
  if (found == nullptr) return ModelNotFound(name);
  if (found->text == nullptr) {
    return WithCode(
        WithRetryAfter(absl::UnavailableError(
                           absl::StrCat("the tokenizer of '", found->name, "' is being loaded")),
                       1000),
        "loading");
  }
  if (found->max_model_len == 0) {  // no pipeline of it was ever assembled: its limits are not known yet
    return WithCode(WithRetryAfter(absl::UnavailableError(absl::StrCat("'", found->name, "' is deployed, but no pipeline of it is assembled yet")),
                                   1000),
                    "loading");
  }
  return found;
}

ServedModels ServedModels::ForStreamOf(std::string_view digest, uint32_t mark) const {
  ServedModels result = *this;
  for (const ServedModel& other : others) {
    const bool fits = digest.empty() ? std::ranges::any_of(other.numerics, [&](const std::string& n) { return MarkFits(mark, other.digest, n); })
                                     : other.digest == digest;
    const auto named = std::ranges::find(result.models, other.name, &ServedModel::name);
    if (fits && named != result.models.end()) *named = other;
  }
  return result;
}

ModelRegistry::ModelRegistry(Edges edges) : edges_(std::move(edges)) { Publish(); }

void ModelRegistry::Update(const ClusterView& view, int64_t now_ms) {
  view_ = view;
  now_ms_ = now_ms;
  for (auto& [digest, text] : texts_) text.in_view = false;
  for (const PipelineView& pipeline : view.pipelines) {
    if (pipeline.digest.empty()) continue;
    Text& text = texts_[pipeline.digest];
    text.in_view = true;
    if (!text.model && !text.loading && now_ms >= text.retry_at_ms) {
      text.loading = true;
      Load(pipeline.digest, pipeline.key.link);
    }
  }
  for (auto place = texts_.begin(); place != texts_.end() && texts_.size() > kTextsKept;) {
    if (!place->second.in_view && !place->second.loading) {
      texts_.erase(place++);
    } else {
      ++place;
    }
  }
  Publish();
}

void ModelRegistry::Load(const std::string& digest, int link) {
  using Opened = absl::StatusOr<std::unique_ptr<text::TextModel>>;
  auto deliver = [this, digest](std::shared_ptr<Opened> opened) {
    edges_.post([this, digest, opened] { OnLoaded(digest, std::move(*opened)); });
  };
  edges_.fetch(link, digest, [this, deliver](absl::StatusOr<Bundle> fetched) {
    if (!fetched.ok()) return deliver(std::make_shared<Opened>(fetched.status()));
    auto bundle = std::make_shared<Bundle>(*std::move(fetched));
    const bool queued = edges_.pool->TrySubmit(
        [bundle, deliver] { deliver(std::make_shared<Opened>(text::OpenTextBundle(*bundle))); });
    if (!queued)
      deliver(std::make_shared<Opened>(absl::UnavailableError("the router's pool is full")));
  });
}

void ModelRegistry::OnLoaded(const std::string& digest,
                             absl::StatusOr<std::unique_ptr<text::TextModel>> model) {
  Text& text = texts_[digest];
  text.loading = false;
  if (model.ok()) {
    text.model = *std::move(model);
    LogInfo("text_model_opened",
            {{"digest", digest}, {"vocabulary", text.model->tokenizer->vocabulary_size()}});
  } else {
    text.retry_at_ms = now_ms_ + kRetryMs;
    LogWarning("text_model_not_opened",
               {{"digest", digest}, {"error", std::string(model.status().message())}});
  }
  Publish();
}

void ModelRegistry::Publish() {
  // By name; while a rollout has two digests under one name, the one with more pipelines ready.
  std::map<std::string, std::map<std::string, ServedModel>> by_name;
  for (const PipelineView& pipeline : view_.pipelines) {
    if (pipeline.model.empty()) continue;
    ServedModel& model = by_name[pipeline.model][pipeline.digest];
    if (model.pipelines++ == 0) {
      model.name = pipeline.model;
      model.digest = pipeline.digest;
      model.created_unix_s = pipeline.created_unix_s;
    }
    model.created_unix_s = std::min(model.created_unix_s, pipeline.created_unix_s);
    if (model.pipelines_ready == 0 || pipeline.ready) {
      model.architecture = pipeline.architecture;
      model.numerics_profile = pipeline.numerics_profile;
      model.vocabulary = pipeline.vocabulary;
      if (pipeline.block_tokens > 0) model.block_tokens = pipeline.block_tokens;
    }
    // As long as what takes new work; of nothing that does, as long as whatever there is.
    const bool first_ready = pipeline.ready && model.pipelines_ready == 0;
    if (first_ready) model.max_model_len = 0;
    if (pipeline.ready || model.pipelines_ready == 0) model.max_model_len = std::max(model.max_model_len, pipeline.max_model_len);
    model.pipelines_ready += pipeline.ready;
    if (!pipeline.numerics.empty() && std::ranges::count(model.numerics, pipeline.numerics) == 0) model.numerics.push_back(pipeline.numerics);
    const auto text = texts_.find(pipeline.digest);
    if (text != texts_.end()) model.text = text->second.model;
  }
  auto served = std::make_shared<ServedModels>();
  for (auto& [name, digests] : by_name) {
    const auto best = std::ranges::max_element(digests, {}, [](const auto& entry) {
      return std::pair(entry.second.pipelines_ready, entry.second.text != nullptr);
    });
    served->models.push_back(best->second);
    for (auto& [digest, model] : digests) {
      if (digest != best->first) served->others.push_back(model);
    }
  }
  served->nothing_served = served->models.empty();
  models_ = std::move(served);
}

}  // namespace pagoda::router
