#pragma once
/// A real etcd for one test program: own data directory, loopback, ports the kernel gave; killed by its pid at the end.
/// Machines without /usr/bin/etcd skip aloud:
///
///   if (!test::Etcd::installed()) GTEST_SKIP() << "SKIPPED: etcd is not installed (etcd-server)";
///   test::Etcd etcd;                       // or Etcd({.ca_file = …, .cert_file = …, .key_file = …}): mutual TLS
///   ASSERT_TRUE(etcd.running()) << etcd.log();
///   use(etcd.endpoint());                  // "http://127.0.0.1:40123"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace calico::test {

class Etcd {
 public:
  struct Tls {
    std::string ca_file;
    std::string cert_file;
    std::string key_file;
  };
  static bool installed() { return ::access("/usr/bin/etcd", X_OK) == 0; }

  explicit Etcd(Tls tls = {}) : tls_(std::move(tls)) {
    auto pattern =
        (std::filesystem::temp_directory_path() / ("calico-etcd-" + std::to_string(::getpid()) + "-XXXXXX")).string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp " + pattern);
    dir_ = pattern;
    start();
  }
  ~Etcd() {
    kill();
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }
  Etcd(const Etcd&) = delete;
  Etcd& operator=(const Etcd&) = delete;

  bool running() const { return pid_ > 0; }
  std::string endpoint() const { return scheme() + "://127.0.0.1:" + std::to_string(port_); }
  std::uint16_t port() const { return port_; }
  pid_t pid() const { return pid_; }
  /// What it wrote, for failures.
  std::string log() const {
    std::ifstream in(dir_ + "/log");
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }
  /// SIGKILL, the data stays; start() brings it back on the same port.
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
  }
  /// Kills it and forgets its data: the next start() is another, empty store with the same cluster id.
  void wipe() {
    kill();
    std::filesystem::remove_all(dir_ + "/data");
  }
  void start() {
    for (int attempt = 0; attempt < 3 && pid_ <= 0; ++attempt) {
      if (port_ == 0 || attempt > 0) port_ = free_port();
      spawn(free_port());
      if (!await_listening()) kill();
    }
  }

 private:
  std::string scheme() const { return tls_.cert_file.empty() ? "http" : "https"; }
  static std::uint16_t free_port() {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t n = sizeof a;
    if (::bind(fd, reinterpret_cast<sockaddr*>(&a), n) != 0 ||
        ::getsockname(fd, reinterpret_cast<sockaddr*>(&a), &n) != 0)
      throw std::runtime_error("no free port");
    ::close(fd);
    return ntohs(a.sin_port);
  }
  void spawn(std::uint16_t peer_port) {
    const auto peer = "http://127.0.0.1:" + std::to_string(peer_port);
    std::vector<std::string> args{"/usr/bin/etcd",
                                  "--data-dir=" + dir_ + "/data",
                                  "--listen-client-urls=" + endpoint(),
                                  "--advertise-client-urls=" + endpoint(),
                                  "--listen-peer-urls=" + peer,
                                  "--initial-advertise-peer-urls=http://127.0.0.1:2380",
                                  "--initial-cluster=default=http://127.0.0.1:2380",
                                  "--experimental-watch-progress-notify-interval=10s"};
    if (!tls_.cert_file.empty()) {
      args.push_back("--cert-file=" + tls_.cert_file);
      args.push_back("--key-file=" + tls_.key_file);
      args.push_back("--trusted-ca-file=" + tls_.ca_file);
      args.push_back("--client-cert-auth");
    }
    std::vector<char*> argv;
    for (auto& a : args) argv.push_back(a.data());
    argv.push_back(nullptr);
    const auto log = dir_ + "/log";
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      const int fd = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      ::dup2(fd, 1);
      ::dup2(fd, 2);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
  }
  bool await_listening() {
    // It accepts once it serves; its log says so (a TCP connection alone may come before it has a leader).
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    const auto before = served_;
    while (std::chrono::steady_clock::now() < end) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = 0;
        return false;
      }
      const auto text = log();
      std::size_t count = 0;
      for (auto at = text.find("serving "); at != text.npos; at = text.find("serving ", at + 1)) ++count;
      if (count > before) {
        served_ = count;
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }

  Tls tls_;
  std::string dir_;
  std::uint16_t port_ = 0;
  pid_t pid_ = 0;
  std::size_t served_ = 0;
};

}  // namespace calico::test
