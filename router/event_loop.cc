#include "router/event_loop.h"

#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "router/event_loop_asio.h"

namespace pagoda::router {
namespace {

// One repeating timer; keeps itself alive through its pending wait.
struct Repeater : std::enable_shared_from_this<Repeater> {
  Repeater(boost::asio::io_context& context, int64_t ms, std::function<void()> run)
      : timer(context), interval(ms), task(std::move(run)) {}

  void Arm() {
    timer.expires_after(interval);
    timer.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
      if (error) return;
      self->task();
      self->Arm();
    });
  }

  boost::asio::steady_timer timer;
  std::chrono::milliseconds interval;
  std::function<void()> task;
};

}  // namespace

EventLoop::EventLoop() : state_(std::make_unique<State>()) {}
EventLoop::~EventLoop() = default;

void EventLoop::Post(std::function<void()> task) {
  boost::asio::post(state_->context, std::move(task));
}

void EventLoop::Every(int64_t interval_ms, std::function<void()> task) {
  std::make_shared<Repeater>(state_->context, interval_ms, std::move(task))->Arm();
}

void EventLoop::Run() {
  state_->context.restart();
  state_->context.run();
}
void EventLoop::Stop() { state_->context.stop(); }

}  // namespace pagoda::router
