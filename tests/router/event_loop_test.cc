#include "router/event_loop.h"

#include <gtest/gtest.h>

#include <thread>

namespace pagoda::router {
namespace {

// A router that was told to stop once hung here: gRPC was done, and Stop called, before the loop ran for the last time.
TEST(EventLoopTest, AStopThatWasPostedBeforeRunIsNotForgotten) {
  EventLoop loop;
  loop.Every(1, [] {});  // without a Stop it goes on for ever
  for (int i = 0; i < 3; ++i) {
    std::thread([&] { loop.Post([&] { loop.Stop(); }); }).join();
    loop.Run();
  }
}

}  // namespace
}  // namespace pagoda::router
