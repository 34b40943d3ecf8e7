#include "coordinator/store/sqlite_store.h"

#include <sqlite3.h>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "common/clock.h"
#include "coordinator/store/encoding.h"
#include "coordinator/store/process_identity.h"

namespace pagoda::coordinator {
namespace {

constexpr absl::Duration kLookEvery = absl::Milliseconds(100);  // a standby, at the leader's row

class SqliteStore final : public Store {
 public:
  SqliteStore(sqlite3* database, std::string path, absl::Duration lease)
      : database_(database), path_(std::move(path)), lease_(lease) {}
  ~SqliteStore() override { sqlite3_close_v2(database_); }

  absl::Status Prepare() {
    MutexLock lock(&mutex_);
    sqlite3_busy_timeout(database_, 5000);
    PAGODA_RETURN_IF_ERROR(Run("PRAGMA journal_mode=WAL", {}));
    PAGODA_RETURN_IF_ERROR(Run("PRAGMA synchronous=FULL", {}));
    PAGODA_RETURN_IF_ERROR(Run("CREATE TABLE IF NOT EXISTS deployments(name TEXT PRIMARY KEY, spec TEXT NOT NULL)", {}));
    PAGODA_RETURN_IF_ERROR(
        Run("CREATE TABLE IF NOT EXISTS pipelines(id INTEGER PRIMARY KEY, deployment TEXT NOT NULL)", {}));
    PAGODA_RETURN_IF_ERROR(Run("CREATE TABLE IF NOT EXISTS places(id INTEGER PRIMARY KEY, pipeline TEXT NOT NULL)", {}));
    PAGODA_RETURN_IF_ERROR(Run(
        "CREATE TABLE IF NOT EXISTS leader(id INTEGER PRIMARY KEY CHECK(id = 1), term INTEGER NOT NULL, name TEXT NOT NULL, "
        "address TEXT NOT NULL, process TEXT NOT NULL, boot TEXT NOT NULL, expires_ns INTEGER NOT NULL)",
        {}));
    return Run("CREATE TABLE IF NOT EXISTS counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL)", {});
  }

  absl::StatusOr<Leader> Campaign(const Candidate& candidate) override {
    MutexLock lock(&mutex_);
    Leader leader;
    PAGODA_ASSIGN_OR_RETURN(bool held, ReadLeader(leader));
    if (held) return leader;
    PAGODA_RETURN_IF_ERROR(Run("BEGIN IMMEDIATE", {}));
    const absl::StatusOr<bool> still = ReadLeader(leader);
    absl::Status status = still.status();
    if (status.ok() && !*still) {
      leader = {.who = candidate, .term = leader.term + 1, .self = true};
      status = Run(
          "INSERT OR REPLACE INTO leader(id, term, name, address, process, boot, expires_ns) VALUES(1, CAST(?1 AS INTEGER), ?2, "
          "?3, ?4, ?5, CAST(?6 AS INTEGER))",
          {absl::StrCat(leader.term), candidate.name, candidate.address, ThisProcess(), ThisBoot(), Expiry()});
    }
    PAGODA_RETURN_IF_ERROR(EndTransaction(status));
    if (leader.self) term_ = leader.term;
    return leader;
  }

  // A lease that a power cut undoes is none anyway: no need to wait for the disk.
  absl::Status Renew() override {
    MutexLock lock(&mutex_);
    PAGODA_RETURN_IF_ERROR(Run("PRAGMA synchronous=NORMAL", {}));
    absl::Status status = Run("UPDATE leader SET expires_ns = CAST(?1 AS INTEGER) WHERE term = CAST(?2 AS INTEGER)",
                              {Expiry(), absl::StrCat(term_)});
    if (status.ok() && (term_ == 0 || sqlite3_changes(database_) != 1)) status = NotLeader();
    PAGODA_RETURN_IF_ERROR(Run("PRAGMA synchronous=FULL", {}));
    return status;
  }

  absl::Status Resign() override {
    MutexLock lock(&mutex_);
    absl::Status status = Run("UPDATE leader SET expires_ns = 0 WHERE term = CAST(?1 AS INTEGER)", {absl::StrCat(term_)});
    term_ = 0;
    return status;
  }

