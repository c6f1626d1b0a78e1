// One controller and its cloud: 500 computes with 100 endpoints each, simulated by the sync of 500 nodes in one
// process, each with its own certificate and connections. Beside etcd, over the same client. Printed, never asserted.
//
//   cloud_bench [--computes N] [--endpoints N] [--idle SECONDS]      defaults: 500, 100 a compute, 60
//
// What is real: Replicator and Reporter with their watches, leases and heartbeat, mutual TLS, every event delivered to
// every node. What is not: a node keeps only its own endpoints, and lists only those (a list of the whole cloud for
// each of 500 nodes in one process would need 50 GB); the whole list is measured for one node.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "core/log/log.hpp"
#include "core/loop/loop.hpp"
#include "core/model/keys.hpp"
#include "core/store/etcd/client.hpp"
#include "core/sync/service.hpp"
#include "tests/bench/store/servers.hpp"
#include "tests/support/await.hpp"
#include "tests/support/certificates.hpp"

namespace calico::bench {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t kTxnPuts = 128;
constexpr auto kPatience = std::chrono::minutes(5);
constexpr auto kHeartbeat = std::chrono::seconds(30);

struct Options {
  int computes = 500, endpoints = 100, idle_s = 60;
};

std::string name_of(int compute) { return fmt::format("compute{:04}", compute); }
std::string endpoint_key(int compute, int i) {
  return model::workload_endpoint_key("openstack", {name_of(compute), "openstack", fmt::format("vm{:03}", i), "eth0"});
}
/// What the keys of all its endpoints begin with.
std::string endpoints_of(int compute) {
  const auto key = endpoint_key(compute, 0);
  return key.substr(0, key.find("vm000"));
}
std::string value(int i) { return fmt::format("{:06}", i) + std::string(1400, 'x'); }

double ms_since(Clock::time_point t) { return std::chrono::duration<double, std::milli>(Clock::now() - t).count(); }

/// A datastore of which a node keeps only its own part: lists name that part, events of others are counted and dropped.
class OwnPart final : public store::Datastore {
 public:
  template <class T>
  using awaitable = boost::asio::awaitable<T>;
  OwnPart(std::shared_ptr<store::Datastore> to, int compute) : to_(std::move(to)), own_(endpoints_of(compute)) {}

  awaitable<Result<store::RangeResult>> range(store::RangeRequest r) override {
    if (r.key != model::kResources || r.range_end.empty()) co_return co_await to_->range(std::move(r));
    store::RangeRequest info;
    info.key = std::string(model::kClusterInformation);
    info.revision = r.revision;
    auto all = co_await to_->range(std::move(info));
    if (!all) co_return all;
    r.key = own_;
    r.range_end = store::prefix_end(own_);
    if (r.revision == 0) r.revision = all->revision;
    auto own = co_await to_->range(std::move(r));
    if (!own) co_return own;
    all->kvs.insert(all->kvs.end(), own->kvs.begin(), own->kvs.end());
    co_return all;
  }
  awaitable<Result<std::unique_ptr<store::Watch>>> watch(store::WatchRequest r) override {
    auto opened = co_await to_->watch(std::move(r));
    if (!opened) co_return tl::unexpected(opened.error());
    std::unique_ptr<store::Watch> made = std::make_unique<Filter>(*this, std::move(*opened));
    co_return made;
  }
  awaitable<Result<store::ServerStatus>> status() override { return to_->status(); }
  awaitable<Result<store::PutResult>> put(store::PutRequest r) override { return to_->put(std::move(r)); }
  awaitable<Result<store::DeleteResult>> del(store::DeleteRequest r) override { return to_->del(std::move(r)); }
  awaitable<Result<store::TxnResult>> txn(store::TxnRequest r) override { return to_->txn(std::move(r)); }
  awaitable<Result<store::Revision>> compact(store::Revision r) override { return to_->compact(r); }
  awaitable<Result<store::LeaseInfo>> lease_grant(std::int64_t ttl, store::LeaseId id) override {
    return to_->lease_grant(ttl, id);
  }
  awaitable<Result<store::LeaseInfo>> lease_keepalive(store::LeaseId id) override { return to_->lease_keepalive(id); }
  awaitable<Status> lease_revoke(store::LeaseId id) override { return to_->lease_revoke(id); }
  awaitable<Result<store::LeaseInfo>> lease_time_to_live(store::LeaseId id, bool keys) override {
    return to_->lease_time_to_live(id, keys);
  }
  /// Newest revision of an endpoint's event that came, also of others.
  store::Revision seen() const { return seen_.load(); }

