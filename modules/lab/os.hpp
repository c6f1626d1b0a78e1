#pragma once
/// The few things of the operating system that every part of the lab needs: descriptors that close themselves, files,
/// bounded waits that Ctrl-C ends. Thread: any. Errors: translated from errno, the path in the text.
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/error.hpp"

namespace calico::lab {

using Millis = std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Fd& operator=(Fd&& o) noexcept {
    if (this != &o) reset(std::exchange(o.fd_, -1));
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

/// Whole file, at most `limit` bytes.
[[nodiscard]] Result<std::string> read_file(const std::string& path, std::size_t limit = 16U << 20);
/// Written beside and renamed: a reader sees the old content or the new one.
[[nodiscard]] Status write_file(const std::string& path, std::string_view content, unsigned mode = 0644);
/// Writes to a file that exists (sysctl and the like).
[[nodiscard]] Status write_existing(const std::string& path, std::string_view content);
[[nodiscard]] Status make_dirs(const std::string& path, unsigned mode = 0755);
/// Removes a tree without crossing into other file systems. A missing path is fine.
[[nodiscard]] Status remove_tree(const std::string& path);
/// The last `lines` lines of a file; empty when it cannot be read.
std::string tail_of(const std::string& path, std::size_t lines);
/// The binary that nodes and machines run, as an absolute path: this process's own.
[[nodiscard]] Result<std::string> self_path();
/// Tests are not calico-node: they say which binary is.
void set_self_path_for_test(std::string path);
/// `length` random bytes in hexadecimal.
std::string random_hex(std::size_t length);
/// A random (version 4) UUID.
std::string random_uuid();

/// SIGINT, SIGTERM and SIGHUP become a flag that every wait of the lab looks at, so that a command interrupted half-way
/// returns through its normal clean-up. One at a time; the former handlers come back with the destructor.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};
bool interrupted();
/// From here on the flag is ignored: clean-up runs to its end.
void ignore_interrupts();

/// Polls until `done` is true. Errors: timeout ("<what> did not happen within 30 s"), canceled.
[[nodiscard]] Status wait_until(std::string_view what, Millis limit, const std::function<bool()>& done,
                                Millis pause = Millis(10));

}  // namespace calico::lab
