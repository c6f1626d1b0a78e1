// The controller's share of "POST /ports → ACTIVE": requests over loopback HTTP, the datastore on disk, a stand-in for
// the agent that answers every endpoint it sees with a status at once. On an empty cloud and beside 10,000 ports.
//   controller_bench [PORTS]
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>

#include "core/http/client.hpp"
#include "core/loop/loop.hpp"
#include "core/loop/task_group.hpp"
#include "core/store/kv.hpp"
#include "modules/controller/service.hpp"
#include "tests/support/await.hpp"

namespace json = boost::json;
using namespace calico;
using Clock_ = std::chrono::steady_clock;

namespace {

double ms_since(Clock_::time_point t) { return std::chrono::duration<double, std::milli>(Clock_::now() - t).count(); }

void print(const char* what, std::vector<double> ms) {
  std::sort(ms.begin(), ms.end());
  auto at = [&](double q) {
    return ms[std::min(ms.size() - 1, static_cast<std::size_t>(q * static_cast<double>(ms.size())))];
  };
  fmt::print("{:<58} p50 {:8.2f} ms  p99 {:8.2f} ms  max {:8.2f} ms\n", what, at(0.5), at(0.99), ms.back());
}

double resident_mib() {
  std::ifstream in("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  in >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1048576.0;
}

/// Of the whole process, client and stand-in included: what a busy machine does not distort.
double cpu_ms() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

[[noreturn]] void die(const std::string& what) {
  fmt::print(stderr, "controller_bench: {}\n", what);
  std::exit(3);
}

struct Bench {
  std::string dir;
  test::LoopRunner runner;
  std::unique_ptr<store::Kv> kv;
  std::unique_ptr<controller::Service> service;
  std::unique_ptr<http::Client> client;
  std::string net;

  void start() {
    std::string pattern = (std::filesystem::temp_directory_path() / "controller-bench-XXXXXX").string();
    if (!mkdtemp(pattern.data())) die("mkdtemp");
    dir = pattern;
    auto opened = store::Kv::open({.path = dir + "/state.db", .schemas = {}});
    if (!opened) die(opened.error().what);
    kv = std::move(*opened);
    controller::ServiceOptions options;
    options.kv = kv.get();
    options.database = dir + "/state.db";
    options.listen = http::Endpoint{.tls = false, .host = "127.0.0.1", .port = 0, .unix_path = {}};
    auto ready = std::make_shared<std::promise<void>>();
    controller::ServiceHooks hooks;
    hooks.ready = [ready] { ready->set_value(); };
    hooks.fatal = [](const std::string& reason) { die(reason); };
    service = std::make_unique<controller::Service>(options, hooks);
    if (auto s = service->start(); !s) die(s.error().what);
    ready->get_future().wait();
    http::ClientOptions http_options;
    http_options.endpoints = {*service->endpoint()};
    http_options.max_connections = 64;
    http_options.request_timeout = std::chrono::seconds(60);
    auto made = runner.loop().call([&] { return http::Client::create(runner.loop().executor(), http_options); });
    if (!made) die(made.error().what);
    client = std::move(*made);
  }
  void stop() {
    runner.loop().call([&] { client->close(); });
    runner.loop().call([&] { client.reset(); });
    service.reset();
    kv.reset();
    std::filesystem::remove_all(dir);
  }

  awaitable<json::value> call(std::string method, std::string path, std::string body) {
    http::ClientRequest r;
    r.method = std::move(method);
    r.target = "/v2.0/" + path;
    r.body = std::move(body);
    auto a = co_await client->request(r);
    if (!a) die(a.error().what);
    if (a->status >= 300) die(a->body);
    co_return a->body.empty() ? json::value() : json::parse(a->body);
  }
  json::value now(const std::string& method, const std::string& path, const json::value& body = nullptr) {
    return runner.run(call(method, path, body.is_null() ? "" : json::serialize(body)));
  }
  void put_key(std::string key, std::string value) {
    store::PutRequest put;
    put.key = std::move(key);
    put.value = std::move(value);
    if (auto r = runner.run(kv->put(put)); !r) die(r.error().what);
  }
  json::object vm(int n) const {
    return {{"network_id", net},
            {"device_id", "i" + std::to_string(n)},
            {"device_owner", "compute:nova"},
            {"binding:host_id", "h"}};
  }

  /// Ms from the request to ACTIVE as GET shows it, with the status put as soon as the endpoint is in the datastore.
  awaitable<double> until_active(int n) {
    auto begin = Clock_::now();
    auto body = json::serialize(json::object{{"port", vm(n)}});
    auto made = co_await call("POST", "ports", body);
    std::string id(made.at("port").at("id").as_string());
    store::PutRequest put;
    put.key =
        "/calico/felix/v2/no-region/host/h/workload/openstack/openstack%2fi" + std::to_string(n) + "/endpoint/" + id;
    put.value = R"({"status":"up"})";
    auto r = co_await kv->put(put);
    if (!r) die(r.error().what);
    for (;;) {
      auto got = co_await call("GET", "ports/" + id + "?fields=status", "");
      if (got.at("port").at("status").as_string() == "ACTIVE") co_return ms_since(begin);
      (void)co_await sleep_for(std::chrono::milliseconds(1));
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  int fill = argc > 1 ? std::atoi(argv[1]) : 10000;
  Bench b;
  b.start();
  fmt::print("resident, empty: {:.1f} MiB\n", resident_mib());
  b.put_key("/calico/felix/v2/no-region/host/h/status", R"({"time":"2026-01-01T00:00:00Z","uptime":1.0})");
  b.net = b.now("POST", "networks", json::parse(R"({"network":{"name":"demo"}})")).at("network").at("id").as_string();
  b.now("POST", "subnets",
        json::object{{"subnet", json::object{{"network_id", b.net}, {"ip_version", 4}, {"cidr", "10.0.0.0/16"}}}});
  int n = 0;
  auto round = [&](const std::string& where) {
    std::vector<double> post, active, batch, batch_active;
    auto cpu = cpu_ms();
    for (int i = 0; i < 100; ++i) {
      auto begin = Clock_::now();
      b.now("POST", "ports", json::object{{"port", b.vm(++n)}});
      post.push_back(ms_since(begin));
    }
    auto post_cpu = (cpu_ms() - cpu) / 100;
    for (int i = 0; i < 100; ++i) active.push_back(b.runner.run(b.until_active(++n)));
    for (int r = 0; r < 4; ++r) {
      std::vector<std::future<double>> all;
      for (int i = 0; i < 50; ++i) all.push_back(b.runner.start(b.until_active(++n)));
      for (auto& f : all) batch_active.push_back(f.get());
    }
    fmt::print("{:<58} {:.2f} ms CPU each\n", "POST /ports, one at a time" + where, post_cpu);
    print(("POST /ports, one at a time" + where).c_str(), post);
    print(("POST /ports → ACTIVE seen, one at a time" + where).c_str(), active);
    print(("POST /ports → ACTIVE seen, 50 at once" + where).c_str(), batch_active);
  };
  round("");
  auto begin = Clock_::now();
  auto cpu = cpu_ms();
  for (int done = 0; done < fill; done += 100) {
    json::array ports;
    for (int i = 0; i < 100; ++i) ports.push_back(b.vm(++n));
    b.now("POST", "ports", json::object{{"ports", std::move(ports)}});
  }
  fmt::print("{} ports in bulks of 100: {:.0f} ms ({:.0f} ms CPU); resident {:.1f} MiB\n", fill, ms_since(begin),
             cpu_ms() - cpu, resident_mib());
  round(fmt::format(", beside {} ports", fill));
  auto timed = [&](const char* path) {
    std::vector<double> t;
    for (int i = 0; i < 5; ++i) {
      begin = Clock_::now();
      b.now("GET", path);
      t.push_back(ms_since(begin));
    }
    print(fmt::format("GET /{}", path).c_str(), t);
  };
  timed("ports?device_id=i7");
  timed("ports?name=none");
  timed("ports?limit=100");
  timed("ports");
  b.stop();
  return 0;
}
