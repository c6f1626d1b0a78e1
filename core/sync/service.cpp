#include "core/sync/service.hpp"

#include <boost/asio/steady_timer.hpp>

#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "core/model/keys.hpp"
#include "core/sync/follower.hpp"
#include "core/sync/replicator.hpp"
#include "core/sync/reporter.hpp"

namespace calico::sync {
namespace {
constexpr auto kStopTime = std::chrono::seconds(5);
}

class Service::Impl {
 public:
  explicit Impl(Options o) : options(std::move(o)) {}

  const Options options;
  std::unique_ptr<Mirror> mirror;
  Loop loop{"sync"};
  std::unique_ptr<Replicator> replicator;
  std::unique_ptr<Reporter> reporter;
  std::unique_ptr<Follower> follower;
  std::unique_ptr<TaskGroup> tasks, stopping;
  boost::asio::steady_timer deadline{loop.io()};
  bool running = false;
};

Service::Service(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Service::~Service() { stop(); }

Result<std::unique_ptr<Service>> Service::open(Options options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  std::vector<std::string> prefixes{std::string(model::kResources), model::subnet_prefix(impl->options.region)};
  for (const auto& p : impl->options.extra_prefixes) prefixes.push_back(p);
  auto mirror = Mirror::open(std::move(prefixes), impl->options.mirror_file);
  if (!mirror) return wrap(mirror.error(), "the node's store");
  impl->mirror = std::move(*mirror);
  auto executor = impl->loop.executor();
  impl->replicator = std::make_unique<Replicator>(*impl->options.datastore, *impl->mirror, impl->options, executor);
  impl->reporter = std::make_unique<Reporter>(*impl->options.datastore, *impl->mirror, impl->options, executor);
  impl->replicator->set_on_sync(
      [r = impl->reporter.get()](bool in_sync, std::uint64_t epoch) { r->on_sync(in_sync, epoch); });
  impl->follower = std::make_unique<Follower>(*impl->mirror, *impl->reporter, impl->options, executor);
  impl->replicator->set_follower(impl->follower.get());
  impl->follower->set_on_moved([r = impl->replicator.get()] { r->end_session(); });
  impl->tasks = std::make_unique<TaskGroup>(executor, "sync");
  impl->stopping = std::make_unique<TaskGroup>(executor, "sync-stop");
  return std::unique_ptr<Service>(new Service(std::move(impl)));
}

void Service::start() {
  if (impl_->running) return;
  impl_->running = true;
  impl_->loop.start();
  impl_->loop.post([i = impl_.get()] {
    i->tasks->spawn("replicator", [i] { return i->replicator->run(); });
    i->tasks->spawn("follower", [i] { return i->follower->run(); });
    i->tasks->spawn("reporter", [i] { return i->reporter->run(); });
    i->tasks->spawn("lease", [i] { return i->reporter->keep_lease(); });
  });
}

void Service::stop() {
  if (!impl_->running) return;
  impl_->running = false;
  impl_->loop.call([i = impl_.get()] {
    i->tasks->cancel();
    // A request that does not hear the cancellation must not hold up the process.
    i->deadline.expires_after(kStopTime);
    i->deadline.async_wait([i](boost::system::error_code ec) {
      if (!ec) i->loop.io().stop();
    });
    i->stopping->spawn("join", [i]() -> boost::asio::awaitable<void> {
      co_await i->tasks->join();
      i->deadline.cancel();
    });
  });
  impl_->loop.stop();
  impl_->mirror->flush();
}

View& Service::view() { return *impl_->mirror; }
Report& Service::report() { return *impl_->reporter; }
store::Datastore& Service::datastore() { return *impl_->options.datastore; }

Status Service::accept() {
  if (!impl_->running) return fail(Errc::closed, "sync is not running");
  return impl_->loop.call([i = impl_.get()] { return i->replicator->accept(); });
}

ServiceStatus Service::status() const {
  ServiceStatus out;
  const auto& mirror = *impl_->mirror;
  out.state = mirror.state();
  const auto identity = mirror.identity();
  out.cluster_guid = identity.cluster_guid;
  out.cluster_id = identity.cluster_id;
  out.mirror_file = impl_->options.mirror_file;
  out.mirror_note = mirror.file_note();
  if (const auto error = mirror.file_error(); !error.empty())
    out.mirror_note += (out.mirror_note.empty() ? "" : "; ") + error;
  out.keys = mirror.keys();
  out.bytes = mirror.bytes();
  Replicator::Counters c;
  if (impl_->running)
    c = impl_->loop.call([i = impl_.get()] { return i->replicator->counters(); });
  else
    c = impl_->replicator->counters();
  out.server_version = c.server_version;
  out.server_endpoint = c.server_endpoint;
  out.lists = c.lists;
  out.resumes = c.resumes;
  out.events = c.events;
  out.refusals = c.refusals;
  out.last_error = c.last_error;
  const auto r = impl_->reporter->counters();
  out.reports_pending = r.pending;
  out.reports_total = r.total;
  out.lease = r.lease;
  out.report_error = r.error;
  return out;
}

}  // namespace calico::sync
