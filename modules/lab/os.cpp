#include "modules/lab/os.hpp"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <thread>

namespace calico::lab {

namespace {

std::atomic<bool> g_interrupted{false};
std::atomic<bool> g_ignore{false};
std::array<struct sigaction, 3> g_former;
constexpr std::array<int, 3> kSignals{SIGINT, SIGTERM, SIGHUP};

std::string g_self;

extern "C" void on_signal(int) { g_interrupted.store(true, std::memory_order_relaxed); }

Status write_all(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, path);
    content.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

Result<std::string> read_file(const std::string& path, std::size_t limit) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, path);
  std::string out;
  std::array<char, 16384> block;
  while (out.size() < limit) {
    ssize_t n = ::read(fd.get(), block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, path);
    if (n == 0) return out;
    out.append(block.data(), static_cast<std::size_t>(n));
  }
  return fail(Errc::invalid, "{}: larger than {} bytes", path, limit);
}

Status write_file(const std::string& path, std::string_view content, unsigned mode) {
  std::string temporary = fmt::format("{}.new.{}", path, ::getpid());
  Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
  if (!fd) return fail_errno(errno, temporary);
  if (auto s = write_all(fd.get(), content, temporary); !s) {
    ::unlink(temporary.c_str());
    return s;
  }
  fd.reset();
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    int err = errno;
    ::unlink(temporary.c_str());
    return fail_errno(err, path);
  }
  return {};
}

Status write_existing(const std::string& path, std::string_view content) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, path);
  return write_all(fd.get(), content, path);
}

Status make_dirs(const std::string& path, unsigned mode) {
  for (std::size_t at = 1; at != std::string::npos;) {
    at = path.find('/', at);
    std::string part = path.substr(0, at);
    if (at != std::string::npos) ++at;
    if (::mkdir(part.c_str(), mode) != 0 && errno != EEXIST) return fail_errno(errno, part);
  }
  return {};
}

Status remove_tree(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno(errno, path);
  }
  auto remove_one = [](const char* p, const struct stat*, int, struct FTW*) { return ::remove(p); };
  if (::nftw(path.c_str(), remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0) return fail_errno(errno, path);
  return {};
}

std::string tail_of(const std::string& path, std::size_t lines) {
  auto text = read_file(path, 64U << 20);
  if (!text) return {};
  std::size_t at = text->size();
  if (at > 0 && (*text)[at - 1] == '\n') --at;
  while (lines-- > 0 && at != std::string::npos && at > 0) at = text->rfind('\n', at - 1);
  return at == std::string::npos || at == 0 ? *text : text->substr(at + 1);
}

void set_self_path_for_test(std::string path) { g_self = std::move(path); }

Result<std::string> self_path() {
  if (!g_self.empty()) return g_self;
  std::error_code ec;
  auto path = std::filesystem::read_symlink("/proc/self/exe", ec);
  if (ec) return fail(Errc::unavailable, "/proc/self/exe: {}", ec.message());
  return path.string();
}

std::string random_hex(std::size_t length) {
  std::string out;
  std::array<unsigned char, 32> bytes{};
  while (out.size() < length * 2) {
    if (::getrandom(bytes.data(), bytes.size(), 0) < 0) continue;
    for (unsigned char b : bytes) out += fmt::format("{:02x}", b);
  }
  return out.substr(0, length * 2);
}

std::string random_uuid() {
  std::string h = random_hex(16);
  h[12] = '4';
  h[16] = "89ab"[static_cast<unsigned>(h[16]) % 4];
  return fmt::format("{}-{}-{}-{}-{}", h.substr(0, 8), h.substr(8, 4), h.substr(12, 4), h.substr(16, 4), h.substr(20));
}

InterruptGuard::InterruptGuard() {
  g_interrupted = false;
  g_ignore = false;
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &action, &g_former[i]);
}

InterruptGuard::~InterruptGuard() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &g_former[i], nullptr);
  g_ignore = false;
}

bool interrupted() {
  return g_interrupted.load(std::memory_order_relaxed) && !g_ignore.load(std::memory_order_relaxed);
}
void ignore_interrupts() { g_ignore = true; }

Status wait_until(std::string_view what, Millis limit, const std::function<bool()>& done, Millis pause) {
  auto deadline = Steady::now() + limit;
  while (!done()) {
    if (interrupted()) return fail(Errc::canceled, "interrupted");
    if (Steady::now() >= deadline) {
      return fail(Errc::timeout, "{} did not happen within {:.1f} s", what, static_cast<double>(limit.count()) / 1000);
    }
    std::this_thread::sleep_for(pause);
  }
  return {};
}

}  // namespace calico::lab