 private:
  struct Filter final : store::Watch {
    Filter(OwnPart& p, std::unique_ptr<store::Watch> w) : part(p), watch(std::move(w)) {}
    awaitable<Result<store::WatchBatch>> next() override {
      auto batch = co_await watch->next();
      if (!batch) co_return batch;
      for (const auto& e : batch->events)
        if (e.kv.key.starts_with(model::kWorkloadEndpoints))
          part.seen_.store(std::max(part.seen_.load(), e.kv.mod_revision));
      std::erase_if(batch->events, [this](const store::Event& e) {
        return e.kv.key.starts_with(model::kWorkloadEndpoints) && !e.kv.key.starts_with(part.own_);
      });
      co_return batch;
    }
    store::Revision compacted_at() const override { return watch->compacted_at(); }
    OwnPart& part;
    std::unique_ptr<store::Watch> watch;
  };
  std::shared_ptr<store::Datastore> to_;
  const std::string own_;
  std::atomic<store::Revision> seen_{0};
};

std::shared_ptr<store::EtcdClient> client(Loop& loop, std::uint16_t port, http::TlsFiles tls) {
  store::EtcdOptions o;
  o.endpoints = {*http::Endpoint::parse(fmt::format("https://127.0.0.1:{}", port))};
  o.tls = std::move(tls);
  o.request_timeout = std::chrono::seconds(60);
  auto made = store::EtcdClient::create(loop.executor(), std::move(o));
  if (!made) throw std::runtime_error(made.error().what);
  return *made;
}

class Cloud {
 public:
  Cloud(const Options& o, test::Certificates& pki, Server& server) : options_(o), server_(server) {
    loop_.start();
    admin_ = client(runner_.loop(), server.port(), pki.issue("admin"));
    store::PutRequest info;
    info.key = std::string(model::kClusterInformation);
    info.value = R"({"kind":"ClusterInformation","spec":{"clusterGUID":"bench","datastoreReady":true}})";
    must(runner_.run(admin_->put(std::move(info))));
    for (int c = 0; c < o.computes; ++c)
      for (int at = 0; at < o.endpoints; at += kTxnPuts) {
        store::TxnRequest txn;
        for (int i = at; i < std::min<int>(o.endpoints, at + kTxnPuts); ++i) {
          store::PutRequest put;
          put.key = endpoint_key(c, i);
          put.value = value(i);
          txn.success.emplace_back(std::move(put));
        }
        must(runner_.run(admin_->txn(std::move(txn))));
      }
    for (int c = 0; c < o.computes; ++c) {
      parts_.push_back(std::make_shared<OwnPart>(client(loop_, server.port(), pki.issue(name_of(c))), c));
      sync::Options s;
      s.datastore = parts_.back();
      s.node = name_of(c);
      auto service = sync::Service::open(std::move(s));
      if (!service) throw std::runtime_error(service.error().what);
      nodes_.push_back(std::move(*service));
    }
  }
  ~Cloud() {
    nodes_.clear();
    parts_.clear();
    admin_.reset();
    loop_.stop();
  }