  absl::Duration RenewEvery() const override { return lease_ / 3; }
  absl::Duration LookEvery() const override { return kLookEvery; }

  void WaitForChange(absl::Duration timeout) override {
    MutexLock lock(&wait_mutex_);
    wait_mutex_.AwaitWithTimeout([this]() ABSL_SHARED_LOCKS_REQUIRED(wait_mutex_) { return cancelled_; }, timeout);
  }
  void Cancel() override {
    MutexLock lock(&wait_mutex_);
    cancelled_ = true;
  }

  absl::StatusOr<StoredState> Load() override {
    MutexLock lock(&mutex_);
    StoredState state;
    absl::Status bad = absl::OkStatus();
    PAGODA_RETURN_IF_ERROR(Query("SELECT spec FROM deployments ORDER BY name", [&](sqlite3_stmt* row) {
      absl::StatusOr<DeploymentSpec> spec = DecodeDeployment(TextOf(row, 0));
      if (spec.ok()) {
        state.deployments.push_back(*std::move(spec));
      } else {
        bad = spec.status();
      }
    }));
    PAGODA_RETURN_IF_ERROR(bad);
    const char* select = "SELECT pipelines.id, deployment, pipeline FROM pipelines LEFT JOIN places USING(id) ORDER BY id";
    PAGODA_RETURN_IF_ERROR(Query(select, [&](sqlite3_stmt* row) {
      RestoredPipeline pipeline{PipelineId(static_cast<uint64_t>(sqlite3_column_int64(row, 0))), TextOf(row, 1), {}, {}};
      if (sqlite3_column_type(row, 2) != SQLITE_NULL) {
        absl::StatusOr<RestoredPipeline> whole = DecodePipeline(TextOf(row, 2));
        if (whole.ok()) pipeline = *std::move(whole);
        else bad = whole.status();
      }
      state.pipelines.push_back(std::move(pipeline));
    }));
    PAGODA_RETURN_IF_ERROR(bad);
    PAGODA_RETURN_IF_ERROR(Query("SELECT name, value FROM counters", [&](sqlite3_stmt* row) {
      const std::string name = TextOf(row, 0);
      const uint64_t value = static_cast<uint64_t>(sqlite3_column_int64(row, 1));
      if (name == "epoch") state.last_epoch = value;
      if (name == "pipeline") state.last_pipeline = value;
    }));
    return state;
  }

  absl::Status PutDeployment(const DeploymentSpec& spec) override {
    return Fenced([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return Run("INSERT INTO deployments(name, spec) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET spec = ?2",
                 {spec.name, Encode(spec)});
    });
  }

  absl::Status DeleteDeployment(const std::string& name) override {
    return Fenced([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return Run("DELETE FROM deployments WHERE name = ?1", {name});
    });
  }

