// What felix costs: start with many endpoints, one endpoint more, one rule changed, a restart. Prints, asserts nothing
// but that the endpoints came up. CALICO_BENCH_ENDPOINTS (default 500) interfaces in a namespace of its own.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "tests/netns/felix/bench.hpp"

namespace calico::test {
namespace {

double ms_since(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - t).count();
}

TEST(FelixBench, ManyEndpoints) {
  NEEDS_NETNS();
  const char* given = std::getenv("CALICO_BENCH_ENDPOINTS");
  const int n = given ? std::atoi(given) : 500;
  const int groups = std::max(1, n / 20);
  Bench b;
  std::string batch;
  for (int i = 0; i < n; ++i)
    batch += fmt::format("link add tap{} type veth peer name vm{}\nlink set tap{} up\nlink set vm{} up\n", i, i, i, i);
  const auto made = b.host.try_run_with("ip -batch -", batch);
  ASSERT_EQ(made.status, 0) << made.text.substr(0, 400);
  for (int g = 0; g < groups; ++g)
    b.group(fmt::format("g{}", g), Bench::tcp(22) + "," + Bench::icmp_from(fmt::format("g{}", g)));
  const auto id = [](int i) {
    return model::WorkloadEndpointName{"h", "openstack", fmt::format("vm{}", i), fmt::format("p{}", i)};
  };
  const auto put = [&](int i) {
    model::WorkloadEndpoint w;
    w.interface_name = fmt::format("tap{}", i);
    w.mac = *Mac::parse(fmt::format("fa:16:3e:00:{:02x}:{:02x}", i / 256, i % 256));
    w.ip_networks = {Prefix::host(Ip::v4(0x0a410000U + static_cast<unsigned>(i) + 2))};
    w.meta.labels[fmt::format("{}g{}", model::kLabelSgPrefix, i % groups)] = "x";
    b.view.set(model::workload_endpoint_key("openstack", id(i)), to_json(w));
  };
  const auto up = [&](int i) {
    return b.report.get(model::endpoint_status_key("", "openstack", id(i))) == R"({"status":"up"})";
  };
  const int later = 50;
  for (int i = 0; i < n - later; ++i) put(i);

  auto t = std::chrono::steady_clock::now();
  ASSERT_NO_FATAL_FAILURE(b.start());
  ASSERT_TRUE(eventually("all up", [&] { return up(n - later - 1) && up(0); }));
  fmt::print("start to all up, {} endpoints, {} groups: {:.1f} ms\n", n - later, groups, ms_since(t));

  std::vector<double> kernel, status;
  for (int i = n - later; i < n; ++i) {
    put(i);
    ASSERT_TRUE(eventually("up", [&] { return up(i); }));
  }
  const auto d = b.described();
  for (const auto& e : d.at("endpoints").as_array()) {
    const auto name = std::string(e.at("endpoint").as_string());
    if (std::atoi(name.c_str() + 1) < n - later) continue;
    const auto seen = e.at("seen_us").to_number<double>();
    kernel.push_back((e.at("kernel_us").to_number<double>() - seen) / 1000);
    status.push_back((e.at("status_us").to_number<double>() - seen) / 1000);
  }
  std::sort(kernel.begin(), kernel.end());
  std::sort(status.begin(), status.end());
  const auto at = [](const std::vector<double>& v, double p) {
    return v[static_cast<std::size_t>(p * static_cast<double>(v.size() - 1))];
  };
  fmt::print(
      "one endpoint more, interface there: seen to kernel p50 {:.2f} ms p99 {:.2f} ms; to status p50 {:.2f} ms p99 "
      "{:.2f} ms\n",
      at(kernel, 0.5), at(kernel, 0.99), at(status, 0.5), at(status, 0.99));

  t = std::chrono::steady_clock::now();
  b.group("g0", Bench::tcp(22) + "," + Bench::tcp(80));
  ASSERT_TRUE(eventually("rule", [&] {
    return b.host.run("nft list chain inet calico in/openstack/ossg.default.g0").find("80") != std::string::npos;
  }));
  fmt::print("one rule more, until nft shows it: {:.1f} ms\n", ms_since(t));

  b.stop();
  t = std::chrono::steady_clock::now();
  ASSERT_NO_FATAL_FAILURE(b.start());
  fmt::print("restart, unchanged, to ready: {:.1f} ms\n", ms_since(t));
  const auto after = b.described();
  fmt::print("  transactions {} operations {} rtnetlink and sysctl writes {}\n",
             after.at("nft").at("commits").to_number<int>(), after.at("nft").at("operations").to_number<int>(),
             after.at("rtnetlink_writes").to_number<int>());
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  fmt::print("resident memory at most {} MiB (with the test's own copies)\n", u.ru_maxrss / 1024);
}

}  // namespace
}  // namespace calico::test