  void start() {
    for (auto& n : nodes_) n->start();
    beat();
    wait("in sync", [this] { return in_sync() == nodes_.size(); });
    wait("reports", [this] {
      return std::all_of(nodes_.begin(), nodes_.end(), [](auto& n) { return n->status().reports_pending == 0; });
    });
  }
  /// The heartbeat of felix: two keys, one of them leased.
  void beat() {
    ++beats_;
    for (int c = 0; c < options_.computes; ++c) {
      const auto text = fmt::format(R"({{"uptime":{},"first_update":false}})", beats_);
      auto& report = nodes_[static_cast<std::size_t>(c)]->report();
      report.set(model::status_key("", name_of(c)), text, true);
      report.set(model::last_reported_status_key("", name_of(c)), text);
    }
  }
  std::size_t in_sync() const {
    return static_cast<std::size_t>(std::count_if(
        nodes_.begin(), nodes_.end(), [](const auto& n) { return n->view().state().phase == sync::Phase::in_sync; }));
  }
  template <class F>
  void wait(const char* what, F done) {
    const auto end = Clock::now() + kPatience;
    while (!done()) {
      if (Clock::now() > end) throw std::runtime_error(fmt::format("{}: not within {} min", what, kPatience.count()));
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  /// One endpoint changed, until every node was told; ms.
  double change(int i) {
    store::PutRequest put;
    put.key = endpoint_key(i % options_.computes, 0);
    put.value = value(i);
    const auto start = Clock::now();
    const auto done = must(runner_.run(admin_->put(std::move(put))));
    wait("the change", [&] {
      return std::all_of(parts_.begin(), parts_.end(), [&](const auto& p) { return p->seen() >= done.revision; });
    });
    return ms_since(start);
  }
  double list_all() {
    store::RangeRequest all;
    all.key = std::string(model::kResources);
    all.range_end = store::prefix_end(all.key);
    const auto start = Clock::now();
    const auto got = must(runner_.run(admin_->range(std::move(all))));
    if (got.kvs.size() <= static_cast<std::size_t>(options_.computes * options_.endpoints))
      throw std::runtime_error("the list is short");
    return ms_since(start);
  }
  std::uint64_t sum(std::uint64_t sync::ServiceStatus::*counter) const {
    std::uint64_t n = 0;
    for (const auto& s : nodes_) n += s->status().*counter;
    return n;
  }

 private:
  template <class T>
  static T must(Result<T> r) {
    if (!r) throw std::runtime_error(r.error().what);
    return std::move(*r);
  }
  const Options options_;
  Server& server_;
  test::LoopRunner runner_;
  Loop loop_{"cloud"};
  std::shared_ptr<store::EtcdClient> admin_;
  std::vector<std::shared_ptr<OwnPart>> parts_;
  std::vector<std::unique_ptr<sync::Service>> nodes_;
  int beats_ = 0;
};

void measure(const char* name, Server& server, test::Certificates& pki, const Options& o) {
  const auto row = [&](const char* what, const std::string& text) {
    fmt::print("| {} | {} | {} |\n", name, what, text);
  };
  double cpu = server.cpu_seconds();
  auto start = Clock::now();
  const auto lap = [&] {
    const double wall = ms_since(start) / 1000, used = server.cpu_seconds() - cpu;
    cpu += used;
    start = Clock::now();
    return fmt::format("{:.2f} s, server CPU {:.2f} s ({:.0f} % of a core), memory {:.0f} MB", wall, used,
                       100 * used / wall, server.rss_mb());
  };
  Cloud cloud(o, pki, server);
  row("filled", lap());
  const double list = cloud.list_all();
  row("the whole list, one node", fmt::format("{:.0f} ms; {}", list, lap()));
  cloud.start();
  row("all nodes come, first time, until in sync and reported", lap());
  std::vector<double> ms;
  for (int i = 0; i < 20; ++i) ms.push_back(cloud.change(i));
  std::sort(ms.begin(), ms.end());
  row("one change until all nodes have it",
      fmt::format("p50 {:.0f} ms, worst of 20 {:.0f} ms", ms[ms.size() / 2], ms.back()));
  row("20 changes", lap());
  for (int s = 0; s < o.idle_s; s += static_cast<int>(kHeartbeat.count())) {
    cloud.beat();
    std::this_thread::sleep_for(std::min<Clock::duration>(kHeartbeat, std::chrono::seconds(o.idle_s - s)));
  }
  row("idle: leases, progress, heartbeats", lap());
  const auto resumes = cloud.sum(&sync::ServiceStatus::resumes), lists = cloud.sum(&sync::ServiceStatus::lists);
  server.kill();
  cloud.wait("the loss", [&] { return cloud.in_sync() == 0; });
  start = Clock::now();
  server.restart();
  cpu = 0;
  cloud.wait("the return", [&] { return cloud.in_sync() == static_cast<std::size_t>(o.computes); });
  row("server killed and started: until all nodes are in sync", lap());
  row("of these", fmt::format("{} resumed, {} lists", cloud.sum(&sync::ServiceStatus::resumes) - resumes,
                              cloud.sum(&sync::ServiceStatus::lists) - lists));
  row("a change after it", fmt::format("{:.0f} ms", cloud.change(1000)));
  row("peak memory", fmt::format("{:.0f} MB", server.peak_mb()));
}

}  // namespace
}  // namespace calico::bench

int main(int argc, char** argv) {
  using namespace calico::bench;
  calico::log::init(calico::log::Level::error, calico::log::Format::text);
  if (argc > 2 && std::strcmp(argv[1], "--serve") == 0) return serve_main(argc, argv);
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--computes") == 0) o.computes = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--endpoints") == 0) o.endpoints = std::max(1, std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--idle") == 0) o.idle_s = std::max(1, std::atoi(argv[i + 1]));
  }
  try {
    raise_descriptors();
    std::setvbuf(stdout, nullptr, _IOLBF, 0);  // minutes lie between two rows
    calico::test::Certificates pki;
    fmt::print("{} computes, {} endpoints each\n\n| server | what | seen |\n|---|---|---|\n", o.computes, o.endpoints);
    {
      auto ours = start_ours(pki.issue("server"));
      measure("ours", *ours, pki, o);
    }
    if (auto etcd = start_etcd(pki.issue("server")))
      measure("etcd", *etcd, pki, o);
    else
      fmt::print("etcd is not installed: not measured\n");
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "cloud_bench: {}\n", e.what());
    return 1;
  }
}