  absl::Status PutPipeline(const RestoredPipeline& pipeline) override {
    const std::string id = absl::StrCat(pipeline.id.value());
    return Fenced([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> absl::Status {
      PAGODA_RETURN_IF_ERROR(
          Run("INSERT INTO pipelines(id, deployment) VALUES(CAST(?1 AS INTEGER), ?2) ON CONFLICT(id) DO UPDATE SET "
              "deployment = ?2",
              {id, pipeline.deployment}));
      PAGODA_RETURN_IF_ERROR(
          Run("INSERT OR REPLACE INTO places(id, pipeline) VALUES(CAST(?1 AS INTEGER), ?2)", {id, Encode(pipeline)}));
      return Run(
          "INSERT INTO counters(name, value) VALUES('pipeline', CAST(?1 AS INTEGER)) ON CONFLICT(name) DO UPDATE SET "
          "value = max(value, CAST(?1 AS INTEGER))",
          {id});
    });
  }

  absl::Status DeletePipeline(PipelineId pipeline) override {
    const std::string id = absl::StrCat(pipeline.value());
    return Fenced([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> absl::Status {
      PAGODA_RETURN_IF_ERROR(Run("DELETE FROM places WHERE id = CAST(?1 AS INTEGER)", {id}));
      return Run("DELETE FROM pipelines WHERE id = CAST(?1 AS INTEGER)", {id});
    });
  }

  absl::Status AdvanceEpoch(Epoch epoch) override {
    return Fenced([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> absl::Status {
      PAGODA_RETURN_IF_ERROR(
          Run("INSERT INTO counters(name, value) VALUES('epoch', CAST(?1 AS INTEGER)) ON CONFLICT(name) DO UPDATE SET "
              "value = CAST(?1 AS INTEGER) WHERE value < CAST(?1 AS INTEGER)",
              {absl::StrCat(epoch.value())}));
      if (sqlite3_changes(database_) == 1) return absl::OkStatus();
      return absl::FailedPreconditionError(absl::StrCat("epoch ", epoch.value(), " was already used"));
    });
  }

 private:
  static std::string TextOf(sqlite3_stmt* row, int column) {
    const unsigned char* text = sqlite3_column_text(row, column);
    return text == nullptr ? "" : std::string(reinterpret_cast<const char*>(text));
  }

  absl::Status Error(const char* doing) const {
    return absl::InternalError(absl::StrCat("store '", path_, "': ", doing, ": ", sqlite3_errmsg(database_)));
  }

  // True while somebody holds the leadership.
  absl::StatusOr<bool> ReadLeader(Leader& leader) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::string process, boot;
    int64_t expires_ns = 0;
    const char* select = "SELECT term, name, address, process, boot, expires_ns FROM leader";
    PAGODA_RETURN_IF_ERROR(Query(select, [&](sqlite3_stmt* row) {
      leader.term = static_cast<uint64_t>(sqlite3_column_int64(row, 0));
      leader.who = {TextOf(row, 1), TextOf(row, 2)};
      process = TextOf(row, 3);
      boot = TextOf(row, 4);
      expires_ns = sqlite3_column_int64(row, 5);
    }));
    leader.self = leader.term > 0 && leader.term == term_;
    return leader.term > 0 && boot == ThisBoot() && expires_ns > NowNs() && !IsCertainlyDead(process);
  }

  absl::Status NotLeader() const {
    return absl::FailedPreconditionError("this coordinator does not lead any more: another one took over");
  }
  std::string Expiry() const { return absl::StrCat(NowNs() + absl::ToInt64Nanoseconds(lease_)); }

  // One transaction that holds only while the leadership's term is still this object's.
  template <typename Write>
  absl::Status Fenced(Write write) {
    MutexLock lock(&mutex_);
    PAGODA_RETURN_IF_ERROR(Run("BEGIN IMMEDIATE", {}));
    uint64_t term = 0;
    absl::Status status = Query("SELECT term FROM leader", [&](sqlite3_stmt* row) {
      term = static_cast<uint64_t>(sqlite3_column_int64(row, 0));
    });
    if (status.ok() && (term_ == 0 || term != term_)) status = NotLeader();
    if (status.ok()) status = write();
    return EndTransaction(status);
  }

  absl::Status EndTransaction(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (status.ok()) return Run("COMMIT", {});
    (void)Run("ROLLBACK", {});
    return status;
  }

  absl::Status Run(const char* sql, const std::vector<std::string>& values) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return Step(sql, values, [](sqlite3_stmt*) {});
  }
  template <typename OnRow>
  absl::Status Query(const char* sql, OnRow on_row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
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
  const absl::Duration lease_;
  Mutex mutex_;  // one transaction at a time on the connection
  uint64_t term_ ABSL_GUARDED_BY(mutex_) = 0;  // of this object's leadership; 0: it never led, or let go
  Mutex wait_mutex_;
  bool cancelled_ ABSL_GUARDED_BY(wait_mutex_) = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path, absl::Duration lease) {
  sqlite3* database = nullptr;
  const std::string name = path.empty() ? ":memory:" : path;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
  if (sqlite3_open_v2(name.c_str(), &database, flags, nullptr) != SQLITE_OK) {
    const std::string why = database == nullptr ? "out of memory" : sqlite3_errmsg(database);
    sqlite3_close_v2(database);
    return absl::UnavailableError(absl::StrCat("the store '", name, "' cannot be opened: ", why));
  }
  auto store = std::make_unique<SqliteStore>(database, name, lease);
  PAGODA_RETURN_IF_ERROR(store->Prepare());
  return store;
}

}  // namespace pagoda::coordinator
