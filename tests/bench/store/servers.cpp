#include "tests/bench/store/servers.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/log/log.hpp"
#include "core/loop/loop.hpp"
#include "core/store/etcd/gateway.hpp"
#include "core/store/kv.hpp"
#include "tests/bench/store/load.hpp"
#include "tests/support/etcd.hpp"
#include "tests/support/temp_dir.hpp"

namespace {

/// Shared with the parent through a file mapped by both.
std::atomic<std::uint64_t>* counter = nullptr;

void count_sync() {
  if (counter != nullptr) counter->fetch_add(1, std::memory_order_relaxed);
}

std::atomic<std::uint64_t>* map_counter(const std::string& file) {
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ::ftruncate(fd, 4096) != 0) throw std::runtime_error("cannot make " + file);
  void* at = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (at == MAP_FAILED) throw std::runtime_error("cannot map " + file);
  return static_cast<std::atomic<std::uint64_t>*>(at);
}

}  // namespace

// SQLite calls these by their dynamic names: the program's own come before libc's.
extern "C" {
int fsync(int fd) {
  count_sync();
  return static_cast<int>(::syscall(SYS_fsync, fd));
}
int fdatasync(int fd) {
  count_sync();
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}
}

namespace calico::bench {
namespace {

double status_mb(pid_t pid, const char* key) {
  std::ifstream in(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) return std::stod(line.substr(std::strlen(key))) / 1024;
  return 0;
}

class Ours final : public Server {
 public:
  explicit Ours(http::TlsFiles tls) : tls_(std::move(tls)), counter_(map_counter(dir_.file("syncs"))) { restart(); }
  ~Ours() override {
    ::close(stdin_);
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
    ::munmap(counter_, 4096);
  }
  std::uint16_t port() const override { return port_; }
  pid_t pid() const override { return pid_; }
  std::uint64_t syncs() const override { return counter_->load(); }
  void kill() override {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
    ::close(stdin_);
    stdin_ = -1;
  }
  void restart() override {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    std::vector<std::string> args{"bench", "--serve", dir_.path(), std::to_string(port_)};
    if (!tls_.cert_file.empty()) args.insert(args.end(), {tls_.ca_file, tls_.cert_file, tls_.key_file});
    std::vector<char*> argv;
    for (auto& a : args) argv.push_back(a.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      ::execv("/proc/self/exe", argv.data());
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    stdin_ = in[1];
    char text[16] = {};
    const auto n = ::read(out[0], text, sizeof text - 1);
    ::close(out[0]);
    port_ = n > 0 ? static_cast<std::uint16_t>(std::atoi(text)) : 0;
    if (port_ == 0) throw std::runtime_error("our server did not start");
  }

 private:
  const http::TlsFiles tls_;
  test::TempDir dir_{"store-bench"};
  std::atomic<std::uint64_t>* counter_;
  pid_t pid_ = -1;
  int stdin_ = -1;
  std::uint16_t port_ = 0;
};

class RealEtcd final : public Server {
 public:
  explicit RealEtcd(const http::TlsFiles& tls) : etcd_({tls.ca_file, tls.cert_file, tls.key_file}) {
    if (!etcd_.running()) throw std::runtime_error("etcd did not start:\n" + etcd_.log());
  }
  std::uint16_t port() const override { return etcd_.port(); }
  pid_t pid() const override { return etcd_.pid(); }
  std::uint64_t syncs() const override {
    Connection connection(port());
    const auto text = connection.ask("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    double sum = 0;
    for (const char* name :
         {"\netcd_disk_wal_fsync_duration_seconds_count ", "\netcd_disk_backend_commit_duration_seconds_count "}) {
      const auto at = text.find(name);
      if (at == text.npos) throw std::runtime_error(fmt::format("etcd's metrics have no{}", name));
      sum += std::stod(text.substr(at + std::strlen(name), 32));
    }
    return static_cast<std::uint64_t>(sum);
  }
  void kill() override { etcd_.kill(); }
  void restart() override {
    etcd_.start();
    if (!etcd_.running()) throw std::runtime_error("etcd did not start again:\n" + etcd_.log());
  }

 private:
  test::Etcd etcd_;
};

}  // namespace

double Server::cpu_seconds() const {
  clockid_t clock{};
  timespec t{};
  if (clock_getcpuclockid(pid(), &clock) != 0 || clock_gettime(clock, &t) != 0) return 0;
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}
double Server::rss_mb() const { return status_mb(pid(), "VmRSS:"); }
double Server::peak_mb() const { return status_mb(pid(), "VmHWM:"); }

std::unique_ptr<Server> start_ours(http::TlsFiles tls) { return std::make_unique<Ours>(std::move(tls)); }
std::unique_ptr<Server> start_etcd(http::TlsFiles tls) {
  return test::Etcd::installed() ? std::make_unique<RealEtcd>(tls) : nullptr;
}

void raise_descriptors() {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
}

int serve_main(int argc, char** argv) {
  log::init(log::Level::error, log::Format::text);
  raise_descriptors();
  if (argc != 4 && argc != 7) return 2;
  const std::string dir = argv[2];
  counter = map_counter(dir + "/syncs");
  auto kv = store::Kv::open({.path = dir + "/state.db"});
  if (!kv) {
    fmt::print(stderr, "{}\n", kv.error().what);
    return 1;
  }
  Loop loop("gateway");
  store::etcd::GatewayOptions options;
  options.admins = {"admin"};  // whoever fills it
  store::etcd::Gateway gateway(loop.executor(), **kv, std::move(options));
  http::Listen where;
  where.at = *http::Endpoint::parse(fmt::format("{}://127.0.0.1:{}", argc == 7 ? "https" : "http", argv[3]));
  if (argc == 7) where.tls = {argv[4], argv[5], argv[6]};
  if (auto s = gateway.listen(where); !s) {
    fmt::print(stderr, "{}\n", s.error().what);
    return 1;
  }
  loop.start();
  loop.call([&] { gateway.start(); });
  fmt::print("{}\n", gateway.endpoints().at(0).port);
  std::fflush(stdout);
  char byte = 0;
  while (::read(0, &byte, 1) > 0) {
  }
  boost::asio::co_spawn(
      loop.executor(), [&]() -> awaitable<void> { co_await gateway.stop(); }, boost::asio::use_future)
      .get();
  (*kv)->stop();
  loop.stop();
  return 0;
}

}  // namespace calico::bench
