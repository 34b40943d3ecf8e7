#include "coordinator/store/sqlite_store.h"

#include <sqlite3.h>

#include <nlohmann/json.hpp>

namespace pagoda::coordinator {
namespace {

using nlohmann::json;

std::string Encode(const DeploymentSpec& spec) {
  return json{{"name", spec.name},
              {"model", spec.model},
              {"pipeline_parallel_size", spec.pipeline_parallel_size},
              {"tensor_parallel_size", spec.tensor_parallel_size},
              {"replicas", spec.replicas},
              {"max_model_len", spec.max_model_len},
              {"kv_cache_type", spec.kv_cache_type},
              {"activation_bits", spec.activation_bits},
              {"max_num_batched_tokens", spec.max_num_batched_tokens},
              {"max_num_seqs", spec.max_num_seqs},
              {"disable_prefix_caching", spec.disable_prefix_caching},
              {"disable_chunked_prefill", spec.disable_chunked_prefill},
              {"layers_per_stage", spec.layers_per_stage},
              {"kv_cache_bytes", spec.kv_cache_bytes},
              {"block_size", spec.block_size},
              {"max_queued_requests", spec.max_queued_requests}}
      .dump();
}

absl::StatusOr<DeploymentSpec> Decode(const std::string& text) {
  try {
    const json value = json::parse(text);
    DeploymentSpec spec;
    value.at("name").get_to(spec.name);
    value.at("model").get_to(spec.model);
    spec.pipeline_parallel_size = value.value("pipeline_parallel_size", spec.pipeline_parallel_size);
    spec.tensor_parallel_size = value.value("tensor_parallel_size", spec.tensor_parallel_size);
    spec.replicas = value.value("replicas", spec.replicas);
    spec.max_model_len = value.value("max_model_len", spec.max_model_len);
    spec.kv_cache_type = value.value("kv_cache_type", spec.kv_cache_type);
    spec.activation_bits = value.value("activation_bits", spec.activation_bits);
    spec.max_num_batched_tokens = value.value("max_num_batched_tokens", spec.max_num_batched_tokens);
    spec.max_num_seqs = value.value("max_num_seqs", spec.max_num_seqs);
    spec.disable_prefix_caching = value.value("disable_prefix_caching", spec.disable_prefix_caching);
    spec.disable_chunked_prefill = value.value("disable_chunked_prefill", spec.disable_chunked_prefill);
    spec.layers_per_stage = value.value("layers_per_stage", spec.layers_per_stage);
    spec.kv_cache_bytes = value.value("kv_cache_bytes", spec.kv_cache_bytes);
    spec.block_size = value.value("block_size", spec.block_size);
    spec.max_queued_requests = value.value("max_queued_requests", spec.max_queued_requests);
    return spec;
  } catch (const json::exception& error) {
    return absl::DataLossError(absl::StrCat("the store has a deployment that cannot be read: ", error.what()));
  }
}

class SqliteStore final : public Store {
 public:
  SqliteStore(sqlite3* database, std::string path) : database_(database), path_(std::move(path)) {}
  ~SqliteStore() override { sqlite3_close_v2(database_); }

  absl::Status Prepare() {
    sqlite3_busy_timeout(database_, 5000);
    PAGODA_RETURN_IF_ERROR(Run("PRAGMA journal_mode=WAL", {}));
    PAGODA_RETURN_IF_ERROR(Run("PRAGMA synchronous=FULL", {}));
    PAGODA_RETURN_IF_ERROR(Run("CREATE TABLE IF NOT EXISTS deployments(name TEXT PRIMARY KEY, spec TEXT NOT NULL)", {}));
    PAGODA_RETURN_IF_ERROR(
        Run("CREATE TABLE IF NOT EXISTS pipelines(id INTEGER PRIMARY KEY, deployment TEXT NOT NULL)", {}));
    return Run("CREATE TABLE IF NOT EXISTS counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL)", {});
  }

  absl::StatusOr<StoredState> Load() override {
    StoredState state;
    absl::Status bad = absl::OkStatus();
    PAGODA_RETURN_IF_ERROR(Query("SELECT spec FROM deployments ORDER BY name", [&](sqlite3_stmt* row) {
      absl::StatusOr<DeploymentSpec> spec = Decode(TextOf(row, 0));
      if (spec.ok()) {
        state.deployments.push_back(*std::move(spec));
      } else {
        bad = spec.status();
      }
    }));
    PAGODA_RETURN_IF_ERROR(bad);
    PAGODA_RETURN_IF_ERROR(Query("SELECT id, deployment FROM pipelines ORDER BY id", [&](sqlite3_stmt* row) {
      state.pipelines.push_back({PipelineId(static_cast<uint64_t>(sqlite3_column_int64(row, 0))), TextOf(row, 1)});
    }));
    PAGODA_RETURN_IF_ERROR(Query("SELECT name, value FROM counters", [&](sqlite3_stmt* row) {
      const std::string name = TextOf(row, 0);
      const uint64_t value = static_cast<uint64_t>(sqlite3_column_int64(row, 1));
      if (name == "epoch") state.last_epoch = value;
      if (name == "pipeline") state.last_pipeline = value;
    }));
    return state;
  }

