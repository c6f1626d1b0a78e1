// felix in a large cluster of which it has a hundred endpoints, from a View that makes its content up: resident memory,
// and what it does in a minute in which nothing happens.
#include <boost/asio/post.hpp>
#include <fstream>
#include <thread>

#include "tests/bench/felix/measure.hpp"
#include "tests/bench/felix/running.hpp"
#include "tests/bench/felix/sections.hpp"

namespace calico::bench {
namespace {

constexpr int kCluster = 100000;
constexpr int kGroups = 2000;
constexpr int kHere = 100;
constexpr int kHosts = 1000;

double resident_mb() {
  std::ifstream in("/proc/self/statm");
  double size = 0, resident = 0;
  in >> size >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1024 / 1024;
}

/// Everything once, in batches; nothing of it is kept.
class MadeUpView final : public sync::View {
 public:
  std::optional<store::KeyValue> get(std::string_view) const override { return {}; }
  std::vector<store::KeyValue> range(std::string_view) const override { return {}; }
  sync::SyncState state() const override { return {sync::Phase::in_sync, "", 1}; }
  std::unique_ptr<sync::Subscription> watch(std::vector<std::string>, boost::asio::any_io_executor executor,
                                            std::function<void(const sync::Batch&)> on_batch) override {
    struct Handle final : sync::Subscription {};
    auto f = std::make_shared<std::function<void(const sync::Batch&)>>(std::move(on_batch));
    boost::asio::post(executor, [this, executor, f] { next(executor, f, 0); });
    return std::make_unique<Handle>();
  }
  std::size_t bytes = 0;

 private:
  static constexpr int kBatch = 500;
  void next(const boost::asio::any_io_executor& executor,
            const std::shared_ptr<std::function<void(const sync::Batch&)>>& f, int at) {
    sync::Batch b;
    const int end = std::min(kCluster + kGroups, at + kBatch);
    for (int i = at; i < end; ++i) {
      const int e = i - kGroups;
      // Endpoints of this host are spread over the cluster's, as their groups are.
      const auto host = e % (kCluster / kHere) == 0 ? std::string(kHost) : fmt::format("host{}", e % kHosts);
      auto u = e < 0 ? sync::Update{group_key(i), group(i), 1}
                     : sync::Update{endpoint_key(e, host), endpoint(e, {(e / kHosts * 7 + e) % kGroups}, host), 1};
      bytes += u.key.size() + u.value->size();
      b.updates.push_back(std::move(u));
    }
    b.usable = end == kCluster + kGroups;
    b.state = {sync::Phase::in_sync, "", 1};
    (*f)(b);
    if (!b.usable) boost::asio::post(executor, [this, executor, f, end] { next(executor, f, end); });
  }
};

}  // namespace

void memory_bench() {
  test::Netns ns("memory");
  fmt::print("\n{} endpoints and {} groups in the cluster, {} endpoints here\n\n| what | seen |\n|---|---|\n", kCluster,
             kGroups, kHere);
  const auto [cost, values] = in_child([&](Meter& m) {
    ns.enter();
    const double before = resident_mb();
    MadeUpView view;
    m.start();
    Running felix(view);
    felix.wait_for(fmt::format(" {} endpoints", kHere));
    m.stop();
    const double after = resident_mb();
    rusage u0{}, u1{};
    ::getrusage(RUSAGE_SELF, &u0);
    std::this_thread::sleep_for(std::chrono::seconds(60));
    ::getrusage(RUSAGE_SELF, &u1);
    return Values{before, after, static_cast<double>(view.bytes) / 1e6, cpu_ms(u1) - cpu_ms(u0),
                  static_cast<double>(u1.ru_nvcsw - u0.ru_nvcsw)};
  });
  fmt::print("| resident before | {:.0f} MB |\n| resident after | {:.0f} MB (aim 150) |\n| at most | {:.0f} MB |\n",
             values[0], values[1], cost.peak_mb);
  fmt::print("| the documents themselves, not kept by felix | {:.0f} MB |\n", values[2]);
  fmt::print("| until the kernel has it | {:.0f} ms, CPU {:.0f} ms |\n", cost.wall_ms, cost.cpu_ms);
  fmt::print("| idle for 60 s | CPU {:.1f} ms = {:.4f} % of a core (aim 0.1 %), {:.2f} wake-ups a second (aim 1) |\n",
             values[3], values[3] / 600, values[4] / 60);
}

}  // namespace calico::bench