  absl::Status PutDeployment(const DeploymentSpec& spec) override {
    return Run("INSERT INTO deployments(name, spec) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET spec = ?2",
               {spec.name, Encode(spec)});
  }

  absl::Status DeleteDeployment(const std::string& name) override {
    return Run("DELETE FROM deployments WHERE name = ?1", {name});
  }

  absl::Status PutPipeline(const StoredPipeline& pipeline) override {
    const std::string id = absl::StrCat(pipeline.pipeline.value());
    PAGODA_RETURN_IF_ERROR(Run("BEGIN IMMEDIATE", {}));
    absl::Status status = Run(
        "INSERT INTO pipelines(id, deployment) VALUES(CAST(?1 AS INTEGER), ?2) ON CONFLICT(id) DO UPDATE SET deployment = ?2",
        {id, pipeline.deployment});
    if (status.ok()) {
      status = Run(
          "INSERT INTO counters(name, value) VALUES('pipeline', CAST(?1 AS INTEGER)) ON CONFLICT(name) DO UPDATE SET "
          "value = max(value, CAST(?1 AS INTEGER))",
          {id});
    }
    return EndTransaction(status);
  }

  absl::Status DeletePipeline(PipelineId pipeline) override {
    return Run("DELETE FROM pipelines WHERE id = CAST(?1 AS INTEGER)", {absl::StrCat(pipeline.value())});
  }

  absl::Status AdvanceEpoch(Epoch epoch) override {
    PAGODA_RETURN_IF_ERROR(
        Run("INSERT INTO counters(name, value) VALUES('epoch', CAST(?1 AS INTEGER)) ON CONFLICT(name) DO UPDATE SET "
            "value = CAST(?1 AS INTEGER) WHERE value < CAST(?1 AS INTEGER)",
            {absl::StrCat(epoch.value())}));
    if (sqlite3_changes(database_) == 1) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", epoch.value(), " was already used: another coordinator works with this store"));
  }

 private:
  static std::string TextOf(sqlite3_stmt* row, int column) {
    const unsigned char* text = sqlite3_column_text(row, column);
    return text == nullptr ? "" : std::string(reinterpret_cast<const char*>(text));
  }

  absl::Status Error(const char* doing) const {
    return absl::InternalError(absl::StrCat("store '", path_, "': ", doing, ": ", sqlite3_errmsg(database_)));
  }

  absl::Status EndTransaction(const absl::Status& status) {
    if (status.ok()) return Run("COMMIT", {});
    (void)Run("ROLLBACK", {});
    return status;
  }

  absl::Status Run(const char* sql, const std::vector<std::string>& values) {
    return Step(sql, values, [](sqlite3_stmt*) {});
  }
  template <typename OnRow>
  absl::Status Query(const char* sql, OnRow on_row) {
    return Step(sql, {}, on_row);
  }
  template <typename OnRow>
  absl::Status Step(const char* sql, const std::vector<std::string>& values, OnRow on_row) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v2(database_, sql, -1, &statement, nullptr) != SQLITE_OK) return Error(sql);
    for (size_t i = 0; i < values.size(); ++i) {
      sqlite3_bind_text(statement, static_cast<int>(i) + 1, values[i].c_str(), static_cast<int>(values[i].size()),
                        SQLITE_TRANSIENT);
    }
    int code = SQLITE_ROW;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) on_row(statement);
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? absl::OkStatus() : Error(sql);
  }

  sqlite3* database_;
  const std::string path_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path) {
  sqlite3* database = nullptr;
  const std::string name = path.empty() ? ":memory:" : path;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
  if (sqlite3_open_v2(name.c_str(), &database, flags, nullptr) != SQLITE_OK) {
    const std::string why = database == nullptr ? "out of memory" : sqlite3_errmsg(database);
    sqlite3_close_v2(database);
    return absl::UnavailableError(absl::StrCat("the store '", name, "' cannot be opened: ", why));
  }
  auto store = std::make_unique<SqliteStore>(database, name);
  PAGODA_RETURN_IF_ERROR(store->Prepare());
  return store;
}

}  // namespace pagoda::coordinator
